"""What every uncertainty keeps. A test file subclasses `UncertaintyContract` and sets `part`.

Such as:

class TestMine(UncertaintyContract):
    part = Part(...)
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from alflow.core.frames import Floats, Frames
from alflow.core.labels import Labels
from alflow.interfaces import Capability, Gauge, HasMembers, MemberLabels, Model, Uncertainty
from alflow.store.dataset import Dataset
from alflow.testing.toy_data import toy_dataset, toy_frames, toy_model


class Unanimous:
    """An ensemble of one model told several times over: its members agree.

    Args:
        model: what each member is.
        n_members: how many there are.
    """

    def __init__(self, model: Model, n_members: int = 4) -> None:
        self._model, self._n = model, n_members

    @property
    def cutoff_A(self) -> float:
        return self._model.cutoff_A

    @property
    def n_members(self) -> int:
        return self._n

    def predict(self, frames: Frames, *, stress: bool = True) -> Labels:
        return self._model.predict(frames, stress=stress)

    def predict_members(self, frames: Frames, *, forces: bool, stress: bool = False) -> MemberLabels:
        mean = self._model.predict(frames, stress=stress)
        return MemberLabels(
            mean,
            np.tile(mean.energy, (self._n, 1)),
            np.tile(mean.forces, (self._n, 1, 1)) if forces else None,
        )


class UncertaintyContract:
    """Subclass with `part`; override `model` and `data` if the toy ensemble will not do."""

    part: ClassVar[Uncertainty]

    @pytest.fixture
    def model(self, tmp_path: Path) -> Model:
        """A fitted model that has what `part` requires."""
        return toy_model(tmp_path / "toy-model")

    @pytest.fixture
    def data(self) -> Dataset:
        """What it was fitted to."""
        return toy_dataset(12)

    @pytest.fixture
    def frames(self) -> Frames:
        """Frames the model has not seen, of different sizes."""
        sizes = (8, 7, 27)
        return Frames.concat([toy_frames(2, seed=20 + n, n_atoms=n) for n in sizes])

    @pytest.fixture
    def out(self, model: Model, data: Dataset, tmp_path: Path) -> Path:
        """A folder `part` was calibrated into."""
        out = tmp_path / "gauge"
        out.mkdir()
        self.part.calibrate(model, data, out)
        return out

    def gauge(self, model: Model, out: Path) -> Gauge:
        """A fresh gauge, by a pickled copy of the part."""
        copy: Uncertainty = pickle.loads(pickle.dumps(self.part))  # noqa: S301 - our own bytes
        return copy.load(model, out)

    def score(self, model: Model, out: Path, frames: Frames) -> Floats:
        """What a fresh gauge says."""
        return self.gauge(model, out).evaluate(frames)[1].per_frame

    def test_figures_are_plain_and_files_stay_in_place(self, model: Model, data: Dataset, tmp_path: Path) -> None:
        """Figures can be written as JSON; nothing is written outside `out`."""
        out = tmp_path / "elsewhere" / "gauge"
        out.mkdir(parents=True)
        before = set(tmp_path.rglob("*"))
        figures = self.part.calibrate(model, data, out)
        assert all(isinstance(v, float) for v in figures.values())
        json.dumps(dict(figures), allow_nan=False)
        assert all(out in p.parents for p in set(tmp_path.rglob("*")) - before)

    def test_shapes(self, model: Model, out: Path, frames: Frames) -> None:
        """One score a frame, one row for every figure, labels for all."""
        labels, scores = self.gauge(model, out).evaluate(frames, stress=True)
        n = len(frames)
        assert scores.per_frame.shape == labels.energy.shape == (n,)
        assert labels.forces.shape == (frames.n_atoms, 3)
        assert labels.stress is not None
        assert labels.stress.shape == (n, 3, 3)
        assert all(v.shape == (n,) for v in scores.detail.values())
        assert scores.per_atom is None or scores.per_atom.shape == (frames.n_atoms,)

    def test_scores_are_finite_and_not_negative(self, model: Model, out: Path, frames: Frames) -> None:
        """Zero is certain."""
        score = self.score(model, out, frames)
        assert np.isfinite(score).all()
        assert (score >= 0).all()

    def test_labels_are_the_models(self, model: Model, out: Path, frames: Frames) -> None:
        """A gauge passes on what the model predicts."""
        labels, _ = self.gauge(model, out).evaluate(frames, stress=True)
        own = model.predict(frames, stress=True)
        assert np.allclose(labels.energy, own.energy, rtol=1e-9, atol=1e-9)
        assert np.allclose(labels.forces, own.forces, rtol=1e-7, atol=1e-9)
        assert labels.stress is not None
        assert own.stress is not None
        assert np.allclose(labels.stress, own.stress, rtol=1e-7, atol=1e-9)

    def test_a_batch_is_its_frames_one_by_one(self, model: Model, out: Path, frames: Frames) -> None:
        """No frame changes the score of another."""
        together = self.score(model, out, frames)
        alone = np.concatenate([self.score(model, out, f) for f in frames])
        assert np.allclose(together, alone, rtol=1e-6, atol=1e-9)

    def test_nan_in_nan_out_and_nowhere_else(self, model: Model, out: Path, frames: Frames) -> None:
        """A frame with a NaN scores NaN; its neighbours in the batch do not."""
        spoilt = frames.positions.copy()
        spoilt[int(frames.offsets[1])] = np.nan
        score = self.score(model, out, frames.moved(spoilt))
        assert np.isnan(score).tolist() == [i == 1 for i in range(len(frames))]

    def test_score_does_not_see_where_or_how_a_frame_lies(self, model: Model, out: Path, frames: Frames) -> None:
        """Rotation, translation, and the order of the atoms change nothing."""
        q = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
        shift = np.random.default_rng(2).normal(size=3)
        order = np.concatenate([np.arange(b - 1, a - 1, -1) for a, b in zip(*_bounds(frames), strict=True)])
        swapped = Frames(frames.numbers[order], frames.positions[order], frames.cell, frames.pbc, frames.offsets)
        want = self.score(model, out, frames)
        for other in (
            frames.moved(frames.positions @ q, frames.cell @ q),
            frames.moved(frames.positions + shift),
            swapped,
        ):
            assert np.allclose(self.score(model, out, other), want, rtol=1e-5, atol=1e-8)

    def test_members_that_agree_score_nothing(self, model: Model, out: Path, frames: Frames) -> None:
        """An ensemble that is of one mind is certain."""
        if Capability.MEMBERS in self.part.requires:  # others look at something else
            assert isinstance(model, HasMembers)
            assert np.abs(self.score(Unanimous(model), out, frames)).max() < 1e-6

    def test_one_atom(self, model: Model, out: Path) -> None:
        """The smallest frame there is."""
        score = self.score(model, out, Frames.single([13], [[0.1, 0.2, 0.3]], np.eye(3) * 4))
        assert score.shape == (1,)
        assert score[0] >= 0

    def test_extended_is_a_gauge(self, model: Model, out: Path, frames: Frames) -> None:
        """Knowing more never makes a frame it knows score higher, but for what was, and stays, inside: up to 1."""
        gauge = self.gauge(model, out)
        before = gauge.evaluate(frames)[1].per_frame
        after = gauge.extended(frames).evaluate(frames)[1].per_frame
        assert (after <= np.maximum(before, 1.001) + 1e-9).all()

    def test_requirements_are_capabilities(self) -> None:
        """So that they can be checked before anything runs."""
        assert isinstance(self.part.requires, frozenset)
        assert all(isinstance(c, Capability) for c in self.part.requires)


def _bounds(frames: Frames) -> tuple[list[int], list[int]]:
    return frames.offsets[:-1].tolist(), frames.offsets[1:].tolist()
