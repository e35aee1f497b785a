"""Compiled loops of `alflow.numerics.aev`. Arrays are described there; numba infers their types.

One atom at a time: its neighbours are gathered in double precision, its triples are laid out in chunks, and every
function of a distance or an angle is then evaluated along the chunk, which the compiler turns into vector
instructions. The arithmetic has the type of `real`, an empty array: float32, or float64 for tests.

Three things save work. No arccos: with theta = arccos(c), cos(theta / 2) = sqrt((1 + c) / 2), and the half angle also
keeps ``(1 + cos(theta - s)) / 2 = 1 - sin((theta - s) / 2)^2`` exact to the last digit near its maximum, where the
power zeta would magnify a rounding error. No library calls: exp and power are polynomials. And the gradient of a pair
is stored with the pair and collected through the index of the reverse pair, so threads never write to the same atom
and the sums do not depend on how many there are.
"""
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
# ruff: noqa: ANN001, ANN201, D403

from __future__ import annotations

import math
from collections import namedtuple
from typing import Any, Final, NamedTuple

import numba as nb
import numpy as np
from numpy.typing import NDArray

from alflow.numerics.vector_math import FAST, INNER, OUTER, exp, power

CHUNK: Final = 256
"""Triples handled together: their intermediate values stay in the first-level cache."""
LANES: Final = 64
"""Chunks are filled up to a multiple of this with triples of no weight, so that no loop has a remainder."""
SCALE: Final = 0.95
"""Keeps theta away from 0 and pi, where its derivative diverges."""


# ---- what the loops share ------------------------------------------------------------------------------------------


class Constants(NamedTuple):
    """The settings as numbers; those of the type of the arithmetic come as numpy scalars of that type."""

    radial_cutoff: float
    angular_cutoff: float
    n_species: int
    shifts_r: NDArray[np.float64]
    shifts_a: NDArray[np.float64]
    half_angles: NDArray[Any]
    eta_r: Any
    eta_a: Any
    zeta: Any


Work = namedtuple(
    "Work",
    "d r fc fc_slope pair kind "  # neighbours within the radial cutoff
    "unit r_near fc_near ratio place first "  # those within the angular cutoff; ratio is fc' / fc
    "cosine distance weight who half to_cosine angle angle_slope mean mean_slope",  # one chunk of triples
)


@nb.njit(**INNER)
def work_arrays(most, c):
    """Room for one atom of at most `most` neighbours."""
    real = c.half_angles.dtype
    n_z, n_a = c.half_angles.shape[1], len(c.shifts_a)
    return Work(
        np.empty((3, most)), np.empty(most), np.empty(most), np.empty(most),
        np.empty(most, np.int64), np.empty(most, np.int64),
        np.empty((3, most)), np.empty(most), np.empty(most), np.empty(most),
        np.empty(most, np.int64), np.empty(c.n_species + 1, np.int64),
        np.empty(CHUNK, real), np.empty(CHUNK), np.empty(CHUNK, real), np.empty((2, CHUNK), np.int32),
        np.empty((2, CHUNK), real), np.empty(CHUNK, real),
        np.empty((n_z, CHUNK), real), np.empty((n_z, CHUNK), real),
        np.empty((n_a, CHUNK), real), np.empty((n_a, CHUNK), real),
    )  # fmt: skip


# ---- the surroundings of one atom ----------------------------------------------------------------------------------


@nb.njit(fastmath=FAST, **INNER)
def cutoffs(r, n, end, value, slope) -> None:
    """Cosine cutoff sin(pi (1 - r / end) / 2)^2 of n distances and its derivative; never exactly zero below `end`."""
    for k in range(n):
        h = 0.5 * math.pi * (1.0 - r[k] / end)
        q = h * h
        s = 1.0 - q / 342 * (1.0 - q / 420 * (1.0 - q / 506))
        s = 1.0 - q / 110 * (1.0 - q / 156 * (1.0 - q / 210 * (1.0 - q / 272 * s)))
        s = h * (1.0 - q / 6 * (1.0 - q / 20 * (1.0 - q / 42 * (1.0 - q / 72 * s))))
        c = 1.0 - q / 380 * (1.0 - q / 462 * (1.0 - q / 552))
        c = 1.0 - q / 132 * (1.0 - q / 182 * (1.0 - q / 240 * (1.0 - q / 306 * c)))
        c = 1.0 - q / 2 * (1.0 - q / 12 * (1.0 - q / 30 * (1.0 - q / 56 * (1.0 - q / 90 * c))))
        value[k] = s * s
        slope[k] = -math.pi / end * s * c


@nb.njit(fastmath=FAST, **INNER)
def surroundings(i, x, cell, start, j, shift, species, c, w):
    """Gather the neighbours of atom i: all within the radial cutoff, and sorted by species those within the angular.

    Returns:
        how many within the radial cutoff; those of species s within the angular are at w.first[s]:w.first[s + 1].
    """
    n = 0
    for p in range(start[i], start[i + 1]):
        sa, sb, sc = shift[p, 0], shift[p, 1], shift[p, 2]
        dx = x[j[p], 0] - x[i, 0] + sa * cell[0, 0] + sb * cell[1, 0] + sc * cell[2, 0]
        dy = x[j[p], 1] - x[i, 1] + sa * cell[0, 1] + sb * cell[1, 1] + sc * cell[2, 1]
        dz = x[j[p], 2] - x[i, 2] + sa * cell[0, 2] + sb * cell[1, 2] + sc * cell[2, 2]
        r2 = dx * dx + dy * dy + dz * dz
        if r2 < c.radial_cutoff * c.radial_cutoff:
            w.d[0, n], w.d[1, n], w.d[2, n], w.r[n] = dx, dy, dz, r2
            w.pair[n], w.kind[n] = p, species[j[p]]
            n += 1
    for k in range(n):
        w.r[k] = math.sqrt(w.r[k])
    cutoffs(w.r, n, c.radial_cutoff, w.fc, w.fc_slope)
    near = 0
    for s in range(c.n_species):
        w.first[s] = near
        for k in range(n):
            if w.kind[k] == s and w.r[k] < c.angular_cutoff:
                inverse = 1.0 / w.r[k]
                w.unit[0, near], w.unit[1, near] = w.d[0, k] * inverse, w.d[1, k] * inverse
                w.unit[2, near], w.r_near[near], w.place[near] = w.d[2, k] * inverse, w.r[k], k
                near += 1
    w.first[c.n_species] = near
    cutoffs(w.r_near, near, c.angular_cutoff, w.fc_near, w.ratio)
    for k in range(near):
        w.ratio[k] /= w.fc_near[k]
    return n


@nb.njit(fastmath=FAST, **INNER)
def next_chunk(j, k, end_j, first_k, end_k, w):
    """Lay out the next triples of a pair of species, from neighbours (j, k) on.

    j runs to `end_j`, and k for each j from `first_k`, or from j + 1 if that is -1, to `end_k`. Fills 0.95 cos theta,
    the mean distance, twice the product of the cutoffs, and both neighbours.

    Returns:
        how many triples, how many with those of no weight, and the (j, k) to go on with.
    """
    t = 0
    x, y, z, first, second = w.unit[0], w.unit[1], w.unit[2], w.who[0], w.who[1]
    while j < end_j and t < CHUNK:
        fit = min(end_k - k, CHUNK - t)
        a, b, c, r, fc = SCALE * x[j], SCALE * y[j], SCALE * z[j], w.r_near[j], 2.0 * w.fc_near[j]
        for q in range(fit):  # so short that one plain loop beats several of vectors
            w.cosine[t + q] = a * x[k + q] + b * y[k + q] + c * z[k + q]
            w.distance[t + q] = 0.5 * (r + w.r_near[k + q])
            w.weight[t + q] = fc * w.fc_near[k + q]
            first[t + q] = j
            second[t + q] = k + q
        t += fit
        k += fit
        if k >= end_k:
            j += 1
            k = j + 1 if first_k < 0 else first_k
    full = (t + LANES - 1) // LANES * LANES
    for q in range(t, full):
        w.cosine[q] = w.distance[q] = w.weight[q] = 0
    return t, full, j, k


# ---- functions of the angle and of the mean distance, along a chunk ------------------------------------------------


@nb.njit(fastmath=FAST, **INNER)
def by_angle(full, c, w) -> None:
    """((1 + cos(theta - s)) / 2)^zeta for each angle s and its derivative by theta; d theta / d cos theta_jik."""
    real = w.cosine.dtype.type
    sin_half, cos_half = w.half[0], w.half[1]
    for t in range(full):
        sin_half[t] = math.sqrt(real(0.5) * (real(1) - w.cosine[t]))
        cos_half[t] = math.sqrt(real(0.5) * (real(1) + w.cosine[t]))
        w.to_cosine[t] = real(-0.5 * SCALE) / (sin_half[t] * cos_half[t])
    for z in range(len(w.angle)):
        sz, cz = c.half_angles[0, z], c.half_angles[1, z]
        value, slope = w.angle[z], w.angle_slope[z]
        for t in range(full):
            sine = sin_half[t] * cz - cos_half[t] * sz
            cosine = cos_half[t] * cz + sin_half[t] * sz
            p = power(sine * sine, c.zeta - real(1)) * cosine
            value[t] = p * cosine
            slope[t] = -c.zeta * p * sine


@nb.njit(fastmath=FAST, **INNER)
def by_mean(full, c, w) -> None:
    """weight * exp(-eta (mean - s)^2) for each shift s and its derivative by the mean distance."""
    real = w.cosine.dtype.type
    for a in range(len(w.mean)):
        value, slope = w.mean[a], w.mean_slope[a]
        for t in range(full):
            value[t] = w.distance[t] - c.shifts_a[a]  # in double, then rounded
        for t in range(full):
            d = value[t]
            e = exp(-c.eta_a * d * d) * w.weight[t]
            value[t] = e
            slope[t] = real(-2) * c.eta_a * d * e


@nb.njit(fastmath=FAST, **INNER)
def add_products(full, rows, columns, out) -> None:
    """Add sum_t rows[a, t] columns[z, t] to out[a * n_z + z]."""
    n_z = len(columns)
    for a in range(len(rows)):
        z = 0
        while z + 4 <= n_z:
            s0 = s1 = s2 = s3 = rows.dtype.type(0)
            for t in range(full):
                s0 += rows[a, t] * columns[z, t]
                s1 += rows[a, t] * columns[z + 1, t]
                s2 += rows[a, t] * columns[z + 2, t]
                s3 += rows[a, t] * columns[z + 3, t]
            out[a * n_z + z] += s0
            out[a * n_z + z + 1] += s1
            out[a * n_z + z + 2] += s2
            out[a * n_z + z + 3] += s3
            z += 4
        while z < n_z:
            s0 = rows.dtype.type(0)
            for t in range(full):
                s0 += rows[a, t] * columns[z, t]
            out[a * n_z + z] += s0
            z += 1


@nb.njit(fastmath=FAST, **INNER)
def combine(full, g, columns, out) -> None:
    """out[t] = sum_z g[z] columns[z, t]."""
    n_z = len(columns)
    for t in range(full):
        out[t] = 0
    z = 0
    while z + 4 <= n_z:
        g0, g1, g2, g3 = g[z], g[z + 1], g[z + 2], g[z + 3]
        for t in range(full):
            out[t] += g0 * columns[z, t] + g1 * columns[z + 1, t] + g2 * columns[z + 2, t] + g3 * columns[z + 3, t]
        z += 4
    while z < n_z:
        for t in range(full):
            out[t] += g[z] * columns[z, t]
        z += 1


# ---- descriptors ---------------------------------------------------------------------------------------------------


@nb.njit(fastmath=FAST, **INNER)
def _radial(n, c, w, out) -> None:
    """Add the radial block of one atom to `out`."""
    real = c.half_angles.dtype.type
    n_r = len(c.shifts_r)
    for k in range(n):
        block = out[w.kind[k] * n_r : (w.kind[k] + 1) * n_r]
        weight = real(0.25 * w.fc[k])
        for q in range(n_r):
            d = real(w.r[k] - c.shifts_r[q])
            block[q] += weight * exp(-c.eta_r * d * d)


@nb.njit(**INNER)
def block(s, t, c):
    """Where in a descriptor the terms of the unordered pair of species s <= t are."""
    size = len(c.shifts_a) * c.half_angles.shape[1]
    rank = s * c.n_species - s * (s - 1) // 2 + t - s
    first = c.n_species * len(c.shifts_r) + rank * size
    return slice(first, first + size)


@nb.njit(fastmath=FAST, **INNER)
def _angular(c, w, out) -> None:
    """Add the angular blocks of one atom to `out`."""
    for s in range(c.n_species):
        for t in range(s, c.n_species):
            j, end_j, end_k = w.first[s], w.first[s + 1], w.first[t + 1]
            first_k = -1 if s == t else w.first[t]
            k = j + 1 if s == t else first_k
            while j < end_j:
                _, full, j, k = next_chunk(j, k, end_j, first_k, end_k, w)
                by_angle(full, c, w)
                by_mean(full, c, w)
                add_products(full, w.mean, w.angle, out[block(s, t, c)])


@nb.njit(**INNER)
def longest(first, last, start):
    """Most neighbours of any atom of first:last."""
    most = 1
    for i in range(first, last):
        most = max(most, start[i + 1] - start[i])
    return most


@nb.njit(**OUTER)
def features(first, last, batch, c, out) -> None:
    """Descriptors of the atoms first:last, (n_atoms, n_features); `out` holds zeros."""
    x, cell, owner, start, j, shift, species = batch
    w = work_arrays(longest(first, last, start), c)
    for i in range(first, last):
        n = surroundings(i, x, cell[owner[i]], start, j, shift, species, c, w)
        _radial(n, c, w, out[i])
        _angular(c, w, out[i])


# ---- gradients -----------------------------------------------------------------------------------------------------


@nb.njit(fastmath=FAST, **INNER)
def radial_slopes(k, c, w, out) -> None:
    """Derivatives by the distance of the radial terms of neighbour k, (n_shifts,)."""
    real = c.half_angles.dtype.type
    slope, twice = real(0.25 * w.fc_slope[k]), real(-0.5 * w.fc[k]) * c.eta_r
    for q in range(len(c.shifts_r)):
        d = real(w.r[k] - c.shifts_r[q])
        out[q] = exp(-c.eta_r * d * d) * (slope + twice * d)


@nb.njit(fastmath=FAST, **INNER)
def dot(a, b):
    """Sum of the products of two rows."""
    total = a.dtype.type(0)
    for q in range(len(a)):
        total += a[q] * b[q]
    return total


@nb.njit(fastmath=FAST, **INNER)
def _weighted(full, g, w, out) -> None:
    """Sum over features of g times: the terms, their derivatives by the mean distance and by theta, (3, CHUNK)."""
    n_z = len(w.angle)
    terms, by_distance, by_theta, plain, sloped = out[0], out[1], out[2], out[3], out[4]
    for t in range(full):
        terms[t] = by_distance[t] = by_theta[t] = 0
    for a in range(len(w.mean)):
        combine(full, g[a * n_z : (a + 1) * n_z], w.angle, plain)
        combine(full, g[a * n_z : (a + 1) * n_z], w.angle_slope, sloped)
        value, slope = w.mean[a], w.mean_slope[a]
        for t in range(full):
            terms[t] += value[t] * plain[t]
        for t in range(full):
            by_distance[t] += slope[t] * plain[t]
        for t in range(full):
            by_theta[t] += value[t] * sloped[t]


@nb.njit(fastmath=FAST, **INNER)
def _scatter(count, w, sums, force) -> None:
    """Give each triple's derivatives to its two neighbours.

    `force` (5, n_near) collects the derivative along the unit vector, times cos / r, and the vector of the other one.
    """
    terms, by_distance, by_theta = sums[0], sums[1], sums[2]
    for t in range(count):
        a, b = w.who[0, t], w.who[1, t]
        half = 0.5 * by_distance[t]
        turn = by_theta[t] * w.to_cosine[t]
        bent = turn * (w.cosine[t] * (1 / SCALE))
        force[0, a] += half + terms[t] * w.ratio[a]
        force[0, b] += half + terms[t] * w.ratio[b]
        force[1, a] += bent
        force[1, b] += bent
        for q in range(3):
            force[2 + q, a] += turn * w.unit[q, b]
            force[2 + q, b] += turn * w.unit[q, a]


@nb.njit(fastmath=FAST, **INNER)
def _angular_gradient(c, w, g, sums, force) -> None:
    """Collect the angular part of the gradient for all m weightings."""
    for m in range(len(g)):
        for q in range(5):
            for k in range(w.first[c.n_species]):
                force[m, q, k] = 0
    for s in range(c.n_species):
        for t in range(s, c.n_species):
            j, end_j, end_k = w.first[s], w.first[s + 1], w.first[t + 1]
            first_k = -1 if s == t else w.first[t]
            k = j + 1 if s == t else first_k
            while j < end_j:
                count, full, j, k = next_chunk(j, k, end_j, first_k, end_k, w)
                by_angle(full, c, w)
                by_mean(full, c, w)
                for m in range(len(g)):
                    _weighted(full, g[m, block(s, t, c)], w, sums)
                    _scatter(count, w, sums, force[m])


@nb.njit(**INNER)
def _radial_gradient(n, c, w, g, slopes, out) -> None:
    """Write the radial part of the gradient by each pair of one atom, (n_pairs, m, 3)."""
    n_r = len(c.shifts_r)
    for k in range(n):
        radial_slopes(k, c, w, slopes)
        for m in range(len(g)):
            along = dot(g[m, w.kind[k] * n_r : (w.kind[k] + 1) * n_r], slopes) / w.r[k]
            for q in range(3):
                out[w.pair[k], m, q] = along * w.d[q, k]


@nb.njit(**INNER)
def _finish_gradient(n, c, w, force, out, virial) -> None:
    """Add what the triples gave to the gradient by each pair; the virial of the atom, (m, 3, 3)."""
    for k in range(w.first[c.n_species]):
        inverse = 1 / w.r_near[k]
        for m in range(len(force)):
            along = force[m, 0, k] - force[m, 1, k] * inverse
            for q in range(3):
                out[w.pair[w.place[k]], m, q] += along * w.unit[q, k] + force[m, 2 + q, k] * inverse
    for k in range(n):
        for m in range(len(force)):
            for q in range(3):
                for a in range(3):
                    virial[m, q, a] += out[w.pair[k], m, q] * w.d[a, k]


@nb.njit(**OUTER)
def pair_gradients(first, last, batch, c, g, out, virial) -> None:
    """Gradient by each pair of the atoms first:last, (n_pairs, m, 3), and their virials, (m, n_atoms, 3, 3).

    `out` and `virial` hold zeros.
    """
    x, cell, owner, start, j, shift, species = batch
    most = longest(first, last, start)
    w = work_arrays(most, c)
    sums, slopes = np.empty((5, CHUNK), g.dtype), np.empty(len(c.shifts_r), g.dtype)
    force, mine = np.empty((len(g), 5, most)), np.empty((len(g), g.shape[2]), g.dtype)  # `mine` is contiguous
    for i in range(first, last):
        n = surroundings(i, x, cell[owner[i]], start, j, shift, species, c, w)
        for m in range(len(g)):
            for q in range(g.shape[2]):
                mine[m, q] = g[m, i, q]
        _radial_gradient(n, c, w, mine, slopes, out)
        _angular_gradient(c, w, mine, sums, force)
        _finish_gradient(n, c, w, force, out, virial[:, i])


@nb.njit(**OUTER)
def collect(first, last, start, reverse, pair_gradient, out) -> None:
    """Gradient by positions, (m, n_atoms, 3): what pairs pull at their neighbour, less what they pull at their own."""
    for i in range(first, last):
        for p in range(start[i], start[i + 1]):
            for m in range(len(out)):
                for q in range(3):
                    out[m, i, q] += np.float64(pair_gradient[reverse[p], m, q]) - pair_gradient[p, m, q]


# ---- directional derivatives ---------------------------------------------------------------------------------------


@nb.njit(fastmath=FAST, **INNER)
def _speeds(n, i, j, u, strain, c, w, radial, near) -> None:
    """How fast each neighbour moves along its vector, radial (n,); and across, as near (5, n_near).

    `near` holds the speed along, that times fc' / fc, and the speed of the unit vector.
    """
    for k in range(n):
        v = w.d[:, k]
        along = 0.0
        for q in range(3):
            move = u[j[w.pair[k]], q] - u[i, q] + strain[q, 0] * v[0] + strain[q, 1] * v[1] + strain[q, 2] * v[2]
            along += move * v[q]
        radial[k] = along / w.r[k]
    for k in range(w.first[c.n_species]):
        p = w.place[k]
        v = w.d[:, p]
        near[0, k] = radial[p]
        near[1, k] = radial[p] * w.ratio[k]
        for q in range(3):
            move = u[j[w.pair[p]], q] - u[i, q] + strain[q, 0] * v[0] + strain[q, 1] * v[1] + strain[q, 2] * v[2]
            near[2 + q, k] = (move - w.unit[q, k] * radial[p]) / w.r[p]


@nb.njit(fastmath=FAST, **INNER)
def _angular_change(count, full, w, near, sums, out) -> None:
    """Add the change of the terms of one chunk to `out`, (n_shifts * n_angles,)."""
    scale, stretch, turn, row = sums[0], sums[1], sums[2], sums[3:4]
    for t in range(count):
        a, b = w.who[0, t], w.who[1, t]
        scale[t] = near[1, a] + near[1, b]
        stretch[t] = 0.5 * (near[0, a] + near[0, b])
        change = 0.0
        for q in range(3):
            change += near[2 + q, a] * w.unit[q, b] + near[2 + q, b] * w.unit[q, a]
        turn[t] = change * w.to_cosine[t]
    for t in range(count, full):
        scale[t] = stretch[t] = turn[t] = 0
    n_z = len(w.angle)
    for a in range(len(w.mean)):
        block = out[a * n_z : (a + 1) * n_z]
        value, slope = w.mean[a], w.mean_slope[a]
        for t in range(full):
            row[0, t] = slope[t] * stretch[t] + value[t] * scale[t]
        add_products(full, row, w.angle, block)
        for t in range(full):
            row[0, t] = value[t] * turn[t]
        add_products(full, row, w.angle_slope, block)


@nb.njit(**INNER)
def _radial_change(n, c, w, radial, slopes, out) -> None:
    """Add the change of the radial block of one atom along each direction to `out`, (m, n_features)."""
    n_r = len(c.shifts_r)
    for k in range(n):
        radial_slopes(k, c, w, slopes)
        for m in range(len(out)):
            block, speed = out[m, w.kind[k] * n_r : (w.kind[k] + 1) * n_r], slopes.dtype.type(radial[m, k])
            for q in range(n_r):
                block[q] += slopes[q] * speed


@nb.njit(**INNER)
def _angular_changes(c, w, near, sums, out) -> None:
    """Add the change of the angular blocks of one atom along each direction to `out`, (m, n_features)."""
    for s in range(c.n_species):
        for t in range(s, c.n_species):
            j, end_j, end_k = w.first[s], w.first[s + 1], w.first[t + 1]
            first_k = -1 if s == t else w.first[t]
            k = j + 1 if s == t else first_k
            while j < end_j:
                count, full, j, k = next_chunk(j, k, end_j, first_k, end_k, w)
                by_angle(full, c, w)
                by_mean(full, c, w)
                for m in range(len(out)):
                    _angular_change(count, full, w, near[m], sums, out[m, block(s, t, c)])


@nb.njit(**OUTER)
def changes(first, last, batch, c, u, strain, out) -> None:
    """Directional derivatives of the descriptors of atoms first:last, (m, n_atoms, n_features); `out` holds zeros."""
    x, cell, owner, start, j, shift, species = batch
    most = longest(first, last, start)
    w = work_arrays(most, c)
    sums, slopes = np.empty((4, CHUNK), out.dtype), np.empty(len(c.shifts_r), out.dtype)
    radial, near = np.empty((len(u), most)), np.empty((len(u), 5, most))
    mine = np.zeros((len(u), out.shape[2]), out.dtype)  # contiguous
    for i in range(first, last):
        n = surroundings(i, x, cell[owner[i]], start, j, shift, species, c, w)
        for m in range(len(u)):
            _speeds(n, i, j, u[m], strain[m, owner[i]], c, w, radial[m], near[m])
        _radial_change(n, c, w, radial, slopes, mine)
        _angular_changes(c, w, near, sums, mine)
        for m in range(len(u)):
            for q in range(out.shape[2]):
                out[m, i, q], mine[m, q] = mine[m, q], 0
