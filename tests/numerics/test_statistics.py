import numpy as np
import pytest

from alflow.core.frames import Frames
from alflow.core.labels import Labels
from alflow.errors import DataError
from alflow.numerics.statistics import atomic_shift, composition, label_errors, mae, rmse


def cells(*numbers):
    return Frames.concat([Frames.single(z, np.zeros((len(z), 3)), np.eye(3)) for z in numbers])


def test_composition_counts_in_the_order_asked_for():
    frames = cells([13, 29, 13], [29])
    assert composition(frames, [29, 13]).tolist() == [[1, 2], [1, 0]]
    with pytest.raises(DataError, match=r"\[29\]"):
        composition(frames, [13])


def test_shifts_are_found_exactly():
    frames = cells([13], [13, 29], [13, 13, 29], [29, 29])
    energy = composition(frames, [13, 29]) @ np.array([-3.0, -5.0])
    np.testing.assert_allclose(atomic_shift(frames, energy, [13, 29]), [-3, -5], atol=1e-12)


def test_one_composition_and_absent_elements_do_not_blow_up():
    frames = cells([13, 29], [13, 29, 13, 29])
    shift = atomic_shift(frames, np.array([-8.0, -16.0]), [13, 29, 47])
    np.testing.assert_allclose(shift, [-4, -4, -4], atol=1e-12)
    assert atomic_shift(cells([13]), np.array([-7.0]), [13]) == pytest.approx([-7.0])


def test_errors_are_named_with_their_units():
    frames = cells([13, 13], [13])
    want = Labels(np.zeros(2), np.zeros((3, 3)), np.zeros((2, 3, 3)))
    got = Labels(np.array([0.002, 0.003]), np.full((3, 3), 0.01), np.full((2, 3, 3), 0.01))
    errors = label_errors(frames, got, want)
    assert errors["energy_rmse_meV_atom"] == pytest.approx(np.sqrt((1 + 9) / 2))
    assert errors["energy_mae_meV_atom"] == pytest.approx(2)
    assert errors["force_rmse_meV_A"] == errors["force_max_meV_A"] == pytest.approx(10)
    assert errors["stress_rmse_GPa"] == pytest.approx(1.6021766208)
    assert "stress_rmse_GPa" not in label_errors(frames, got, Labels(want.energy, want.forces))


def test_figures_of_nothing_are_nan():
    assert np.isnan(rmse(np.zeros(0)))
    assert np.isnan(mae(np.zeros(0)))
