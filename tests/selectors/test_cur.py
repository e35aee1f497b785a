import logging

import numpy as np
import pytest

from alflow.core.frames import Frames
from alflow.errors import InputError
from alflow.selectors.cur import Part, leverages
from alflow.testing.selector_contract import SelectorContract


class TestCur(SelectorContract):
    part = Part()


class TestOfLowRank(SelectorContract):
    part = Part(rank=2)


class Table:
    cutoff_A = 1.0

    def features(self, frames):
        return frames.positions.copy()


def points(rows):
    return Frames.concat([Frames.single([13], [row], 50 * np.eye(3)) for row in rows])


def choose(rows, limit, seed=0, part=None, known=None):
    pool = points(rows)
    rng = np.random.default_rng(seed)
    return (part or Part()).choose(pool, np.zeros(len(pool)), known or Frames.empty(), Table(), limit, rng).tolist()


def test_leverages_are_the_diagonal_of_the_projector():
    rows = np.random.default_rng(0).normal(size=(50, 6)) * 10.0 ** np.arange(6)
    hat = rows @ np.linalg.pinv(rows, rcond=1e-12)
    np.testing.assert_allclose(leverages(rows, 6), np.diag(hat), rtol=1e-6)
    assert leverages(rows, 99).sum() == pytest.approx(6)
    assert leverages(rows, 2).sum() == pytest.approx(2)
    scaled = rows / np.sqrt((rows**2).mean(axis=0))
    _, vectors = np.linalg.eigh(scaled @ scaled.T)
    np.testing.assert_allclose(leverages(rows, 2), (vectors[:, -2:] ** 2).sum(axis=1), rtol=1e-8)


def test_columns_that_repeat_or_hold_nothing_do_not_count():
    rows = np.random.default_rng(1).normal(size=(30, 3))
    odd = np.column_stack([rows, 2 * rows[:, 0], np.zeros(30)])
    np.testing.assert_allclose(leverages(odd, 9), leverages(rows, 9), atol=1e-10)
    assert leverages(np.zeros((4, 2)), 3).tolist() == [0] * 4
    assert leverages(np.zeros((0, 2)), 3).shape == (0,)


def test_chances_go_by_leverage():
    rows = np.random.default_rng(2).normal(size=(12, 3)) * np.linspace(0.2, 3, 12)[:, None]
    first = np.bincount([choose(rows, 1, seed, Part(rank=3))[0] for seed in range(3000)], minlength=12)
    chance = leverages(rows, 3) / 3
    assert first == pytest.approx(3000 * chance, abs=5 * np.sqrt(3000 * chance.max()))
    assert np.corrcoef(first, chance)[0, 1] > 0.98


def test_what_is_like_no_other_is_almost_sure_to_be_chosen():
    rows = np.vstack([np.tile([1.0, 0, 0], (60, 1)) + 1e-3 * np.random.default_rng(3).normal(size=(60, 3)), [1, 9, 0]])
    assert sum(60 in choose(rows, 5, seed) for seed in range(50)) >= 45


def test_nan_is_never_chosen_and_counted_and_the_rest_all_if_there_is_room(caplog):
    rows = [[1, 0, 0], [np.nan, 1, 1], [0, 1, 0], [0, 0, 0.0]]
    with caplog.at_level(logging.WARNING):
        assert choose(rows, 9) == [0, 2]  # the last has no leverage
    assert "1 of 4 candidates" in caplog.text
    assert choose([[np.nan, 0, 0]], 3) == []
    assert choose([[0.0, 0, 0]], 3) == []
    assert choose(rows[:1] * 3, 3) == [0]
    assert choose(rows, 9, known=points(rows[2:3])) == [0]


def test_a_model_without_features_is_refused():
    with pytest.raises(InputError, match="needs a model with features"):
        Part().choose(points([[1, 0, 0]]), np.zeros(1), Frames.empty(), object(), 1, np.random.default_rng(0))
