"""Which bispectrum components there are, and how they couple: integers and Clebsch-Gordan coefficients.

A quantum number j is counted by J = 2j, and its projections m by k = j + m and l = j + m', from 0 to J.
"""

from __future__ import annotations

from functools import cache
from math import factorial, sqrt

import numpy as np

from alflow.core.frames import Floats


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
