"""Streamed least squares against numpy's own on the whole matrix, and what no rows decide."""

import numpy as np
import pytest

from alflow.errors import DataError
from alflow.numerics.least_squares import Triangle, solve


def streamed(a, b, block=7):
    triangle = Triangle(a.shape[1])
    for k in range(0, len(a), block):
        triangle.add(a[k : k + block], b[k : k + block])
    return triangle


def problem(m, n, seed=0, scales=0.0):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(m, n)) * 10.0 ** (scales * rng.normal(size=n))
    return a, rng.normal(size=m)


@pytest.mark.parametrize("block", [1, 7, 1000])
@pytest.mark.parametrize("n", [1, 5, 40])
def test_blocks_of_any_size_give_the_solution_of_the_whole(block, n):
    a, b = problem(200, n)
    triangle = streamed(a, b, block)
    want, square, _, _ = np.linalg.lstsq(a, b, rcond=None)
    found = solve(triangle)
    np.testing.assert_allclose(found.x, want, rtol=1e-10, atol=1e-12)
    assert found.rank == n
    assert triangle.rows == 200
    assert triangle.residual(want) ** 2 == pytest.approx(square[0], rel=1e-12)
    assert triangle.residual(np.zeros(n)) ** 2 == pytest.approx(b @ b, rel=1e-12)


def test_columns_of_all_scales_keep_their_digits():
    a, b = problem(300, 20, scales=6.0)
    length = np.linalg.norm(a, axis=0)
    assert length.max() / length.min() > 1e12
    want = np.linalg.lstsq(a / length, b, rcond=None)[0] / length
    found = solve(streamed(a, b))
    np.testing.assert_allclose(found.x, want, rtol=1e-10)
    assert found.rank == 20
    assert found.condition == pytest.approx(np.linalg.cond(a / length), rel=1e-8)


@pytest.mark.parametrize("n_free", [0, 2])
@pytest.mark.parametrize("size", [1e-300, 1e-170, 1e170, 1e300])
def test_squares_need_not_be_numbers(size, n_free):
    a, b = problem(50, 6)
    plain, tiny = streamed(a, b), streamed(size * a, size * b)
    want, found = solve(plain, n_free, 1e-3), solve(tiny, n_free, 1e-3)
    np.testing.assert_allclose(found.x, want.x, rtol=1e-12)
    assert (found.rank, found.condition) == (6, pytest.approx(want.condition))
    assert tiny.residual(found.x) / size == pytest.approx(plain.residual(want.x))


def test_columns_that_nearly_agree_are_told_apart_where_normal_equations_fail():
    rng = np.random.default_rng(1)
    base = rng.normal(size=(500, 1))
    a = base + 1e-9 * rng.normal(size=(500, 4))
    x = np.array([1.0, -2.0, 3.0, 0.5])
    found = solve(streamed(a, a @ x))
    np.testing.assert_allclose(found.x, x, atol=1e-5)
    assert np.abs(np.linalg.solve(a.T @ a, a.T @ (a @ x)) - x).max() > 0.1


def test_undecided_directions_get_the_shortest_answer():
    a, b = problem(50, 6)
    twice = np.hstack([a, a[:, :1]])
    found = solve(streamed(twice, b))
    assert found.rank == 6
    np.testing.assert_allclose(found.x, np.linalg.lstsq(twice, b, rcond=1e-10)[0], atol=1e-10)
    few = solve(streamed(a[:3], b[:3]))
    assert few.rank == 3
    np.testing.assert_allclose(a[:3] @ few.x, b[:3], atol=1e-10)
    assert solve(Triangle(3)).x.tolist() == [0, 0, 0]
    absent = solve(streamed(a * [1, 1, 0, 1, 1, 1], b))
    assert absent.x[2] == 0
    assert absent.rank == 5
    assert np.isfinite(absent.condition)


@pytest.mark.parametrize("n_free", [0, 1, 2])
def test_the_ridge_holds_all_but_the_free_columns(n_free):
    a, b = problem(80, 6, seed=3)
    a[:, :n_free] = np.eye(2)[np.arange(80) % 2][:, :n_free] if n_free == 2 else 1.0
    b += 100
    ridge = 0.3
    basis = np.linalg.qr(a[:, :n_free])[0]
    length = np.linalg.norm(a[:, n_free:] - basis @ (basis.T @ a[:, n_free:]), axis=0)
    below = np.hstack([np.zeros((6 - n_free, n_free)), np.sqrt(ridge) * np.diag(length)])
    want = np.linalg.lstsq(np.vstack([a, below]), np.append(b, np.zeros(6 - n_free)), rcond=None)[0]
    np.testing.assert_allclose(solve(streamed(a, b), n_free, ridge).x, want, rtol=1e-9)


def test_free_columns_that_are_undecided_do_no_harm():
    a, b = problem(60, 5, seed=4)
    a[:, 0], a[:, 1] = 0.25, 0.75  # one composition: only a sum of the two constants is decided
    found = solve(streamed(a, b + 3), n_free=2)
    want = np.linalg.lstsq(a, b + 3, rcond=1e-10)[0]
    assert found.rank == 4
    np.testing.assert_allclose(found.x, want, atol=1e-9)
    a[:, :2] = 0.0
    none = solve(streamed(a, b), n_free=2)
    np.testing.assert_allclose(none.x, np.linalg.lstsq(a, b, rcond=1e-10)[0], atol=1e-9)
    constant = np.hstack([np.ones((60, 1)), np.full((60, 1), 5.0), a[:, 2:]])
    same = solve(streamed(constant, b), n_free=1)  # a column within the free ones is not in the way
    assert same.x[1] == 0
    np.testing.assert_allclose(constant @ same.x, constant @ np.linalg.lstsq(constant, b, rcond=1e-10)[0], atol=1e-9)


def test_triangles_add_up():
    a, b = problem(90, 8, seed=5)
    whole = streamed(a[:40], b[:40])
    whole.merge(streamed(a[40:], b[40:]), weight=3.0)
    weight = np.where(np.arange(90) < 40, 1.0, 3.0)
    want = np.linalg.lstsq(a * weight[:, None], b * weight, rcond=None)[0]
    np.testing.assert_allclose(solve(whole).x, want, rtol=1e-10)
    assert whole.rows == 90


def test_rows_that_are_not_finite_or_do_not_fit_are_refused():
    triangle = Triangle(3)
    with pytest.raises(DataError, match="not finite"):
        triangle.add(np.array([[1.0, np.nan, 0.0]]), np.zeros(1))
    with pytest.raises(DataError, match="not finite"):
        triangle.add(np.ones((1, 3)), np.array([np.inf]))
    with pytest.raises(DataError, match=r"\(1, 3\)"):
        triangle.add(np.ones((1, 4)), np.zeros(1))
    assert triangle.rows == 0
    assert not triangle.r.any()
