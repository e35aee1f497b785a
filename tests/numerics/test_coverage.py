import numpy as np
import pytest

from alflow.errors import DataError
from alflow.numerics.coverage import Frame, Histogram, Moments, Sample, broader, narrower


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def cloud(rows):
    return Moments.of(np.asarray(rows, float))


def chunked(rows, size):
    found = Moments.none(rows.shape[1])
    for i in range(0, len(rows), size):
        found = found.merged(Moments.of(rows[i : i + size]))
    return found


@pytest.mark.parametrize("size", [1, 7, 100, 1000])
def test_moments_are_those_of_all_rows_however_they_come(rng, size):
    rows = rng.normal(size=(500, 6)) @ rng.normal(size=(6, 6)) + 1e4
    found = chunked(rows, size)
    assert found.count == 500
    np.testing.assert_allclose(found.mean, rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.factor.T @ found.factor / 500, np.cov(rows.T, ddof=0), rtol=1e-8)
    np.testing.assert_allclose(found.std, rows.std(axis=0), rtol=1e-9)
    assert np.array_equal(found.low, rows.min(axis=0))
    assert np.array_equal(found.high, rows.max(axis=0))


def test_whitening_is_the_inverse_root_of_the_covariance(rng):
    rows = rng.normal(size=(2000, 5)) @ rng.normal(size=(5, 5)) + 3
    frame = Frame.of(cloud(rows))
    values, vectors = np.linalg.eigh(np.cov(rows.T, ddof=0))
    np.testing.assert_allclose(frame.whiten, (vectors / np.sqrt(values)) @ vectors.T, rtol=1e-8, atol=1e-10)
    white = (rows - frame.mean) @ frame.whiten
    np.testing.assert_allclose(np.cov(white.T, ddof=0), np.eye(5), atol=1e-10)
    own = frame.breadth(cloud(rows))
    np.testing.assert_allclose([*own.dimensions, *own.principal], 1, atol=1e-9)
    assert own.distance == pytest.approx(1)
    assert (broader(own.dimensions), narrower(own.dimensions), own.unbounded) == (0, 0, 0)


def test_breadths_are_the_variances_of_the_whitened_rows(rng):
    b = rng.normal(size=(3000, 4)) @ rng.normal(size=(4, 4))
    a = rng.normal(size=(800, 4)) @ rng.normal(size=(4, 4)) + 2
    frame = Frame.of(cloud(b))
    found = frame.breadth(cloud(a))
    white = (a - b.mean(axis=0)) @ frame.whiten
    np.testing.assert_allclose(found.dimensions, white.var(axis=0), rtol=1e-9)
    np.testing.assert_allclose(found.principal, np.linalg.eigvalsh(np.cov(white.T, ddof=0))[::-1], rtol=1e-9)
    assert found.distance == pytest.approx(np.sqrt((white**2).sum(axis=1).mean() / 4))


def test_counts_by_hand(rng):
    """A cloud that is the other one stretched along the axes: the factors are known."""
    b = rng.normal(size=(5000, 5))
    b = (b - b.mean(axis=0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(b.T, ddof=0))).T * [1, 2, 3, 4, 5]
    stretch = np.array([0.8, 1.0, 1.5, 2.5, 6.0])
    found = Frame.of(cloud(b)).breadth(cloud(b * stretch + 7))
    np.testing.assert_allclose(found.dimensions, stretch**2, rtol=1e-8)
    np.testing.assert_allclose(found.principal, sorted(stretch**2)[::-1], rtol=1e-8)
    assert broader(found.dimensions) == 3
    assert narrower(found.dimensions) == 1
    assert broader(found.dimensions, 5) == 2  # in variance
    assert broader(found.dimensions, 25) == 1  # in deviation


def test_narrow_directions_keep_their_digits(rng):
    """Widths of 1e3 to 1e-6: their squares would be lost beside each other in a covariance."""
    turn = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    width = np.logspace(3, -6, 8)
    b, a = (rng.normal(size=(4000, 8)) * width * s @ turn for s in (1.0, 3.0))
    found = Frame.of(chunked(b, 100)).breadth(chunked(a, 100))
    assert len(found.principal) == 8
    np.testing.assert_allclose(found.principal, 9, rtol=0.25)


def test_what_the_other_does_not_vary_in_is_no_dimension_but_counted(rng):
    free = rng.normal(size=(400, 3))
    b = np.column_stack([free, np.full(400, 7.0), free[:, 0] - 2 * free[:, 1]])  # a constant, and a combination
    a = b + 0.5 * rng.normal(size=b.shape)
    frame = Frame.of(cloud(b))
    assert frame.inside.tolist() == [True, True, True, False, True]
    found = frame.breadth(cloud(a))
    assert (len(found.dimensions), len(found.principal), found.unbounded) == (4, 3, 2)
    assert np.isfinite(found.dimensions).all()
    back = Frame.of(cloud(a)).breadth(cloud(b))
    assert (len(back.dimensions), len(back.principal), back.unbounded) == (5, 5, 0)
    assert back.principal[-1] == pytest.approx(0, abs=1e-12)
    assert frame.breadth(cloud(b)).unbounded == 0


def test_fewer_rows_than_columns(rng):
    b, a = rng.normal(size=(4, 9)), rng.normal(size=(50, 9))
    found = Frame.of(cloud(b)).breadth(cloud(a))
    assert len(found.principal) == 3
    assert found.unbounded == 6
    one = Frame.of(cloud(a)).breadth(cloud(b[:1]))
    assert one.principal == pytest.approx(0)
    assert one.distance > 0


@pytest.mark.parametrize("rows", [np.zeros((0, 3)), np.ones((5, 3)), np.zeros((4, 3)), np.full((3000, 3), 0.1)])
def test_a_cloud_without_width_has_no_frame(rows):
    for found in (cloud(rows), chunked(rows, 2)):
        with pytest.raises(DataError, match="no frame to compare in"):
            Frame.of(found)


@pytest.mark.parametrize("size", [1, 10, 5000])
def test_a_histogram_counts_everything_wherever_it_lies(rng, size):
    values = np.concatenate([rng.normal(size=3000), 40 + 0.1 * rng.normal(size=1000), [-300, 1e4, 0, 0]])
    rng.shuffle(values)
    found = Histogram()
    for i in range(0, len(values), size):
        found.add(values[i : i + size])
    assert found.counts.sum() == len(values)
    edges, density = found.density(64)
    assert len(density) <= 64
    assert (density * np.diff(edges)).sum() == pytest.approx(1)
    assert edges[0] <= -300 < edges[0] + 2 * np.diff(edges)[0]
    assert edges[-1] >= 1e4
    want = np.histogram(values, edges)[0]
    np.testing.assert_allclose(density * np.diff(edges) * len(values), want, atol=2)  # a value on an edge


def test_a_histogram_of_one_value_or_none():
    found = Histogram()
    assert len(found.density()[1]) == 0
    found.add(np.zeros(0))
    found.add(np.full(7, 3.0))
    found.add(np.full(2, 3.0))
    edges, density = found.density()
    assert found.counts.sum() == 9
    assert edges[0] <= 3 <= edges[-1]
    assert (density * np.diff(edges)).sum() == pytest.approx(1)
    zero = Histogram()
    zero.add(np.zeros(4))
    zero.add(np.ones(1))
    assert zero.counts.sum() == 5


def test_a_sample_is_fair():
    rows = np.arange(1000.0)[:, None]
    count = np.zeros(1000)
    for seed in range(300):
        sample = Sample(50, 1, np.random.default_rng(seed))
        for i in range(0, 1000, 37):
            sample.add(rows[i : i + 37])
        assert sample.rows.shape == (50, 1)
        count[sample.rows[:, 0].astype(int)] += 1
    assert count.sum() == 300 * 50
    assert count.reshape(10, 100).sum(axis=1) == pytest.approx(1500, abs=5 * np.sqrt(1500))
    few = Sample(50, 1, np.random.default_rng(0))
    few.add(rows[:3])
    assert few.rows.tolist() == rows[:3].tolist()
