"""Stand-ins for LSF and Flux, which cannot be installed: commands that keep a real queue and really run the scripts.

`install` puts ``bsub bjobs bkill jsrun`` and ``flux`` into a folder for PATH. They know what alflow uses of them, and
behave as IBM Spectrum LSF's command reference and flux-core's manual pages say: jobs wait until nodes are free, run as
processes of this machine, end at their walltime, can be cancelled; a cut-off column, a job that is forgotten and an
exit status for "no jobs" are theirs too. Needs only psutil, so that the commands are quick.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import psutil

COMMANDS: Final = ("bsub", "bjobs", "bkill", "jsrun", "flux")
DOWN: Final = "down"
"""While a file of this name is in the folder, no command answers."""
CLOSED: Final = "closed"
"""While it is there, jobs are refused; it says why."""
HELD: Final = "held"
"""While it is there, jobs stay in the queue."""

_JOB: Final = "FAKE_QUEUE_JOB"
_OPEN: Final = ("pending", "running")
_POLL_S: Final = 0.1
_GRACE_S: Final = 2.0
_MARKS: Final = ("ALFLOW_RUN", "ALFLOW_COORDINATOR")
"""Marks of processes on the coordinator's machine; jobs run elsewhere."""
_BASE58: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


@dataclass
class Job:
    """A job as it stands in the queue's file.

    Attributes:
        number, name, nodes, seconds: what was asked for; `seconds` is its walltime.
        script, out, err, cwd, env: what is run, and where.
        state: pending, running, done, failed, killed or timeout.
        kill: whether it is to be ended.
    """

    number: int
    name: str
    nodes: int
    seconds: float
    script: str
    out: str
    err: str
    cwd: str
    env: dict[str, str]
    state: str = "pending"
    kill: bool = False


class Queue:
    """The queue in a folder.

    Args:
        folder: made by `install`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    @contextmanager
    def changed(self) -> Iterator[dict[int, Job]]:
        """All jobs by number; what is changed in the block is kept."""
        with (self.folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            path = self.folder / "jobs.json"
            jobs = {j["number"]: Job(**j) for j in json.loads(path.read_text())} if path.exists() else {}
            yield jobs
            draft = path.with_suffix(".new")
            draft.write_text(json.dumps([asdict(job) for job in jobs.values()]))
            draft.replace(path)

    def jobs(self, *states: str) -> dict[int, Job]:
        """The jobs in one of `states`; those that wait or run if none is given."""
        with self.changed() as jobs:
            return {n: job for n, job in jobs.items() if job.state in (states or _OPEN)}

    def submit(self, head: Mapping[str, str], text: str) -> int:
        """Queue a script and start who looks after it."""
        path, number = self.folder / f"script-{time.time_ns()}.sh", 0
        path.write_text(text)
        env = {name: value for name, value in os.environ.items() if name not in _MARKS}
        with self.changed() as jobs:
            number = 101 + len(jobs)
            jobs[number] = Job(
                number,
                head.get("name", "none"),
                int(head.get("nodes", "1")),
                float(head.get("seconds", "3600")),
                str(path),
                head.get("out", "/dev/null"),
                head.get("err", "/dev/null"),
                str(Path.cwd()),
                env,
            )
        words = [sys.executable, __file__, str(self.folder), "_run", str(number)]
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.Popen(words, env=env, start_new_session=True, **quiet)  # type: ignore[call-overload]
        return number

    def run(self, number: int) -> None:
        """Look after a job from its submission to its end."""
        while (job := self._start(number)) is None:
            time.sleep(_POLL_S)
        if job.state != "running":
            return
        mark = f"{self.folder}:{number}"
        env = job.env | {_JOB: mark, "LSB_JOBID": str(number), "FLUX_JOB_ID": f58(number)}
        with Path(job.out).open("ab") as out, Path(job.err).open("ab") as err:
            process = subprocess.Popen(
                ["/bin/bash", job.script],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=job.cwd,
                env=env,
                start_new_session=True,
            )
        ended = self._watch(number, process, time.monotonic() + job.seconds)
        _end_all(mark)
        with self.changed() as jobs:
            jobs[number].state = ended or ("done" if process.wait() == 0 else "failed")

    def _start(self, number: int) -> Job | None:
        """The job, once it is time to run it or it was cancelled; first come, first served."""
        if (self.folder / HELD).exists():
            with self.changed() as jobs:
                return None if jobs[number].state == "pending" else jobs[number]
        total = json.loads((self.folder / "settings.json").read_text())["nodes"]
        with self.changed() as jobs:
            job, ahead = jobs[number], [j for n, j in jobs.items() if n < number and j.state == "pending"]
            taken = sum(j.nodes for j in jobs.values() if j.state == "running")
            if job.state == "pending":
                if ahead or taken + job.nodes > total:
                    return None
                job.state = "running"
            return job

    def _watch(self, number: int, process: subprocess.Popen[bytes], deadline: float) -> str:
        """Wait for the end of a job; why it has to be ended, if it has to."""
        while process.poll() is None:
            if time.monotonic() > deadline:
                return "timeout"
            with self.changed() as jobs:
                if jobs[number].kill:
                    return "killed"
            time.sleep(_POLL_S)
        return ""

    def cancel(self, number: int) -> bool:
        """Ask for the end of a job; False if it is over."""
        with self.changed() as jobs:
            job = jobs[number]
            if job.state not in _OPEN:
                return False
            job.kill, job.state = True, "killed" if job.state == "pending" else job.state
            return True

    def processes(self) -> list[psutil.Process]:
        """What runs for any job of this queue."""
        return [p for p, mark in _marked() if mark.rpartition(":")[0] == str(self.folder)]

    def stop(self) -> None:
        """End all jobs, and wait for it."""
        for number in self.jobs():
            self.cancel(number)
        end = time.monotonic() + 20.0
        while self.jobs() and time.monotonic() < end:
            time.sleep(_POLL_S)


def install(folder: Path, commands: Sequence[str] = COMMANDS, nodes: int = 4) -> Queue:
    """Make an empty queue whose commands are in ``folder/bin``."""
    (folder / "bin").mkdir(parents=True)
    (folder / "settings.json").write_text(json.dumps({"nodes": nodes}))
    for name in commands:
        program = folder / "bin" / name
        words = shlex.join([sys.executable, str(Path(__file__).resolve()), str(folder.resolve()), name])
        program.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        program.chmod(0o755)
    return Queue(folder)


def _marked() -> Iterator[tuple[psutil.Process, str]]:
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if mark := process.environ().get(_JOB):
                yield process, mark


def _end_all(mark: str) -> None:
    """End whatever still runs for a job, as a node does after its end."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        left = [process for process, other in _marked() if other == mark]
        for process in left:
            with suppress(psutil.Error):
                process.send_signal(number)
        psutil.wait_procs(left, _GRACE_S)


def _launch(count: int, words: Sequence[str]) -> int:
    """Run `count` copies of a command at once; the largest exit status."""
    return max(p.wait() for p in [subprocess.Popen(words) for _ in range(count)])


# ---- LSF -----------------------------------------------------------------------------------------------------------

_LSF_STATES: Final = {"pending": "PEND", "running": "RUN", "done": "DONE"}
_WIDTHS: Final = {"jobid": 7, "stat": 5, "job_name": 10}
"""What bjobs cuts columns to whose width is not given."""


def _bsub(queue: Queue, _words: Sequence[str]) -> int:
    if (queue.folder / CLOSED).exists():
        return _fail(f"{(queue.folder / CLOSED).read_text().strip()}. Job not submitted.")
    text = sys.stdin.read()
    given = dict(re.findall(r"^#BSUB -(\w+) (.+)$", text, re.MULTILINE))
    head = {"name": given.get("J", ""), "out": given.get("o", os.devnull), "err": given.get("e", os.devnull)}
    head |= {"nodes": given.get("nnodes", "1"), "seconds": str(60 * int(given.get("W", "60")))}
    print(f"Job <{queue.submit(head, text)}> is submitted to queue <{given.get('q', 'normal')}>.")  # noqa: T201
    return 0


def _bjobs(queue: Queue, words: Sequence[str]) -> int:
    columns = [c.partition(":") for c in words[words.index("-o") + 1].split()]
    ids = [int(w) for w in words if w.isdigit()]
    known = queue.jobs("pending", "running", "done", "failed", "killed", "timeout") if ids else queue.jobs()
    for number in ids or known:
        if number in known:
            job = known[number]
            values = {"jobid": str(number), "stat": _LSF_STATES.get(job.state, "EXIT"), "job_name": job.name}
            print(" ".join(_column(values[name], int(width or _WIDTHS[name])) for name, _, width in columns))  # noqa: T201
        else:
            _fail(f"Job <{number}> is not found")
    if not known:
        return _fail("No unfinished job found")
    return 0 if set(ids) <= set(known) else 255


def _column(value: str, width: int) -> str:
    return value.ljust(width) if len(value) <= width else f"*{value[1 - width :]}"


def _bkill(queue: Queue, words: Sequence[str]) -> int:
    status, known = 0, queue.jobs("pending", "running", "done", "failed", "killed", "timeout")
    for number in map(int, words):
        if number not in known:
            status = _fail(f"Job <{number}>: No matching job found")
        elif queue.cancel(number):
            print(f"Job <{number}> is being terminated")  # noqa: T201
        else:
            status = _fail(f"Job <{number}>: Job has already finished")
    return status


def _jsrun(_queue: Queue, words: Sequence[str]) -> int:
    count, rest = 1, list(words)
    while rest and rest[0].startswith("-"):  # every option of jsrun that is used here takes a value
        option, value, rest = rest[0], rest[1], rest[2:]
        count = int(value) if option == "-n" else count
    return _launch(count, rest)


# ---- Flux ----------------------------------------------------------------------------------------------------------

_FLUX_STATES: Final = {
    "pending": "SCHED",
    "running": "RUN",
    "done": "COMPLETED",
    "failed": "FAILED",
    "killed": "CANCELED",
    "timeout": "TIMEOUT",
}


def f58(number: int, prefix: str = "f") -> str:
    """A job's id as Flux writes it."""
    rest, digits = number << 24, ""
    while rest:
        rest, digit = divmod(rest, 58)
        digits = _BASE58[digit] + digits
    return prefix + digits


def _flux(queue: Queue, words: Sequence[str]) -> int:
    return {"batch": _flux_batch, "jobs": _flux_jobs, "cancel": _flux_cancel, "run": _flux_run}[words[0]](
        queue, words[1:]
    )


def _prefix() -> str:
    return "f" if os.environ.get("FLUX_F58_FORCE_ASCII") else "ƒ"


def _flux_batch(queue: Queue, words: Sequence[str]) -> int:
    if (queue.folder / CLOSED).exists():
        return _fail(f"flux-batch: ERROR: [Errno 22] {(queue.folder / CLOSED).read_text().strip()}")
    text = Path(words[-1]).read_text()
    given = dict(re.findall(r"^#flux: --([\w-]+)=(.+)$", text, re.MULTILINE))
    head = {"name": given["job-name"], "out": given["output"], "err": given["error"], "nodes": given["nodes"]}
    head["seconds"] = given["time-limit"].removesuffix("s")
    print(f58(queue.submit(head, text), _prefix()))  # noqa: T201
    return 0


def _flux_jobs(queue: Queue, words: Sequence[str]) -> int:
    line = next((w.partition("=")[2] for w in words if w.startswith("--format=")), "")
    rest = list(words)
    for option in ("-o", "--user"):
        if option in rest:
            at = rest.index(option)
            line = rest[at + 1] if option == "-o" else line
            del rest[at : at + 2]
    known, ids = queue.jobs("pending", "running", *_FLUX_STATES), [w for w in rest if not w.startswith("-")]
    by_id = {f58(n): job for n, job in known.items()}
    status = 0
    for name in ids or [f58(n) for n in queue.jobs()]:
        if (job := by_id.get(name.replace("ƒ", "f"))) is None:
            status = _fail(f"flux-jobs: ERROR: JobID {name} unknown", 1)
            continue
        shown = line.replace("{id.f58plain}", f58(job.number)).replace("{id.f58}", f58(job.number, _prefix()))
        print(shown.replace("{name}", job.name).replace("{status}", _FLUX_STATES[job.state]))  # noqa: T201
    return status


def _flux_cancel(queue: Queue, words: Sequence[str]) -> int:
    by_id, status = {f58(n): n for n in queue.jobs("pending", "running", *_FLUX_STATES)}, 0
    for name in words:
        number = by_id.get(name.replace("ƒ", "f"))
        if number is None:
            status = _fail(f"flux-cancel: ERROR: {name}: unknown job id", 1)
        elif not queue.cancel(number):
            status = _fail(f"flux-cancel: ERROR: {name}: job is inactive", 1)
    return status


def _flux_run(_queue: Queue, words: Sequence[str]) -> int:
    options = [w for w in words if w.startswith("--")]
    count = next(int(w.partition("=")[2]) for w in options if w.startswith("--ntasks="))
    return _launch(count, list(words[len(options) :]))


# ---- the commands --------------------------------------------------------------------------------------------------


def _fail(words: str, status: int = 255) -> int:
    sys.stderr.write(f"{words}\n")
    return status


_DO: Final[Mapping[str, Callable[[Queue, Sequence[str]], int]]] = {
    "bsub": _bsub,
    "bjobs": _bjobs,
    "bkill": _bkill,
    "jsrun": _jsrun,
    "flux": _flux,
}


def _main(folder: str, name: str, *words: str) -> int:
    queue = Queue(Path(folder))
    if name == "_run":
        queue.run(int(words[0]))
        return 0
    within = name == "jsrun" or words[:1] == ("run",)
    if (queue.folder / DOWN).exists() and not within:
        return _fail("Cannot connect to LSF. Please wait ..." if name != "flux" else "flux: ERROR: Unable to connect")
    return _DO[name](queue, words)


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
