"""Compiled loops of `alflow.numerics.bispectrum`. Arrays are described there; numba infers their types.

What saves work:

- Polynomials. U_J[k, l] is ``sqrt(k! (J - k)! / (l! (J - l)!))`` times the coefficient of t^k in
  ``(a - b* t)^(J - l) (b + a* t)^l``, where ``g = [[a, b], [-b*, a*]]``: one complex multiplication by each factor
  gives the next level, and the square roots are applied once an atom, not once a neighbour. Columns l <= J / 2 are
  enough, for ``U_J[J - k, J - l] = (-1)^(k - l) U_J[k, l]*``.
- Eight neighbours at once in that part, eight atoms at once where the U_J of an atom are coupled; see
  `alflow.numerics.lanes`.
- One contraction an atom: Y = d(g . B) / dU, and then each neighbour costs the same whatever the number of components.
- Rotations instead of derivatives. A neighbour that moves turns its g, ``dg = -i omega.sigma g``, and so its U_J by
  the generators S of the rotations: ``Y . dU = omega . (i S Y) . U``. The three i S Y are made once an atom, so
  that a neighbour takes four scalar products with its U_J (one for the cutoff function) and no derivative of U_J.
- The gradient of a pair is stored with the pair and collected through the reverse pair, and rows are summed frame by
  frame: threads never write to the same atom, and sums do not depend on their number.
"""
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
# ruff: noqa: ANN001, ANN201, D403

from __future__ import annotations

import math
from collections import namedtuple
from typing import NamedTuple

import numba as nb
import numpy as np

from alflow.core.frames import Bools, Floats, Ints
from alflow.numerics.bispectrum_coupling_kernels import PAIR, adjoint, all_duals, complete, turn
from alflow.numerics.bispectrum_tables import Couplings
from alflow.numerics.lanes import LANES, add_product, load, load_splat, plus, splat, store, take_product, times, total
from alflow.numerics.vector_math import FAST, INNER, OUTER


class Constants(NamedTuple):
    """The settings as numbers and tables; the elements h of a half are the U_J[k, l] with l <= J / 2, as [J, l, k]."""

    twojmax: int
    cutoff: Floats  # of each pair of elements
    weight: Floats
    rfac0: float
    rmin0: float
    switch: bool
    base: Floats  # what bzero takes away, (K,)
    n_all: int  # elements of all U_J
    starts: Ints  # first element of each level in a half
    place: Ints  # of each element of a half among all
    mirror: Ints  # of its partner among all
    sign: Floats  # of the partner
    ends: Bools  # whether it is its own partner's column, l = J / 2
    own: Floats  # 1 on the diagonal
    norm: Floats  # of the polynomials
    dual: Floats  # norm, twice where the partner is not in the half
    forth: Couplings  # that give B
    back: Couplings  # that give Y


Work = namedtuple(
    "Work",
    "d r reach pair weight fade fade_slope turn sine cosine "  # neighbours within the cutoff
    "a_re a_im b_re b_im "  # their rotations
    "dots force "  # scalar products with Y and i S Y of each component, or of their sum
    "begin",  # eight polynomials
)


@nb.njit(**INNER)
def work_arrays(most, twojmax, n_dots):
    """Room for one atom of at most `most` neighbours."""
    n = (most + LANES - 1) // LANES * LANES
    return Work(
        np.zeros((3, n)), np.ones(n), np.empty(n), np.empty(n, np.int64), np.empty(n), np.empty(n), np.empty(n),
        np.empty(n), np.empty(n), np.empty(n),
        np.empty(n), np.empty(n), np.empty(n), np.empty(n),
        np.empty((n_dots, 4, n)), np.empty((n_dots, 3, n)),
        np.zeros((twojmax + 2, 2, LANES)),
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
def product(p_re, p_im, v_re, v_im, q_re, q_im, u_re, u_im):
    """p v + q u, complex."""
    re = take_product(times(p_re, v_re), p_im, v_im)
    im = add_product(times(p_re, v_im), p_im, v_re)
    re = take_product(add_product(re, q_re, u_re), q_im, u_im)
    im = add_product(add_product(im, q_re, u_im), q_im, u_re)
    return re, im


@nb.njit(**INNER)
def climb(J, v, at, into, to, p_re, p_im, q_re, q_im) -> None:
    """Multiply polynomials of degree J - 1, v from `at` on, by p + q t."""
    zero = splat(0.0)
    re, im = zero, zero
    for k in range(J + 1):
        up_re, up_im = zero, zero
        if k < J:
            up_re, up_im = load(v, (at + k) * PAIR), load(v, (at + k) * PAIR + LANES)
        new_re, new_im = product(p_re, p_im, up_re, up_im, q_re, q_im, re, im)
        store(into, (to + k) * PAIR, new_re)
        store(into, (to + k) * PAIR + LANES, new_im)
        re, im = up_re, up_im


@nb.njit(**INNER)
def copy(v, n, into, to) -> None:
    """Copy n complex numbers of eight lanes."""
    for at in range(0, n * PAIR, LANES):
        store(into, to * PAIR + at, load(v, at))


@nb.njit(**INNER)
def polynomials(p, c, w, weight, out) -> None:
    """Those of the neighbours p:p + 8, times the weight of each, (n_half, 2, 8)."""
    a_re, a_im, b_re, b_im = load(w.a_re, p), load(w.a_im, p), load(w.b_re, p), load(w.b_im, p)
    minus = splat(-1.0)
    q_re, conj_im = times(minus, b_re), times(minus, a_im)
    store(w.begin, 0, weight)
    store(w.begin, LANES, splat(0.0))
    for l in range(c.twojmax // 2 + 1):
        copy(w.begin, 2 * l + 1, out, c.starts[2 * l] + l * (2 * l + 1))
        for J in range(2 * l + 1, c.twojmax + 1):
            below, here = c.starts[J - 1] + l * J, c.starts[J] + l * (J + 1)
            climb(J, out, below, out, here, a_re, a_im, q_re, b_im)
            if 2 * l + 1 == J:
                climb(J + 1, out, here, w.begin, 0, b_re, b_im, a_re, conj_im)


@nb.njit(**INNER)
def add(n, values, sums) -> None:
    """Add n complex numbers of eight lanes to sums."""
    for at in range(0, n * PAIR, LANES):
        store(sums, at, plus(load(sums, at), load(values, at)))


@nb.njit(**INNER)
def dot(n, values, first, duals, at, p, dots) -> None:
    """Add scalar products of values first:first + n with duals at:at + n, (.., 4, 2), to dots[:, p:p + 8]."""
    row = dots.shape[1]
    s, x, y, z = load(dots, p), load(dots, row + p), load(dots, 2 * row + p), load(dots, 3 * row + p)
    for h in range(n):
        d = (at + h) * 8
        re, im = load(values, (first + h) * PAIR), load(values, (first + h) * PAIR + LANES)
        s = add_product(add_product(s, re, load_splat(duals, d)), im, load_splat(duals, d + 1))
        x = add_product(add_product(x, re, load_splat(duals, d + 2)), im, load_splat(duals, d + 3))
        y = add_product(add_product(y, re, load_splat(duals, d + 4)), im, load_splat(duals, d + 5))
        z = add_product(add_product(z, re, load_splat(duals, d + 6)), im, load_splat(duals, d + 7))
    store(dots, p, s)
    store(dots, row + p, x)
    store(dots, 2 * row + p, y)
    store(dots, 3 * row + p, z)


@nb.njit(**INNER)
def expand_atom(i, batch, c, w, values, sums, half, lane):
    """U of atom i into a lane of a half, (n_half, 2, 8); how many neighbours it has."""
    count = surroundings(i, batch, c, w)
    sums[:] = 0.0
    for p in range(0, count, LANES):
        polynomials(p, c, w, times(load(w.weight, p), load(w.fade, p)), values)
        add(len(c.place), values, sums)
    for h in range(len(c.place)):
        half[h, 0, lane] = c.own[h] + c.norm[h] * total(load(sums, h * PAIR))
        half[h, 1, lane] = c.norm[h] * total(load(sums, h * PAIR + LANES))


@nb.njit(**OUTER)
def expand(first, last, batch, c, u) -> None:
    """U of the atoms of the groups first:last, as halves: u is (n_groups, n_half, 2, 8)."""
    start = batch[3]
    n = len(start) - 1
    w = work_arrays(longest(first * LANES, min(n, last * LANES), start), c.twojmax, 1)
    room = np.empty((2, len(c.place), 2, LANES))
    for i in range(first * LANES, min(n, last * LANES)):
        expand_atom(i, batch, c, w, room[0], room[1], u[i // LANES], i % LANES)


# ---- gradients -----------------------------------------------------------------------------------------------------


@nb.njit(fastmath=FAST, **INNER)
def forces(n, w, dots, out) -> None:
    """Gradient by the position of each of n neighbours, (3, n), from scalar products, (4, n)."""
    for p in range(n):
        inverse = 1.0 / w.r[p]
        nx, ny, nz = w.d[0, p] * inverse, w.d[1, p] * inverse, w.d[2, p] * inverse
        qx, qy, qz = dots[1, p], dots[2, p], dots[3, p]
        across, around = w.sine[p] * w.cosine[p] * inverse, w.sine[p] * w.sine[p] * inverse
        along = nx * qx + ny * qy + nz * qz
        radial = w.weight[p] * (w.fade_slope[p] * dots[0, p] + w.fade[p] * (w.turn[p] - across) * along)
        fade = w.weight[p] * w.fade[p]
        out[0, p] = radial * nx + fade * (across * qx + around * (ny * qz - nz * qy))
        out[1, p] = radial * ny + fade * (across * qy + around * (nz * qx - nx * qz))
        out[2, p] = radial * nz + fade * (across * qz + around * (nx * qy - ny * qx))


@nb.njit(**OUTER)
def pair_gradients(first, last, batch, c, halves, g, out, virial) -> None:
    """Gradient of g . B by each pair of the groups first:last, (n_pairs, 3), and their virials, (n_atoms, 3, 3).

    `out` and `virial` hold zeros.
    """
    start, n_half = batch[3], len(c.place)
    n = len(start) - 1
    w = work_arrays(longest(first * LANES, min(n, last * LANES), start), c.twojmax, 1)
    room, weights = np.empty((4, c.n_all, 2, LANES)), np.zeros((g.shape[1], LANES))
    u, z, y, values = room[0], room[1], room[2], room[3]
    duals = np.empty((LANES, n_half, 4, 2))
    for group in range(first, last):
        for lane in range(min(LANES, n - group * LANES)):
            weights[:, lane] = g[group * LANES + lane]
        complete(halves[group], c, u)
        adjoint(u, weights, c, z, y)
        for J in range(c.twojmax + 1):
            turn(y[c.starts[J] : c.starts[J + 1]], J, 1.0, c.dual[c.starts[J] :], duals, c.starts[J])
        for lane in range(min(LANES, n - group * LANES)):
            i = group * LANES + lane
            count = surroundings(i, batch, c, w)
            w.dots[:] = 0.0
            for p in range(0, count, LANES):
                polynomials(p, c, w, splat(1.0), values)
                dot(n_half, values, 0, duals[lane], 0, p, w.dots[0])
            forces(count, w, w.dots[0], w.force[0])
            for p in range(count):
                for q in range(3):
                    out[w.pair[p], q] = w.force[0, q, p]
                    for s in range(3):
                        virial[i, q, s] += w.force[0, q, p] * w.d[s, p]


@nb.njit(**OUTER)
def collect(first, last, start, reverse, pair_gradient, out) -> None:
    """Gradient by positions, (n_atoms, 3): what pairs pull at their neighbour, less what they pull at their own."""
    for i in range(first, last):
        for p in range(start[i], start[i + 1]):
            for q in range(3):
                out[i, q] += pair_gradient[reverse[p], q] - pair_gradient[p, q]


# ---- derivatives of all components ---------------------------------------------------------------------------------


@nb.njit(**INNER)
def group_duals(first, last, batch, c, w, room, duals) -> None:
    """Y and i S Y of every component of the atoms first:last, eight at most; room is (4, n_all, 2, 8)."""
    u, z, half, values = room[0], room[1], room[2][: len(c.place)], room[3]
    for i in range(first, last):
        expand_atom(i, batch, c, w, values, z, half, i - first)
    complete(half, c, u)
    all_duals(u, c, z, duals)


@nb.njit(**INNER)
def all_dots(count, c, w, values, duals) -> None:
    """Scalar products of the polynomials of all neighbours with the duals of each component, w.dots (K, 4, n)."""
    w.dots[:] = 0.0
    for p in range(0, count, LANES):
        polynomials(p, c, w, splat(1.0), values)
        element = 0
        for q in range(len(c.back.level)):
            J = c.back.level[q]
            size = (J + 1) * (J // 2 + 1)
            dot(size, values, c.starts[J], duals, element, p, w.dots[c.back.component[q]])
            element += size


@nb.njit(fastmath=FAST, **INNER)
def add_rows(i, count, batch, w, of_atoms, of_frame) -> None:
    """Add the gradients of the components of atom i to the rows of its element and frame."""
    j, kind = batch[4], batch[6][i]
    for k in range(len(w.dots)):
        forces(count, w, w.dots[k], w.force[k])
        for q in range(3):
            own = 0.0
            for p in range(count):
                own += w.force[k, q, p]
            of_atoms[i, q, kind, k] -= own
            for s in range(3):
                virial = 0.0
                for p in range(count):
                    virial += w.force[k, q, p] * w.d[s, p]
                of_frame[q, s, kind, k] += virial
    for p in range(count):
        for q in range(3):
            mine = of_atoms[j[w.pair[p]], q, kind]
            for k in range(len(w.dots)):
                mine[k] += w.force[k, q, p]


@nb.njit(**OUTER)
def rows(first, last, offsets, batch, c, of_atoms, of_frames) -> None:
    """Derivatives of the sums of B over each element in the frames first:last, by positions and strain.

    of_atoms is (n_atoms, 3, n_types, K) and of_frames (n_frames, 3, 3, n_types, K); both hold zeros.
    """
    owner, start = batch[2], batch[3]
    begin, end = offsets[first], offsets[last]
    w = work_arrays(longest(begin, end, start), c.twojmax, len(c.base))
    room = np.zeros((4, c.n_all, 2, LANES))
    duals = np.empty((LANES, len(c.back.first) - 1, 4, 2))
    for base in range(begin, end, LANES):
        group_duals(base, min(base + LANES, end), batch, c, w, room, duals)
        for i in range(base, min(base + LANES, end)):
            count = surroundings(i, batch, c, w)
            all_dots(count, c, w, room[3], duals[i - base])
            add_rows(i, count, batch, w, of_atoms, of_frames[owner[i]])
