"""What every selector keeps. A test file subclasses `SelectorContract` and sets `part`.

Such as:

class TestMine(SelectorContract):
    part = Part(...)
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from alflow.core.frames import Floats, Frames, Ints
from alflow.interfaces import Capability, Model, Selector
from alflow.testing.toy_data import toy_frames, toy_model


class SelectorContract:
    """Subclass with `part`; override `model` if the toy ensemble will not do."""

    part: ClassVar[Selector]

    @pytest.fixture
    def model(self, tmp_path: Path) -> Model | None:
        """What `choose` is given: an ensemble with members and features."""
        return toy_model(tmp_path / "toy-model")

    @pytest.fixture
    def pool(self) -> Frames:
        """Candidates, all different."""
        return toy_frames(12, seed=3)

    @pytest.fixture
    def scores(self, pool: Frames) -> Floats:
        """One score a candidate."""
        return np.random.default_rng(5).uniform(0.5, 3, len(pool))

    @pytest.fixture
    def known(self) -> Frames:
        """Frames that were bought before."""
        return toy_frames(3, seed=4)

    def choose(self, pool: Frames, scores: Floats, known: Frames, model: Model | None, limit: int) -> Ints:
        """One choice with a fresh generator of a fixed seed."""
        return self.part.choose(pool, scores, known, model, limit, np.random.default_rng(11))

    @pytest.mark.parametrize("limit", [0, 1, 5, 12, 40])
    def test_limit_is_kept(self, pool: Frames, scores: Floats, known: Frames, model: Model | None, limit: int) -> None:
        """No more than `limit`, no index twice, all in the pool; something if something is allowed."""
        chosen = self.choose(pool, scores, known, model, limit)
        assert chosen.dtype == np.int64
        assert chosen.ndim == 1
        assert len(chosen) <= min(limit, len(pool))
        assert (len(chosen) > 0) == (limit > 0)
        assert len(set(chosen.tolist())) == len(chosen)
        assert ((chosen >= 0) & (chosen < len(pool))).all()

    def test_an_empty_pool_gives_nothing(self, known: Frames, model: Model | None) -> None:
        """Nothing to choose from is no error."""
        assert len(self.choose(Frames.empty(), np.zeros(0), known, model, 4)) == 0

    def test_nothing_known_yet(self, pool: Frames, scores: Floats, model: Model | None) -> None:
        """The first selection of a campaign."""
        assert 0 < len(self.choose(pool, scores, Frames.empty(), model, 4)) <= 4

    def test_same_seed_same_choice(self, pool: Frames, scores: Floats, known: Frames, model: Model | None) -> None:
        """Also from a pickled copy of the part."""
        copy: Selector = pickle.loads(pickle.dumps(self.part))  # noqa: S301 - our own bytes
        again = copy.choose(pool, scores, known, model, 5, np.random.default_rng(11))
        assert np.array_equal(self.choose(pool, scores, known, model, 5), again)

    def test_inputs_are_untouched(self, pool: Frames, scores: Floats, known: Frames, model: Model | None) -> None:
        """Choosing changes nothing."""
        before = pool.ids(), known.ids(), scores.tobytes()
        self.choose(pool, scores, known, model, 5)
        assert before == (pool.ids(), known.ids(), scores.tobytes())

    def test_scores_of_nan_are_no_obstacle(self, pool: Frames, known: Frames, model: Model | None) -> None:
        """Frames no gauge has seen can be chosen from."""
        chosen = self.choose(pool, np.full(len(pool), np.nan), known, model, 5)
        assert len(set(chosen.tolist())) == len(chosen) <= 5

    def test_the_same_frame_is_not_bought_twice(
        self, pool: Frames, scores: Floats, known: Frames, model: Model | None
    ) -> None:
        """Neither one that comes twice nor one that is known."""
        twice = Frames.concat([pool, pool, known])
        chosen = self.choose(twice, np.concatenate([scores, scores, [9.0] * len(known)]), known, model, len(twice))
        names = [twice.ids()[i] for i in chosen]
        assert len(set(names)) == len(names)
        assert not set(names) & set(known.ids())

    def test_requirements_are_capabilities(self) -> None:
        """So that they can be checked before anything runs."""
        assert isinstance(self.part.requires, frozenset)
        assert all(isinstance(c, Capability) for c in self.part.requires)
