import json

import numpy as np
import pytest

from alflow.core.frames import Frames
from alflow.core.labels import Labels, Theory
from alflow.errors import InputError, UnphysicalError
from alflow.interfaces import MemberLabels
from alflow.store.dataset import Dataset
from alflow.testing.toy_data import toy_dataset, toy_frames, toy_model
from alflow.testing.uncertainty_contract import Unanimous, UncertaintyContract
from alflow.uncertainty.spread import ENERGY, FORCE_MAX, FORCE_MEAN, Part, outlier_rule


class TestSpreadOfEnergy(UncertaintyContract):
    part = Part()


class TestSpreadOfForces(UncertaintyContract):
    part = Part(energy_meV=None, force_mean_eV_A=0.05, force_max_eV_A="auto")


class TestSpreadOfBoth(UncertaintyContract):
    part = Part(energy_meV=5.0, force_max_eV_A=0.2)


class Said:
    """A model whose members say what they are told to; counts how often it was asked for member forces."""

    cutoff_A = 5.0

    def __init__(self, energy, forces):
        self.energy, self.forces = np.array(energy, float), np.array(forces, float)
        self.n_members, self.asked = len(self.energy), []

    def predict_members(self, frames, *, forces, stress=False):
        self.asked.append(forces)
        mean = Labels(self.energy.mean(axis=0), self.forces.mean(axis=0))
        return MemberLabels(mean, self.energy, self.forces if forces else None)


def two_frames():
    return Frames.concat([toy_frames(1, n_atoms=4), toy_frames(1, n_atoms=1)])


def test_deviations_are_their_formulas(tmp_path):
    rng = np.random.default_rng(0)
    energy, forces = rng.normal(size=(3, 2)), rng.normal(size=(3, 5, 3))
    part = Part(energy_meV=100, force_mean_eV_A=0.5, force_max_eV_A=2)
    model = Said(energy, forces)
    part.calibrate(model, None, tmp_path)
    _, scores = part.load(model, tmp_path).evaluate(two_frames())
    sigma_e = [
        1e3 * np.sqrt(sum((e - energy[:, k].mean()) ** 2 for e in energy[:, k]) / 2) / np.sqrt(n)
        for k, n in enumerate((4, 1))
    ]
    sigma_f = [
        np.sqrt(sum(np.linalg.norm(forces[m, i] - forces[:, i].mean(axis=0)) ** 2 for m in range(3)) / 2)
        for i in range(5)
    ]
    assert scores.detail[ENERGY] == pytest.approx(sigma_e)
    assert scores.per_atom == pytest.approx(sigma_f)
    assert scores.detail[FORCE_MEAN] == pytest.approx([np.mean(sigma_f[:4]), sigma_f[4]])
    assert scores.detail[FORCE_MAX] == pytest.approx([max(sigma_f[:4]), sigma_f[4]])
    want = [
        max(sigma_e[0] / 100, np.mean(sigma_f[:4]) / 0.5, max(sigma_f[:4]) / 2),
        max(sigma_e[1] / 100, sigma_f[4] / 0.5, sigma_f[4] / 2),
    ]
    assert scores.per_frame == pytest.approx(want)


def test_the_outlier_rule_by_hand():
    errors = np.array([1.0, 2, 3, 4, 5, 100])  # quartiles 2.25 and 4.75, so the bound is 8.5
    deviations = np.array([0.1, 0.2, 0.9, 0.3, 0.4, 50])
    assert outlier_rule(errors, deviations) == (pytest.approx(8.5), pytest.approx(0.9))
    errors[2] = np.nan
    assert outlier_rule(errors, deviations)[1] == pytest.approx(0.4)
    assert outlier_rule(np.ones(5), np.arange(5.0)) == (1, 4)  # equal errors: none is an outlier


def test_auto_thresholds_follow_the_rule_on_the_training_set(tmp_path):
    data, model = toy_dataset(25), toy_model(tmp_path / "m", 25)
    part = Part(energy_meV="auto", force_mean_eV_A="auto", force_max_eV_A="auto", scale=2)
    figures = part.calibrate(model, data, tmp_path)
    said = model.predict_members(data.frames, forces=True)
    deviation = 1e3 * said.energy.std(axis=0, ddof=1) / np.sqrt(data.frames.sizes)
    error = 1e3 * np.abs(said.mean.energy - data.labels.energy) / np.sqrt(data.frames.sizes)
    bound, greatest = outlier_rule(error, deviation)
    assert figures["energy_error_bound_meV_sqrt_atom"] == pytest.approx(bound)
    assert figures["energy_threshold_meV_sqrt_atom"] == pytest.approx(2 * greatest)
    miss = np.linalg.norm(said.mean.forces - data.labels.forces, axis=1).reshape(25, -1).max(axis=1)
    sigma = np.sqrt(said.forces.var(axis=0, ddof=1).sum(axis=1)).reshape(25, -1).max(axis=1)
    bound, greatest = outlier_rule(miss, sigma)
    assert figures["force_error_bound_max_eV_A"] == pytest.approx(bound)
    assert figures["force_threshold_max_eV_A"] == pytest.approx(2 * greatest)
    scores = part.load(model, tmp_path).evaluate(data.frames)[1].per_frame
    assert np.quantile(scores, 0.5) < 0.5
    assert json.loads((tmp_path / "spread.json").read_text())[ENERGY] == figures["energy_threshold_meV_sqrt_atom"]


def test_a_scaled_threshold_scales_the_score(tmp_path):
    data, model, frames = toy_dataset(12), toy_model(tmp_path), toy_frames(3, seed=9)
    scores = []
    for scale in (1.0, 2.0):
        Part(scale=scale).calibrate(model, data, tmp_path)
        scores.append(Part(scale=scale).load(model, tmp_path).evaluate(frames)[1].per_frame)
    assert scores[0] == pytest.approx(2 * scores[1])


def test_unknown_ground_scores_above_one(tmp_path):
    data, model = toy_dataset(25), toy_model(tmp_path / "m", 25)
    part = Part()
    part.calibrate(model, data, tmp_path)
    gauge = part.load(model, tmp_path)
    frames = toy_frames(5, seed=8)
    assert (gauge.evaluate(frames.moved(frames.positions * 0.6, frames.cell * 0.6))[1].per_frame > 10).all()


def test_forces_are_asked_for_when_due(tmp_path):
    model = Said(np.random.default_rng(0).normal(size=(3, 2)), np.random.default_rng(1).normal(size=(3, 5, 3)))
    part = Part(energy_meV=1e6, force_max_eV_A=1e-3, forces_every=3)
    part.calibrate(model, None, tmp_path)
    gauge = part.load(model, tmp_path)
    scores = [gauge.evaluate(two_frames())[1] for _ in range(7)]
    assert model.asked == [True, False, False, True, False, False, True]
    assert [bool((s.per_frame > 1).all()) for s in scores] == model.asked
    assert len({tuple(s.detail) for s in scores}) == 1
    assert np.isnan(scores[1].detail[FORCE_MAX]).all()
    energy_only = Part(energy_meV=1)
    energy_only.calibrate(model, None, tmp_path)
    model.asked.clear()
    energy_only.load(model, tmp_path).evaluate(two_frames())
    assert model.asked == [False]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_member_that_is_lost_makes_the_score_nan(tmp_path, value):
    energy, forces = np.random.default_rng(0).normal(size=(3, 2)), np.random.default_rng(1).normal(size=(3, 5, 3))
    for bad_energy, bad_forces in ((True, False), (False, True)):
        e, f = energy.copy(), forces.copy()
        if bad_energy:
            e[1, 0] = value
        if bad_forces:
            f[1, 0] = value
        model = Said(e, f)
        part = Part(energy_meV=1)
        part.calibrate(model, None, tmp_path)
        assert np.isnan(part.load(model, tmp_path).evaluate(two_frames())[1].per_frame).tolist() == [True, False]


def test_one_member_cannot_disagree(tmp_path):
    model = Said(np.zeros((1, 2)), np.zeros((1, 5, 3)))
    with pytest.raises(UnphysicalError, match="at least 2 members"):
        Part(energy_meV=1).calibrate(model, None, tmp_path)
    with pytest.raises(UnphysicalError, match="at least 2 members"):
        Part(energy_meV=1).load(model, tmp_path)


def test_no_threshold_can_be_learnt_from_agreement_or_nothing(tmp_path):
    model, data = toy_model(tmp_path), toy_dataset(5)
    with pytest.raises(UnphysicalError, match="agree on all"):
        Part().calibrate(Unanimous(model), data, tmp_path)
    with pytest.raises(UnphysicalError, match="no training frames"):
        Part().calibrate(model, data.take([]), tmp_path)
    frames = two_frames()
    lost = Said(np.full((3, 2), np.nan), np.full((3, 5, 3), np.nan))
    with pytest.raises(UnphysicalError, match="NaN on every"):
        Part().calibrate(lost, Dataset(frames, Labels(np.zeros(2), np.zeros((5, 3))), Theory("toy")), tmp_path)


def test_a_model_without_members_is_refused(tmp_path):
    with pytest.raises(InputError, match="needs an ensemble"):
        Part().load(object(), tmp_path)


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"energy_meV": None}, "energy_meV"),
        ({"force_max_eV_A": 0.1, "forces_every": 0}, "forces_every"),
        ({"energy_meV": None, "force_max_eV_A": 0.1, "forces_every": 2}, "forces_every"),
    ],
)
def test_fields_that_do_not_fit_together_are_refused(fields, place):
    with pytest.raises(InputError) as caught:
        Part(**fields)
    assert caught.value.where == place
    assert caught.value.hint
