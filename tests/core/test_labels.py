import json

import numpy as np
import pytest

from alflow.core import units
from alflow.core.frames import Frames
from alflow.core.labels import Labels, Theory
from alflow.core.rng import task_rng, task_seed
from alflow.errors import DataError

FRAMES = Frames.concat([Frames.single([1] * n, np.zeros((n, 3)), np.eye(3)) for n in (2, 1, 3)])


def labels(stress=True):
    rng = np.random.default_rng(0)
    return Labels(rng.normal(size=3), rng.normal(size=(6, 3)), rng.normal(size=(3, 3, 3)) if stress else None)


@pytest.mark.parametrize("stress", [True, False])
def test_take_and_concat_are_inverse(stress):
    whole = labels(stress)
    again = Labels.concat([whole.take(FRAMES, [i]) for i in range(3)])
    np.testing.assert_array_equal(again.energy, whole.energy)
    np.testing.assert_array_equal(again.forces, whole.forces)
    assert (again.stress is None) == (not stress)
    picked = whole.take(FRAMES, [2, 0])
    np.testing.assert_array_equal(picked.forces, whole.forces[[3, 4, 5, 0, 1]])
    assert len(whole.take(FRAMES, [])) == 0


def test_concat_fills_a_missing_stress_with_nan():
    mixed = Labels.concat([labels().take(FRAMES, [0]), labels(stress=False).take(FRAMES, [1])])
    assert np.isnan(mixed.stress).all(axis=(1, 2)).tolist() == [False, True]
    assert len(Labels.concat([])) == 0


def test_missing_is_nan_of_the_right_shape():
    m = Labels.missing(FRAMES)
    assert (m.energy.shape, m.forces.shape, m.stress.shape) == ((3,), (6, 3), (3, 3, 3))
    assert all(np.isnan(a).all() for a in (m.energy, m.forces, m.stress))
    assert Labels.missing(FRAMES, stress=False).stress is None


@pytest.mark.parametrize(
    ("energy", "forces", "stress"),
    [((3, 1), (6, 3), None), ((3,), (6, 2), None), ((3,), (18,), None), ((3,), (6, 3), (3, 6))],
)
def test_shapes_that_do_not_fit_are_refused(energy, forces, stress):
    with pytest.raises(DataError, match="Labels"):
        Labels(np.zeros(energy), np.zeros(forces), None if stress is None else np.zeros(stress))


def test_fingerprint_is_of_content_not_of_order():
    a = Theory("x", {"a": 1, "b": [1, 2], "c": {"d": 1, "e": None}})
    assert a.fingerprint == Theory("x", {"c": {"e": None, "d": 1}, "b": [1, 2], "a": 1}).fingerprint
    others = [
        Theory("y", a.settings),
        Theory("x", {**a.settings, "a": 2}),
        Theory("x", {**a.settings, "b": [2, 1]}),
        Theory("x"),
    ]
    assert len({t.fingerprint for t in (a, *others)}) == 5
    again = json.loads(json.dumps({"code": a.code, "settings": dict(a.settings)}))
    assert Theory(**again).fingerprint == a.fingerprint
    assert Theory("x", {"b": (1, 2)}).fingerprint == Theory("x", {"b": [1, 2]}).fingerprint
    assert a.fingerprint == "60dc47f557eae0d3"


def test_a_stress_is_a_finite_one_of_a_closed_cell():
    frames = Frames(FRAMES.numbers, FRAMES.positions, FRAMES.cell, FRAMES.pbc.copy(), FRAMES.offsets)
    frames.pbc[1, 2] = False
    some = labels()
    assert some.stress is not None
    some.stress[2, 0, 1] = np.nan
    assert some.has_stress(frames).tolist() == [True, False, False]
    assert not labels(stress=False).has_stress(FRAMES).any()


def test_seeds_depend_on_campaign_and_name_only():
    assert task_seed(1, "a") == task_seed(1, "a")
    assert len({task_seed(s, n) for s in range(20) for n in ("a", "b", "0-sample-00001", "")}) == 80
    assert all(0 <= task_seed(s, "x") < 2**64 for s in range(50))
    np.testing.assert_array_equal(task_rng(3, "t").random(5), task_rng(3, "t").random(5))
    assert task_seed(4, "0-sample-00017") == 12011092089660343034  # runs on disk depend on it


def test_seeds_of_neighbouring_tasks_are_independent():
    draws = np.array([task_rng(0, f"{i}").random(200) for i in range(200)])
    off = np.corrcoef(draws)[np.triu_indices(200, 1)]
    assert np.abs(off).max() < 0.35
    assert draws.mean() == pytest.approx(0.5, abs=0.01)


def test_units_are_codata():
    """Against scipy's own table."""
    from scipy import constants as c

    assert units.HARTREE_eV == pytest.approx(c.value("Hartree energy in eV"), rel=1e-9)
    assert units.RYDBERG_eV == pytest.approx(c.value("Rydberg constant times hc in eV"), rel=1e-9)
    assert pytest.approx(c.value("Bohr radius") * 1e10, rel=1e-9) == units.BOHR_A
    assert units.KB_eV_K == pytest.approx(c.value("Boltzmann constant in eV/K"), rel=1e-9)
    assert units.EV_A3_GPa == pytest.approx(c.e * 1e30 / 1e9, rel=1e-7)
    assert units.U_A3_g_cm3 == pytest.approx(c.atomic_mass * 1e3 / 1e-24, rel=1e-8)
