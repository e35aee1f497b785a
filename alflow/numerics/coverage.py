"""How broad clouds of points are, and one in the frame of another: moments and histograms that rows stream into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from alflow.core.frames import Bools, Floats
from alflow.errors import DataError

SAME: Final = 1e-6
"""Variances nearer to 1 than this are equal."""
_NOTHING: Final = 1e-11
"""Directions in which a cloud is narrower than this part of its greatest width are those in which it has none."""
_BINS: Final = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Number, mean and spread of rows.

    The spread is kept as a triangular factor of the scatter matrix, not as a covariance: squares would lose half of the
    digits of the narrow directions, in which bispectrum components have plenty.

    Attributes:
        count: rows.
        mean: (n_columns,).
        factor: R, (n_columns, n_columns), with RᵀR = Σ (x - mean)(x - mean)ᵀ.
        low: least value of each column, (n_columns,).
        high: greatest value of each column.
    """

    count: int
    mean: Floats
    factor: Floats
    low: Floats
    high: Floats

    @staticmethod
    def none(n_columns: int) -> Moments:
        """Of no rows."""
        zeros, inf = np.zeros(n_columns), np.full(n_columns, np.inf)
        return Moments(0, zeros, np.zeros((n_columns, n_columns)), inf, -inf)

    @staticmethod
    def of(rows: Floats) -> Moments:
        """Of rows (n, n_columns), all finite."""
        if not len(rows):
            return Moments.none(rows.shape[1])
        mean = rows.mean(axis=0)
        return Moments(len(rows), mean, _triangle(rows - mean), rows.min(axis=0), rows.max(axis=0))

    def merged(self, other: Moments) -> Moments:
        """Of the rows of both."""
        if not self.count or not other.count:
            return other if not self.count else self
        n, apart = self.count + other.count, other.mean - self.mean
        between = np.sqrt(self.count * other.count / n) * apart
        return Moments(
            n,
            self.mean + apart * (other.count / n),
            _triangle(np.vstack([self.factor, other.factor, between])),
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
        )

    @property
    def std(self) -> Floats:
        """Standard deviation of each column (n below the line), (n_columns,)."""
        return np.asarray(np.sqrt((self.factor**2).sum(axis=0) / max(self.count, 1)), np.float64)

    def scaled(self, scale: Floats) -> Moments:
        """Of the rows divided by `scale` (n_columns,)."""
        return Moments(self.count, self.mean / scale, self.factor / scale, self.low / scale, self.high / scale)


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """The frame in which a cloud has mean 0 and unit covariance, by the ZCA transformation W = Σ^(-1/2).

    Of all transformations that whiten, ZCA's is the symmetric one: its axes lie nearest to the columns. Directions in
    which the cloud has no width are not part of the frame.

    Attributes:
        mean: of the cloud, (n_columns,).
        whiten: W, (n_columns, n_columns).
        axes: orthonormal directions in which the cloud has width, (n_columns, rank).
        width: standard deviation along them, (rank,), greatest first.
        void: orthonormal directions in which it has none, (n_columns, n_columns - rank).
    """

    mean: Floats
    whiten: Floats
    axes: Floats
    width: Floats
    void: Floats

    @staticmethod
    def of(cloud: Moments) -> Frame:
        """The frame of a cloud.

        Raises:
            DataError: all of its rows are equal, or there are none.
        """
        _, width, vt = np.linalg.svd(cloud.factor / np.sqrt(max(cloud.count, 1)))
        size = max(float(np.abs([cloud.low, cloud.high]).max()), 0.0) if cloud.count else 0.0
        rank = int((width > _NOTHING * max(width[0] if len(width) else 0.0, 1e-3 * size)).sum()) if len(width) else 0
        if not rank:
            raise DataError("all rows are equal, or there are none: no frame to compare in")
        axes = vt[:rank].T
        return Frame(cloud.mean, (axes / width[:rank]) @ axes.T, axes, width[:rank], vt[rank:].T)

    @property
    def inside(self) -> Bools:
        """Which columns the cloud varies in, (n_columns,); the others have no dimension in the frame."""
        return np.asarray((self.axes**2).sum(axis=1) > 1e-6, np.bool_)

    def breadth(self, cloud: Moments) -> Breadth:
        """How broad another cloud is here."""
        n = np.sqrt(max(cloud.count, 1))
        dimensions = ((cloud.factor @ self.whiten / n) ** 2).sum(axis=0)
        principal = np.linalg.svd(cloud.factor @ (self.axes / self.width) / n, compute_uv=False) ** 2
        beyond = np.linalg.svd(cloud.factor @ self.void / n, compute_uv=False)
        shift = (cloud.mean - self.mean) @ self.axes / self.width
        rank = len(self.width)
        return Breadth(
            dimensions=dimensions[self.inside],
            principal=np.concatenate([principal, np.zeros(rank - len(principal))]),
            unbounded=int((beyond > 100 * _NOTHING * self.width[0]).sum()),
            distance=float(np.sqrt((principal.sum() + (shift**2).sum()) / rank)),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Breadth:
    """Variances of a cloud in the frame where another has unit variance in every direction.

    Attributes:
        dimensions: along each axis of the ZCA frame, one for each column that the other varies in.
        principal: along the cloud's own principal axes there, greatest first, (rank,).
        unbounded: directions in which it has width and the other none.
        distance: root mean square distance of its rows from the other's mean, per dimension: 1 for the other itself.
    """

    dimensions: Floats
    principal: Floats
    unbounded: int
    distance: float


def broader(variances: Floats, factor: float = 1.0) -> int:
    """How many variances are above 1, or at least `factor` if that is more than 1."""
    return int((variances > 1 + SAME).sum()) if factor == 1 else int((variances >= factor).sum())


def narrower(variances: Floats) -> int:
    """How many variances are below 1."""
    return int((variances < 1 - SAME).sum())


class Histogram:
    """Counts of values that stream in; bins double in width when a value is outside, so no value is ever lost."""

    def __init__(self) -> None:
        self.low, self.width = 0.0, 0.0
        self.counts = np.zeros(_BINS, np.int64)

    def add(self, values: Floats) -> None:
        """Count more values, all finite."""
        if not len(values):
            return
        least, most = float(values.min()), float(values.max())
        if not self.width:
            self.width = max((most - least) / (_BINS - 1), 1e-9 * max(abs(least), abs(most)), 1e-300)
            self.low = least
        while least < self.low:
            self.low -= _BINS * self.width
            self._halve(upper=True)
        while most >= self.low + _BINS * self.width:
            self._halve(upper=False)
        at = np.clip(((values - self.low) / self.width).astype(np.int64), 0, _BINS - 1)
        self.counts += np.bincount(at, minlength=_BINS)

    def density(self, most_bins: int = 64) -> tuple[Floats, Floats]:
        """Edges (n + 1,) and probability densities (n,) of at most `most_bins` bins over the values there are."""
        full = np.flatnonzero(self.counts)
        if not len(full):
            return np.zeros(1), np.zeros(0)
        first, last = int(full[0]), int(full[-1]) + 1
        step = -(-(last - first) // most_bins)
        n = -(-(last - first) // step)
        counts = np.zeros(n * step)
        counts[: last - first] = self.counts[first:last]
        edges = np.asarray(self.low + self.width * (first + step * np.arange(n + 1)), np.float64)
        total = counts.reshape(n, step).sum(axis=1)
        return edges, np.asarray(total / (total.sum() * step * self.width), np.float64)

    def _halve(self, *, upper: bool) -> None:
        pairs = self.counts.reshape(-1, 2).sum(axis=1)
        self.counts = np.zeros(_BINS, np.int64)
        self.counts[_BINS // 2 :] = pairs if upper else 0
        if not upper:
            self.counts[: _BINS // 2] = pairs
        self.width *= 2


class Sample:
    """A fair sample of rows that stream in: the `size` of the greatest random keys."""

    def __init__(self, size: int, n_columns: int, rng: np.random.Generator) -> None:
        self._size, self._rng = size, rng
        self._keys, self.rows = np.zeros(0), np.zeros((0, n_columns))

    def add(self, rows: Floats) -> None:
        """Offer more rows."""
        keys = np.concatenate([self._keys, self._rng.random(len(rows))])
        keep = np.sort(np.argsort(-keys, kind="stable")[: self._size])
        self._keys, self.rows = keys[keep], np.vstack([self.rows, rows])[keep]


def _triangle(rows: Floats) -> Floats:
    """R of a QR factorisation, square."""
    k = rows.shape[1]
    found = np.zeros((k, k))
    r = np.linalg.qr(rows, mode="r")
    found[: len(r)] = r
    return found
