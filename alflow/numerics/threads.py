"""Run compiled loops on several threads: no pool of OpenMP's to quarrel with torch's, and safe after a fork."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, Final

import numba as nb

_CHUNKS_PER_THREAD: Final = 4
_pools: dict[int, ThreadPoolExecutor] = {}

os.register_at_fork(after_in_child=_pools.clear)


def spread(kernel: Callable[..., None], n: int, *args: Any, least: int = 1) -> None:
    """Call ``kernel(first, last, *args)`` for parts of ``range(n)``, on ``numba.get_num_threads()`` threads.

    Args:
        kernel: compiled with ``nogil=True``; different parts must write to different places.
        n: how many items there are.
        args: passed on.
        least: fewest items worth a thread.
    """
    threads = min(nb.get_num_threads(), n // least)
    if threads <= 1:
        if n:
            kernel(0, n, *args)
        return
    parts = min(threads * _CHUNKS_PER_THREAD, n // least)
    ends = [n * k // parts for k in range(parts + 1)]
    if threads not in _pools:
        _pools[threads] = ThreadPoolExecutor(threads, "alflow")
    for job in [_pools[threads].submit(kernel, a, b, *args) for a, b in pairwise(ends)]:
        job.result()
