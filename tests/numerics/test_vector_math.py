"""exp and power against numpy in double precision."""

import numba as nb
import numpy as np
import pytest

from alflow.numerics.vector_math import exp, power


@nb.njit
def exps(x, out):
    for k in range(len(x)):
        out[k] = exp(x[k])


@nb.njit
def powers(y, exponent, out):
    for k in range(len(y)):
        out[k] = power(y[k], exponent)


def test_exp_of_float32():
    x = np.linspace(-34.6, 3, 20001).astype(np.float32)
    out = np.empty_like(x)
    exps(x, out)
    want = np.exp(x.astype(np.float64))
    assert (np.abs(out / want - 1) <= 1e-7 * (1.5 + np.abs(x))).all()


def test_products_of_what_has_died_away_are_normal_numbers():
    """Subnormal ones cost some processors a hundred times as much, and most terms of a descriptor have died away."""
    x, y = np.array([-35.0, -100.0, -1e4, -1e30], np.float32), np.array([0.9, 0.99, 1.0], np.float32)
    small, powers_of_small = np.empty_like(x), np.empty_like(y)
    exps(x, small)
    powers(y, np.float32(68.4), powers_of_small)
    assert (small < 1e-15).all()
    assert (powers_of_small < 1e-15).all()
    assert (small[:, None] * powers_of_small * np.float32(1e-7) > np.finfo(np.float32).tiny).all()


@pytest.mark.parametrize("exponent", [0.0, 1.0, 7.0, 31.0, 68.4, 200.0])
def test_power_of_float32_is_exact_where_it_is_large(exponent):
    """Relative to 1, to the last digit of float32: also for y far below the spacing of numbers near 1."""
    y = np.concatenate([[0], np.geomspace(1e-12, 1, 5001)]).astype(np.float32)
    out = np.empty_like(y)
    powers(y, np.float32(exponent), out)
    log = np.log1p(-y[:-1].astype(np.float64))
    np.testing.assert_allclose(out[:-1], np.exp(np.float64(np.float32(exponent)) * log), rtol=0, atol=3e-7)
    assert out[-1] < 1e-15 or exponent == 0


def test_nan_stays_and_nothing_overflows():
    x = np.array([np.nan, -np.inf, -1e30, -200.0], np.float32)
    out = np.empty_like(x)
    exps(x, out)
    assert np.isnan(out[0])
    assert (out[1:] < 1e-15).all()
    y = np.array([np.nan, 1.0000001], np.float32)
    powers(y, np.float32(50), out[:2])
    assert np.isnan(out[0])
    assert 0 <= out[1] < 1e-15


def test_float64_is_that_of_the_library():
    x, out = np.linspace(-50, 2, 1001), np.empty(1001)
    exps(x, out)
    np.testing.assert_allclose(out, np.exp(x), rtol=1e-15)
    y = np.linspace(0, 0.99, 1001)
    powers(y, 12.3, out)
    np.testing.assert_allclose(out, (1 - y) ** 12.3, rtol=1e-13)
