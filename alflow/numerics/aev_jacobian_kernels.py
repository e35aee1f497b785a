"""Compiled loops of `alflow.numerics.aev_jacobian`. Arrays are described there; numba infers their types."""
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
# ruff: noqa: ANN001

from __future__ import annotations

import numba as nb
import numpy as np

from alflow.numerics.aev_kernels import (
    SCALE,
    block,
    by_angle,
    by_mean,
    dot,
    longest,
    next_chunk,
    radial_slopes,
    surroundings,
    work_arrays,
)
from alflow.numerics.vector_math import FAST, INNER, OUTER


@nb.njit(**OUTER)
def count(first, last, batch, c, out) -> None:
    """How many neighbours atoms first:last have within the radial and the angular cutoff, (n_atoms, 2)."""
    x, cell, owner, start, j, shift, species = batch
    w = work_arrays(longest(first, last, start), c)
    for i in range(first, last):
        out[i, 0] = surroundings(i, x, cell[owner[i]], start, j, shift, species, c, w)
        out[i, 1] = w.first[c.n_species]


@nb.njit(fastmath=FAST, **INNER)
def _add_to_pair(a, b, t, at, w, terms, bent, turn, out) -> None:
    """Add the derivatives of one triple's terms by the vector of neighbour a, at features at:at + len(terms)."""
    inverse = 1 / w.r_near[a]
    ratio, curl = terms.dtype.type(w.ratio[a]), terms.dtype.type(w.cosine[t] * (1 / SCALE) * inverse)
    for q in range(3):
        row = out[a, q, at : at + len(terms)]
        own, other = terms.dtype.type(w.unit[q, a]), terms.dtype.type(w.unit[q, b] * inverse)
        for f in range(len(terms)):
            row[f] += own * (bent[f] + ratio * terms[f] - curl * turn[f]) + other * turn[f]


@nb.njit(fastmath=FAST, **INNER)
def _add_triples(number, s, t, w, work, out) -> None:
    """Add the derivatives of the terms of one chunk, species s and t, to both neighbours of each triple."""
    terms, bent, turn = work[0], work[1], work[2]
    n_z, half = len(w.angle), terms.dtype.type(0.5)
    for p in range(number):
        for a in range(len(w.mean)):
            for z in range(n_z):
                terms[a * n_z + z] = w.mean[a, p] * w.angle[z, p]
                bent[a * n_z + z] = half * w.mean_slope[a, p] * w.angle[z, p]
                turn[a * n_z + z] = w.mean[a, p] * w.angle_slope[z, p] * w.to_cosine[p]
        j, k = w.who[0, p], w.who[1, p]
        _add_to_pair(j, k, p, t * len(terms), w, terms, bent, turn, out)
        _add_to_pair(k, j, p, s * len(terms), w, terms, bent, turn, out)


@nb.njit(**OUTER)
def fill(first, last, batch, c, starts, near_starts, neighbor, vector, radial, place, angular) -> None:
    """Derivatives of the atoms first:last; `angular` holds zeros."""
    x, cell, owner, start, j, shift, species = batch
    w = work_arrays(longest(first, last, start), c)
    work = np.empty((3, len(c.shifts_a) * c.half_angles.shape[1]), radial.dtype)
    for i in range(first, last):
        n = surroundings(i, x, cell[owner[i]], start, j, shift, species, c, w)
        for k in range(n):
            at = starts[i] + k
            neighbor[at] = j[w.pair[k]]
            for q in range(3):
                vector[at, q] = w.d[q, k]
            radial_slopes(k, c, w, radial[at])
        for k in range(w.first[c.n_species]):
            place[near_starts[i] + k] = starts[i] + w.place[k]
        mine = angular[near_starts[i] : near_starts[i + 1]]
        for s in range(c.n_species):
            for t in range(s, c.n_species):
                jj, end_j, end_k = w.first[s], w.first[s + 1], w.first[t + 1]
                first_k = -1 if s == t else w.first[t]
                kk = jj + 1 if s == t else first_k
                while jj < end_j:
                    number, full, jj, kk = next_chunk(jj, kk, end_j, first_k, end_k, w)
                    by_angle(full, c, w)
                    by_mean(full, c, w)
                    _add_triples(number, s, t, w, work, mine)


@nb.njit(fastmath=FAST, **INNER)
def _add_scaled(factor, row, out) -> None:
    for f in range(len(row)):
        out[f] += factor * row[f]


@nb.njit(**OUTER)
def pull(first, last, frames, offsets, at, species, c, rows, g, grad, virial) -> None:
    """Gradients of frames[first:last], (m, n_picked_atoms, 3) and (m, n_picked, 3, 3), both holding zeros.

    `at` says where the atoms of each picked frame begin among the picked ones; `rows` are the arrays that `fill` wrote.
    """
    starts, near_starts, neighbor, vector, radial, place, angular = rows
    n_r, n_a = len(c.shifts_r), len(c.shifts_a) * c.half_angles.shape[1]
    for f in range(first, last):
        low = offsets[frames[f]]
        for i in range(low, offsets[frames[f] + 1]):
            b = at[f] + i - low
            for m in range(len(g)):
                mine = g[m, b]
                by_pair = np.zeros((starts[i + 1] - starts[i], 3))
                for p in range(starts[i], starts[i + 1]):
                    s, d = species[neighbor[p]], vector[p]
                    along = dot(mine[s * n_r : (s + 1) * n_r], radial[p]) / np.sqrt(
                        d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
                    )
                    for q in range(3):
                        by_pair[p - starts[i], q] = along * d[q]
                for e in range(near_starts[i], near_starts[i + 1]):
                    s = species[neighbor[place[e]]]
                    for t in range(c.n_species):
                        part = mine[block(min(s, t), max(s, t), c)]
                        for q in range(3):
                            by_pair[place[e] - starts[i], q] += dot(part, angular[e, q, t * n_a : (t + 1) * n_a])
                for p in range(starts[i], starts[i + 1]):
                    to = at[f] + neighbor[p] - low
                    for q in range(3):
                        pulled = by_pair[p - starts[i], q]
                        grad[m, to, q] += pulled
                        grad[m, b, q] -= pulled
                        for a in range(3):
                            virial[m, f, q, a] += pulled * vector[p, a]


@nb.njit(**OUTER)
def push(first, last, frames, offsets, at, species, c, rows, u, strain, out) -> None:
    """Changes of the descriptors of frames[first:last], (m, n_picked_atoms, n_features), holding zeros."""
    starts, near_starts, neighbor, vector, radial, place, angular = rows
    n_r, n_a = len(c.shifts_r), len(c.shifts_a) * c.half_angles.shape[1]
    for f in range(first, last):
        low = offsets[frames[f]]
        for i in range(low, offsets[frames[f] + 1]):
            b = at[f] + i - low
            for m in range(len(u)):
                mine, bend = out[m, b], strain[m, f]
                move = np.empty((starts[i + 1] - starts[i], 3))
                for p in range(starts[i], starts[i + 1]):
                    to, d, along = at[f] + neighbor[p] - low, vector[p], 0.0
                    for q in range(3):
                        v = u[m, to, q] - u[m, b, q] + bend[q, 0] * d[0] + bend[q, 1] * d[1] + bend[q, 2] * d[2]
                        move[p - starts[i], q] = v
                        along += v * d[q]
                    along /= np.sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2])
                    s = species[neighbor[p]]
                    _add_scaled(out.dtype.type(along), radial[p], mine[s * n_r : (s + 1) * n_r])
                for e in range(near_starts[i], near_starts[i + 1]):
                    s = species[neighbor[place[e]]]
                    for t in range(c.n_species):
                        part = mine[block(min(s, t), max(s, t), c)]
                        for q in range(3):
                            v = out.dtype.type(move[place[e] - starts[i], q])
                            _add_scaled(v, angular[e, q, t * n_a : (t + 1) * n_a], part)
