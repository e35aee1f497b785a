"""Compiled loops of `alflow.numerics.bispectrum` that couple the U of atoms, eight at once: one atom a lane.

The constants c are those of `alflow.numerics.bispectrum_kernels`.
"""
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

import math
from typing import Final

import numba as nb
import numpy as np

from alflow.numerics.lanes import LANES, add_product, load, load_splat, plus, splat, store, take_product, times
from alflow.numerics.vector_math import FAST, INNER, OUTER

PAIR: Final = 2 * LANES
"""Doubles of eight complex numbers: real parts, then imaginary parts."""


@nb.njit(**INNER)
def complete(half, c, u) -> None:
    """All U_J[k, l], (n_all, 2, 8), from a half."""
    for h in range(len(c.place)):
        re, im = load(half, h * PAIR), load(half, h * PAIR + LANES)
        store(u, c.place[h] * PAIR, re)
        store(u, c.place[h] * PAIR + LANES, im)
        if not c.ends[h]:
            store(u, c.mirror[h] * PAIR, times(splat(c.sign[h]), re))
            store(u, c.mirror[h] * PAIR + LANES, times(splat(-c.sign[h]), im))


@nb.njit(**INNER)
def couple(u, t, element, count, z) -> None:
    """The elements element:element + count of the couplings t, (count, 2, 8)."""
    first, places_a, places_b, factors = t.first, t.a, t.b, t.factor
    for q in range(count):
        zero = splat(0.0)
        rr, ii, ri, ir = zero, zero, zero, zero
        for term in range(first[element + q], first[element + q + 1]):
            a, b, factor = places_a[term] * PAIR, places_b[term] * PAIR, load_splat(factors, term)
            a_re, a_im = times(factor, load(u, a)), times(factor, load(u, a + LANES))
            b_re, b_im = load(u, b), load(u, b + LANES)
            rr, ii = add_product(rr, a_re, b_re), take_product(ii, a_im, b_im)
            ri, ir = add_product(ri, a_re, b_im), add_product(ir, a_im, b_re)
        store(z, q * PAIR, plus(rr, ii))
        store(z, q * PAIR + LANES, plus(ri, ir))


@nb.njit(**INNER)
def overlap(half, first, J, z):
    """Sum of Re U_J[k, l]* Z_J[k, l] over all k and l."""
    out, e = splat(0.0), 0
    for l in range(J // 2 + 1):
        column = splat(0.0)
        for _ in range(2 * (J + 1)):
            column = add_product(column, load(half, first * PAIR + e), load(z, e))
            e += LANES
        out = add_product(out, splat(2.0 if 2 * l < J else 1.0), column)
    return out


@nb.njit(**OUTER)
def components(first, last, halves, c, out) -> None:
    """B of the atoms of the groups first:last, (n_atoms, K), from `expand`."""
    room, eight = np.empty((2, c.n_all, 2, LANES)), np.empty(LANES)
    u, z = room[0], room[1]
    for group in range(first, last):
        complete(halves[group], c, u)
        element = 0
        for q in range(len(c.forth.level)):
            J, k = c.forth.level[q], c.forth.component[q]
            count = (J + 1) * (J // 2 + 1)
            couple(u, c.forth, element, count, z)
            element += count
            store(eight, 0, overlap(halves[group], c.starts[J], J, z))
            for lane in range(min(LANES, len(out) - group * LANES)):
                out[group * LANES + lane, k] = eight[lane] - c.base[k]


@nb.njit(**INNER)
def adjoint(u, weights, c, z, y) -> None:
    """Y of eight atoms, (n_half, 2, 8); weights is (K, 8), and z is room."""
    y[:] = 0.0
    element = 0
    for q in range(len(c.back.level)):
        J, k = c.back.level[q], c.back.component[q]
        count = (J + 1) * (J // 2 + 1)
        couple(u, c.back, element, count, z)
        element += count
        factor, first = times(splat(c.back.share[q]), load(weights, k * LANES)), c.starts[J] * PAIR
        for at in range(0, count * PAIR, LANES):
            store(y, first + at, add_product(load(y, first + at), factor, load(z, at)))


@nb.njit(fastmath=FAST, **INNER)
def turn(y, J, factor, dual, duals, first) -> None:
    """Y and i S Y of eight atoms for `dot`, (8, .., 4, 2) from `first` on, from one level of Y, (.., 2, 8)."""
    for e in range((J // 2 + 1) * (J + 1)):
        k, norm = e % (J + 1), factor * dual[e]
        up, down = min(k + 1, J) - k + e, max(k - 1, 0) - k + e
        to_up, to_down, along = norm * math.sqrt((k + 1.0) * (J - k)), norm * math.sqrt(k * (J - k + 1.0)), J - 2.0 * k
        for lane in range(LANES):
            up_re, up_im = to_up * y[up, 0, lane], to_up * y[up, 1, lane]
            down_re, down_im = to_down * y[down, 0, lane], to_down * y[down, 1, lane]
            re, im, d = norm * y[e, 0, lane], norm * y[e, 1, lane], duals[lane, first + e]
            d[0, 0], d[0, 1] = re, im
            d[1, 0], d[1, 1] = -up_im - down_im, up_re + down_re
            d[2, 0], d[2, 1] = down_re - up_re, down_im - up_im
            d[3, 0], d[3, 1] = -along * im, along * re


@nb.njit(**INNER)
def all_duals(u, c, z, duals) -> None:
    """Y and i S Y of every component of eight atoms, block by block, (8, n_elements, 4, 2)."""
    element = 0
    for q in range(len(c.back.level)):
        J = c.back.level[q]
        count = (J + 1) * (J // 2 + 1)
        couple(u, c.back, element, count, z)
        turn(z[:count], J, c.back.share[q], c.dual[c.starts[J] :], duals, element)
        element += count
