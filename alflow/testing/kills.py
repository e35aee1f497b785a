"""Rounds of random kills: small campaigns on the real Parsl whose processes are killed, and what came of them.

One round is a campaign of toy parts that ``alflow resume`` drives. At random points of its journal a process of it is
killed by SIGKILL: the coordinator, a worker, a worker pool, an interchange, any other process that works for the run;
on a cluster also a slurmd, or a node with all that runs on it. Whenever its coordinator ends before the campaign has,
it is resumed. Seed, kills and campaign of a round follow from one number, so a round that failed can be played again.

What counts, for `ToyLabeler` writes a line into a ledger once a label is durable:

* lost: a label of the ledger that was good and is not in the dataset, or one that the undisturbed campaign has.
* twice: a label with two lines in the ledger. One that is killed while it is computed, or before it is durable, has
  to be computed again and has one line; one that is killed between being durable and its line has none ("uncounted").
* same: every file of the dataset and of the models is, byte by byte, that of the undisturbed campaign. Only campaigns
  by `rounds` can be: what a `stream` fits next depends on what came first.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

import psutil

from alflow.campaign.model import Closed
from alflow.runtime import campaign_run, layout, processes, rundir
from alflow.runtime.journal import read_lines
from alflow.runtime.runner import InlineRunner
from alflow.runtime.worker import execute
from alflow.store.dataset import Dataset
from alflow.store.files import digest
from alflow.testing import slurm as bed

LIMIT_S: Final = 240.0
"""Seconds in which a coordinator's journal must grow, however busy the machine, or the campaign hangs."""
ORPHAN_S: Final = 30.0
"""Seconds in which all processes of a coordinator must have ended after it."""
MOST_RESUMES: Final = 12
REAPER: Final = "reaper"
FAIL_EVERY: Final = 8

SITES: Final[Mapping[str, str]] = {
    "one lane": "lanes: {sample: {scheduler: local, cores_per_node: 2}}\nshares: {label: sample, fit: sample}",
    "two lanes": "lanes: {sample: {scheduler: local, cores_per_node: 1}, label: {scheduler: local, cores_per_node: 1}}"
    "\nshares: {fit: sample}",
    "slurm": "lanes: {sample: {scheduler: slurm, launcher: srun, address: 127.0.0.1, walltime: '00:02:00', "
    "cores_per_node: 1, max_blocks: 3}}\nshares: {label: sample, fit: sample}",
}
POLICIES: Final[Mapping[str, str]] = {
    "rounds": "{kind: rounds, samples: 6, batch: 2, initial: 16, label_batch: 2}",
    "stream": "{kind: stream, sampling: 2, batch: 2, initial: 16, label_batch: 2, select_at: 2, fit_at: 6}",
}
_WORKFLOW: Final = """
alflow: 1
name: kill
seed: 5
defaults:
  builder: {{kind: random_cell, species: {{Al: 1.0}}, edge_A: [6.0, 8.0], density_g_cm3: [1.8, 2.6]}}
  sampler: {{kind: toy, sleep_s: {step_s}}}
  potential: {{kind: toy, members: 4, members_per_task: 2, sleep_s: 0.1}}
  uncertainty: {{kind: spread, energy_meV: 0.7}}
  selector: {{kind: everything}}
  labeler: {{kind: toy, sleep_s: {label_s}, fail_every: {fail_every}, ledger: {ledger}}}
stages:
  - name: melt
    policy: {policy}
    until: {{max_rounds: 2}}
"""
_LINES: Final = 36
"""Lines, about, in the journal of an undisturbed campaign."""


class Victim(StrEnum):
    """What is killed."""

    COORDINATOR = "coordinator"
    WORKER = "worker"
    MANAGER = "worker pool"
    INTERCHANGE = "interchange"
    HELPER = "helper of a worker pool"
    """A server of Python's multiprocessing that a pool and its workers share."""
    ANY = "any process"
    """One of all that work for the run: any of these, a pool's helper, a shell, the reaper ..."""
    SLURMD = "slurmd"
    """The daemon alone: its jobs live on, and Slurm learns of it after a while. It is started again."""
    NODE = "node"
    """A slurmd with all that runs on its node, at once. It is started again."""


_LOCAL: Final = {
    Victim.COORDINATOR: 3,
    Victim.WORKER: 3,
    Victim.MANAGER: 2,
    Victim.INTERCHANGE: 2,
    Victim.ANY: 2,
}
_CLUSTER: Final = {**_LOCAL, Victim.SLURMD: 2, Victim.NODE: 3}


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill of a round.

    Attributes:
        victim: what.
        lines: once the journal has so many lines.
        delay_s: and so many seconds have passed since.
        pick: which of several, as a part of their number.
    """

    victim: Victim
    lines: int
    delay_s: float
    pick: float


@dataclass(frozen=True, slots=True)
class Draw:
    """What is done in a round.

    Attributes:
        seed: the number that all of it follows from.
        site: key of `SITES`.
        policy: key of `POLICIES`.
        label_s: seconds a label takes.
        kills: in the order of their lines.
        patient: what a dead coordinator left behind must be gone before the next one starts; else that one finds it.
    """

    seed: int
    site: str
    policy: str
    label_s: float
    kills: tuple[Kill, ...]
    patient: bool

    @staticmethod
    def of(seed: int, *, on_slurm: bool = False) -> Draw:
        """The round of that number."""
        rng = random.Random(f"{seed} {on_slurm}")  # noqa: S311 - no secret
        weights = _CLUSTER if on_slurm else _LOCAL
        lines = sorted(rng.randrange(1, _LINES) for _ in range(rng.choice((1, 2, 2, 3, 3, 4))))
        victims = rng.choices(list(weights), list(weights.values()), k=len(lines))
        kills = tuple(
            Kill(v, n, rng.choice((0.0, rng.uniform(0.0, 1.0))), rng.random())
            for v, n in zip(victims, lines, strict=True)
        )
        site = "slurm" if on_slurm else rng.choices(("one lane", "two lanes"), (2, 1))[0]
        policy = rng.choices(("rounds", "stream"), (3, 1))[0]
        return Draw(seed, site, policy, round(rng.uniform(0.05, 0.2), 3), kills, rng.random() < 0.5)


@dataclass(slots=True)
class Round:
    """What came of a round.

    Attributes:
        draw: what was done.
        killed: what was killed, in order; a kill whose time never came is not among them. Of `Victim.ANY`, what it was.
        exits: exit status of each coordinator; negative if a signal ended it.
        bought: labels in the dataset.
        lost: see the module.
        twice: see the module.
        uncounted: see the module.
        same: whether the files are those of the undisturbed campaign; None for a stream.
        orphans: processes, or jobs, that were left.
        wrong: what else was wrong; empty if nothing was.
        seconds: wall time.
    """

    draw: Draw
    killed: list[str] = field(default_factory=list)
    exits: list[int] = field(default_factory=list)
    bought: int = 0
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    uncounted: int = 0
    same: bool | None = None
    orphans: list[str] = field(default_factory=list)
    wrong: str = ""
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Whether it kept every promise."""
        return not (self.lost or self.twice or self.orphans or self.wrong or self.same is False)

    @property
    def line(self) -> str:
        """All of it in one line."""
        d = self.draw
        kills = ", ".join(f"{k.victim}@{k.lines}+{k.delay_s:.2f}s" for k in d.kills)
        what = f"seed {d.seed}: {d.site}, {d.policy}, {'patient, ' if d.patient else ''}kills {kills}"
        came = f"killed {len(self.killed)}, exits {self.exits}, bought {self.bought}, {self.seconds:.0f} s"
        if self.good:
            return f"{what} -> {came}"
        bad = {"lost": self.lost, "twice": self.twice, "orphans": self.orphans, "wrong": self.wrong}
        words = [f"{k} {v}" for k, v in bad.items() if v] + ["not the same files"] * (self.same is False)
        return f"{what} -> {came}; FAILED: {'; '.join(words)}"


def undisturbed(folder: Path) -> Path:
    """The campaign by rounds that nothing happens to, in this process and without any waiting; its run directory."""
    run = _prepared(folder, "one lane", "rounds", 0.0)
    campaign_run.resume(run, lambda _, root: InlineRunner(execute, str(root)))
    return run


def play(draw: Draw, folder: Path, reference: Path, cluster: bed.Slurm | None = None) -> Round:
    """Play one round in `folder`, which is made; processes that are left at its end are ended."""
    came, began = Round(draw), time.monotonic()
    run = _prepared(folder, draw.site, draw.policy, draw.label_s)
    try:
        _drive(run, came, cluster)
        _judge(run, came, reference)
    except _WrongError as exc:
        came.wrong = str(exc)
    finally:
        came.orphans += _left(run, cluster)
        processes.end_leftovers(run)
        came.seconds = time.monotonic() - began
    return came


def judged(draw: Draw, run: Path, reference: Path) -> Round:
    """What came of a round whose campaign is over, as far as its files tell."""
    came = Round(draw)
    _judge(run, came, reference)
    return came


def working_for(run: Path) -> list[psutil.Process]:
    """What works for a run, found by the mark that all processes of it inherit; not the coordinator itself."""
    return [p for p in psutil.process_iter() if _marked(p, run)]


# ---- a round -------------------------------------------------------------------------------------------------------


class _WrongError(Exception):
    """The round cannot go on."""


def _prepared(folder: Path, site: str, policy: str, label_s: float) -> Path:
    folder.mkdir(parents=True)
    workflow, where = folder / "workflow.yaml", folder / "site.yaml"
    where.write_text(f"site: here\n{SITES[site]}\nmonitoring: false\n")
    text = _WORKFLOW.format(
        policy=POLICIES[policy],
        step_s=label_s / 40,
        label_s=label_s,
        fail_every=FAIL_EVERY,
        ledger=folder / "ledger.txt",
    )
    workflow.write_text(text)
    return campaign_run.prepare(workflow, where, folder / "run")


def _drive(run: Path, came: Round, cluster: bed.Slurm | None) -> None:
    """Resume until the campaign is over, killing meanwhile."""
    kills = list(came.draw.kills)
    for _ in range(MOST_RESUMES):
        with (run / layout.LOG).open("ab") as log:
            coordinator = subprocess.Popen([sys.executable, "-m", "alflow", "resume", str(run)], stdout=log, stderr=log)
        try:
            while kills and _reached(run, coordinator, kills[0]):
                if what := _kill(run, coordinator, kills[0], cluster):
                    came.killed.append(what)
                    kills.pop(0)
            _wait(run, coordinator)
        finally:
            coordinator.kill()
            came.exits.append(coordinator.wait())
        if came.exits[-1] == 0:
            return
        if came.draw.patient and REAPER not in came.killed:  # without it, the next coordinator ends what is left
            came.orphans += _left(run, cluster)
    raise _WrongError(f"not over after {MOST_RESUMES} resumes; see {run / layout.LOG}")


def _reached(run: Path, coordinator: subprocess.Popen[bytes], kill: Kill) -> bool:
    """Wait for the moment of a kill; False if the coordinator ended before."""
    _wait(run, coordinator, lambda: _lines(run) >= kill.lines)
    deadline = time.monotonic() + kill.delay_s
    while coordinator.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    return coordinator.poll() is None


def _wait(run: Path, coordinator: subprocess.Popen[bytes], enough: Callable[[], bool] = lambda: False) -> None:
    """Until it ends or it is enough.

    Raises:
        _WrongError: nothing was written down for `LIMIT_S`.
    """
    known, since = _lines(run), time.monotonic()
    while coordinator.poll() is None and not enough():
        if (lines := _lines(run)) != known:
            known, since = lines, time.monotonic()
        if time.monotonic() - since > LIMIT_S:
            raise _WrongError(f"nothing has moved for {LIMIT_S:.0f} s; see {run / layout.LOG}")
        time.sleep(0.02)


def _kill(run: Path, coordinator: subprocess.Popen[bytes], kill: Kill, cluster: bed.Slurm | None) -> str:
    """Kill as soon as there is what to kill, and say what; nothing if the coordinator ended before."""
    if kill.victim is Victim.COORDINATOR:
        coordinator.send_signal(signal.SIGKILL)
        coordinator.wait()
        return kill.victim
    if cluster is not None and kill.victim in {Victim.SLURMD, Victim.NODE}:
        _strike(cluster, cluster.nodes[int(kill.pick * len(cluster.nodes))], kill.victim)
        return kill.victim
    while coordinator.poll() is None:
        found = _victims(run, kill.victim)
        with suppress(IndexError, psutil.NoSuchProcess):
            victim = found[int(kill.pick * len(found))]
            what = _what(victim, run)
            victim.kill()
            return what
        time.sleep(0.02)
    return ""


def _strike(cluster: bed.Slurm, node: str, victim: Victim) -> None:
    if victim is Victim.NODE:
        cluster.kill_node(node)
    else:
        _kill_daemon(cluster, node)
    time.sleep(2.0)
    cluster.start_node(node)


def _kill_daemon(cluster: bed.Slurm, node: str) -> None:
    """Kill the slurmd of a node, and nothing that it has started."""
    daemons = (p for p in psutil.process_iter() if _words(p).endswith(f"-N {node} -f {cluster.env['SLURM_CONF']}"))
    for daemon in daemons:
        daemon.kill()


def _victims(run: Path, victim: Victim) -> list[psutil.Process]:
    every = sorted(working_for(run) + _reapers(run), key=lambda p: p.pid)
    return every if victim is Victim.ANY else [p for p in every if _what(p, run) == victim]


def _what(process: psutil.Process, run: Path) -> str:
    """What a process of a run is."""
    words = _words(process)
    program = Path(words.split(maxsplit=1)[0]).name if words else "gone"
    if not program.startswith("python"):
        return program if "parsl" not in program else Victim.INTERCHANGE
    if "spawn_main" in words:
        return Victim.WORKER if _is_worker(process) else Victim.HELPER
    found = (("process_worker_pool", Victim.MANAGER), ("interchange", Victim.INTERCHANGE), (str(run), REAPER))
    return next((what for word, what in found if word in words), "python")


def _is_worker(process: psutil.Process) -> bool:
    """A pool's first child is a server of Python's multiprocessing that the workers share."""
    with suppress(psutil.Error):
        siblings = [p for p in process.parent().children() if "spawn_main" in _words(p)]  # type: ignore[union-attr]
        born = sorted((p.create_time(), p.pid) for p in siblings)  # none, if the pool ends meanwhile
        return bool(born) and process.pid != born[0][1]
    return False


def _reapers(run: Path) -> list[psutil.Process]:
    """They are started before the mark is there."""
    return [p for p in psutil.process_iter() if f"{processes.__name__} {run}" in _words(p)]


def _words(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def _marked(process: psutil.Process, run: Path) -> bool:
    with suppress(psutil.Error, OSError):
        return process.environ().get(processes.RUN) == str(run) and process.pid != os.getpid()
    return False


# ---- what came of it -----------------------------------------------------------------------------------------------


def _lines(run: Path) -> int:
    path = run / layout.JOURNAL
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _not_closed(run: Path) -> str:
    """Why the campaign is not well over, or nothing."""
    closed = [e for _, events in read_lines(run / layout.JOURNAL) for e in events if isinstance(e, Closed)]
    if len(closed) != 1 or closed[0].failed:
        return f"the journal says {closed or 'no end'}"
    return "its lock is held" if rundir.is_locked(run) else ""


def _judge(run: Path, came: Round, reference: Path) -> None:
    """Whether it is well over, labels lost and bought twice, and whether all files are the same."""
    came.wrong = _not_closed(run)
    there = set(Dataset.open(sorted((run / "dataset").glob("*.h5"))).ids)
    ledger = Counter((run.parent / "ledger.txt").read_text().split())
    due = {name for name in ledger if int(name, 16) % FAIL_EVERY}
    if came.draw.policy == "rounds":
        due |= set(Dataset.open(sorted((reference / "dataset").glob("*.h5"))).ids)
        came.same = _files(run) == _files(reference)
    came.bought, came.lost = len(there), sorted(due - there)
    came.twice = sorted(name for name, times in ledger.items() if times > 1)
    came.uncounted = len(there - set(ledger))


def _files(run: Path) -> dict[str, str]:
    """Digest of every file of the dataset and of the models."""
    found = [p for name in ("dataset", "models") for p in sorted((run / name).rglob("*")) if p.is_file()]
    return {p.relative_to(run).as_posix(): digest(p) for p in found}


def _left(run: Path, cluster: bed.Slurm | None) -> list[str]:
    """Processes and jobs that outlive their coordinator by `ORPHAN_S`."""
    deadline = time.monotonic() + ORPHAN_S
    while True:
        left = [f"{p.pid} {_words(p)[:100]}" for p in [*working_for(run), *_reapers(run)] if _words(p)]
        left += [f"job {job} {name}" for job, name in cluster.jobs().items()] if cluster is not None else []
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.2)
