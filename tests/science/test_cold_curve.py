import numpy as np
import pytest

from alflow.core.frames import Frames
from alflow.core.labels import Labels
from alflow.core.units import EV_A3_GPa
from alflow.science.cold_curve import cold_curve, cold_curves, find_minimum, order, volume_grid

V0, E0, B0, B1 = 16.5, -3.4, 80.0, 4.6


def birch_murnaghan(V):
    """Third order, written in the usual way with the Eulerian strain, not as the code fits it."""
    x = (V0 / V) ** (2 / 3)
    return E0 + 9 * V0 * (B0 / EV_A3_GPa) / 16 * ((x - 1) ** 3 * B1 + (x - 1) ** 2 * (6 - 4 * x))


@pytest.mark.parametrize("points", [7, 12, 25])
def test_recovers_an_equation_of_state(points):
    V = volume_grid(11, 25, points)
    found = find_minimum(V, birch_murnaghan(V))
    assert found == pytest.approx((V0, E0, B0), rel=1e-7)


def test_noise_and_gaps_leave_the_minimum_in_place():
    V = volume_grid(11, 25, 25)
    E = birch_murnaghan(V) + 1e-5 * np.random.default_rng(0).normal(size=25)
    E[[4, 13]] = np.nan
    found = find_minimum(V, E)
    assert found == pytest.approx((V0, E0, B0), rel=0.02)


@pytest.mark.parametrize(
    ("low", "high", "words"), [(17, 25, "falling at the lower end"), (11, 16, "falling at the upper end")]
)
def test_says_when_the_range_misses_the_minimum(low, high, words):
    V = volume_grid(low, high, 15)
    curve = cold_curve("fcc", V, birch_murnaghan(V))
    assert curve.minimum is None
    assert words in curve.problem


def test_says_when_too_little_is_known():
    V = volume_grid(11, 25, 15)
    E = np.where(np.arange(15) < 4, birch_murnaghan(V), np.nan)
    assert "only 4 of 15" in cold_curve("fcc", V, E).problem
    assert "only 0 of 15" in cold_curve("fcc", V, np.full(15, np.nan)).problem


def test_all_crystals_in_one_evaluation_with_a0_of_each():
    calls = []

    def evaluate(frames: Frames) -> Labels:
        calls.append(len(frames))
        per_atom = birch_murnaghan(frames.volumes / frames.sizes) + 0.01 * frames.sizes
        return Labels(per_atom * frames.sizes, np.zeros((frames.n_atoms, 3)))

    curves = cold_curves(evaluate, ("hcp", "fcc", "diamond"), 13, volume_grid(11, 25, 15))
    assert calls == [45]
    assert order(curves)[0] == "fcc"  # one atom; the others have two
    a0 = {name: c.minimum.a0_A for name, c in curves.items()}
    assert a0["fcc"] == pytest.approx((4 * V0) ** (1 / 3))
    assert a0["diamond"] == pytest.approx((8 * V0) ** (1 / 3))
    assert a0["hcp"] == pytest.approx((2**0.5 * V0) ** (1 / 3))  # V = a^3/sqrt(2) at ideal c/a, as in fcc


def test_eam_aluminium(eam):
    curves = cold_curves(eam, ("fcc", "hcp", "bcc"), 13, volume_grid(14, 20, 13))
    assert order(curves) == ("fcc", "hcp", "bcc")
    fcc = curves["fcc"].minimum
    assert fcc.a0_A == pytest.approx(4.0453, abs=2e-4)
    assert fcc.E0_eV_atom == pytest.approx(-3.4107, abs=1e-4)
    assert fcc.B_GPa == pytest.approx(79.3, rel=0.03)
