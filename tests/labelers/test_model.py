import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from alflow.core.frames import Frames
from alflow.core.labels import Cause, Labels
from alflow.errors import InputError, ResourceError
from alflow.interfaces import Limits
from alflow.labelers import model as module
from alflow.labelers.model import Part
from alflow.registry import make, save_manifest
from alflow.store.dataset import Dataset
from alflow.testing.labeler_contract import LabelerContract
from alflow.testing.toys import ToyLabeler


def cells(seed, n_frames=4, edge=7.0):
    rng = np.random.default_rng(seed)
    grid = np.array(list(np.ndindex(2, 2, 2))) / 2
    parts = []
    for i in range(n_frames):
        cell = np.eye(3) * edge + rng.normal(size=(3, 3)) * 0.3
        parts.append(
            Frames.single([13] * (8 - i % 3), (grid @ cell + rng.normal(size=(8, 3)) * 0.2)[: 8 - i % 3], cell)
        )
    return Frames.concat(parts)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    frames, labeler = cells(0, 12), ToyLabeler()
    labels, verdicts = labeler.label(frames, None, folder / "labels")
    assert all(v.ok for v in verdicts)
    toy = make("potentials", {"kind": "toy"}, "potential")
    report = toy.fit(Dataset(frames, labels, labeler.theory(None)), range(toy.members), 1, folder)
    save_manifest(folder / "model.json", "toy", {}, [folder / f for f in report.files], ["Al"])
    return folder


class TestModel(LabelerContract):
    frames = cells(5)
    step_A = 1e-4

    @pytest.fixture(autouse=True)
    def _part(self, saved, tmp_path_factory):
        type(self).part = Part(path=saved / "model.json", max_atoms=16)
        other = tmp_path_factory.mktemp("other")
        shutil.copytree(saved, other, dirs_exist_ok=True)
        for file in json.loads((other / "model.json").read_text())["files"]:
            with (other / file).open("a") as f:
                f.write("\n")
        type(self).others = (Part(path=other),)


def test_a_folder_stands_for_its_manifest_wherever_it_lies(saved, tmp_path):
    moved = shutil.copytree(saved, tmp_path / "moved")
    prints = {Part(path=p).theory(None).fingerprint for p in (saved, saved / "model.json", moved)}
    assert len(prints) == 1


def test_batches_of_any_size_give_the_same(saved):
    frames = cells(9, 9)
    whole, _ = Part(path=saved, max_atoms=10_000)._label(frames)
    for most in (1, 9, 20):
        part, _ = Part(path=saved, max_atoms=most)._label(frames)
        np.testing.assert_allclose(part.energy, whole.energy, rtol=1e-12)
        np.testing.assert_allclose(part.forces, whole.forces, atol=1e-12)


class Stub:
    """A model that gives NaN for its second frame and a huge force for its third."""

    cutoff_A = 5.0

    def predict(self, frames, *, stress=True):
        labels = Labels(np.ones(len(frames)), np.zeros((frames.n_atoms, 3)), np.zeros((len(frames), 3, 3)))
        labels.energy[1] = np.nan
        labels.forces[frames.offsets[2], 0] = -1e6
        return labels


def test_nan_and_absurd_predictions_are_verdicts(saved, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "_loaded", lambda *_: Stub())
    frames = cells(1)
    labels, verdicts = Part(path=saved).label(frames, None, tmp_path)
    assert [v.ok for v in verdicts] == [True, False, False, True]
    assert [v.cause for v in verdicts[1:3]] == [Cause.VALUE] * 2
    assert "NaN" in verdicts[1].reason
    assert "1e+06 eV/Å" in verdicts[2].reason
    bad = np.array([False, True, True, False])
    np.testing.assert_array_equal(np.isnan(labels.energy), bad)
    np.testing.assert_array_equal(np.isnan(labels.forces).all(axis=1), bad[frames.frame_of_atom])
    np.testing.assert_array_equal(np.isnan(labels.stress).all(axis=(1, 2)), bad)


def test_frames_the_model_cannot_take_are_verdicts(saved, tmp_path):
    good = cells(3, 2)
    strange = Frames.single([13, 29, 26], np.eye(3) * 3, np.eye(3) * 9)
    torn = good[0].moved(np.where(np.arange(good[0].n_atoms)[:, None] == 2, np.nan, good[0].positions))
    frames = Frames.concat([good[0], strange, torn, good[1]])
    labels, verdicts = Part(path=saved).label(frames, None, tmp_path)
    assert [v.cause for v in verdicts] == [None, Cause.STRUCTURE, Cause.STRUCTURE, None]
    assert verdicts[1].reason == "the model does not know Cu, Fe"
    want, _ = Part(path=saved)._label(good)
    np.testing.assert_allclose(labels.energy, [want.energy[0], np.nan, np.nan, want.energy[1]], rtol=1e-12)
    bad = np.isin(frames.frame_of_atom, [1, 2])
    np.testing.assert_allclose(labels.forces[~bad], want.forces, atol=1e-12)
    assert np.isnan(labels.forces[bad]).all()
    assert np.isnan(labels.stress[1:3]).all()


def test_halt_is_asked_between_batches(saved, tmp_path):
    with pytest.raises(ResourceError, match="halted"):
        Part(path=saved).label(cells(1), None, tmp_path, Limits(halt=lambda: True))
    assert list(tmp_path.iterdir()) == []


def test_bad_paths_and_elements_are_refused(saved, tmp_path):
    with pytest.raises(InputError, match=r"path: .*nowhere: no such model"):
        Part(path=tmp_path / "nowhere").check(frozenset({"Al"}), None)
    with pytest.raises(InputError, match="was not fitted to Cu, only to Al"):
        Part(path=saved).check(frozenset({"Al", "Cu"}), None)
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(InputError, match="expected a model manifest"):
        Part(path=tmp_path).check(frozenset({"Al"}), None)
    (tmp_path / "x.unknown").write_text("")
    with pytest.raises(InputError, match="not a model file of a known format"):
        Part(path=tmp_path / "x.unknown").check(frozenset({"Al"}), None)


def test_a_foreign_model_needs_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MOST_FILES", 3)
    for name in "abc":
        (tmp_path / f"{name}.info").write_text(name)
    before = Part(path=tmp_path / "a.info").theory(None).fingerprint
    (tmp_path / "b.info").write_text("other content")
    os.utime(tmp_path / "a.info", (1, 1))
    assert Part(path=tmp_path / "a.info").theory(None).fingerprint != before
    (tmp_path / "d.info").write_text("d")
    os.utime(tmp_path / "a.info", (2, 2))
    with pytest.raises(InputError, match="more than 3 files"):
        Part(path=tmp_path / "a.info").theory(None)


@pytest.mark.slow
def test_the_published_ani_al_is_a_teacher(tmp_path):
    if not (data := os.environ.get("ALFLOW_SHARED_DATA")):
        pytest.skip("ALFLOW_SHARED_DATA does not name the folder with the published networks")
    part = Part(path=Path(data) / "ani-al" / "model-Al-75.info")
    part.check(frozenset({"Al"}), None)
    primitive = np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    a = np.linspace(4.03, 4.08, 11)
    labels, verdicts = part.label(
        Frames.concat([Frames.single([13], [[0, 0, 0]], primitive * x) for x in a]), None, tmp_path
    )
    assert all(v.ok for v in verdicts)
    fit = np.polynomial.Polynomial.fit(a, labels.energy, 4)
    a0 = next(r.real for r in fit.deriv().roots() if abs(r.imag) < 1e-9 and 4.03 < r.real < 4.08)
    assert a0 == pytest.approx(4.0543, abs=2e-4)
