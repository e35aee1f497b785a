"""Schedulers as Parsl sees them: a provider that grants blocks, and a launcher that puts a pool on every node."""

from __future__ import annotations

import re
import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from parsl.jobs.states import JobState, JobStatus
from parsl.launchers import JsrunLauncher, SimpleLauncher, SrunLauncher
from parsl.launchers.base import Launcher
from parsl.providers import LocalProvider, LSFProvider, SlurmProvider
from parsl.providers.cluster_provider import ClusterProvider
from parsl.providers.errors import SubmitException
from parsl.providers.lsf.template import template_string as lsf_template
from parsl.providers.slurm.slurm import squeue_translate_table

from alflow.errors import SpecError
from alflow.runtime import lanes
from alflow.spec.site import Lane, walltime_s


def _launcher(lane: Lane) -> Launcher:
    """What starts a pool on every node, with all the cores and GPUs of it: by default a task gets one core."""
    if lane.launcher == "srun":
        return SrunLauncher(overrides=f"--cpus-per-task={lane.cores_per_node} --cpu-bind=none")
    if lane.launcher == "jsrun":
        return JsrunLauncher(overrides="-a 1 -c ALL_CPUS -g ALL_GPUS -b none")
    return FluxLauncher() if lane.launcher == "flux" else SimpleLauncher()


def provider(name: str, lane: Lane, *, on_paper: bool = False) -> Any:
    """The provider of a lane; one `on_paper` writes its scripts and submits nothing.

    Raises:
        SpecError: a key of the lane that its scheduler does not know.
    """
    scheduler, type_of = lane.scheduler, _ON_PAPER if on_paper else _PROVIDERS
    common = {
        "nodes_per_block": lane.nodes_per_block,
        "init_blocks": lane.min_blocks,
        "min_blocks": lane.min_blocks,
        "max_blocks": lane.max_blocks,
        "parallelism": 1,
        "worker_init": lanes.worker_init(lane),
        "launcher": _launcher(lane),
        "cmd_timeout": 60,
    }
    if scheduler == "local":
        return type_of[scheduler](**common)
    if lane.qos and scheduler != "slurm":
        raise SpecError(f"lanes.{name}.qos", f"{scheduler} has none", "name the queue in `partition`")
    common |= {"walltime": lane.walltime, "scheduler_options": "\n".join(lane.options)}
    common["polling_s"] = lanes.times(lane).status
    account, partition = lane.account or None, lane.partition or None
    if scheduler == "slurm":
        gpus, qos = lane.gpus_per_node or None, lane.qos or None
        common |= {"cores_per_node": lane.cores_per_node, "gpus_per_node": gpus, "qos": qos}
        return type_of[scheduler](account=account, partition=partition, **common)
    if scheduler == "lsf":
        return type_of[scheduler](project=account, queue=partition, bsub_redirection=True, **common)
    return type_of[scheduler](bank=account, queue=partition, **common)


def last_line(text: str) -> str:
    """The last line of what a program said, cut to a length for messages."""
    lines = text.strip().splitlines()
    return lines[-1].strip()[:300] if lines else "it said nothing"


class _Patient(ClusterProvider):  # type: ignore[misc]  # Parsl's classes are untyped here
    """Put before a provider: a command that does not answer has failed, and the lane says how often to look.

    Args:
        polling_s: seconds between two looks at the queue.
        settings: see the provider.
    """

    def __init__(self, *, polling_s: int, **settings: Any) -> None:
        self._polling_s = polling_s
        self.complaint = ""
        super().__init__(**settings)

    def execute_wait(self, cmd: str, timeout: int | None = None) -> tuple[int, str, str]:
        try:
            done: tuple[int, str, str] = super().execute_wait(cmd, timeout)
        except subprocess.TimeoutExpired:
            return 1, "", f"{next(word for word in cmd.split() if '=' not in word)} does not answer"
        return done

    @property
    def status_polling_interval(self) -> int:
        return self._polling_s

    def _remember(self, job: str) -> str:
        self.resources[job] = {"job_id": job, "status": JobStatus(JobState.PENDING)}
        return job

    def _open_jobs(self) -> list[str]:
        return [job for job, known in self.resources.items() if not known["status"].terminal]

    def _look(self, command: str, unknown: str) -> tuple[str, set[str]]:
        """What a look at the queue prints, and which jobs it does not know any more: those `unknown` finds."""
        code, out, err = self.execute_wait(command)
        gone = set(re.findall(unknown, err))
        silent = code != 0 and not gone and not out.strip()
        self.complaint = f"the scheduler does not answer: {last_line(err)}" if silent else ""
        return out, gone

    def _take_in(self, jobs: Sequence[str], table: str, gone: set[str], states: Mapping[str, JobState]) -> None:
        """Note the state of jobs from a table of ids and states; what the queue has forgotten is over."""
        said = dict(words for line in table.splitlines() if len(words := line.split()) == 2)
        for job in jobs:
            if job in said:
                self.resources[job]["status"] = JobStatus(states.get(said[job], JobState.UNKNOWN))
            elif job in gone:
                self.resources[job]["status"] = JobStatus(JobState.COMPLETED)


class Slurm(_Patient, SlurmProvider):  # type: ignore[misc]
    """Blocks from Slurm.

    Asks squeue only: accounting lags behind, and a job that it does not know yet would be taken for one that has
    ended. Of a single job that is no more, squeue says so by failing, which Parsl would take for no answer, for ever.
    """

    def __init__(self, *, scheduler_options: str, **settings: Any) -> None:
        # a block is lost with its node: work goes on in a new one, not in the same one started over
        super().__init__(scheduler_options=f"{scheduler_options}\n#SBATCH --no-requeue".strip(), **settings)
        self._translate_table: dict[str, JobState] = squeue_translate_table | _MORE_SLURM_STATES

    def execute_wait(self, cmd: str, timeout: int | None = None) -> tuple[int, str, str]:
        if cmd == "sacct -X":
            return 1, "", "not asked"
        code, out, err = super().execute_wait(cmd, timeout)
        if cmd.startswith("squeue"):
            gone = code != 0 and "Invalid job id specified" in err
            code = 0 if gone else code
            self.complaint = f"the scheduler does not answer: {last_line(err)}" if code else ""
        return code, out, err


_MORE_SLURM_STATES: Final = {
    **dict.fromkeys(("RD", "RF", "RH", "RQ"), JobState.PENDING),
    **dict.fromkeys(("RS", "S", "SI", "SO", "ST"), JobState.RUNNING),
    **dict.fromkeys(("BF", "DL", "OOM", "PR"), JobState.FAILED),
}
"""States that Parsl does not know: requeued, suspended, ended."""


class Lsf(_Patient, LSFProvider):  # type: ignore[misc]
    """Blocks from LSF.

    Parsl's provider keeps to itself why bsub refused, takes a suspended job for one that has ended, lets a job that
    bjobs has forgotten live for ever, and reads columns that bjobs cuts off at their usual width.
    """

    def submit(self, command: str, tasks_per_node: int, job_name: str = "parsl.lsf") -> str:
        job_name = f"{job_name}.{time.time()}"
        path = Path(self.script_dir).resolve() / f"{job_name}.submit"
        words = {
            "submit_script_dir": self.script_dir,
            "walltime": walltime_s(self.walltime) // 60,
            "scheduler_options": self.scheduler_options,
            "worker_init": self.worker_init,
            "user_script": self.launcher(command, tasks_per_node, self.nodes_per_block, self.script_dir),
        }
        self._write_submit_script(lsf_template, str(path), job_name, words)
        code, out, err = self.execute_wait(f"bsub < {shlex.quote(str(path))}")
        said = re.search(r"Job <(\d+)> is submitted", out)
        if code != 0 or said is None:
            raise SubmitException(job_name, "bsub failed", stdout=out, stderr=err, retcode=code)
        return self._remember(said[1])

    def _status(self) -> None:
        if jobs := self._open_jobs():
            command = f"bjobs -noheader -o 'jobid:20 stat:10' {' '.join(jobs)}"
            self._take_in(jobs, *self._look(command, r"Job <(\d+)> is not found"), _LSF_STATES)


_LSF_STATES: Final = {
    **dict.fromkeys(("PEND", "PROV", "PSUSP", "WAIT"), JobState.PENDING),
    **dict.fromkeys(("RUN", "SSUSP", "USUSP"), JobState.RUNNING),
    "DONE": JobState.COMPLETED,
    **dict.fromkeys(("EXIT", "ZOMBI"), JobState.FAILED),
}
"""One that is suspended goes on later: it is not over."""


# ---- Flux ----------------------------------------------------------------------------------------------------------


class FluxLauncher(Launcher):  # type: ignore[misc]  # Parsl's classes are untyped here
    """One worker pool on every node of a Flux allocation."""

    def __call__(self, command: str, tasks_per_node: int, nodes_per_block: int, script_dir: str = "") -> str:
        script = f"{script_dir}/cmd_$JOBNAME.sh" if script_dir else "cmd_$JOBNAME.sh"
        size = f"--nodes={nodes_per_block} --ntasks={tasks_per_node * nodes_per_block}"
        return f"cat << 'FLUX_EOF' > {script}\n{command}\nFLUX_EOF\nflux run {size} --exclusive bash {script}\n"


class FluxProvider(_Patient):
    """Blocks from Flux by ``flux batch``, ``flux jobs`` and ``flux cancel`` (flux-core's manual, RFC 36 directives).

    Parsl's own FluxExecutor starts every task through Flux and refuses to be constructed where Flux is missing; this
    grants blocks as the other providers do, so that one executor serves all schedulers.

    Args:
        bank: account to charge, or None.
        queue: queue, or None.
        worker_init: shell lines before the workers.
        scheduler_options: further directive lines.
        common: see Parsl's ClusterProvider.
    """

    def __init__(
        self, *, bank: str | None, queue: str | None, worker_init: str, scheduler_options: str, **common: Any
    ) -> None:
        super().__init__(label="flux", **common)
        self.bank, self.queue = bank, queue
        self.worker_init, self.scheduler_options = worker_init, scheduler_options

    def script(self, command: str, tasks_per_node: int, job_name: str) -> str:
        """The batch script of one block."""
        base = f"{self.script_dir}/{job_name}"
        head = [
            f"--nodes={self.nodes_per_block}",
            "--exclusive",
            f"--time-limit={walltime_s(self.walltime)}s",
            f"--job-name={job_name}",
            f"--output={base}.stdout",
            f"--error={base}.stderr",
            *([f"--bank={self.bank}"] if self.bank else []),
            *([f"--queue={self.queue}"] if self.queue else []),
        ]
        lines = ["#!/bin/bash", *(f"#flux: {word}" for word in head), self.scheduler_options, self.worker_init]
        body = self.launcher(command, tasks_per_node, self.nodes_per_block, self.script_dir)
        return "\n".join([*(line for line in lines if line), f'export JOBNAME="{job_name}"', body])

    def submit(self, command: str, tasks_per_node: int, job_name: str = "parsl.flux") -> str:
        job_name = f"{job_name}.{time.time()}"
        path = Path(self.script_dir).resolve() / f"{job_name}.sh"
        path.write_text(self.script(command, tasks_per_node, job_name))
        # the plain form of a job id: a terminal without UTF-8 cannot show the usual one
        code, out, err = self.execute_wait(f"FLUX_F58_FORCE_ASCII=1 flux batch {shlex.quote(str(path))}")
        if code != 0 or not out.strip():
            raise SubmitException(job_name, "flux batch failed", stdout=out, stderr=err, retcode=code)
        return self._remember(out.split()[-1])

    def _status(self) -> None:
        if jobs := self._open_jobs():
            command = f"FLUX_F58_FORCE_ASCII=1 flux jobs -n -o '{{id.f58}} {{status}}' {' '.join(jobs)}"
            self._take_in(jobs, *self._look(command, r"(\w+) unknown"), _FLUX_STATES)

    def cancel(self, job_ids: Sequence[str]) -> list[bool]:
        code, _, _ = self.execute_wait(f"flux cancel {' '.join(job_ids)}")
        for job_id in job_ids if code == 0 else ():
            self.resources[job_id]["status"] = JobStatus(JobState.CANCELLED)
        return [code == 0] * len(job_ids)


_FLUX_STATES: Final = {
    **dict.fromkeys(("DEPEND", "PRIORITY", "SCHED", "PENDING"), JobState.PENDING),
    **dict.fromkeys(("RUN", "CLEANUP", "RUNNING"), JobState.RUNNING),
    "COMPLETED": JobState.COMPLETED,
    "FAILED": JobState.FAILED,
    "CANCELED": JobState.CANCELLED,
    "TIMEOUT": JobState.TIMEOUT,
}

_PROVIDERS: Final[Mapping[str, type[Any]]] = {
    "local": LocalProvider,
    "slurm": Slurm,
    "lsf": Lsf,
    "flux": FluxProvider,
}


# ---- on paper ------------------------------------------------------------------------------------------------------


class _Paper(ClusterProvider):  # type: ignore[misc]
    """Put behind a provider, it takes the place of the shell: scripts are written, nothing is submitted."""

    def execute_wait(self, cmd: str, timeout: int | None = None) -> tuple[int, str, str]:  # noqa: ARG002
        return 0, "Submitted batch job 0\nJob <0> is submitted to queue <none>.\n", ""


_ON_PAPER: Final = {name: type(cls.__name__, (cls, _Paper), {}) for name, cls in _PROVIDERS.items() if name != "local"}
