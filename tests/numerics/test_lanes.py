"""Eight doubles at once against numpy."""

import numba as nb
import numpy as np
import pytest

from alflow.numerics.lanes import LANES, add_product, load, load_splat, plus, splat, store, take_product, times, total


@nb.njit
def everything(a, b, out):
    """One row of `out` for each operation, on elements 3:11 of a and 1:9 of b."""
    x, y = load(a, 3), load(b, 1)
    store(out, 0, plus(x, y))
    store(out, LANES, times(x, y))
    store(out, 2 * LANES, add_product(splat(0.5), x, y))
    store(out, 3 * LANES, take_product(splat(0.5), x, y))
    store(out, 4 * LANES, load_splat(a, 2))
    return total(x)


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    a, b, out = rng.normal(size=(4, 4)), rng.normal(size=12), np.full((6, LANES), np.nan)
    return a, b, out, everything(a, b, out)


def test_operations_are_those_of_numpy(rows):
    a, b, out, summed = rows
    x, y = a.ravel()[3:11], b[1:9]
    want = [x + y, x * y, 0.5 + x * y, 0.5 - x * y, np.full(LANES, a.ravel()[2])]
    np.testing.assert_allclose(out[:5], want, rtol=1e-15, atol=1e-16)
    assert summed == pytest.approx(x.sum(), rel=1e-14)


def test_nothing_else_is_written(rows):
    assert np.isnan(rows[2][5]).all()


def test_nan_stays_in_its_lane():
    a, out = np.ones(16), np.zeros((5, LANES))
    a[5] = np.nan
    assert np.isnan(everything(a, np.ones(16), out))
    np.testing.assert_array_equal(np.isnan(out[:4]), np.tile(np.arange(LANES) == 2, (4, 1)))
