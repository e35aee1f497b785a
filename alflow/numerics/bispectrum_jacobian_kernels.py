"""Compiled loop of `alflow.numerics.bispectrum_jacobian`. Arrays are described there; numba infers their types."""
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
# ruff: noqa: ANN001

from __future__ import annotations

import numba as nb
import numpy as np

from alflow.numerics.bispectrum_kernels import all_dots, forces, group_duals, longest, surroundings, work_arrays
from alflow.numerics.lanes import LANES
from alflow.numerics.vector_math import OUTER


@nb.njit(**OUTER)
def jacobian(first, last, batch, c, out) -> None:
    """Derivatives of all components by each pair of the groups of eight atoms first:last, (n_pairs, 3, K)."""
    start = batch[3]
    begin, end = first * LANES, min(len(start) - 1, last * LANES)
    w = work_arrays(longest(begin, end, start), c.twojmax, len(c.base))
    room = np.zeros((4, c.n_all, 2, LANES))
    duals = np.empty((LANES, len(c.back.first) - 1, 4, 2))
    for base in range(begin, end, LANES):
        group_duals(base, min(base + LANES, end), batch, c, w, room, duals)
        for i in range(base, min(base + LANES, end)):
            count = surroundings(i, batch, c, w)
            all_dots(count, c, w, room[3], duals[i - base])
            for k in range(len(w.dots)):
                forces(count, w, w.dots[k], w.force[k])
                for p in range(count):
                    for q in range(3):
                        out[w.pair[p], q, k] = w.force[k, q, p]
