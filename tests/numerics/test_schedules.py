import numpy as np
import pytest

from alflow.errors import DataError
from alflow.numerics.schedules import StrainRanges, StrainSchedule, TemperatureRanges, TemperatureSchedule


def generators(n, seed=0):
    return [np.random.default_rng([seed, i]) for i in range(n)]


def test_equation_2_by_hand():
    s = TemperatureSchedule(np.array([300.0]), np.array([100.0]), np.array([1000.0]), np.array([20.0]), 250.0)
    assert s.at(0)[0] == 300
    assert s.at(10)[0] == pytest.approx(300 - 200 * 10 / 250 + 1000)  # half a period: the crest
    assert s.at(20)[0] == pytest.approx(300 - 200 * 20 / 250)  # a whole one: back on the ramp
    assert s.at(5)[0] == pytest.approx(300 - 200 * 5 / 250 + 500)
    assert s.at(250)[0] == pytest.approx(100 + 1000 * np.sin(np.pi * 12.5) ** 2)


def test_draws_fill_the_papers_ranges_and_nothing_else():
    s = TemperatureSchedule.draw(generators(4000), TemperatureRanges(), 250)
    for values, low, high in (
        (s.start_K, 10, 1000),
        (s.end_K, 10, 600),
        (s.mod_K, 0, 2000),
        (s.period_ps, 10, 50),
    ):
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < values.max() <= high
        assert values.mean() == pytest.approx((low + high) / 2, abs=4 * (high - low) / np.sqrt(12 * 4000))
    both = np.corrcoef([s.start_K, s.end_K, s.mod_K, s.period_ps])
    assert np.abs(both - np.eye(4)).max() < 0.07


def test_a_schedule_depends_on_its_own_seed_only():
    many = TemperatureSchedule.draw(generators(5), TemperatureRanges(), 250)
    one = TemperatureSchedule.draw(generators(5)[3:4], TemperatureRanges(), 250)
    assert one.at(33.0)[0] == many.at(33.0)[3]
    ranges = StrainRanges((-0.1, 0.2), 0.1)
    assert np.array_equal(
        StrainSchedule.draw(generators(5), ranges).at(7.0)[3],
        StrainSchedule.draw(generators(5)[3:4], ranges).at(7.0)[0],
    )


def test_each_trajectory_may_have_its_own_time():
    s = TemperatureSchedule.draw(generators(3), TemperatureRanges(), 250)
    assert s.at([1.0, 2.0, 3.0])[1] == s.at(2.0)[1]


def test_a_constant_schedule():
    assert np.array_equal(TemperatureSchedule.constant(3, 900).at(12.3), np.full(3, 900.0))


@pytest.mark.parametrize(("low", "high", "shear"), [(-0.2, 0.3, 0.15), (0, 0, 0.3), (-0.5, 0, 0), (0, 2, 1)])
def test_strain_never_leaves_its_bounds(low, high, shear):
    s = StrainSchedule.draw(generators(200), StrainRanges((low, high), shear, (5, 20)))
    volumes, shears = [], []
    for t in np.linspace(0, 40, 161):
        F = s.at(t)
        J = np.linalg.det(F)
        stretch = np.linalg.eigvalsh(F)
        assert (stretch > 0).all()
        volumes.append(J - 1)
        shears.append(np.abs(np.log(stretch / np.cbrt(J)[:, None])).max(axis=1))
        assert np.abs(F - F.swapaxes(1, 2)).max() < 1e-14
    eps = 1e-12
    assert low - eps <= np.min(volumes) <= low * 0.9 + eps
    assert high * 0.9 - eps <= np.max(volumes) <= high + eps
    assert shear * 0.9 - eps <= np.max(shears) <= shear + eps


def test_strain_starts_smoothly_from_nothing():
    s = StrainSchedule.draw(generators(20), StrainRanges((-0.3, 0.3), 0.2, (10, 50)))
    assert np.abs(s.at(0.0) - np.eye(3)).max() < 1e-15
    rate = (s.at(1e-3) - s.at(0)) / 1e-3
    assert np.abs(rate).max() < 1e-4
    times = np.linspace(0, 60, 6001)
    speed = np.abs(np.diff([s.at(t) for t in times], axis=0)) / (times[1] - times[0])
    assert speed.max() < 0.3 * np.pi / 10 * 1.5  # no jump anywhere: the fastest possible sin² of these heights


def test_shear_has_no_preferred_direction():
    s = StrainSchedule.draw(generators(6000), StrainRanges((0, 0), 1.0))
    variance = (s.shape**2).mean(axis=0)
    diagonal, off = np.diag(variance).mean(), variance[np.triu_indices(3, 1)].mean()
    # isotropic traceless symmetric tensors have <S_xx²> = 4/3 <S_xy²>
    assert diagonal / off == pytest.approx(4 / 3, rel=0.05)
    assert np.abs(s.shape.mean(axis=0)).max() < 0.03


@pytest.mark.parametrize(
    "ranges",
    [StrainRanges((0.1, 0.2)), StrainRanges((-1.0, 0.0)), StrainRanges(shear=-0.1), StrainRanges(period_ps=(0, 1))],
)
def test_impossible_strains_are_refused(ranges):
    with pytest.raises(DataError, match="expected"):
        StrainSchedule.draw(generators(1), ranges)


@pytest.mark.parametrize(
    ("ranges", "length"),
    [
        (TemperatureRanges(start_K=(5, 1)), 1),
        (TemperatureRanges(mod_K=(-1, 1)), 1),
        (TemperatureRanges(period_ps=(0, 1)), 1),
        (TemperatureRanges(), 0),
    ],
)
def test_impossible_temperatures_are_refused(ranges, length):
    with pytest.raises(DataError, match="expected"):
        TemperatureSchedule.draw(generators(1), ranges, length)
