"""The inner loop of MaxVol, compiled: one pass over the coefficients a swap."""
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

from typing import Final

import numba as nb
import numpy as np

from alflow.numerics.vector_math import EXACT, FAST, INNER, OUTER

_FINITE: Final = FAST | {"nnan"}
"""Rows that are not finite never come here."""


@nb.njit(fastmath=_FINITE, **INNER)
def greatest(row) -> float:
    """Greatest |value| of a row."""
    most = 0.0
    for k in range(len(row)):
        most = max(most, abs(row[k]))
    return most


@nb.njit(fastmath=_FINITE, **INNER)
def subtract(row, factor, other) -> float:
    """Subtract factor * other from row; greatest |value| of what is left."""
    most = 0.0
    for k in range(len(row)):
        row[k] -= factor * other[k]
        most = max(most, abs(row[k]))
    return most


@nb.njit(fastmath=EXACT, **OUTER)
def swaps(c, threshold, most_swaps):
    """Swap by the greatest coefficient until none is above `threshold`, in c (n, K) in place.

    To put row i in place j makes the coefficients c - c[:, j] (c[i] - eⱼ) / c[i, j]: that of row i is then eⱼ. Of
    equal coefficients the first counts, by rows, then by columns.

    Returns:
        Rows and places of the swaps in their order, both (n_swaps,), at most `most_swaps`.
    """
    which, where = np.empty(most_swaps, np.int64), np.empty(most_swaps, np.int64)
    change = np.empty(c.shape[1])
    best, i = threshold, -1
    for r in range(len(c)):
        top = greatest(c[r])
        if top > best:
            best, i = top, r
    count = 0
    while i >= 0 and count < most_swaps:
        j = 0
        for k in range(c.shape[1]):
            if abs(c[i, k]) > abs(c[i, j]):
                j = k
        which[count], where[count] = i, j
        count += 1
        change[:] = c[i]
        change[j] -= 1.0
        change /= c[i, j]
        best, chosen = threshold, i
        i = -1
        for r in range(len(c)):
            if r == chosen:
                c[r] = 0.0
                c[r, j] = 1.0
                continue
            top = subtract(c[r], c[r, j], change)
            if top > best:
                best, i = top, r
    return which[:count], where[:count]
