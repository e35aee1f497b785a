"""Where tasks run. `Runner` is the seam: a coordinator knows nothing else of the machine, Parsl is behind it."""

from __future__ import annotations

import errno
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from subprocess import TimeoutExpired
from typing import Any, Final, Protocol

from alflow.campaign.model import FailureKind
from alflow.errors import InfrastructureError, ResourceError, UnphysicalError

Task = dict[str, Any]
"""A task as it travels: ``{"id": ..., "verb": ..., "args": {...}}``, plain JSON values."""

Execute = Callable[[Task, str], dict[str, Any]]
"""The worker: does one task of the run in the given directory, returns its small JSON result."""


@dataclass(frozen=True, slots=True)
class Report:
    """How a task ended: with a result, or with a kind of failure.

    Attributes:
        task_id: which task.
        result: the worker's small JSON result, or None if it failed.
        failure: whose fault it was, or None if it did not fail.
        detail: the failure in words; for a defect the whole traceback.
        log: path of the log that shows it, or empty.
    """

    task_id: str
    result: dict[str, Any] | None = None
    failure: FailureKind | None = None
    detail: str = ""
    log: str = ""

    @staticmethod
    def failed(task_id: str, exc: BaseException, kind: FailureKind) -> Report:
        """The report of a task that raised `exc`; an exception may carry the path of its log as ``log``."""
        detail = "".join(traceback.format_exception_only(exc)).strip()
        if kind is FailureKind.DEFECT:
            detail = "".join(traceback.format_exception(exc)).strip()
        return Report(task_id, failure=kind, detail=detail, log=str(getattr(exc, "log", "")))


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a lane has at hand, as seen a few seconds ago at most.

    Attributes:
        nodes: nodes with a worker pool that has reported.
        workers: tasks that run on them at a time.
        pending_blocks: blocks that wait in the scheduler's queue.
        trouble: why no blocks come, in the scheduler's words: it refuses them, does not answer, or they die at
            once; empty where all is well. It is tried again, ever more seldom.
    """

    nodes: int = 0
    workers: int = 0
    pending_blocks: int = 0
    trouble: str = ""


class Runner(Protocol):
    """Runs tasks somewhere and tells how they ended, in any order."""

    def submit(self, task: Task) -> None:
        """Accept a task; returns at once."""
        ...

    def completed(self, timeout_s: float) -> Iterator[Report]:
        """Block until at least one task has ended or `timeout_s` has passed; yield all that have ended."""
        ...

    def capacity(self) -> Mapping[str, Capacity]:
        """What each lane has at hand, by its name; costs nothing, may be asked at any time. Empty without lanes."""
        ...

    def close(self, *, now: bool = False) -> None:
        """Leave no process behind. What has not started is dropped; what runs is awaited unless `now`."""
        ...


class InlineRunner:
    """Runs tasks in this process, one each time results are asked for: for tests and debugging.

    Args:
        execute: the worker.
        root: the run directory.
    """

    def __init__(self, execute: Execute, root: str) -> None:
        self._execute, self._root, self._waiting = execute, root, deque[Task]()

    def submit(self, task: Task) -> None:
        self._waiting.append(task)

    def completed(self, timeout_s: float) -> Iterator[Report]:  # noqa: ARG002  nothing runs meanwhile, so nothing to wait for
        if not self._waiting:
            return
        task = self._waiting.popleft()
        try:
            report = Report(task["id"], self._execute(task, self._root))
        except Exception as exc:  # noqa: BLE001  the border: whatever a task raises becomes a report
            report = Report.failed(task["id"], exc, failure_kind(exc))
        yield report

    def capacity(self) -> Mapping[str, Capacity]:
        return {}

    def close(self, *, now: bool = False) -> None:  # noqa: ARG002  nothing ever runs in the background
        self._waiting.clear()


class DryRunner:
    """Records what it is given and runs nothing.

    Attributes:
        tasks: every task submitted, in order.
    """

    def __init__(self) -> None:
        self.tasks: list[Task] = []

    def submit(self, task: Task) -> None:
        self.tasks.append(task)

    def completed(self, timeout_s: float) -> Iterator[Report]:  # noqa: ARG002  nothing will ever end
        return iter(())

    def capacity(self) -> Mapping[str, Capacity]:
        return {}

    def close(self, *, now: bool = False) -> None:
        pass


# The machine's errors among the system's: disks, networks and tables that are full, gone or stale. The others (a
# missing file, a wrong argument, a forbidden path) would come again on every machine, so they are defects.
_MACHINE: Final = frozenset(
    getattr(errno, name)
    for name in (
        *("ENOSPC", "EDQUOT", "EIO", "ESTALE", "EROFS", "ENODEV", "ENXIO", "EREMOTEIO", "EFBIG", "ETXTBSY", "EBUSY"),
        *("EMFILE", "ENFILE", "EAGAIN", "EINTR", "EDEADLK", "ENOLCK", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH"),
        *("ENETDOWN", "ENETUNREACH", "ENETRESET", "ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "ENOTCONN", "EPIPE"),
        *("EADDRINUSE", "EADDRNOTAVAIL", "ENOBUFS"),
    )
    if hasattr(errno, name)
)


def failure_kind(exc: BaseException) -> FailureKind:
    """Whose fault an exception of ours, of Python or of torch was; what is unknown is a defect."""
    if isinstance(exc, UnphysicalError):
        return FailureKind.UNPHYSICAL
    if isinstance(exc, ResourceError | MemoryError | TimeoutExpired) or _out_of_memory(exc):
        return FailureKind.RESOURCE
    if isinstance(exc, InfrastructureError | ConnectionError | EOFError) or type(exc).__name__ == "AcceleratorError":
        return FailureKind.INFRASTRUCTURE
    if isinstance(exc, OSError):
        return _system_kind(exc)
    return FailureKind.DEFECT


def _system_kind(exc: OSError) -> FailureKind:
    if exc.errno in _MACHINE:
        return FailureKind.INFRASTRUCTURE
    if exc.errno == errno.ENOMEM or isinstance(exc, TimeoutError):
        return FailureKind.RESOURCE
    return FailureKind.DEFECT


def _out_of_memory(exc: BaseException) -> bool:
    """Torch's own out-of-memory errors, known by name so that torch need not be loaded."""
    if not isinstance(exc, RuntimeError):
        return False
    return type(exc).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator: can't allocate memory" in str(exc)
