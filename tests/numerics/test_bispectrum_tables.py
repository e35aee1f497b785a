"""Clebsch-Gordan coefficients against sympy, and the tables that the couplings are made of."""

import numpy as np
import pytest
from sympy import Rational
from sympy.physics.wigner import clebsch_gordan as exact

from alflow.numerics.bispectrum_tables import adjoint_couplings, clebsch_gordan, couplings, half, level_starts, triples


@pytest.mark.parametrize(
    ("J1", "J2", "J"), [(0, 0, 0), (1, 1, 2), (2, 1, 3), (3, 2, 1), (4, 4, 4), (5, 3, 4), (8, 6, 8)]
)
def test_equal_to_sympy(J1, J2, J):
    want = np.zeros((J1 + 1, J2 + 1))
    j1, j2, j = (Rational(x, 2) for x in (J1, J2, J))
    for k1 in range(J1 + 1):
        for k2 in range(J2 + 1):
            m1, m2 = k1 - j1, k2 - j2
            if abs(m1 + m2) <= j:
                want[k1, k2] = float(exact(j1, j2, j, m1, m2, m1 + m2))
    np.testing.assert_allclose(clebsch_gordan(J1, J2, J), want, rtol=1e-14, atol=1e-15)


def test_states_of_two_spins_are_orthonormal():
    """Also for levels so high that the alternating sums would lose digits in floats."""
    for J1, J2 in ((3, 2), (14, 14)):
        seen = np.zeros((J1 + 1, J2 + 1))
        for J in range(J1 - J2, J1 + J2 + 1, 2):
            c = clebsch_gordan(J1, J2, J)
            k = np.add.outer(np.arange(J1 + 1), np.arange(J2 + 1))
            norms = np.bincount(k.ravel(), (c**2).ravel())
            np.testing.assert_allclose(norms[norms > 0], 1, rtol=1e-14)
            assert (norms > 0).sum() == J + 1
            seen += c**2
        np.testing.assert_allclose(seen, 1, rtol=1e-14)


def test_order_of_components():
    assert triples(2) == ((0, 0, 0), (1, 0, 1), (1, 1, 2), (2, 0, 2), (2, 2, 2))


@pytest.mark.parametrize("twojmax", [0, 1, 4, 7])
def test_a_half_and_its_partners_are_everything(twojmax):
    h = half(twojmax)
    assert sorted({*h.place, *h.mirror}) == list(range(level_starts(twojmax)[-1]))
    assert len({*h.place}) == h.starts[-1]
    assert {*h.place[h.ends]} == {*h.mirror[h.ends]}


@pytest.mark.parametrize("twojmax", [0, 1, 4, 6])
def test_components_of_an_atom_alone(twojmax):
    """With U = 1 a component is the trace of 1: all terms of an element on the diagonal add up to one."""
    own = np.zeros(level_starts(twojmax)[-1])
    own[half(twojmax).place] = half(twojmax).own
    own[half(twojmax).mirror] = half(twojmax).own
    for t in (couplings(twojmax), adjoint_couplings(twojmax)):
        element = np.repeat(np.arange(len(t.first) - 1), np.diff(t.first))
        z = np.bincount(element, t.factor * own[t.a] * own[t.b], len(t.first) - 1)
        place = np.concatenate([np.arange(*half(twojmax).starts[J : J + 2]) for J in t.level])
        np.testing.assert_allclose(z, half(twojmax).own[place], atol=1e-13)
