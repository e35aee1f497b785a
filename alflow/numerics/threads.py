"""Run compiled loops on several threads: no pool of OpenMP's to quarrel with torch's, and safe after a fork.

The caller works, too, and waits for no thread that has not begun by the time all is done: a millisecond of work, a
few hundred atoms, is shared without costing more than it gains.

numba's own threads are left alone: even to ask how many there are starts its pool, which changes how many torch uses.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, Final

_CHUNKS_PER_THREAD: Final = 4
_pools: dict[int, ThreadPoolExecutor] = {}

os.register_at_fork(after_in_child=_pools.clear)


def _at_first() -> int:
    """``OMP_NUM_THREADS``, or the processors this process may run on."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(asked) if asked.isdigit() and int(asked) else allowed


_threads = _at_first()


def use_threads(count: int) -> None:
    """Let loops run on so many threads from now on."""
    global _threads  # noqa: PLW0603  # one setting for the process, as in torch
    _threads = max(1, count)


def spread(kernel: Callable[..., None], n: int, *args: Any, least: int = 1) -> None:
    """Call ``kernel(first, last, *args)`` for parts of ``range(n)``, on the threads that `use_threads` allows.

    Args:
        kernel: compiled with ``nogil=True``; different parts must write to different places.
        n: how many items there are.
        args: passed on.
        least: fewest items worth a thread.
    """
    threads = min(_threads, n // least)
    if threads <= 1:
        if n:
            kernel(0, n, *args)
        return
    parts = min(threads * _CHUNKS_PER_THREAD, n // least)
    todo = deque(pairwise(n * k // parts for k in range(parts + 1)))
    helpers = threads - 1
    if helpers not in _pools:
        _pools[helpers] = ThreadPoolExecutor(helpers, "alflow")
    jobs = [_pools[helpers].submit(_work, kernel, todo, args) for _ in range(helpers)]
    try:
        _work(kernel, todo, args)
    finally:
        for job in jobs:
            if not job.cancel():  # one that has not even begun has nothing left to do
                job.result()


def _work(kernel: Callable[..., None], todo: deque[tuple[int, int]], args: tuple[Any, ...]) -> None:
    """Take parts until there are none."""
    while True:
        try:
            first, last = todo.popleft()
        except IndexError:
            return
        kernel(first, last, *args)
