"""Parsl's worker pool, but for two things that would leave it there, beating, without it ever doing a task again.

Its workers share a `multiprocessing.Queue`, of which a reader holds the lock for as long as it waits. A worker that is
killed meanwhile never gives it back, and no other, old or new, gets another task. Here they wait without the lock, and
hold it only while they take what has come.

What its workers are at is kept by a helper, a server of `multiprocessing`. Should that be killed, the pool ends: its
tasks are given to another one.

``python -m alflow.runtime.process_worker_pool`` takes the arguments of Parsl's.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import pickle
import runpy
import threading
import time
from multiprocessing.connection import wait
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.managers import SyncManager
from multiprocessing.queues import Queue
from queue import Empty
from typing import Any, Final

_MOMENT_S: Final = 0.01
_POOL: Final = "parsl.executors.high_throughput.process_worker_pool"


class Tasks(Queue):  # type: ignore[type-arg]  # it takes no argument before Python 3.12
    """A queue between processes whose readers hold its lock only while they read."""

    def __init__(self) -> None:
        super().__init__(ctx=multiprocessing.get_context("spawn"))

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """The next item.

        Raises:
            Empty: there is none within `timeout` seconds, or at all if not `block`.
        """
        if not block:
            timeout = 0.0
        deadline = None if timeout is None else time.monotonic() + timeout
        q: Any = self  # its parts have no types
        while q._poll(_left(deadline)):  # noqa: SLF001
            if not q._rlock.acquire(True, _left(deadline)):  # noqa: SLF001
                break
            try:
                if not q._poll(0.0):  # noqa: SLF001 - another reader has taken it
                    continue
                data = q._recv_bytes()  # noqa: SLF001
                q._sem.release()  # noqa: SLF001
            finally:
                q._rlock.release()  # noqa: SLF001
            return pickle.loads(data)  # noqa: S301 - what this pool's own manager has written
        raise Empty


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(deadline - time.monotonic(), 0.0)


def main() -> None:
    """Run Parsl's pool with these queues, and no longer than its helper."""
    setattr(SpawnContext, "Queue", lambda _self, _maxsize=0: Tasks())  # noqa: B010 - it is a method there
    setattr(SpawnContext, "Manager", lambda _self: _guarded())  # noqa: B010
    runpy.run_module(_POOL, run_name="__main__", alter_sys=True)


def _guarded() -> SyncManager:
    helper = SyncManager(ctx=multiprocessing.get_context("spawn"))
    helper.start()
    threading.Thread(target=_end_with, args=(helper._process,), name="helper-guard", daemon=True).start()  # type: ignore[attr-defined]  # noqa: SLF001
    return helper


def _end_with(helper: SpawnProcess) -> None:
    """End this process when its helper does, unless in order; workers end when they see that they are orphans."""
    wait([helper.sentinel])
    while helper.exitcode is None:  # its files are closed a moment before it has a status
        time.sleep(_MOMENT_S)
    if helper.exitcode:
        os._exit(1)


if __name__ == "__main__":  # as the module that workers can import the queue from
    importlib.import_module("alflow.runtime.process_worker_pool").main()
