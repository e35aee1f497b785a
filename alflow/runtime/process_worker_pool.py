"""Parsl's worker pool, but for one thing: a worker that is killed while it waits for a task does not stop the others.

Parsl's workers share a `multiprocessing.Queue`, of which a reader holds the lock for as long as it waits. One that is
killed meanwhile never gives it back: its pool lives on and beats, but none of its workers, old or new, ever gets
another task. Here they wait without the lock, and hold it only while they take what has come.

``python -m alflow.runtime.process_worker_pool`` takes the arguments of Parsl's.
"""

from __future__ import annotations

import importlib
import multiprocessing
import pickle
import runpy
import time
from multiprocessing.context import SpawnContext
from multiprocessing.queues import Queue
from queue import Empty
from typing import Any, Final

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
    """Run Parsl's pool with these queues."""
    setattr(SpawnContext, "Queue", lambda _self, _maxsize=0: Tasks())  # noqa: B010 - it is a method there
    runpy.run_module(_POOL, run_name="__main__", alter_sys=True)


if __name__ == "__main__":  # as the module that workers can import the queue from
    importlib.import_module("alflow.runtime.process_worker_pool").main()
