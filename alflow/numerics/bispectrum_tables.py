"""Which bispectrum components there are, and how they couple: integers and Clebsch-Gordan coefficients.

A quantum number j is counted by J = 2j, and its projections m by k = j + m and l = j + m', from 0 to J.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import factorial, sqrt

import numpy as np

from alflow.core.frames import Bools, Floats, Ints


@cache
def triples(twojmax: int) -> tuple[tuple[int, int, int], ...]:
    """(J1, J2, J) of each component, J2 <= J1 <= J, in the order of LAMMPS."""
    return tuple(
        (J1, J2, J)
        for J1 in range(twojmax + 1)
        for J2 in range(J1 + 1)
        for J in range(J1 - J2, min(twojmax, J1 + J2) + 1, 2)
        if J >= J1
    )


@cache
def level_starts(twojmax: int) -> tuple[int, ...]:
    """First element of each U_J, (J + 1)^2 elements [k, l] each, where all levels lie end to end; then their number."""
    return tuple(J * (J + 1) * (2 * J + 1) // 6 for J in range(twojmax + 2))


@cache
def clebsch_gordan(J1: int, J2: int, J: int) -> Floats:
    """<j1 m1 j2 m2 | j m> as an array over k1 and k2, (J1 + 1, J2 + 1), zero where m = m1 + m2 does not exist.

    Racah's formula: Varshalovich, Moskalev, Khersonskii, Quantum Theory of Angular Momentum, 8.2.1 (3).
    """
    out = np.zeros((J1 + 1, J2 + 1))
    f = factorial
    a, b, c = (J1 + J2 - J) // 2, (J1 - J2 + J) // 2, (J2 - J1 + J) // 2
    triangle = f(a) * f(b) * f(c) * (J + 1) / f((J1 + J2 + J) // 2 + 1)
    for k1 in range(J1 + 1):
        for k2 in range(J2 + 1):
            k = k1 + k2 - a
            if 0 <= k <= J:
                norm = sqrt(triangle * f(k1) * f(J1 - k1) * f(k2) * f(J2 - k2) * f(k) * f(J - k))
                out[k1, k2] = norm * sum(
                    (-1) ** z / (f(z) * f(a - z) * f(J1 - k1 - z) * f(k2 - z) * f(c - k2 + z) * f(b - J1 + k1 + z))
                    for z in range(max(0, k2 - c, J1 - k1 - b), min(a, J1 - k1, k2) + 1)
                )
    return out


@dataclass(frozen=True, slots=True, eq=False)
class Half:
    """The elements U_J[k, l] with l <= J / 2, by chains: l outermost, then J from 2 l, then k.

    Attributes:
        place: of each among all elements, (n,); see `level_starts`.
        mirror: place of its partner [J - k, J - l], (n,).
        sign: ``U[partner] = sign U*``, (n,).
        ends: whether the partner is in this half, too: l = J / 2, (n,).
        own: 1 where k = l, (n,).
        norm: U is so many times a coefficient of the polynomial of the kernels, (n,).
    """

    place: Ints
    mirror: Ints
    sign: Floats
    ends: Bools
    own: Floats
    norm: Floats


@cache
def half(twojmax: int) -> Half:
    """The elements that the others follow from."""
    start, f = level_starts(twojmax), factorial
    rows = []
    for l in range(twojmax // 2 + 1):
        for J in range(2 * l, twojmax + 1):
            for k in range(J + 1):
                place = start[J] + k * (J + 1) + l
                mirror = start[J] + (J - k) * (J + 1) + J - l
                norm = sqrt(f(k) * f(J - k) / (f(l) * f(J - l)))
                rows.append((place, mirror, (-1.0) ** (k - l), 2 * l == J, float(k == l), norm))
    return Half(*(np.array(column) for column in zip(*rows, strict=True)))


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """Which levels couple to which.

    Attributes:
        forth: for each component B_k = U_J* . Z_J(A, B): A, B, J, first coefficient, k, (K, 5).
        back: for Y_J = sum of share g_k Z_J(A, B), the derivative of g . B by U_J: the same columns, (n, 5).
        share: (n,). B_(A, B, J) / (J + 1) does not depend on which of the three is last: so the derivatives by the
            other two are Z as well.
        couple: the coefficients, [k1, k2] of each (A, B, J) end to end.
    """

    forth: Ints
    back: Ints
    share: Floats
    couple: Floats


@cache
def blocks(twojmax: int) -> Blocks:
    """The couplings of all components."""
    first: dict[tuple[int, int, int], int] = {}
    tables: list[Floats] = []

    def place(A: int, B: int, J: int) -> int:
        if (A, B, J) not in first:
            first[A, B, J] = sum(t.size for t in tables)
            tables.append(clebsch_gordan(A, B, J))
        return first[A, B, J]

    forth: list[tuple[int, ...]] = []
    share: dict[tuple[int, ...], float] = {}
    for k, (A, B, J) in enumerate(triples(twojmax)):
        forth.append((A, B, J, place(A, B, J), k))
        for a, b, last in ((A, B, J), (J, B, A), (J, A, B)):
            row = (a, b, last, place(a, b, last), k)
            share[row] = share.get(row, 0.0) + (J + 1) / (last + 1)
    couple = np.concatenate([t.ravel() for t in tables])
    return Blocks(np.array(forth), np.array(list(share)), np.array(list(share.values())), couple)
