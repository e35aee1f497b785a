"""What every sampler keeps. A test file subclasses `SamplerContract` and sets `part`.

Such as:

class TestMine(SamplerContract):
    part = Part(...)
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from alflow.core.frames import Frames
from alflow.core.labels import Labels
from alflow.interfaces import Guide, Halt, Harvest, HasMembers, Model, Sampler, Scores, Stop, Thresholds, never
from alflow.testing.toy_data import toy_frames, toy_model


class Deviation:
    """A gauge for tests: standard deviation of the members' energies over √N, in eV.

    Args:
        model: an ensemble.
    """

    def __init__(self, model: Model) -> None:
        assert isinstance(model, HasMembers)
        self._model = model

    def evaluate(self, frames: Frames, *, stress: bool = False) -> tuple[Labels, Scores]:
        said = self._model.predict_members(frames, forces=False, stress=stress)
        score = said.energy.std(axis=0, ddof=1) / np.sqrt(frames.sizes)
        return said.mean, Scores(score, {"deviation_eV": score})

    def extended(self, frames: Frames) -> Deviation:  # noqa: ARG002
        return self


class SamplerContract:
    """Subclass with `part`; override `start` and `guide` if toys will not do."""

    part: ClassVar[Sampler]

    @pytest.fixture
    def start(self) -> Frames:
        """A batch of frames of different sizes."""
        return Frames.concat([toy_frames(1, seed=30 + n, n_atoms=n, rattle_A=0.2) for n in (8, 27, 5)])

    @pytest.fixture
    def guide(self, start: Frames, tmp_path: Path) -> Guide | None:
        """A model and gauge, and thresholds a little above the scores of the start."""
        model = toy_model(tmp_path / "toy-model")
        gauge = Deviation(model)
        stop = 1.1 * float(gauge.evaluate(start)[1].per_frame.max())
        return Guide(model, gauge, Thresholds(select=stop, stop=stop))

    def sample(self, start: Frames, guide: Guide | None, workdir: Path, halt: Halt = never, seed: int = 1) -> Harvest:
        """One run by a pickled copy of the part, with a fresh generator."""
        workdir.mkdir(parents=True, exist_ok=True)
        copy: Sampler = pickle.loads(pickle.dumps(self.part))  # noqa: S301 - our own bytes
        return copy.run(start, guide, np.random.default_rng(seed), workdir, halt)

    def test_shapes(self, start: Frames, guide: Guide | None, tmp_path: Path) -> None:
        """One end a trajectory; one score, origin and row of figures a candidate."""
        harvest = self.sample(start, guide, tmp_path / "work")
        n = len(harvest.candidates)
        assert harvest.scores.shape == harvest.origin.shape == (n,)
        assert ((harvest.origin >= 0) & (harvest.origin < len(start))).all()
        assert all(v.shape == (n,) for v in harvest.columns.values())
        assert len(harvest.stops) == len(harvest.detail) == len(harvest.lengths) == len(start)
        assert all(isinstance(s, Stop) for s in harvest.stops)
        assert (harvest.lengths >= 0).all()
        assert isinstance(self.part.length_unit, str)

    def test_candidates_are_physical_frames(self, start: Frames, guide: Guide | None, tmp_path: Path) -> None:
        """No NaN is brought home, and nothing whose score was not a number if there was a gauge."""
        harvest = self.sample(start, guide, tmp_path / "work")
        assert np.isfinite(harvest.candidates.positions).all()
        assert np.isfinite(harvest.candidates.cell).all()
        if guide is not None and guide.gauge is not None:
            assert np.isfinite(harvest.scores).all()

    def test_scores_are_the_gauges(self, start: Frames, guide: Guide | None, tmp_path: Path) -> None:
        """A candidate's score is what the gauge says of it; extrapolated means above `stop`."""
        harvest = self.sample(start, guide, tmp_path / "work")
        if guide is None or guide.gauge is None or not len(harvest.candidates):
            return
        again = guide.gauge.evaluate(harvest.candidates)[1].per_frame
        assert np.allclose(again, harvest.scores, rtol=1e-6)
        for i, stop in enumerate(harvest.stops):
            if stop is Stop.EXTRAPOLATED:
                assert (harvest.scores[harvest.origin == i] > guide.thresholds.stop).any()

    def test_same_rng_same_harvest(self, start: Frames, guide: Guide | None, tmp_path: Path) -> None:
        """Bit for bit, wherever it runs."""
        one = self.sample(start, guide, tmp_path / "one")
        two = self.sample(start, guide, tmp_path / "two")
        same_harvest(one, two)

    def test_inputs_are_untouched_and_files_stay_in_place(
        self, start: Frames, guide: Guide | None, tmp_path: Path
    ) -> None:
        """Sampling changes neither its start nor anything outside `workdir`."""
        ids, work = start.ids(), tmp_path / "work"
        work.mkdir()
        before = set(tmp_path.rglob("*"))
        self.sample(start, guide, work)
        assert start.ids() == ids
        assert all(work in p.parents for p in set(tmp_path.rglob("*")) - before)

    def test_halted_at_once_it_comes_home(self, start: Frames, guide: Guide | None, tmp_path: Path) -> None:
        """It stops at the next chance, and says so of what had not ended by itself."""
        harvest = self.sample(start, guide, tmp_path / "work", halt=lambda: True)
        assert len(harvest.stops) == len(start)
        assert Stop.HALTED in harvest.stops

    def test_one_frame_of_one_atom(self, guide: Guide | None, tmp_path: Path) -> None:
        """The smallest batch there is."""
        start = Frames.single([13], [[0.1, 0.2, 0.3]], np.eye(3) * 4)
        harvest = self.sample(start, guide, tmp_path / "work")
        assert len(harvest.stops) == 1

    def test_no_frames(self, guide: Guide | None, tmp_path: Path) -> None:
        """Nothing to start from is no error."""
        harvest = self.sample(Frames.empty(), guide, tmp_path / "work")
        assert len(harvest.candidates) == len(harvest.stops) == 0


def same_harvest(one: Harvest, two: Harvest) -> None:
    """Fail unless two harvests are equal bit for bit."""
    assert one.candidates.ids() == two.candidates.ids()
    assert one.products.ids() == two.products.ids()
    assert (one.stops, one.detail) == (two.stops, two.detail)
    for a, b in ((one.scores, two.scores), (one.origin, two.origin), (one.lengths, two.lengths)):
        assert np.array_equal(a, b, equal_nan=True)
    assert list(one.columns) == list(two.columns)
    assert all(np.array_equal(one.columns[k], two.columns[k], equal_nan=True) for k in one.columns)
