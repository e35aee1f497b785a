"""Compiled loops of `alflow.numerics.bispectrum`. Arrays are described there; numba infers their types.

What saves work:

- Polynomials. U_J[k, l] is ``sqrt(k! (J - k)! / (l! (J - l)!))`` times the coefficient of t^k in
  ``(a - b* t)^(J - l) (b + a* t)^l``, where ``g = [[a, b], [-b*, a*]]``: one complex multiplication by each factor
  gives the next level, and the square roots are applied once an atom, not once a neighbour. Columns l <= J / 2 are
  enough, for ``U_J[J - k, J - l] = (-1)^(k - l) U_J[k, l]*``. A chain of levels with the same l needs no memory.
- Eight neighbours at once in that part, eight atoms at once where the U_J of an atom are coupled; see
  `alflow.numerics.lanes`.
- One contraction an atom: Y = d(g . B) / dU, and then each neighbour costs the same whatever the number of components.
- Rotations instead of derivatives. A neighbour that moves turns its g, ``dg = -i omega.sigma g``, and so its U_J by
  the generators S of the rotations: ``Y . dU = omega . (i S Y) . U``. The three i S Y are made once an atom, so
  that a neighbour takes four scalar products with its U_J (one for the cutoff function) and no derivative of U_J.
- The gradient of a pair is stored with the pair and collected through the reverse pair: threads never write to the
  same atom, and sums do not depend on their number.
"""
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
# ruff: noqa: ANN001, ANN201, D403

from __future__ import annotations

import math
from collections import namedtuple
from typing import Final, NamedTuple

import numba as nb
import numpy as np

from alflow.core.frames import Bools, Floats, Ints
from alflow.numerics.lanes import LANES, add_product, load, plus, splat, store, take_product, times, total
from alflow.numerics.vector_math import FAST, INNER, OUTER

PAIR: Final = 2 * LANES
"""Doubles of eight complex numbers: real parts, then imaginary parts."""


class Constants(NamedTuple):
    """The settings as numbers and tables; the element h of a half is one of the U_J[k, l] with l <= J / 2.

    Halves are laid out by chains: l outermost, then J from 2 l, then k.
    """

    twojmax: int
    cutoff: Floats  # of each pair of elements
    weight: Floats
    rfac0: float
    rmin0: float
    switch: bool
    base: Floats  # what bzero takes away, (K,)
    starts: Ints  # first element of each level among all
    place: Ints  # of each element of a half among all
    mirror: Ints  # of its partner among all
    sign: Floats  # of the partner
    ends: Bools  # whether it is its own partner's column, l = J / 2
    own: Floats  # 1 on the diagonal
    norm: Floats  # of the polynomials
    dual: Floats  # norm, twice where the partner is not in the half
    forth: Ints  # blocks of couplings for B: A, B, J, first coefficient, component, (n, 5)
    back: Ints  # blocks for Y
    share: Floats  # factor of each block of `back`
    couple: Floats  # Clebsch-Gordan coefficients, [k1, k2] of each block


Work = namedtuple(
    "Work",
    "d r reach pair weight fade fade_slope turn sine cosine "  # neighbours within the cutoff
    "a_re a_im b_re b_im "  # their rotations
    "dots force "  # scalar products with Y, i S Y
    "chain begin",  # eight polynomials
)


@nb.njit(**INNER)
def work_arrays(most, twojmax):
    """Room for one atom of at most `most` neighbours."""
    n = (most + LANES - 1) // LANES * LANES
    return Work(
        np.zeros((3, n)), np.ones(n), np.empty(n), np.empty(n, np.int64), np.empty(n), np.empty(n), np.empty(n),
        np.empty(n), np.empty(n), np.empty(n),
        np.empty(n), np.empty(n), np.empty(n), np.empty(n),
        np.empty((4, n)), np.empty((3, n)),
        np.zeros((twojmax + 2, 2, LANES)), np.zeros((twojmax + 2, 2, LANES)),
    )  # fmt: skip


@nb.njit(**INNER)
def longest(first, last, start):
    """The most pairs of any of the atoms first:last."""
    most = 0
    for i in range(first, last):
        most = max(most, start[i + 1] - start[i])
    return most


# ---- the surroundings of one atom ----------------------------------------------------------------------------------


@nb.njit(fastmath=FAST, **INNER)
def sine_and_cosine(x, n, sine, cosine) -> None:
    """Of n angles: Taylor series around the nearest multiple of pi."""
    for p in range(n):
        turns = np.rint(x[p] * (1 / math.pi))
        y = x[p] - turns * math.pi
        side = 1.0 - 2.0 * (turns - 2.0 * np.floor(0.5 * turns))
        q = y * y
        s = 1.0 - q / 342 * (1.0 - q / 420 * (1.0 - q / 506))
        s = 1.0 - q / 110 * (1.0 - q / 156 * (1.0 - q / 210 * (1.0 - q / 272 * s)))
        s = y * (1.0 - q / 6 * (1.0 - q / 20 * (1.0 - q / 42 * (1.0 - q / 72 * s))))
        c = 1.0 - q / 380 * (1.0 - q / 462 * (1.0 - q / 552))
        c = 1.0 - q / 132 * (1.0 - q / 182 * (1.0 - q / 240 * (1.0 - q / 306 * c)))
        c = 1.0 - q / 2 * (1.0 - q / 12 * (1.0 - q / 30 * (1.0 - q / 56 * (1.0 - q / 90 * c))))
        sine[p] = side * s
        cosine[p] = side * c


@nb.njit(**INNER)
def gather(i, batch, c, w):
    """Vectors, squared distances, weights and cutoffs (as `turn`) of the neighbours of atom i; how many there are."""
    x, cells, owner, start, j, shift, species = batch
    cell, n = cells[owner[i]], 0
    for p in range(start[i], start[i + 1]):
        sa, sb, sc = shift[p, 0], shift[p, 1], shift[p, 2]
        dx = x[j[p], 0] - x[i, 0] + sa * cell[0, 0] + sb * cell[1, 0] + sc * cell[2, 0]
        dy = x[j[p], 1] - x[i, 1] + sa * cell[0, 1] + sb * cell[1, 1] + sc * cell[2, 1]
        dz = x[j[p], 2] - x[i, 2] + sa * cell[0, 2] + sb * cell[1, 2] + sc * cell[2, 2]
        r2, end = dx * dx + dy * dy + dz * dz, c.cutoff[species[i], species[j[p]]]
        if 1e-20 < r2 < end * end:  # atoms in one place have no direction; LAMMPS has the same limit
            w.d[0, n], w.d[1, n], w.d[2, n], w.r[n] = dx, dy, dz, r2
            w.pair[n], w.turn[n], w.weight[n] = p, 1.0 / (end - c.rmin0), c.weight[species[j[p]]]
            n += 1
    return n


@nb.njit(fastmath=FAST, **INNER)
def surroundings(i, batch, c, w):
    """Gather the neighbours of atom i, fill up to whole lanes with neighbours of no weight; how many there are.

    Their number is that of real ones; a, b, weight and fade are set for those that fill up, too.
    """
    n = gather(i, batch, c, w)
    full = (n + LANES - 1) // LANES * LANES
    for p in range(n, full):
        w.d[0, p], w.d[1, p], w.d[2, p], w.r[p] = 0.0, 0.0, 0.0, 1.0
        w.turn[p], w.weight[p] = 0.0, 0.0
    for p in range(full):
        w.r[p] = math.sqrt(w.r[p])
        w.reach[p] = (w.r[p] - c.rmin0) * w.turn[p] * math.pi
        w.turn[p] *= c.rfac0 * math.pi
    if c.switch:
        sine_and_cosine(w.reach, full, w.sine, w.cosine)
        for p in range(full):
            inside = 1.0 if w.reach[p] > 0 else 0.0
            w.fade[p] = 1.0 + inside * (0.5 * w.cosine[p] - 0.5)
            w.fade_slope[p] = -0.5 / c.rfac0 * inside * w.turn[p] * w.sine[p]
    else:
        w.fade[:full] = 1.0
        w.fade_slope[:full] = 0.0
    for p in range(full):
        w.reach[p] *= c.rfac0
    sine_and_cosine(w.reach, full, w.sine, w.cosine)
    for p in range(full):
        side = -1.0 if w.sine[p] < 0 else 1.0  # below rmin0 LAMMPS takes the opposite pole
        along = side * w.sine[p] / w.r[p]
        w.a_re[p] = side * w.cosine[p]
        w.a_im[p] = -along * w.d[2, p]
        w.b_re[p] = along * w.d[1, p]
        w.b_im[p] = -along * w.d[0, p]
    return n


# ---- polynomials, eight neighbours at once -------------------------------------------------------------------------


@nb.njit(**INNER)
def rotations(p, w):
    """a and b of the neighbours p:p + 8."""
    return load(w.a_re, p), load(w.a_im, p), load(w.b_re, p), load(w.b_im, p)


@nb.njit(**INNER)
def product(p_re, p_im, v_re, v_im, q_re, q_im, u_re, u_im):
    """p v + q u, complex."""
    re = take_product(times(p_re, v_re), p_im, v_im)
    im = add_product(times(p_re, v_im), p_im, v_re)
    re = take_product(add_product(re, q_re, u_re), q_im, u_im)
    im = add_product(add_product(im, q_re, u_im), q_im, u_re)
    return re, im


@nb.njit(**INNER)
def climb(J, v, into, p_re, p_im, q_re, q_im) -> None:
    """Multiply polynomials v of degree J - 1 by p + q t; `into` may be v."""
    zero = splat(0.0)
    re, im = zero, zero
    for k in range(J, -1, -1):
        low_re, low_im = zero, zero
        if k:
            low_re, low_im = load(v, (k - 1) * PAIR), load(v, (k - 1) * PAIR + LANES)
        new_re, new_im = product(p_re, p_im, re, im, q_re, q_im, low_re, low_im)
        store(into, k * PAIR, new_re)
        store(into, k * PAIR + LANES, new_im)
        re, im = low_re, low_im


@nb.njit(**INNER)
def add_chunk(p, c, w, sums) -> None:
    """Add the polynomials of the neighbours p:p + 8 to sums, (n_half, 2, 8)."""
    a_re, a_im, b_re, b_im = rotations(p, w)
    minus = splat(-1.0)
    q_re, conj_im = times(minus, b_re), times(minus, a_im)
    store(w.begin, 0, times(load(w.weight, p), load(w.fade, p)))
    store(w.begin, LANES, splat(0.0))
    h, v = 0, w.chain
    for l in range(c.twojmax // 2 + 1):
        for k in range(2 * l + 1):
            store(v, k * PAIR, load(w.begin, k * PAIR))
            store(v, k * PAIR + LANES, load(w.begin, k * PAIR + LANES))
        for J in range(2 * l, c.twojmax + 1):
            if 2 * l < J:
                climb(J, v, v, a_re, a_im, q_re, b_im)
            if 2 * l + 1 == J:
                climb(J + 1, v, w.begin, b_re, b_im, a_re, conj_im)
            for k in range(J + 1):
                for part in range(2):
                    at = (h + k) * PAIR + part * LANES
                    store(sums, at, plus(load(sums, at), load(v, k * PAIR + part * LANES)))
            h += J + 1


@nb.njit(**INNER)
def dot_chunk(p, c, w, duals) -> None:
    """Scalar products of the polynomials of the neighbours p:p + 8 with duals, (n_half, 4, 2)."""
    a_re, a_im, b_re, b_im = rotations(p, w)
    minus, zero = splat(-1.0), splat(0.0)
    q_re, conj_im = times(minus, b_re), times(minus, a_im)
    store(w.begin, 0, splat(1.0))
    store(w.begin, LANES, zero)
    s, x, y, z = zero, zero, zero, zero
    h, v = 0, w.chain
    for l in range(c.twojmax // 2 + 1):
        for k in range(2 * l + 1):
            store(v, k * PAIR, load(w.begin, k * PAIR))
            store(v, k * PAIR + LANES, load(w.begin, k * PAIR + LANES))
        for J in range(2 * l, c.twojmax + 1):
            if 2 * l < J:
                climb(J, v, v, a_re, a_im, q_re, b_im)
            if 2 * l + 1 == J:
                climb(J + 1, v, w.begin, b_re, b_im, a_re, conj_im)
            for k in range(J + 1):
                re, im, d = load(v, k * PAIR), load(v, k * PAIR + LANES), duals[h + k]
                s = add_product(add_product(s, re, splat(d[0, 0])), im, splat(d[0, 1]))
                x = add_product(add_product(x, re, splat(d[1, 0])), im, splat(d[1, 1]))
                y = add_product(add_product(y, re, splat(d[2, 0])), im, splat(d[2, 1]))
                z = add_product(add_product(z, re, splat(d[3, 0])), im, splat(d[3, 1]))
            h += J + 1
    n = w.dots.shape[1]
    store(w.dots, p, s)
    store(w.dots, n + p, x)
    store(w.dots, 2 * n + p, y)
    store(w.dots, 3 * n + p, z)


@nb.njit(**OUTER)
def expand(first, last, batch, c, u) -> None:
    """U of the atoms of the groups first:last, as halves: u is (n_groups, n_half, 2, 8)."""
    start = batch[3]
    n = len(start) - 1
    w = work_arrays(longest(first * LANES, min(n, last * LANES), start), c.twojmax)
    sums = np.empty((len(c.place), 2, LANES))
    for i in range(first * LANES, min(n, last * LANES)):
        count = surroundings(i, batch, c, w)
        sums[:] = 0.0
        for p in range(0, count, LANES):
            add_chunk(p, c, w, sums)
        mine, lane = u[i // LANES], i % LANES
        for h in range(len(c.place)):
            mine[h, 0, lane] = c.own[h] + c.norm[h] * total(load(sums, h * PAIR))
            mine[h, 1, lane] = c.norm[h] * total(load(sums, h * PAIR + LANES))


# ---- couplings, eight atoms at once --------------------------------------------------------------------------------


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
def coupled(u, block, c, k, l):
    """Z_J[k, l] of the block (A, B, J)."""
    A, B, J = block[0], block[1], block[2]
    shift = (A + B - J) // 2
    first, last = max(0, l + shift - B), min(A, l + shift)
    re, im = splat(0.0), splat(0.0)
    for k1 in range(max(0, k + shift - B), min(A, k + shift) + 1):
        k2 = k + shift - k1
        at_a = (c.starts[A] + k1 * (A + 1) + first) * PAIR
        at_b = (c.starts[B] + k2 * (B + 1) + l + shift - first) * PAIR
        at_c = block[3] + first * (B + 1) + l + shift - first
        row_re, row_im = splat(0.0), splat(0.0)
        for _ in range(first, last + 1):
            factor = splat(c.couple[at_c])
            a_re, a_im = times(factor, load(u, at_a)), times(factor, load(u, at_a + LANES))
            b_re, b_im = load(u, at_b), load(u, at_b + LANES)
            row_re = take_product(add_product(row_re, a_re, b_re), a_im, b_im)
            row_im = add_product(add_product(row_im, a_re, b_im), a_im, b_re)
            at_a += PAIR
            at_b -= PAIR
            at_c += B
        factor = splat(c.couple[block[3] + k1 * (B + 1) + k2])
        re, im = add_product(re, factor, row_re), add_product(im, factor, row_im)
    return re, im


@nb.njit(**OUTER)
def components(first, last, halves, c, out) -> None:
    """B of the atoms of the groups first:last, (n_atoms, K), from `expand`."""
    u, eight = np.empty((c.starts[-1], 2, LANES)), np.empty(LANES)
    for group in range(first, last):
        complete(halves[group], c, u)
        for block in c.forth:
            b, J = splat(0.0), block[2]
            for l in range(J // 2 + 1):
                twice = splat(2.0 if 2 * l < J else 1.0)
                column = splat(0.0)
                for k in range(J + 1):
                    re, im = coupled(u, block, c, k, l)
                    at = (c.starts[J] + k * (J + 1) + l) * PAIR
                    column = add_product(add_product(column, re, load(u, at)), im, load(u, at + LANES))
                b = add_product(b, twice, column)
            store(eight, 0, b)
            for lane in range(min(LANES, len(out) - group * LANES)):
                out[group * LANES + lane, block[4]] = eight[lane] - c.base[block[4]]


@nb.njit(**INNER)
def adjoint(u, weights, c, y) -> None:
    """Y of eight atoms, (n_all, 2, 8), in its half; weights is (K, 8)."""
    y[:] = 0.0
    for q in range(len(c.back)):
        block = c.back[q]
        J, factor = block[2], times(splat(c.share[q]), load(weights, block[4] * LANES))
        for l in range(J // 2 + 1):
            for k in range(J + 1):
                re, im = coupled(u, block, c, k, l)
                at = (c.starts[J] + k * (J + 1) + l) * PAIR
                store(y, at, add_product(load(y, at), factor, re))
                store(y, at + LANES, add_product(load(y, at + LANES), factor, im))


@nb.njit(fastmath=FAST, **INNER)
def turned(y, c, duals) -> None:
    """Y and i S Y of eight atoms for `dot_chunk`, (8, n_half, 4, 2), from Y, (n_all, 2, 8)."""
    h = 0
    for l in range(c.twojmax // 2 + 1):
        for J in range(2 * l, c.twojmax + 1):
            for k in range(J + 1):
                at, up, down = c.place[h], min(k + 1, J), max(k - 1, 0)
                to_up, to_down = math.sqrt((k + 1.0) * (J - k)), math.sqrt(k * (J - k + 1.0))
                at_up, at_down = at + (up - k) * (J + 1), at + (down - k) * (J + 1)
                for lane in range(LANES):
                    up_re, up_im = to_up * y[at_up, 0, lane], to_up * y[at_up, 1, lane]
                    down_re, down_im = to_down * y[at_down, 0, lane], to_down * y[at_down, 1, lane]
                    d = duals[lane, h]
                    d[0, 0], d[0, 1] = c.dual[h] * y[at, 0, lane], c.dual[h] * y[at, 1, lane]
                    d[1, 0], d[1, 1] = -c.dual[h] * (up_im + down_im), c.dual[h] * (up_re + down_re)
                    d[2, 0], d[2, 1] = c.dual[h] * (down_re - up_re), c.dual[h] * (down_im - up_im)
                    d[3, 0], d[3, 1] = -(J - 2 * k) * d[0, 1], (J - 2 * k) * d[0, 0]
                h += 1


# ---- gradients -----------------------------------------------------------------------------------------------------


@nb.njit(fastmath=FAST, **INNER)
def forces(n, w) -> None:
    """Gradient by the position of each neighbour, w.force (3, n), from the scalar products."""
    for p in range(n):
        inverse = 1.0 / w.r[p]
        nx, ny, nz = w.d[0, p] * inverse, w.d[1, p] * inverse, w.d[2, p] * inverse
        qx, qy, qz = w.dots[1, p], w.dots[2, p], w.dots[3, p]
        across, around = w.sine[p] * w.cosine[p] * inverse, w.sine[p] * w.sine[p] * inverse
        along = nx * qx + ny * qy + nz * qz
        radial = w.weight[p] * (w.fade_slope[p] * w.dots[0, p] + w.fade[p] * (w.turn[p] - across) * along)
        fade = w.weight[p] * w.fade[p]
        w.force[0, p] = radial * nx + fade * (across * qx + around * (ny * qz - nz * qy))
        w.force[1, p] = radial * ny + fade * (across * qy + around * (nz * qx - nx * qz))
        w.force[2, p] = radial * nz + fade * (across * qz + around * (nx * qy - ny * qx))


@nb.njit(**OUTER)
def pair_gradients(first, last, batch, c, halves, g, out, virial) -> None:
    """Gradient of g . B by each pair of the groups first:last, (n_pairs, 3), and their virials, (n_atoms, 3, 3).

    `out` and `virial` hold zeros.
    """
    start = batch[3]
    n = len(start) - 1
    w = work_arrays(longest(first * LANES, min(n, last * LANES), start), c.twojmax)
    u, y = np.empty((c.starts[-1], 2, LANES)), np.empty((c.starts[-1], 2, LANES))
    duals, weights = np.empty((LANES, len(c.place), 4, 2)), np.zeros((g.shape[1], LANES))
    for group in range(first, last):
        for lane in range(min(LANES, n - group * LANES)):
            weights[:, lane] = g[group * LANES + lane]
        complete(halves[group], c, u)
        adjoint(u, weights, c, y)
        turned(y, c, duals)
        for lane in range(min(LANES, n - group * LANES)):
            i = group * LANES + lane
            count = surroundings(i, batch, c, w)
            for p in range(0, count, LANES):
                dot_chunk(p, c, w, duals[lane])
            forces(count, w)
            for p in range(count):
                for q in range(3):
                    out[w.pair[p], q] = w.force[q, p]
                    for s in range(3):
                        virial[i, q, s] += w.force[q, p] * w.d[s, p]


@nb.njit(**OUTER)
def collect(first, last, start, reverse, pair_gradient, out) -> None:
    """Gradient by positions, (n_atoms, 3): what pairs pull at their neighbour, less what they pull at their own."""
    for i in range(first, last):
        for p in range(start[i], start[i + 1]):
            for q in range(3):
                out[i, q] += pair_gradient[reverse[p], q] - pair_gradient[p, q]
