"""MaxVol: of many rows, the square set of largest volume, and how far any row lies outside it.

After Goreinov, Oseledets, Savostyanov, Tyrtyshnikov and Zamarashkin, How to find a good submatrix (2010), and for
potentials Podryabinkin and Shapeev, Comput. Mater. Sci. 140, 171 (2017): with the active rows A, (K, K), a row b has
the coefficients c = b A⁻¹ and the extrapolation grade γ = max |cⱼ|. Where γ > 1, putting b in the place of the active
row of the greatest |cⱼ| multiplies |det A| by it. When no row is left with γ > 1 + tolerance the set is dominant, and
its volume is at least K^(-K/2) (1 + tolerance)^(-K) of the greatest there is.

The start is a small multiple of the identity, in units of each column: places that no row has taken. As long as they
are there, swaps by the greatest coefficient are Gaussian elimination with complete pivoting, so the first choice is
that of a pivoted LU; then they are MaxVol's. If rows span fewer than K directions to within `FLOOR` of a column's
size, some places stay unfilled, and whatever goes in their direction has a grade of up to 1 / `FLOOR`.

Rows pass in blocks. Only those of γ > 1 + tolerance take part in swaps, each of which costs (rows of them) x K; all
others cost one product with A⁻¹. So a pool may be streamed, over and over until a pass swaps nothing (`settle`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

import numpy as np
from scipy.linalg import lu_factor, lu_solve

from alflow.core.frames import Bools, Floats, Ints
from alflow.errors import DataError
from alflow.numerics.maxvol_kernels import swaps

TOLERANCE: Final = 1e-3
"""By how much the grade of a row must pass 1 to enter: each swap lets the volume grow by that much at least."""
FLOOR: Final = 1e-6
"""Size of an unfilled place, as a part of the greatest value of its column; what is smaller counts as rounding."""
UNFILLED: Final = -1
"""The source of a place that no row has taken."""
_NOTHING: Final = 1e-280
"""Columns of nothing greater count as zero: the reciprocals of their unfilled places would overflow."""
_FARTHEST: Final = 1e280
"""Grades from here on are no numbers: swaps would overflow."""
_BLOCK_BYTES: Final = 4 << 20
_REFRESH: Final = 64, 4
"""Swaps after which the inverse is computed anew: so many, or one for every so many columns if that is more."""
_MOST_SWAPS: Final = 200
"""Of one block, for each place."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class ActiveSet:
    """K rows of large volume among those that were offered.

    Attributes:
        rows: the active rows, (n_features, n_features); an unfilled place holds a small multiple of a unit vector.
        source: what each row was offered as, (n_features,); `UNFILLED` where none has come.
        scale: greatest |value| of each column in all rows that were offered, (n_features,); 0 for none yet.
        inverse: of `rows`; computed if it is not given.
    """

    rows: Floats
    source: Ints
    scale: Floats
    inverse: Floats = field(default_factory=lambda: np.zeros((0, 0)))

    def __post_init__(self) -> None:
        k = len(self.source)
        if self.rows.shape != (k, k) or self.scale.shape != (k,):
            raise DataError(f"ActiveSet: {k} sources, rows {self.rows.shape} and scales {self.scale.shape}")
        if self.inverse.shape != (k, k):
            object.__setattr__(self, "inverse", _inverse(self.rows))

    @staticmethod
    def empty(n_features: int) -> ActiveSet:
        """A set with all places unfilled."""
        nothing = np.zeros(n_features)
        return ActiveSet(np.diag(_floor(nothing)), np.full(n_features, UNFILLED, np.int64), nothing)

    @property
    def n_features(self) -> int:
        """Length of a row, and how many are active."""
        return len(self.source)

    @property
    def filled(self) -> Bools:
        """Which places hold a row that was offered, (n_features,)."""
        filled: Bools = self.source != UNFILLED
        return filled

    @property
    def log_volume(self) -> float:
        """Logarithm of |det A|; its differences mean something, its value depends on units."""
        return float(np.linalg.slogdet(self.rows)[1])

    def coefficients(self, rows: Floats) -> Floats:
        """Rows as combinations of the active rows, (n, n_features)."""
        found: Floats = _checked(rows, self.n_features) @ self.inverse
        return found

    def grades(self, rows: Floats, device: str | None = None) -> Floats:
        """Extrapolation grade of each row, (n,); NaN of a row that is not finite, or too far outside for a number.

        Args:
            rows: (n, n_features).
            device: a torch device for the products, such as ``cuda``; None for numpy.
        """
        rows = _checked(rows, self.n_features)
        out, step = np.empty(len(rows)), _block_rows(self.n_features)
        multiply = _on_device(self.inverse, device) if device else self._greatest
        for first in range(0, len(rows), step):
            out[first : first + step] = multiply(rows[first : first + step])
        out[~(out < _FARTHEST)] = np.nan  # a row that is not finite has no finite product either
        return out

    def _greatest(self, rows: Floats) -> Floats:
        with np.errstate(invalid="ignore", over="ignore"):  # rows that are not finite
            greatest: Floats = np.abs(rows @ self.inverse).max(axis=1, initial=0.0)
        return greatest

    def updated(self, rows: Floats, source: Ints, tolerance: float = TOLERANCE, device: str | None = None) -> ActiveSet:
        """The set after one look at more rows; itself if they change nothing.

        The volume never shrinks but by a column's first values. Rows without a grade are passed over. That all of
        `rows` are within the tolerance afterwards is sure only where nothing was changed: see `settle`.

        Args:
            rows: (n, n_features).
            source: what each row is to be known as, (n,), none negative.
            tolerance: rows whose grade is above 1 + tolerance enter.
            device: as in `grades`.

        Raises:
            DataError: rows of another length, or a source that is negative.
        """
        rows = _checked(rows, self.n_features)
        if len(source) != len(rows) or (source < 0).any():
            raise DataError(f"ActiveSet: {len(source)} sources for {len(rows)} rows, or negative ones")
        good = np.isfinite(rows).all(axis=1)
        rows, source = (rows, source) if good.all() else (rows[good], source[good])
        found, step = self.rescaled(np.abs(rows).max(axis=0, initial=0.0)), _block_rows(self.n_features)
        for first in range(0, len(rows), step):
            block = rows[first : first + step]
            outside = np.flatnonzero(found.grades(block, device) > 1 + tolerance)
            if len(outside):
                found = found._swapped(block[outside], source[first + outside], 1 + tolerance)  # noqa: SLF001
        return found

    def rescaled(self, scale: Floats) -> ActiveSet:
        """The set that has seen columns as large as `scale` (n_features,) too: unfilled places follow their size."""
        scale = np.maximum(self.scale, np.where(scale < _NOTHING, 0.0, scale))
        if np.array_equal(scale, self.scale):
            return self
        free = np.flatnonzero(~self.filled)
        new = self.rows.copy()
        new[free, free] = _floor(scale)[free]
        inverse = self.inverse.copy()
        inverse[:, free] *= self.rows[free, free] / new[free, free]
        return ActiveSet(new, self.source, scale, inverse)

    def _swapped(self, rows: Floats, source: Ints, threshold: float) -> ActiveSet:
        """Swap until the grades of `rows` are at most `threshold`, in their own coefficients as they are then."""
        active, names, inverse, total = self.rows.copy(), self.source.copy(), self.inverse, 0
        most = max(_REFRESH[0], self.n_features // _REFRESH[1])
        while total < _MOST_SWAPS * self.n_features:  # more than that is rounding going round in circles
            which, where = swaps(np.ascontiguousarray(rows @ inverse), threshold, most)
            if not len(which):
                break
            for i, j in zip(which.tolist(), where.tolist(), strict=True):
                active[j], names[j] = rows[i], source[i]
            inverse = _inverse(active)
            total += len(which)
        return ActiveSet(active, names, self.scale, inverse) if total else self


def settle(start: T, look: Callable[[T], T], most_passes: int = 100) -> tuple[T, bool]:
    """Look at all rows over and over, until a look changes nothing; most often that takes three to five.

    However the rows are cut into chunks, and in whatever order they come, the set is dominant at the end: no row has a
    grade above 1 + tolerance. Which of the dominant sets it is depends on both.

    Args:
        start: what to begin with: an `ActiveSet`, or several.
        look: gives them after a look at all rows, such as a chain of `ActiveSet.updated`; itself if nothing changed.
        most_passes: give up after so many.

    Returns:
        The set, and whether it is dominant: False if the passes did not suffice.
    """
    found = start
    for _ in range(most_passes):
        before, found = found, look(found)
        if found is before:
            return found, True
    return found, False


def maxvol(rows: Floats, tolerance: float = TOLERANCE, device: str | None = None) -> ActiveSet:
    """A dominant set of rows (n, K) that are in memory; the source of each is its index.

    Raises:
        DataError: swaps did not come to an end, which rounding alone can do.
    """
    rows = np.asarray(rows, np.float64)
    every = np.arange(len(rows))
    start = ActiveSet.empty(rows.shape[1])
    found, dominant = settle(start, lambda active: active.updated(rows, every, tolerance, device))
    if not dominant:
        raise DataError(f"maxvol: no dominant set of {rows.shape} rows after 100 passes")
    return found


def _floor(scale: Floats) -> Floats:
    """What an unfilled place holds; a column without values is taken to be as large as the largest.

    The greatest values of all columns would be equal in these units: a little more for later columns breaks the tie,
    which rounding would decide otherwise.
    """
    size = np.where(scale > 0, scale, scale.max(initial=0.0) or 1.0)
    return FLOOR * size * (1 + 1e-6 * np.arange(len(scale)))


def _inverse(rows: Floats) -> Floats:
    """Inverse of rows and columns of very different size: balanced first, refined after."""
    columns = np.abs(rows).max(axis=0, initial=0.0)
    balanced = rows / columns
    lengths = np.abs(balanced).max(axis=1, initial=0.0)
    balanced /= lengths[:, None]
    factors = lu_factor(balanced, check_finite=False)
    eye = np.eye(len(rows))
    inverse = lu_solve(factors, eye, check_finite=False)
    inverse += lu_solve(factors, eye - balanced @ inverse, check_finite=False)
    found: Floats = inverse / columns[:, None] / lengths
    return found


def _on_device(inverse: Floats, device: str) -> Callable[[Floats], Floats]:
    import torch

    there = torch.from_numpy(inverse).to(device)

    def greatest(rows: Floats) -> Floats:
        found = torch.from_numpy(np.ascontiguousarray(rows)).to(device) @ there
        return np.asarray(found.abs().amax(dim=1).cpu().numpy(), np.float64)

    return greatest


def _block_rows(n_features: int) -> int:
    return max(64, 2 * n_features, _BLOCK_BYTES // (8 * max(n_features, 1)))


def _checked(rows: Floats, n_features: int) -> Floats:
    rows = np.asarray(rows, np.float64)
    if rows.ndim != 2 or rows.shape[1] != n_features:
        raise DataError(f"ActiveSet: expected rows of {n_features} features, got an array of shape {rows.shape}")
    return rows
