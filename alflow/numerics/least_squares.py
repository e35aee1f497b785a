"""Linear least squares over more rows than fit in memory: a QR factorisation that grows with every block of rows.

Only the triangle R of ``[A | b] = Q R`` is kept: all that the solution needs, in a size that does not depend on the
number of rows. Normal equations would take a fifth of the time, but the square of the condition number: products of
descriptors are so alike that conditions of 1e6 and more are common, and the digits would be gone. Householder QR does
not mind the scales of columns; a block of rows is added below the triangle by LAPACK's ``tpqrt`` (Demmel et al., SIAM
J. Sci. Comput. 34, A206 (2012), section 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.linalg import lapack

from alflow.core.frames import Floats
from alflow.errors import DataError

_BLOCK: Final = 32
"""Columns a panel of `tpqrt`."""


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """What `solve` found.

    Attributes:
        x: the unknowns, (n_columns,).
        rank: how many directions of the unknowns the rows decide; n_columns if all.
        condition: largest over smallest singular value of what was inverted, each column scaled to length 1 first.
    """

    x: Floats
    rank: int
    condition: float


class Triangle:
    """The triangle R of all rows added so far.

    Args:
        n_columns: unknowns.

    Attributes:
        r: upper triangle of ``[A | b]``, (n_columns + 1, n_columns + 1).
        rows: how many rows were added.
    """

    def __init__(self, n_columns: int) -> None:
        self.r: Floats = np.zeros((n_columns + 1, n_columns + 1), order="F")
        self.rows = 0

    @property
    def n_columns(self) -> int:
        """Unknowns."""
        return len(self.r) - 1

    def add(self, a: Floats, b: Floats) -> None:
        """Add rows `a`, (m, n_columns), with right-hand sides `b`, (m,).

        Raises:
            DataError: a row that is not finite, which would spoil everything that was there before.
        """
        if a.shape != (len(b), self.n_columns):
            raise DataError(f"least squares: expected rows ({len(b)}, {self.n_columns}), got {a.shape}")
        block = np.empty((len(b), self.n_columns + 1), order="F")
        block[:, :-1], block[:, -1] = a, b
        if not np.isfinite(block).all():
            raise DataError("least squares: a row is not finite, or too large for floating point")
        if len(b):
            self._fold(block)
            self.rows += len(b)

    def merge(self, other: Triangle, weight: float = 1.0) -> None:
        """Add all rows of `other`, each times `weight`."""
        self._fold(np.asfortranarray(weight * other.r))
        self.rows += other.rows

    def residual(self, x: Floats) -> float:
        """Length of the residual, ``|A x - b|``."""
        return float(_lengths((self.r @ np.append(x, -1.0))[:, None])[0])

    def _fold(self, block: Floats) -> None:
        panel = min(_BLOCK, len(self.r))
        self.r, _, _, info = lapack.dtpqrt(0, panel, self.r, block, overwrite_a=1, overwrite_b=1)
        assert info == 0


def solve(triangle: Triangle, n_free: int = 0, ridge: float = 0.0, rcond: float = 1e-12) -> Solution:
    """The x of least ``|A x - b|^2 + ridge |D x|^2``; where rows do not decide, the one of least ``|D x|``.

    D scales each column to length 1. The first `n_free` columns (constants) are neither scaled nor held down by the
    ridge: the others are first made orthogonal to them, as regression does by subtracting means.

    Args:
        triangle: of the rows.
        n_free: how many of the first columns are free.
        ridge: strength, relative to the unit squared length of the scaled columns.
        rcond: directions whose singular value is below this part of the largest one count as undecided.
    """
    r, z = triangle.r[:-1, :-1], triangle.r[:-1, -1]
    free = _Spectrum.of(r[:n_free, :n_free], rcond)
    rest = np.vstack([r[n_free:, n_free:], free.idle.T @ r[:n_free, n_free:]])
    goal = np.concatenate([z[n_free:], free.idle.T @ z[:n_free]])
    scale = _lengths(rest)
    # a column that lies within the free ones, but for rounding, is no column
    scale[scale <= rcond * _lengths(r[:, n_free:])] = np.inf
    held = _Spectrum.of(rest / scale, rcond)
    y = held.solve(goal, ridge) / scale
    x = free.solve(z[:n_free] - r[:n_free, n_free:] @ y)
    ends = held.s[[0, -1]] ** 2 + ridge if len(held.s) else np.ones(2)
    return Solution(np.concatenate([x, y]), len(free.s) + len(held.s), float(np.sqrt(ends[0] / ends[1])))


@dataclass(frozen=True, slots=True, eq=False)
class _Spectrum:
    """The singular values of a matrix that are not zero but for rounding, and what belongs to them.

    Attributes:
        u: left singular vectors, (n_rows, rank).
        s: singular values, falling, (rank,).
        v: right singular vectors, (n_columns, rank).
        idle: left singular vectors of zero, (n_rows, n_columns - rank).
    """

    u: Floats
    s: Floats
    v: Floats
    idle: Floats

    @staticmethod
    def of(a: Floats, rcond: float) -> _Spectrum:
        u, s, v = np.linalg.svd(a, full_matrices=False)
        rank = int((s > rcond * s[0]).sum()) if len(s) else 0
        return _Spectrum(u[:, :rank], s[:rank], v[:rank].T, u[:, rank:])

    def solve(self, goal: Floats, ridge: float = 0.0) -> Floats:
        """The shortest x of least ``|a x - goal|^2 + ridge |x|^2``."""
        inverse = self.s / (self.s**2 + ridge) if ridge else 1 / self.s
        found: Floats = self.v @ (inverse * (self.u.T @ goal))
        return found


def _lengths(a: Floats) -> Floats:
    """Of each column; the squares of 1e-200 and of 1e200 are no numbers."""
    largest = np.abs(a).max(0, initial=0.0)
    largest[largest == 0] = 1.0
    found: Floats = largest * np.linalg.norm(a / largest, axis=0)
    return found
