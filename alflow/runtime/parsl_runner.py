"""Tasks through Parsl: with `packing` the only file that imports it.

Every lane of the site file becomes a `HighThroughputExecutor`; verbs that share a lane share it. Parsl keeps its
files in ``<run>/parsl`` (private: the keys of its encrypted sockets are there) and retries nothing: what a failure
means is decided by `failure_kind` here and by the campaign.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import queue
import re
import shlex
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil
import zmq
from parsl.config import Config
from parsl.dataflow.dflow import DataFlowKernel
from parsl.executors import HighThroughputExecutor
from parsl.executors.high_throughput.executor import DEFAULT_LAUNCH_CMD
from parsl.jobs.states import JobState, JobStatus
from parsl.launchers import JsrunLauncher, SimpleLauncher, SrunLauncher
from parsl.launchers.base import Launcher
from parsl.monitoring import MonitoringHub
from parsl.providers import LocalProvider, LSFProvider, SlurmProvider
from parsl.providers.cluster_provider import ClusterProvider
from parsl.providers.errors import SubmitException
from parsl.providers.slurm.slurm import squeue_translate_table

from alflow.campaign.model import FailureKind
from alflow.errors import InfrastructureError, InputError, RunError, SpecError
from alflow.runtime import blocks, lanes, rundir, runner
from alflow.runtime.packing import FullestBlock
from alflow.runtime.processes import Reaper, deaf_children, end_leftovers, tether_to_parent, uninterrupted
from alflow.runtime.runner import Capacity, Execute, Report, Task
from alflow.spec.site import Lane, Site, lane_of, walltime_s

CLOSE_S: Final = 30.0
"""Seconds that Parsl gets to close in order before what is left of it is ended."""

CLOSE_LOST_S: Final = 5.0
"""The same where Parsl cannot close in order any more, since an interchange was killed."""

FIRST_WAIT_S: Final = 5.0
"""Seconds after the first refusal of a block until the next is asked for."""

LONGEST_WAIT_S: Final = 900.0
"""The same after many."""

STILL_BORN: Final = 3
"""Blocks in a row that may die before a worker reports, in a lane where none ever has: something is wrong in it."""

LOOK_S: Final = 2.0
"""Seconds between two looks at the connected worker pools, at least."""

FOLDER: Final = "parsl"
"""Parsl's folder in the run directory."""

logger = logging.getLogger(__name__)

_POOL: Final = "alflow.runtime.process_worker_pool"
_INTERCHANGE: Final = "parsl.executors.high_throughput.interchange"


class ParslRunner:
    """Runs tasks through Parsl; see `alflow.runtime.runner.Runner`.

    Args:
        execute: the worker; found by its module and name on the other side, so it must be importable there.
        site: where to run.
        run_dir: the run directory, on a file system that all workers see. Its lock is held: what an earlier
            coordinator of the run left on this machine is ended first.

    Raises:
        InputError: the site or the run directory cannot be used.
        InfrastructureError: Parsl did not start.
    """

    def __init__(self, execute: Execute, site: Site, run_dir: Path) -> None:
        self._execute, self._site, self._root = execute, site, run_dir.resolve()
        self._ended: queue.SimpleQueue[Report] = queue.SimpleQueue()
        self._kernel: DataFlowKernel | None = None
        config = parsl_config(site, self._root)
        self._reaper: Reaper | None = None
        self._log: logging.Handler | None = None
        try:
            with uninterrupted(), deaf_children():
                end_leftovers(self._root)
                self._give_back()
                self._log = _open_log(self._root / FOLDER / "parsl.log")
                self._reaper = Reaper(self._root)
                self._kernel = DataFlowKernel(config)
        except BaseException as exc:
            self.close(now=True)
            if isinstance(exc, Exception):
                raise InfrastructureError(f"{self._root / FOLDER}: Parsl did not start: {exc}") from exc
            raise

    def submit(self, task: Task) -> None:
        if self._kernel is None:
            raise InfrastructureError("the runner is closed")
        app = functools.partial(_remote, self._execute)
        app.__name__ = task["verb"]  # type: ignore[attr-defined]  # what monitoring calls the task
        future = self._kernel.submit(
            app,
            app_args=(task, str(self._root)),
            executors=[lane_of(self._site, task["verb"])],
            cache=False,
            ignore_for_cache=None,
            app_kwargs={},
        )
        future.add_done_callback(functools.partial(self._hear, task["id"]))

    def completed(self, timeout_s: float) -> Iterator[Report]:
        deadline = time.monotonic() + timeout_s
        first = None
        self._check_interchanges()
        while first is None and (left := deadline - time.monotonic()) > 0:
            try:
                first = self._ended.get(timeout=min(left, 1.0))
            except queue.Empty:
                self._check_interchanges()
        if first is not None:
            yield first
        while not self._ended.empty():
            yield self._ended.get()

    def capacity(self) -> Mapping[str, Capacity]:
        executors = self._kernel.executors.values() if self._kernel is not None else ()
        return {pools.label: pools.capacity for pools in executors if isinstance(pools, Pools)}

    def close(self, *, now: bool = False) -> None:
        try:
            if not now and self._kernel is not None:
                self._kernel.wait_for_current_tasks()
        finally:
            with uninterrupted():
                self._close()

    def _close(self) -> None:
        kernel, self._kernel = self._kernel, None
        if kernel is not None:
            closing = threading.Thread(target=_shut, args=(kernel,), name="alflow-close", daemon=True)
            closing.start()
            closing.join(CLOSE_LOST_S if any(map(_is_lost, kernel.executors.values())) else CLOSE_S)
        reaper, self._reaper = self._reaper, None
        if reaper is not None:
            reaper.close()
            self._give_back()
        log, self._log = self._log, None
        if log is not None:
            logging.getLogger("parsl").removeHandler(log)
            log.close()

    def _give_back(self) -> None:
        """Cancel batch jobs that are still in a queue: an earlier coordinator's, or those that Parsl could not."""
        if all(lane.scheduler == "local" for lane in self._site.lanes.values()):
            return
        try:
            ended = blocks.cancel(blocks.names(self._root))
        except InfrastructureError as exc:
            logger.warning("batch jobs of this run may be left in the queue: %s", exc)
        else:
            if ended:
                logger.info("cancelled batch jobs that were left: %s", " ".join(ended))

    def _hear(self, task_id: str, future: Future[dict[str, Any]]) -> None:
        """Runs in a thread of Parsl's, which drops exceptions: nothing here may raise."""
        exc = future.exception()
        if exc is None:
            self._ended.put(Report(task_id, future.result()))
        else:
            self._ended.put(Report.failed(task_id, _without_ways(exc), failure_kind(exc)))

    def _check_interchanges(self) -> None:
        """Parsl does not notice when an interchange is killed; its tasks would be waited for without end.

        Nor can it start another: every task of the lane would fail from now on, and labels be given up for it. So the
        coordinator ends where it is; the next one starts Parsl anew.

        Raises:
            InfrastructureError: an interchange has ended.
        """
        for executor in self._kernel.executors.values() if self._kernel is not None else ():
            if _is_lost(executor):
                problem = f"lane {executor.label}: Parsl's interchange ended unexpectedly"
                lost = InfrastructureError(f"{problem}; go on with `alflow resume {self._root}`")
                if not executor.bad_state_is_set:
                    executor.set_bad_state_and_fail_all(lost)
                raise lost


def _is_lost(executor: Any) -> bool:
    """Whether the executor's interchange has ended: whatever asks it anything waits for ever."""
    process = getattr(executor, "interchange_proc", None)
    return process is not None and process.poll() is not None


def _shut(kernel: DataFlowKernel) -> None:
    """Close Parsl; it would leave the blocks of an executor that it has given up in the scheduler's queue."""
    for executor in kernel.executors.values():
        if getattr(executor, "bad_state_is_set", False):
            jobs = executor.provider.resources
            executor.provider.cancel([job for job in jobs if not jobs[job]["status"].terminal])
    kernel.cleanup()


def _remote(execute: Execute, task: Task, root: str) -> dict[str, Any]:
    """What travels: do the task, in a process that does not outlive its pool."""
    tether_to_parent()
    return execute(task, root)


def _without_ways(exc: BaseException) -> BaseException:
    """The exception with a traceback that begins at the worker, not in Parsl."""
    frame = exc.__traceback__
    while frame is not None and frame.tb_frame.f_code.co_name != _remote.__name__:
        frame = frame.tb_next
    return exc if frame is None else exc.with_traceback(frame.tb_next)


def _open_log(path: Path) -> logging.Handler:
    """Parsl's own log, without its five lines about every task that goes well."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(threadName)s %(name)s: %(message)s"))
    handler.addFilter(lambda record: record.levelno >= logging.WARNING or record.name != "parsl.dataflow.dflow")
    log = logging.getLogger("parsl")
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(handler)
    return handler


# ---- whose fault ---------------------------------------------------------------------------------------------------

_INFRASTRUCTURE: Final = FailureKind.INFRASTRUCTURE
_RESOURCE: Final = FailureKind.RESOURCE
_DEFECT: Final = FailureKind.DEFECT

PARSL_KINDS: Final[Mapping[str, FailureKind]] = {
    **dict.fromkeys(
        ("ManagerLost", "WorkerLost", "CommandClientBadError", "CommandClientTimeoutError"), _INFRASTRUCTURE
    ),
    **dict.fromkeys(("BadStateException", "ScalingFailed", "TooManyJobFailuresError", "BadMessage"), _INFRASTRUCTURE),
    **dict.fromkeys(("ScaleOutFailed", "SubmitException", "ScriptPathError"), _INFRASTRUCTURE),
    **dict.fromkeys(("ExecutionProviderException", "ExecutorError", "MonitoringRouterStartError"), _INFRASTRUCTURE),
    **dict.fromkeys(("TaskVineFactoryFailure", "TaskVineManagerFailure", "WorkQueueFailure"), _INFRASTRUCTURE),
    **dict.fromkeys(("AppTimeout", "MPINodesUnavailable"), _RESOURCE),
    **dict.fromkeys(("ParslError", "ConfigurationError", "InternalConsistencyError", "NoDataFlowKernelError"), _DEFECT),
    **dict.fromkeys(("OptionalModuleMissing", "VersionMismatch", "BadLauncher", "SchedulerMissingArgs"), _DEFECT),
    **dict.fromkeys(("InvalidResourceSpecification", "UnsupportedFeatureError", "RadioRequiredError"), _DEFECT),
    **dict.fromkeys(("SerializationError", "DeserializationError", "DeserializerPluginError"), _DEFECT),
    **dict.fromkeys(
        ("DataFlowException", "PropagatedException", "DependencyError", "JoinError", "BadCheckpoint"), _DEFECT
    ),
    **dict.fromkeys(("AppException", "AppBadFormatting", "BadStdStreamFile", "BashAppNoReturn"), _DEFECT),
    **dict.fromkeys(("BashExitFailure", "MissingOutputs", "ZipAuthorityError"), _DEFECT),
    **dict.fromkeys(("TaskVineTaskFailure", "WorkQueueTaskFailure"), _DEFECT),
}
"""Every exception class of Parsl, by name: alflow uses neither bash apps nor Parsl's dependencies nor its memoizer, so
their errors are defects; a wrong version of Python or Parsl on the workers will not heal by trying again."""


def failure_kind(exc: BaseException) -> FailureKind:
    """Whose fault an exception was, Parsl's own included."""
    for cls in type(exc).__mro__:
        if cls.__module__.partition(".")[0] == "parsl" and cls.__name__ in PARSL_KINDS:
            return PARSL_KINDS[cls.__name__]
    return runner.failure_kind(exc)


# ---- from the site file to Parsl -----------------------------------------------------------------------------------


def parsl_config(site: Site, run_dir: Path) -> Config:
    """The site as Parsl wants it; makes Parsl's private folder in `run_dir`, starts nothing.

    Raises:
        RunError: see `rundir.check_path`.
        SpecError: a key of a lane that its scheduler does not know, or an interface this machine does not have.
    """
    rundir.check_path(run_dir)
    used = lanes.lanes_in_use(site)
    executors = [_executor(name, lane, _address(name, lane)) for name, lane in used.items()]
    folder = run_dir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    times = [lanes.times(lane) for lane in used.values()]
    return Config(
        executors=executors,
        run_dir=str(folder),
        retries=0,
        strategy="htex_auto_scale",
        strategy_period=min(t.poll for t in times),
        max_idletime=min(t.idle for t in times),
        monitoring=_monitoring(run_dir) if site.monitoring else None,
        usage_tracking=0,
        initialize_logging=False,  # ours, see `_open_log`: Parsl does not close the file of its own
    )


def _monitoring(run_dir: Path) -> MonitoringHub:
    """Watching each task's processes costs twenty times the speed of small tasks; states and times cost nothing."""
    return MonitoringHub(
        workflow_name=run_dir.name, logging_endpoint=f"sqlite:///{database(run_dir)}", resource_monitoring_enabled=False
    )


class Pools(HighThroughputExecutor):  # type: ignore[misc]  # Parsl's class is untyped here
    """Worker pools of one lane.

    They are given back only when they have been idle, not while they still wait or start. Where the scheduler refuses
    blocks or does not answer, or blocks die before a worker reports, the next are asked for after ever longer waits:
    Parsl would ask on at full speed, and fail all tasks of the lane for good after the third time.

    Attributes:
        capacity: what the lane has at hand.
        wait: when to ask for blocks again.
    """

    capacity = Capacity()
    _looked = -math.inf

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.wait = Wait()
        self._reported: set[str] = set()
        self._dead: set[str] = set()
        self._still_born = 0
        self._said = ""

    @property
    def nodes_per_pool(self) -> int:
        """One, but where one pool serves a whole block."""
        return int(self.provider.nodes_per_block) if isinstance(self.provider.launcher, SimpleLauncher) else 1

    @property
    def workers_per_node(self) -> float:
        """Where one pool serves a whole block, its workers are those of all nodes together."""
        return float(super().workers_per_node / self.nodes_per_pool)

    def poll_facade(self) -> None:
        """Parsl's thread calls this every few seconds: look after blocks, and at the pools."""
        super().poll_facade()
        if time.monotonic() - self._looked < LOOK_S or _is_lost(self):
            return
        self._looked = time.monotonic()
        pools = [pool for pool in self.connected_managers() if pool["active"]]
        workers = sum(pool["worker_count"] for pool in pools)
        wanted = self.outstanding() > workers  # else more blocks are not missed
        trouble = (self.wait.trouble if wanted else "") or getattr(self.provider, "complaint", "")
        self.capacity = Capacity(
            nodes=len(pools) * self.nodes_per_pool,
            workers=workers,
            pending_blocks=sum(s.state is JobState.PENDING for s in self._status.values()),
            trouble=trouble,
        )
        if trouble != self._said:
            logger.warning("lane %s: %s", self.label, trouble or "all is well again")
            self._said = trouble

    def connected_blocks(self) -> list[str]:
        found: list[str] = super().connected_blocks()
        if set(found) - self._reported:
            self._reported.update(found)
            self._still_born = 0
            self.wait.over()
        return found

    def scale_out_facade(self, n: int) -> list[str]:
        """Ask for `n` blocks, one after the other; after a refusal, for none until its time has come."""
        granted: list[str] = []
        while len(granted) < n and self.wait.is_over(time.monotonic()):
            granted += super().scale_out_facade(1)
            if granted and not self._still_born:
                self.wait.over()
            elif granted:  # one at a time, until a worker reports
                self.wait.again(time.monotonic())
        return granted

    def _launch_block(self, block_id: str) -> Any:
        try:
            return super()._launch_block(block_id)
        except Exception as exc:
            said = getattr(exc, "stderr", None) or getattr(exc, "stdout", None) or str(exc)
            self.wait.longer(time.monotonic(), f"no blocks: {_last_line(said)}")
            raise

    def handle_errors(self, status: dict[str, JobStatus]) -> None:
        """See which blocks have died before a worker reported; one that was refused is no block."""
        for block in [b for b in status if b not in self.blocks_to_job_id]:
            if self._simulated_status.pop(block, None) is not None:
                self._status.pop(block, None)
        dead = {b for b, s in status.items() if s.state is JobState.MISSING} - self._dead
        self._dead |= dead
        for block in sorted(dead, key=int):
            self._still_born += 1
            said = _last_line(status[block].stderr_summary or status[block].message or "")
            job = self.blocks_to_job_id.get(block, "?")
            trouble = f"batch job {job} ended before a worker reported: {said}"
            self.wait.longer(time.monotonic(), trouble)
            if self._still_born >= STILL_BORN and not self._reported:
                problem = f"lane {self.label}: {trouble}; so did the {STILL_BORN - 1} before it, and no worker ever did"
                self.set_bad_state_and_fail_all(InfrastructureError(problem))

    def scale_in(self, blocks: int, max_idletime: float | None = None) -> list[str]:
        """Give back `blocks` blocks at most; with `max_idletime`, only such as have been idle for longer.

        Parsl takes a block that has not connected yet for one idle since ever, and cancels it even when it asked
        for zero blocks: with fewer tasks than workers no block would live to its first task.
        """
        if max_idletime is None:
            return list(super().scale_in(blocks))
        idle: dict[str, float] = {}
        for pool in self.connected_managers():
            busy = pool["tasks"] or not pool["active"]
            idle[pool["block_id"]] = min(idle.get(pool["block_id"], math.inf), 0.0 if busy else pool["idle_duration"])
        longest = sorted(
            (b for b in idle if idle[b] > max_idletime and b in self.blocks_to_job_id), key=idle.__getitem__
        )
        chosen = longest[-blocks:] if blocks > 0 else []
        for block in chosen:
            self._hold_block(block)
        done = self.provider.cancel([self.blocks_to_job_id[b] for b in chosen]) if chosen else []
        return [block for block, ok in zip(chosen, done, strict=True) if ok]


@dataclass(slots=True)
class Wait:
    """Waits that double from one failure to the next.

    Attributes:
        trouble: what the last failure was; empty if there is none.
        until: on the monotonic clock.
        failures: in a row.
    """

    trouble: str = ""
    until: float = -math.inf
    failures: int = 0

    def is_over(self, now: float) -> bool:
        """Whether it is time to try."""
        return now >= self.until

    def longer(self, now: float, trouble: str) -> None:
        """It failed: wait, twice as long as the last time."""
        self.again(now)
        self.failures += 1
        self.trouble = f"{trouble} (failures in a row: {self.failures})"

    def again(self, now: float) -> None:
        """Wait once more as long as the failures so far ask for."""
        self.until = now + min(FIRST_WAIT_S * 2**self.failures, LONGEST_WAIT_S)

    def over(self) -> None:
        """It worked."""
        self.trouble, self.until, self.failures = "", -math.inf, 0


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip()[:300] if lines else "it said nothing"


def _executor(name: str, lane: Lane, address: str | None) -> Pools:
    times = lanes.times(lane)
    python = shlex.quote(sys.executable)
    return Pools(
        label=name,
        provider=_provider(name, lane, type_of=_PROVIDERS),
        address=address,
        # by module, not by name: the environment's bin folder need not be on PATH
        launch_cmd=DEFAULT_LAUNCH_CMD.replace("process_worker_pool.py", f"{python} -m {_POOL}").replace(
            "{drain_period}", lanes.drain_period(lane)
        ),
        interchange_launch_cmd=[sys.executable, "-m", _INTERCHANGE],
        cores_per_worker=1e-3,  # the site file counts the workers, Parsl does not second-guess it
        max_workers_per_node=lanes.pool_workers(lane),
        available_accelerators=lanes.accelerators(lane),
        cpu_affinity=lanes.affinity(lane),
        prefetch_capacity=0,
        manager_selector=FullestBlock(),
        heartbeat_period=times.heartbeat,
        heartbeat_threshold=times.threshold,
        block_error_handler=False,  # see `Pools.handle_errors`
        encrypted=zmq.has("curve"),
    )


def _address(name: str, lane: Lane) -> str | None:
    if lane.scheduler == "local":
        return "127.0.0.1"
    if not lane.address or "." in lane.address or ":" in lane.address:
        return lane.address or None
    there = psutil.net_if_addrs()
    for address in there.get(lane.address, ()):
        if address.family is socket.AF_INET:
            return address.address
    known = ", ".join(there)
    raise SpecError(
        f"lanes.{name}.address", f"no interface {lane.address!r} with an IPv4 address", f"there are: {known}"
    )


def _launcher(lane: Lane) -> Launcher:
    """What starts a pool on every node, with all the cores and GPUs of it: by default a task gets one core."""
    if lane.launcher == "srun":
        return SrunLauncher(overrides=f"--cpus-per-task={lane.cores_per_node} --cpu-bind=none")
    if lane.launcher == "jsrun":
        return JsrunLauncher(overrides="-a 1 -c ALL_CPUS -g ALL_GPUS -b none")
    return FluxLauncher() if lane.launcher == "flux" else SimpleLauncher()


def _provider(name: str, lane: Lane, type_of: Mapping[str, type[Any]]) -> Any:
    """The provider of a lane, of the type that `type_of` names for its scheduler."""
    scheduler = lane.scheduler
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


# ---- schedulers -----------------------------------------------------------------------------------------------------


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
            return 1, "", f"{cmd.split(maxsplit=1)[0]} does not answer"
        return done

    @property
    def status_polling_interval(self) -> int:
        return self._polling_s


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
            self.complaint = f"the scheduler does not answer: {_last_line(err)}" if code else ""
        return code, out, err


_MORE_SLURM_STATES: Final = {
    **dict.fromkeys(("RD", "RF", "RH", "RQ"), JobState.PENDING),
    **dict.fromkeys(("RS", "S", "SI", "SO", "ST"), JobState.RUNNING),
    **dict.fromkeys(("BF", "DL", "OOM", "PR"), JobState.FAILED),
}
"""States that Parsl does not know: requeued, suspended, ended."""


class Lsf(_Patient, LSFProvider):  # type: ignore[misc]
    """Blocks from LSF."""


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
        code, out, err = self.execute_wait(f"FLUX_F58_FORCE_ASCII=1 flux batch {path}")
        if code != 0 or not out.strip():
            raise SubmitException(job_name, "flux batch failed", stdout=out, stderr=err, retcode=code)
        job_id = str(out.split()[-1])
        self.resources[job_id] = {"job_id": job_id, "status": JobStatus(JobState.PENDING)}
        return job_id

    def _status(self) -> None:
        open_ids = [job_id for job_id, job in self.resources.items() if not job["status"].terminal]
        if not open_ids:
            return
        command = f"FLUX_F58_FORCE_ASCII=1 flux jobs -n -o '{{id.f58}} {{status}}' {' '.join(open_ids)}"
        code, out, _ = self.execute_wait(command)
        if code != 0:
            return
        for line in out.splitlines():
            job_id, _, status = line.strip().partition(" ")
            if job_id in self.resources:
                self.resources[job_id]["status"] = JobStatus(_FLUX_STATES.get(status.strip(), JobState.UNKNOWN))

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


# ---- what would be submitted ---------------------------------------------------------------------------------------


class _Paper(ClusterProvider):  # type: ignore[misc]
    """Put behind a provider, it takes the place of the shell: scripts are written, nothing is submitted."""

    def execute_wait(self, cmd: str, timeout: int | None = None) -> tuple[int, str, str]:  # noqa: ARG002
        return 0, "Submitted batch job 0\nJob <0> is submitted to queue <none>.\n", ""


_ON_PAPER: Final = {name: type(cls.__name__, (cls, _Paper), {}) for name, cls in _PROVIDERS.items() if name != "local"}


def submit_scripts(site: Site) -> dict[str, str]:
    """The batch script of one block of every lane that has a scheduler, as Parsl's provider writes it.

    Nothing is submitted, and no scheduler is needed. Where the real script names a run directory, a port and a
    moment, this one says ``RUN``, ``PORT`` and nothing; ``ADDRESS`` is what the machine finds out at its start.

    Raises:
        SpecError: a key of a lane that its scheduler does not know.
    """
    batch = {name: lane for name, lane in lanes.lanes_in_use(site).items() if lane.scheduler != "local"}
    return {name: _script(name, lane) for name, lane in batch.items()}


def _script(name: str, lane: Lane) -> str:
    executor = _executor(name, lane, lane.address or "ADDRESS")
    executor.run_dir, executor.cert_dir = f"RUN/{FOLDER}/000", f"RUN/{FOLDER}/000/{name}/certificates"
    executor.worker_port, executor.logconf_path = "PORT", None
    executor.initialize_scaling()
    provider = _provider(name, lane, _ON_PAPER)
    with tempfile.TemporaryDirectory() as folder:
        provider.script_dir = folder
        provider.submit(executor._get_launch_command("0"), 1, f"parsl.{name}.block-0")  # noqa: SLF001
        (path,) = Path(folder).iterdir()
        text = path.read_text().replace(str(Path(folder).resolve()), f"RUN/{FOLDER}/000/submit_scripts")
        text = text.replace(folder, f"RUN/{FOLDER}/000/submit_scripts")
    return re.sub(rf"(parsl\.{re.escape(name)}\.block-0)\.[\d.]*\d", r"\1", text)


def database(run_dir: Path) -> Path:
    """Where Parsl's monitoring keeps its database."""
    return run_dir.resolve() / FOLDER / "monitoring.db"


# ---- Parsl's dashboard ---------------------------------------------------------------------------------------------

_TABLES: Final = frozenset({"workflow", "task", "try", "status", "node", "block", "resource"})


def open_dashboard(run_dir: Path, port: int, said: Callable[[str], object] | None = None) -> None:
    """Serve Parsl's dashboard of a run on this machine only, until interrupted.

    The database is opened for reading only, and not before Parsl has made all its tables: a dashboard that comes
    first would make its own, which Parsl's monitoring then cannot use (Parsl issue 2266).

    Args:
        run_dir: the run; it may be at work.
        port: port on 127.0.0.1.
        said: is told the address once the dashboard answers; printed if None.

    Raises:
        RunError: the run has no monitoring database yet.
        InputError: the port is taken.
    """
    path, out = database(run_dir), sys.stdout
    say = said or functools.partial(print, file=out, flush=True)
    _check_database(path)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as exc:
            raise InputError("--port", f"{port} cannot be used on 127.0.0.1: {exc.strerror}", "choose another") from exc
    address = f"http://127.0.0.1:{port}"
    threading.Thread(target=_say_when_up, args=(port, functools.partial(say, address)), daemon=True).start()
    words = ["parsl-visualize", f"sqlite:///file:{path}?mode=ro&uri=true", "--listen=127.0.0.1", f"--port={port}"]
    _serve(words, path.parent / "dashboard.log")


def _serve(words: list[str], log: Path) -> None:
    """Parsl's program in this process, so that it ends with it; what it says about each request goes to `log`."""
    from parsl.monitoring.visualization.app import cli_run

    requests, handler, before = logging.getLogger("werkzeug"), logging.FileHandler(log), sys.argv
    requests.setLevel(logging.INFO)
    requests.propagate = False
    requests.addHandler(handler)
    sys.argv = words
    try:
        with contextlib.redirect_stdout(handler.stream):
            cli_run()
    finally:
        sys.argv = before
        requests.removeHandler(handler)
        handler.close()


def _say_when_up(port: int, say: Callable[[], None]) -> None:
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
            say()
            return
        time.sleep(0.1)


def _check_database(path: Path) -> None:
    hint = "it appears soon after a run has begun, unless the site file says `monitoring: false`"
    if not path.is_file():
        raise RunError(str(path.parents[1]), "has no monitoring database (yet)", hint)
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        there = {name for (name,) in db.execute("select name from sqlite_master where type = 'table'")}
    if missing := _TABLES - there:
        raise RunError(str(path), f"has no tables {', '.join(sorted(missing))} (yet)", hint)
