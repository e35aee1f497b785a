"""Entropy of sets of points by nearest neighbours, with its gradient: how diverse the environments of a frame are.

The estimator of Kozachenko and Leonenko for N points in m dimensions, each at the distance rho_i from the one nearest
to it (Beirlant et al., Int. J. Math. Stat. Sci. 6, 17 (1997), section 2.3)::

    S = m / N sum_i ln rho_i + ln V_m + psi(N) - psi(1)

V_m is the volume of the unit ball, psi the digamma function. Karabin and Perez, J. Chem. Phys. 153, 094110 (2020), use
it on descriptors of atoms to make training sets. Two points at the same place would give minus infinity, so rho_i^2 is
replaced by rho_i^2 + floor^2: nothing changes far above the floor, and no slope of N S is steeper than m / floor.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from scipy.spatial import cKDTree
from scipy.special import digamma, gammaln

from alflow.core.frames import Bools, Floats, Ints
from alflow.errors import DataError
from alflow.numerics.threads import spread


@dataclass(frozen=True, slots=True, eq=False)
class Entropies:
    """Entropies of a batch of sets.

    Attributes:
        S: of each set, (n_sets,); NaN where no point has a neighbour.
        count: points of each set that have a neighbour, (n_sets,): those that S is the mean over.
        gradient: derivative of the sum of ``weight * count * S`` over all sets with respect to each point, (n, m).
        distance: of each point to the one nearest to it, (n,); infinite where there is none.
    """

    S: Floats
    count: Ints
    gradient: Floats
    distance: Floats


class Known:
    """Points that have been seen before: a point near one of them counts as near a point of its own set.

    Args:
        rows: the points, (n_known, m), in the same metric as those they are compared with.
        kind: of each point, (n_known,); only points of one kind are compared.
    """

    def __init__(self, rows: Floats, kind: Ints) -> None:
        self._trees = {int(k): cKDTree(rows[kind == k]) for k in np.unique(kind)}
        self._counts = {k: tree.n for k, tree in self._trees.items()}

    def nearest(self, rows: Floats, kind: Ints) -> tuple[Floats, Floats, Ints]:
        """The known point nearest to each, (n, m), its distance (infinite if none) and how many there are, (n,)."""
        points, distance, count = np.zeros_like(rows), np.full(len(rows), np.inf), np.zeros(len(rows), np.int64)
        for k, tree in self._trees.items():
            mine = np.flatnonzero((kind == k) & np.isfinite(rows).all(axis=1))
            distance[mine], which = tree.query(rows[mine])
            points[mine], count[mine] = np.asarray(tree.data)[which], self._counts[k]
        return points, distance, count


def entropies(
    rows: Floats,
    offsets: Ints,
    kind: Ints,
    floor: float,
    weight: Floats,
    known: Known | None = None,
    across: Bools | None = None,
) -> Entropies:
    """Entropy of each set of points, and its gradient.

    Points of different kinds are never each other's neighbours: the entropy of a set of several kinds is the mean of
    theirs, weighted with their numbers of points; a point that has no neighbour is left out. Neighbours may also come
    from outside: psi(N) then becomes psi(N + points outside).

    Args:
        rows: points, (n, m).
        offsets: set s owns points offsets[s]:offsets[s + 1], (n_sets + 1,).
        kind: of each point, (n,).
        floor: distances far below this are taken for it; same unit as `rows`.
        weight: of each set in the sum that the gradient is of, (n_sets,).
        known: fixed points outside.
        across: sets whose points are neighbours of each other's, (n_sets,); None for no set.

    Raises:
        DataError: `floor` is not positive, or shapes do not fit.
    """
    if not (np.isfinite(floor) and floor > 0):
        raise DataError(f"entropies: expected a positive floor, got {floor}")
    if rows.ndim != 2 or len(rows) != len(kind) or offsets[-1] != len(rows):
        raise DataError(f"entropies: {rows.shape} points, {len(kind)} kinds and offsets to {offsets[-1]} do not fit")
    n_sets, m = len(offsets) - 1, rows.shape[1]
    owner = np.repeat(np.arange(n_sets), np.diff(offsets))
    partner, squared, samples = _pairs(np.ascontiguousarray(rows, np.float64), offsets, owner, kind, across)
    difference = np.where(partner[:, None] >= 0, rows - rows[partner], 0.0)
    if known is not None:
        points, distance, more = known.nearest(rows, kind)
        samples += more
        outside = distance**2 < squared
        partner[outside], squared[outside] = -1, distance[outside] ** 2
        difference[outside] = rows[outside] - points[outside]
    counted = np.isfinite(squared)
    count = np.bincount(owner[counted], minlength=n_sets)
    term = m / 2 * np.log(squared + floor**2) + ln_ball(m) + digamma(samples) - digamma(1)
    with np.errstate(invalid="ignore"):
        S = np.bincount(owner, np.where(counted, term, 0.0), minlength=n_sets) / np.where(count, count, np.nan)
    gradient = np.where(counted, m * weight[owner] / (squared + floor**2), 0.0)[:, None] * difference
    both = np.flatnonzero(partner >= 0)
    np.subtract.at(gradient, partner[both], gradient[both])
    return Entropies(S, count, gradient, np.sqrt(squared))


def _pairs(rows: Floats, offsets: Ints, owner: Ints, kind: Ints, across: Bools | None) -> tuple[Ints, Floats, Ints]:
    """Of each point its nearest among the others (-1 if none), the squared distance, and how many there are with it."""
    n, first, last = len(rows), offsets[:-1][owner], offsets[1:][owner]
    if across is not None:
        far = across[owner]
        first, last, kind = np.where(far, 0, first), np.where(far, n, last), 2 * kind + far
    partner, squared, samples = np.full(n, -1, np.int64), np.full(n, np.inf), np.ones(n, np.int64)
    spread(_nearest, n, rows, kind, first, last, partner, squared, samples, least=64)
    return partner, squared, samples


def ln_ball(m: int) -> float:
    """Logarithm of the volume of the unit ball in m dimensions."""
    return float(m / 2 * np.log(np.pi) - gammaln(m / 2 + 1))


def whitening(rows: Floats, least: float = 1e-6) -> Floats:
    """The matrix W, (m, m), for which ``rows @ W`` has unit covariance: symmetric (ZCA), so that axes keep their names.

    Args:
        rows: points that show the spread, (n, m).
        least: directions whose variance is below this part of the largest are not blown up beyond it.
    """
    variance, axes = np.linalg.eigh(np.atleast_2d(np.cov(rows, rowvar=False)))
    if not variance[-1] > 0:
        raise DataError("whitening: the points do not differ")
    matrix: Floats = (axes / np.sqrt(np.maximum(variance, least * variance[-1]))) @ axes.T
    return matrix


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _nearest(
    begin: int,
    end: int,
    rows: Floats,
    kind: Ints,
    first: Ints,
    last: Ints,
    partner: Ints,
    squared: Floats,
    samples: Ints,
) -> None:
    """Of points begin..end: the nearest of their set and kind, its squared distance, and how many the kind has.

    Of two at the same distance the earlier one counts; a point that is not a number has no neighbour and is none.
    """
    for i in range(begin, end):
        n = 1
        for j in range(first[i], last[i]):
            if j == i or kind[j] != kind[i]:
                continue
            d2 = 0.0
            for k in range(rows.shape[1]):
                d = rows[i, k] - rows[j, k]
                d2 += d * d
            n += 1
            if d2 < squared[i]:
                squared[i], partner[i] = d2, j
        samples[i] = n
