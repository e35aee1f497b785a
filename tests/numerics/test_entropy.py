"""The estimator against closed forms, known entropies and finite differences."""

import numpy as np
import pytest
from scipy.special import digamma
from scipy.stats import ortho_group

from alflow.errors import DataError
from alflow.numerics.entropy import Known, entropies, ln_ball, whitening


def alone(rows, floor=1e-12, known=None):
    """One set of one kind."""
    return entropies(
        np.asarray(rows, float), np.array([0, len(rows)]), np.zeros(len(rows), np.int64), floor, np.ones(1), known
    )


def total(e, weight):
    """What the gradient is of."""
    return np.nansum(weight * e.count * e.S)


def slope(value, x, h=1e-6):
    """Central differences of a number."""
    out = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] += h
        down[i] -= h
        out[i] = (value(up) - value(down)) / (2 * h)
    return out


@pytest.mark.parametrize("m", [1, 2, 3, 5, 14])
def test_two_points(m):
    rows = np.zeros((2, m))
    rows[1, -1] = 0.7
    e = alone(rows)
    assert e.S[0] == pytest.approx(m * np.log(0.7) + ln_ball(m) + 1)  # psi(2) - psi(1) = 1
    assert e.distance == pytest.approx([0.7, 0.7])
    assert e.gradient[1, -1] == pytest.approx(2 * m / 0.7)
    assert e.gradient[0] == pytest.approx(-e.gradient[1])


def test_volumes_of_balls():
    assert np.exp([ln_ball(m) for m in (1, 2, 3)]) == pytest.approx([2, np.pi, 4 / 3 * np.pi])


def test_points_on_a_lattice():
    grid = np.stack(np.meshgrid(*[np.arange(4.0)] * 2), -1).reshape(-1, 2) * 0.3
    assert alone(grid).S[0] == pytest.approx(2 * np.log(0.3) + np.log(np.pi) + digamma(16) - digamma(1))


def test_a_chain_pulls_through_the_nearest_only():
    x = np.array([[0.0], [1.0], [3.0]])  # 0 and 1 are nearest to each other, 1 is nearest to 2
    e = alone(x)
    assert e.distance == pytest.approx([1, 1, 2])
    assert e.gradient[:, 0] == pytest.approx([-2, 2 - 1 / 2, 1 / 2])


@pytest.mark.parametrize("m", [1, 2, 3])
def test_uniform_points_have_the_logarithm_of_their_volume(m):
    rng, S = np.random.default_rng(m), []
    for _ in range(20):
        points = 2.0 * rng.random((1000, m))
        inside = (np.abs(points - 1) < 0.8).all(axis=1)  # without the skin: no ball reaches beyond the points
        e = alone(points)
        S.append((m * np.log(e.distance[inside])).mean() + ln_ball(m) + digamma(1000) - digamma(1))
    error = np.std(S) / np.sqrt(20)
    assert np.mean(S) == pytest.approx(m * np.log(2), abs=4 * error)


@pytest.mark.parametrize(("m", "bias"), [(1, 0.005), (2, 0.01), (3, 0.03), (5, 0.15)])
def test_gaussian_points_have_their_differential_entropy(m, bias):
    rng = np.random.default_rng(7 + m)
    spread = np.diag(rng.uniform(0.7, 1.4, m)) @ (ortho_group.rvs(m, random_state=m) if m > 1 else np.eye(1))
    S = [alone(rng.normal(size=(4000, m)) @ spread).S[0] for _ in range(8)]
    want = m / 2 * np.log(2 * np.pi * np.e) + np.log(abs(np.linalg.det(spread)))
    assert np.mean(S) == pytest.approx(want, abs=bias + 4 * np.std(S) / np.sqrt(8))


@pytest.mark.parametrize("floor", [1e-9, 0.3])
def test_gradient_by_finite_differences(floor):
    rng = np.random.default_rng(0)
    x, offsets, kind = rng.normal(size=(31, 5)), np.array([0, 12, 30, 31]), np.zeros(31, np.int64)
    kind[[3, 5, 8, 20, 21, 29]] = 1
    known, weight = Known(rng.normal(size=(9, 5)), np.array([0] * 5 + [1] * 4)), np.array([1.0, -0.4, 2.0])
    for seen in (None, known):
        e = entropies(x, offsets, kind, floor, weight, seen)
        want = slope(lambda y, seen=seen: total(entropies(y, offsets, kind, floor, weight, seen), weight), x)
        np.testing.assert_allclose(e.gradient, want, atol=1e-6 * abs(want).max())


def test_gradient_across_sets():
    rng = np.random.default_rng(4)
    x, offsets, kind = rng.normal(size=(30, 3)), np.array([0, 1, 12, 20, 30]), rng.integers(0, 2, 30)
    across, weight = np.array([True, True, False, True]), np.array([1.0, 0.3, -2.0, 0.7])
    e = entropies(x, offsets, kind, 0.1, weight, None, across)
    want = slope(lambda y: total(entropies(y, offsets, kind, 0.1, weight, None, across), weight), x)
    np.testing.assert_allclose(e.gradient, want, atol=1e-6 * abs(want).max())


def test_across_sets_all_are_one_pool():
    rng = np.random.default_rng(5)
    x, offsets, kind = rng.normal(size=(30, 3)), np.array([0, 4, 12, 20, 30]), np.zeros(30, np.int64)
    e = entropies(x, offsets, kind, 0.1, np.ones(4), None, np.array([True, False, True, True]))
    pool, own = np.delete(np.arange(30), np.s_[4:12]), np.arange(4, 12)
    np.testing.assert_array_equal(e.distance[pool], alone(x[pool], 0.1).distance)
    np.testing.assert_array_equal(e.distance[own], alone(x[own], 0.1).distance)
    assert (e.count @ e.S) == pytest.approx(22 * alone(x[pool], 0.1).S[0] + 8 * alone(x[own], 0.1).S[0])


def test_sets_do_not_see_each_other():
    rng = np.random.default_rng(1)
    sets = [rng.normal(size=(n, 3)) for n in (2, 9, 1, 40)]
    offsets = np.cumsum([0, 2, 9, 1, 40])
    together = entropies(np.concatenate(sets), offsets, np.zeros(52, np.int64), 0.01, np.ones(4))
    for k, points in enumerate(sets):
        one = alone(points, 0.01)
        np.testing.assert_array_equal(together.S[k], one.S[0])
        np.testing.assert_array_equal(together.gradient[offsets[k] : offsets[k + 1]], one.gradient)


def test_kinds_are_weighted_with_their_numbers():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(7, 3)), rng.normal(size=(5, 3))
    mixed = entropies(np.concatenate([a, b]), np.array([0, 12]), np.repeat([4, 2], [7, 5]), 0.01, np.ones(1))
    assert mixed.S[0] == pytest.approx((7 * alone(a, 0.01).S[0] + 5 * alone(b, 0.01).S[0]) / 12)
    single = entropies(np.concatenate([a, b[:1]]), np.array([0, 8]), np.repeat([4, 2], [7, 1]), 0.01, np.ones(1))
    assert single.S[0] == pytest.approx(alone(a, 0.01).S[0])  # a kind of one point says nothing
    assert np.isinf(single.distance[-1])
    assert (single.gradient[-1] == 0).all()


def test_invariances():
    rng = np.random.default_rng(3)
    x, order = rng.normal(size=(20, 5)), rng.permutation(20)
    e, turn = alone(x, 0.1), ortho_group.rvs(5, random_state=0)
    turned = alone(x @ turn + 3.0, 0.1)
    assert pytest.approx(e.S) == turned.S
    np.testing.assert_allclose(turned.gradient, e.gradient @ turn, atol=1e-12)
    np.testing.assert_allclose(alone(x[order], 0.1).gradient, e.gradient[order], atol=1e-12)
    assert alone(3 * x).S[0] == pytest.approx(alone(x).S[0] + 5 * np.log(3))
    np.testing.assert_allclose(e.gradient.sum(axis=0), 0, atol=1e-12)


def test_points_at_the_same_place_are_as_far_apart_as_the_floor():
    e = alone(np.ones((4, 3)), 0.02)
    assert e.S[0] == pytest.approx(3 * np.log(0.02) + ln_ball(3) + digamma(4) - digamma(1))
    assert (e.gradient == 0).all()
    near = np.ones((2, 3))
    near[1, 0] += np.linspace(0, 0.1, 50)[20]
    assert np.abs(alone(near, 0.02).gradient).max() <= 3 / 0.02 + 1e-9  # m / floor: half of it from either end


def test_one_point_has_no_entropy():
    e = alone(np.ones((1, 3)))
    assert np.isnan(e.S).all()
    assert (e.gradient == 0).all()
    assert np.isinf(e.distance).all()


def test_points_that_are_not_numbers_stay_alone():
    x = np.random.default_rng(0).normal(size=(6, 2))
    x[3] = np.nan
    e, rest = alone(x), alone(np.delete(x, 3, axis=0))
    np.testing.assert_allclose(np.delete(e.gradient, 3, axis=0), rest.gradient)
    assert (e.gradient[3] == 0).all()
    both = entropies(
        np.concatenate([x, np.full((4, 2), np.nan)]), np.array([0, 6, 10]), np.zeros(10, np.int64), 1e-9, np.ones(2)
    )
    assert np.isfinite(both.S[0])
    assert np.isnan(both.S[1])


def test_known_points_count_as_neighbours():
    x = np.array([[0.0, 0.0], [1.0, 0.0]])
    near, far = (
        Known(np.array([[0.0, 0.25]]), np.zeros(1, np.int64)),
        Known(np.full((1, 2), 9.0), np.zeros(1, np.int64)),
    )
    other = Known(np.array([[0.0, 0.25]]), np.ones(1, np.int64))
    assert alone(x, known=near).distance == pytest.approx([0.25, 1.0])
    assert alone(x, known=near).gradient[0] == pytest.approx([-2.0, -8.0])
    assert alone(x, known=far).S[0] == pytest.approx(alone(x).S[0] + digamma(3) - digamma(2))
    assert pytest.approx(alone(x).S) == alone(x, known=other).S
    single = alone(x[:1], known=near)
    assert single.S[0] == pytest.approx(2 * np.log(0.25) + np.log(np.pi) + 1)


def test_whitening_makes_the_covariance_one():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 4)) @ np.diag([1e3, 1.0, 0.1, 30.0]) @ ortho_group.rvs(4, random_state=1)
    W = whitening(x, least=1e-12)
    np.testing.assert_allclose(np.cov(x @ W, rowvar=False), np.eye(4), atol=1e-6)
    np.testing.assert_allclose(W, W.T)


def test_whitening_does_not_blow_up_what_does_not_vary():
    x = np.random.default_rng(0).normal(size=(500, 3)) * [1, 1e-9, 1]
    assert np.std(x @ whitening(x, 1e-4), axis=0)[1] < 1e-6
    with pytest.raises(DataError, match="do not differ"):
        whitening(np.ones((5, 3)))


@pytest.mark.parametrize("floor", [0.0, -1.0, np.nan, np.inf])
def test_the_floor_is_positive(floor):
    with pytest.raises(DataError, match="positive floor"):
        alone(np.ones((2, 2)), floor)


def test_shapes_must_fit():
    with pytest.raises(DataError, match="do not fit"):
        entropies(np.ones((3, 2)), np.array([0, 2]), np.zeros(3, np.int64), 1.0, np.ones(1))
