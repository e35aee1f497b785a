import json

import numpy as np
import pytest

from alflow.core.frames import Frames
from alflow.core.labels import Labels
from alflow.core.units import EV_A3_GPa
from alflow.errors import DataError
from alflow.science.crystals import crystals
from alflow.science.errors import compare

rng = np.random.default_rng(5)


def frames_of(*sizes):
    return Frames.concat([crystals("sc", 13, 16.0, min_atoms=n) for n in sizes])


def labels_of(frames):
    n = len(frames)
    return Labels(rng.normal(size=n), rng.normal(size=(frames.n_atoms, 3)), rng.normal(size=(n, 3, 3)))


def test_known_errors():
    frames = frames_of(1, 2, 4)
    reference = labels_of(frames)
    shift = np.array([0.010, 0.020, -0.020])  # eV/atom
    predicted = Labels(
        reference.energy + shift * frames.sizes, reference.forces + 0.05, reference.stress + 1 / EV_A3_GPa
    )
    e = compare(frames, predicted, reference)
    assert (e.n_frames, e.n_no_reference, e.n_no_prediction) == (3, 0, 0)
    assert e.energy_rmse_meV_atom == pytest.approx(np.sqrt((100 + 400 + 400) / 3))
    assert e.energy_mae_meV_atom == pytest.approx(50 / 3)
    assert e.energy_bias_meV_atom == pytest.approx(10 / 3)
    assert e.energy_shifted_rmse_meV_atom == pytest.approx(1e3 * shift.std())
    assert e.energy_shifted_mae_meV_atom == pytest.approx(1e3 * np.abs(shift - shift.mean()).mean())
    assert e.force_rmse_meV_A == pytest.approx(50)
    assert e.force_mae_meV_A == pytest.approx(50)
    assert e.force_norm_meV_A == pytest.approx(1e3 * np.sqrt((reference.forces**2).mean()))
    assert e.stress_rmse_GPa == pytest.approx(1)
    assert e.stress_mae_GPa == pytest.approx(1)


def test_missing_labels_are_left_out_and_counted_on_the_side_that_lacks_them():
    frames = frames_of(1, 2, 4, 8)
    reference, predicted = labels_of(frames), labels_of(frames)
    whole = compare(frames.take([0]), predicted.take(frames, [0]), reference.take(frames, [0]))
    reference.energy[1] = np.nan
    reference.forces[frames.offsets[2]] = np.nan
    predicted.forces[-1, 2] = np.inf
    e = compare(frames, predicted, reference)
    assert (e.n_frames, e.n_no_reference, e.n_no_prediction) == (1, 2, 1)
    assert e.energy_rmse_meV_atom == pytest.approx(whole.energy_rmse_meV_atom)
    assert e.force_rmse_meV_A == pytest.approx(whole.force_rmse_meV_A)


def test_stress_is_compared_where_both_have_it():
    frames = frames_of(1, 1)
    reference, predicted = labels_of(frames), labels_of(frames)
    reference.stress[0] = np.nan
    expected = np.sqrt(((predicted.stress[1] - reference.stress[1]) ** 2).mean()) * EV_A3_GPa
    assert compare(frames, predicted, reference).stress_rmse_GPa == pytest.approx(expected)
    assert np.isnan(compare(frames, Labels(predicted.energy, predicted.forces), reference).stress_rmse_GPa)


def test_nothing_to_compare_is_json_without_nan():
    frames = frames_of(2)
    report = compare(frames, labels_of(frames), Labels.missing(frames)).to_json()
    assert report["n_frames"] == 0
    assert report["energy_rmse_meV_atom"] is None
    json.dumps(report, allow_nan=False)


def test_labels_of_other_frames_are_refused():
    frames = frames_of(1, 2)
    with pytest.raises(DataError, match="predicted has 1 energies and 1 forces, expected 2 and 3"):
        compare(frames, labels_of(frames_of(1)), labels_of(frames))
