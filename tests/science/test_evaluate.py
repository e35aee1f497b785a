import json

import numpy as np
import pytest

from alflow.core.frames import Frames
from alflow.core.labels import Labels
from alflow.errors import InputError, UnphysicalError
from alflow.science.evaluate import EvaluateSettings, evaluate, in_batches
from alflow.testing.morse import CUTOFF_A, morse_dataset, morse_labels
from alflow.validation import validate

SCALE = 1.02


class ScaledMorse:
    """A model with a known error: every energy, force and stress is 2 % too large."""

    cutoff_A = CUTOFF_A

    def predict(self, frames, *, stress=True):
        labels = morse_labels(frames)
        return Labels(SCALE * labels.energy, SCALE * labels.forces, SCALE * labels.stress if stress else None)


class Disorder:
    """A builder of small disordered cells."""

    def check(self):
        pass

    def elements(self):
        return frozenset({"Al"})

    def build(self, count, rng, source=None):
        return morse_dataset(count, int(rng.integers(2**31))).frames


class Nothing(Disorder):
    def build(self, count, rng, source=None):
        raise UnphysicalError("density out of reach")


class Reference:
    """Morse labels; counts what it is asked, and fails every `fail`-th frame of the first batch."""

    def __init__(self, fail=0):
        self.asked, self.fail, self.batches = 0, fail, 0

    def __call__(self, frames: Frames) -> Labels:
        labels = morse_labels(frames)
        if self.fail and not self.batches:
            labels.energy[:: self.fail] = np.nan
            labels.forces[np.isin(frames.frame_of_atom, np.arange(len(frames))[:: self.fail])] = np.nan
        self.asked, self.batches = self.asked + len(frames), self.batches + 1
        return labels


SMALL = {"fresh": 6, "points": 9, "rattled": 2, "rattled_min_atoms": 4, "volumes_A3_per_atom": (12.0, 24.0)}


def run(reference, builder=None, model=None, **changes):
    settings = EvaluateSettings(**{**SMALL, **changes})
    result = evaluate(
        model or ScaledMorse(), reference, builder or Disorder(), settings, np.random.default_rng(1), ["Al"]
    )
    json.dumps(result, allow_nan=False)
    return settings, result


@pytest.fixture(scope="module")
def judged():
    reference = Reference()
    settings, result = run(reference, crystals=("fcc", "hcp", "bcc", "sc"))
    return reference, settings, result


def test_cost_is_what_is_asked(judged):
    reference, settings, result = judged
    assert reference.asked == settings.cost() == result["reference_frames"] == 6 + 4 * (9 + 2) + 4
    assert result["reference_failed"] == 0


def test_errors_are_those_of_the_model(judged):
    result = judged[2]
    pairs = np.array(result["parity"]["fresh"]["energy_eV_atom"])
    np.testing.assert_allclose(pairs[:, 1], SCALE * pairs[:, 0], rtol=1e-5)
    assert result["fresh"]["n_frames"] == 6
    assert result["fresh"]["energy_rmse_meV_atom"] == pytest.approx(
        1e3 * (SCALE - 1) * np.sqrt((pairs[:, 0] ** 2).mean()), rel=1e-4
    )
    for part in ("fresh", "rattled"):
        assert result[part]["force_rmse_meV_A"] == pytest.approx((SCALE - 1) * result[part]["force_norm_meV_A"])
    assert result["rattled"]["n_frames"] == 8
    assert {k: v["n_frames"] for k, v in result["rattled_by_crystal"].items()} == dict.fromkeys(
        ("fcc", "hcp", "bcc", "sc"), 2
    )


def test_crystals_come_with_both_sides(judged):
    al = judged[2]["elements"]["Al"]
    assert al["order"]["model"] == al["order"]["reference"]
    assert al["order"]["reference"][0] in {"fcc", "hcp"}
    assert set(al["order"]["reference"]) == {"fcc", "hcp", "bcc"}
    for name, curve in al["curves"].items():
        ours, theirs = curve["model"], curve["reference"]
        np.testing.assert_allclose(curve["model_eV_atom"], SCALE * np.array(curve["reference_eV_atom"]))
        if name == "sc":
            assert ours == theirs
            assert "upper end of the range, 24.0" in theirs["problem"]
            continue
        assert ours["a0_A"] == pytest.approx(theirs["a0_A"], rel=1e-6)
        assert ours["B_GPa"] == pytest.approx(SCALE * theirs["B_GPa"], rel=1e-6)
        assert ours["above_meV_atom"] == pytest.approx(SCALE * theirs["above_meV_atom"], abs=1e-6)


def test_elastic_constants_of_both(judged):
    al = judged[2]["elements"]["Al"]
    elastic, minimum = al["elastic"], al["curves"][al["elastic"]["crystal"]]["reference"]
    for key, value in elastic["reference"].items():
        assert elastic["model"][key] == pytest.approx(SCALE * value, rel=1e-4)
    assert elastic["reference"]["B_GPa"] == pytest.approx(minimum["B_GPa"], rel=0.03)  # a coarse curve
    # central pair forces at zero pressure: the Cauchy relation
    assert elastic["reference"]["C12_GPa"] == pytest.approx(elastic["reference"]["C44_GPa"], rel=0.03)


def test_failed_reference_frames_are_counted_and_left_out():
    _, result = run(Reference(fail=3), crystals=("fcc",), rattled=0, elastic=False)
    assert result["reference_failed"] == 2
    assert (result["fresh"]["n_frames"], result["fresh"]["n_no_reference"]) == (4, 2)
    assert len(result["parity"]["fresh"]["energy_eV_atom"]) == 4


def test_a_reference_that_always_fails_still_gives_a_report():
    _, result = run(lambda f: Labels.missing(f), crystals=("fcc", "bcc"))
    al = result["elements"]["Al"]
    assert al["order"]["reference"] == []
    assert "only 0 of 9" in al["curves"]["fcc"]["reference"]["problem"]
    assert "no cubic crystal" in al["elastic"]["problem"]
    assert al["curves"]["fcc"]["model"]["a0_A"] > 3


def test_a_model_of_nan_is_reported_as_such():
    class Broken(ScaledMorse):
        def predict(self, frames, *, stress=True):
            return Labels.missing(frames)

    _, result = run(Reference(), model=Broken(), crystals=("fcc",))
    assert result["fresh"]["n_no_prediction"] == 6
    assert result["elements"]["Al"]["elastic"]["model"]["problem"].startswith("only 0 of 9")
    assert result["elements"]["Al"]["elastic"]["reference"]["C11_GPa"] > 0


def test_a_builder_that_cannot_build_is_a_finding():
    _, result = run(Reference(), builder=Nothing(), crystals=("fcc",), rattled=0)
    assert "density out of reach" in result["fresh"]["problem"]
    assert result["elements"]["Al"]["order"]["model"] == ["fcc"]


def test_no_elastic_constants_without_stress():
    _, result = run(lambda f: Labels(morse_labels(f).energy, morse_labels(f).forces), crystals=("fcc",), rattled=0)
    assert result["elements"]["Al"]["elastic"]["reference"] == {"problem": "the strained crystals have no stress"}


def test_range_of_volumes_comes_from_the_fresh_cells():
    _, result = run(Reference(), crystals=("sc",), volumes_A3_per_atom=None, elastic=False, rattled=0)
    grid = result["elements"]["Al"]["curves"]["sc"]["volume_A3_atom"]
    assert grid[0] <= 0.8 * 18 * 1.1
    assert grid[-1] / grid[0] > 1.6


def test_gamma_only_references_get_large_cells():
    sizes = []

    def reference(frames):
        sizes.extend(frames.sizes.tolist())
        return morse_labels(frames)

    run(reference, fresh=0, crystals=("fcc",), min_atoms=8, rattled=1)
    assert min(sizes) == 8


def test_diamond_costs_no_more_than_announced():
    reference = Reference()
    settings, result = run(reference, fresh=0, crystals=("diamond",), volumes_A3_per_atom=(20.0, 48.0), rattled=1)
    assert reference.asked <= settings.cost()
    if "problem" not in result["elements"]["Al"]["elastic"]:
        assert reference.asked == settings.cost()


def test_batches_hold_what_fits():
    frames = morse_dataset(6, 0).frames
    seen = []

    def spy(part):
        seen.append(part.n_atoms)
        return morse_labels(part)

    whole = in_batches(spy, frames, 15)
    assert max(seen) <= 15
    assert len(seen) > 1
    np.testing.assert_allclose(whole.energy, morse_labels(frames).energy)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"crystals": ["fcc", "fc"]}, r"evaluate.crystals\[1\].*fcc"),
        ({"points": 4}, "evaluate.points"),
        ({"fresh": 0}, "evaluate.volumes_A3_per_atom"),
        ({"volumes_A3_per_atom": [20, 10]}, "evaluate.volumes_A3_per_atom"),
        ({"crystals": ["fcc", "fcc"]}, "evaluate.crystals: one is given twice"),
        ({"elements": ["Xx"]}, "evaluate.elements: no element 'Xx'"),
        ({"freshh": 1}, "evaluate.freshh"),
    ],
)
def test_settings_refuse_what_cannot_work(bad, words):
    with pytest.raises(InputError, match=words):
        validate(EvaluateSettings, bad, "evaluate")


def test_settings_come_from_yaml_values():
    made = validate(EvaluateSettings, {"fresh": 4, "crystals": ["bcc", "fcc"], "min_atoms": 20}, "evaluate")
    assert made.crystals == ("bcc", "fcc")
    assert made.cost(2) == 4 + 2 * (2 * (25 + 6) + 4)
