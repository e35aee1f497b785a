"""Tasks through Parsl.

Every lane of the site file becomes a `HighThroughputExecutor`; verbs that share a lane share it. Parsl keeps its
files in ``<run>/parsl`` (private: the keys of its encrypted sockets are there) and retries nothing: what a failure
means is decided by `parsl_failures` and by the campaign. Only modules called ``parsl_*`` import it.
"""

from __future__ import annotations

import functools
import logging
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final

from parsl.dataflow.dflow import DataFlowKernel

from alflow.errors import InfrastructureError
from alflow.runtime import blocks, layout
from alflow.runtime.parsl_failures import failure_kind
from alflow.runtime.parsl_pools import Pools, is_lost
from alflow.runtime.parsl_site import parsl_config
from alflow.runtime.processes import Reaper, deaf_children, end_leftovers, tether_to_parent, uninterrupted
from alflow.runtime.runner import Capacity, Execute, Report, Task
from alflow.spec.site import Site, lane_of

CLOSE_S: Final = 30.0
"""Seconds that Parsl gets to close in order before what is left of it is ended."""

CLOSE_LOST_S: Final = 5.0
"""The same where Parsl cannot close in order any more, since an interchange was killed."""

logger = logging.getLogger(__name__)


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
                self._log = _open_log(self._root / layout.PARSL / "parsl.log")
                self._reaper = Reaper(self._root)
                self._kernel = DataFlowKernel(config)
        except BaseException as exc:
            self.close(now=True)
            if isinstance(exc, Exception):
                raise InfrastructureError(f"{self._root / layout.PARSL}: Parsl did not start: {exc}") from exc
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
            closing.join(CLOSE_LOST_S if any(map(is_lost, kernel.executors.values())) else CLOSE_S)
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
            if is_lost(executor):
                problem = f"lane {executor.label}: Parsl's interchange ended unexpectedly"
                lost = InfrastructureError(f"{problem}; go on with `alflow resume {self._root}`")
                if not executor.bad_state_is_set:
                    executor.set_bad_state_and_fail_all(lost)
                raise lost


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
