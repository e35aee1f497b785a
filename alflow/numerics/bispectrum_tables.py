"""Which bispectrum components there are, and how they couple: integers and Clebsch-Gordan coefficients.

A quantum number j is counted by J = 2j, and its projections m by k = j + m and l = j + m', from 0 to J.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from math import factorial, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

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
                out[k1, k2] = norm * sum(  # exact, for the signs alternate
                    Fraction(
                        (-1) ** z, f(z) * f(a - z) * f(J1 - k1 - z) * f(k2 - z) * f(c - k2 + z) * f(b - J1 + k1 + z)
                    )
                    for z in range(max(0, k2 - c, J1 - k1 - b), min(a, J1 - k1, k2) + 1)
                )
    return out


@dataclass(frozen=True, slots=True, eq=False)
class Half:
    """The elements U_J[k, l] with l <= J / 2, as [l, k] of each level.

    Attributes:
        starts: first of each level, then their number, (twojmax + 2,).
        place: of each among all elements, (n,); see `level_starts`.
        mirror: place of its partner [J - k, J - l], (n,).
        sign: ``U[partner] = sign U*``, (n,).
        ends: whether the partner is in this half, too: l = J / 2, (n,).
        own: 1 where k = l, (n,).
        norm: U is so many times a coefficient of the polynomial of the kernels, (n,).
    """

    starts: Ints
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
    for J in range(twojmax + 1):
        for l in range(J // 2 + 1):
            for k in range(J + 1):
                place = start[J] + k * (J + 1) + l
                mirror = start[J] + (J - k) * (J + 1) + J - l
                norm = sqrt(f(k) * f(J - k) / (f(l) * f(J - l)))
                rows.append((place, mirror, (-1.0) ** (k - l), 2 * l == J, float(k == l), norm))
    starts = np.cumsum([0] + [(J + 1) * (J // 2 + 1) for J in range(twojmax + 1)])
    return Half(starts, *(np.array(column) for column in zip(*rows, strict=True)))


class Couplings(NamedTuple):
    """Sums of products: Z_J[k, l] of blocks (A, B, J) for l <= J / 2, each of its elements a sum over terms.

    Attributes:
        level: J of each block, (n_blocks,).
        component: which B it belongs to, (n_blocks,).
        share: factor of each block, (n_blocks,).
        first: terms of the elements z[l, k] of the blocks end to end, (n_elements + 1,).
        a: place of the first factor among all elements of U, (n_terms,).
        b: place of the second, (n_terms,).
        factor: product of two Clebsch-Gordan coefficients, (n_terms,).
    """

    level: Ints
    component: Ints
    share: Floats
    first: Ints
    a: NDArray[np.int32]
    b: NDArray[np.int32]
    factor: Floats


@cache
def couplings(twojmax: int) -> Couplings:
    """Z that give the components: B_k is U_J* . Z_J."""
    return _joined(twojmax, {(*triple, k): 1.0 for k, triple in enumerate(triples(twojmax))})


@cache
def adjoint_couplings(twojmax: int) -> Couplings:
    """Z that give the derivatives of g . B by U_J: they are the sums of share g_k Z_J.

    B_(A, B, J) / (J + 1) does not depend on which of the three is last: so the derivatives by the other two are Z, too.
    """
    share: dict[tuple[int, int, int, int], float] = {}
    for k, (A, B, J) in enumerate(triples(twojmax)):
        for block in ((A, B, J, k), (J, B, A, k), (J, A, B, k)):
            share[block] = share.get(block, 0.0) + (J + 1) / (block[2] + 1)
    return _joined(twojmax, share)


def _joined(twojmax: int, share: dict[tuple[int, int, int, int], float]) -> Couplings:
    """The blocks (A, B, J, k) and their terms, end to end."""
    level, component = (np.array([block[q] for block in share]) for q in (2, 3))
    count, *terms = (np.concatenate(x) for x in zip(*(_terms(twojmax, *b[:3]) for b in share), strict=True))
    first = np.concatenate([[0], np.cumsum(count)])
    return Couplings(level, component, np.array(list(share.values())), first, *terms)


def _terms(twojmax: int, A: int, B: int, J: int) -> tuple[Ints, NDArray[np.int32], NDArray[np.int32], Floats]:
    """How many terms each element z[l, k] has, and of each term both places and the factor."""
    c, start = clebsch_gordan(A, B, J), level_starts(twojmax)
    one, two = (x.ravel() for x in np.nonzero(c))  # projections of both, of rows or columns
    both, value = one + two - (A + B - J) // 2, c[one, two]
    low = np.flatnonzero(2 * both <= J)
    row, column = (x.ravel() for x in np.meshgrid(np.arange(len(one)), low))
    target, factor = both[column] * (J + 1) + both[row], value[row] * value[column]
    a = start[A] + one[row] * (A + 1) + one[column]
    b = start[B] + two[row] * (B + 1) + two[column]
    if A == B:  # both orders of the factors are the same
        factor, kept = np.where(a == b, factor, 2 * factor), a <= b
        target, factor, a, b = target[kept], factor[kept], a[kept], b[kept]
    order = np.argsort(target, kind="stable")
    count = np.bincount(target, minlength=(J // 2 + 1) * (J + 1))
    return count, a[order].astype(np.int32), b[order].astype(np.int32), factor[order]
