import logging

import numpy as np
import pytest

from alflow.core.frames import Frames
from alflow.errors import InputError
from alflow.numerics.maxvol import TOLERANCE, maxvol
from alflow.selectors.maxvol import Part
from alflow.testing.selector_contract import SelectorContract
from alflow.testing.toy_data import toy_frames, toy_model


class TestPerAtom(SelectorContract):
    part = Part()


class TestPerFrame(SelectorContract):
    part = Part(per="frame", memory_GB=0, device="cpu")


class Table:
    """A model whose features are read off the positions of atoms: three columns."""

    cutoff_A = 1.0

    def features(self, frames):
        return frames.positions.copy()


def points(*rows):
    """One frame of one atom for each row."""
    return Frames.concat([Frames.single([13], [row], 50 * np.eye(3)) for row in rows])


def choose(pool, known, limit, part=None, model=None):
    rng = np.random.default_rng(0)
    return (part or Part()).choose(pool, np.zeros(len(pool)), known, model or Table(), limit, rng).tolist()


def test_those_that_extrapolate_are_chosen_the_farthest_first():
    known = points([1, 0, 0], [0, 1, 0], [0, 0, 1])
    pool = points([0.9, 0.5, 0], [3, 0, 0], [0, 0, 0.2], [0, 7, 0], [0, 0, 1.0005], [1, 1, 1], [0, 0, 1.5])
    assert sorted(choose(pool, known, 9)) == [1, 3, 6]
    assert choose(pool, known, 2) == [3, 1]
    assert choose(pool, known, 1) == [3]
    assert choose(points([0.5, 0.5, 0.5]), known, 9) == []  # it interpolates


def test_each_choice_counts_before_the_next():
    known = points([1, 0, 0], [0, 1, 0], [0, 0, 1])
    pool = points([9, 0, 0], [8, 0.1, 0], [8.5, 0, 0.1], [0, 2, 0])  # after the first, the next two are near it
    assert choose(pool, known, 2) == [0, 3]


def test_a_frame_that_looks_like_one_that_is_chosen_is_not_chosen():
    pool = points([5, 1, 0], [5, 1, 0], [0, 3, 0])
    turned = Frames.concat([pool, Frames.single([13], [[5, 1, 0]], 60 * np.eye(3))])  # another cell, the same features
    found = choose(turned, Frames.empty(), 9)
    assert len(found) == 2
    assert 2 in found


def test_it_is_the_dominant_set_of_the_pool_where_nothing_is_known():
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(300, 3))
    assert sorted(choose(points(*rows), Frames.empty(), 300)) == sorted(maxvol(rows).source.tolist())


@pytest.mark.parametrize("per", ["atom", "frame"])
@pytest.mark.parametrize("memory", [0.0, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_nothing_extrapolates_over_what_is_known_and_chosen(tmp_path, per, memory, seed):
    model, known, pool = toy_model(tmp_path), toy_frames(6, seed=seed), toy_frames(40, seed=seed + 50, rattle_A=0.6)
    part = Part(per=per, memory_GB=memory)
    found = choose(pool, known, 40, part, model)
    assert 0 < len(found) <= 40
    rows = model.features(Frames.concat([known, pool]))
    mine = np.isin(np.repeat(np.arange(46), 8), [*range(6), *(6 + np.array(found))])
    if per == "frame":
        rows, mine = rows.reshape(46, 8, -1).mean(axis=1), mine[::8]
    assert maxvol(rows[mine]).log_volume == pytest.approx(maxvol(rows).log_volume, abs=2)
    again = part.choose(pool.take(np.setdiff1d(np.arange(40), found)), np.zeros(40), known, model, 40, None)
    assert len(again) > 0  # what was left out is what the others made superfluous
    few = choose(pool, known, 2, part, model)
    assert len(few) == 2
    assert set(few) <= set(found)


def test_elements_do_not_compete():
    pool = points([1, 0, 0], [2, 0, 0], [1, 0, 0.0])
    pool.numbers[2] = 29
    assert sorted(choose(pool, Frames.empty(), 9)) == [1, 2]


@pytest.mark.parametrize("memory", [0.0, 2.0])
def test_candidates_with_nan_features_are_never_chosen_and_counted(caplog, memory):
    pool = points([1, 0, 0], [np.nan, 5, 5], [0, 2, 0], [np.inf, 0, 0])
    with caplog.at_level(logging.WARNING):
        assert sorted(choose(pool, Frames.empty(), 9, Part(memory_GB=memory))) == [0, 2]
    assert "2 of 4 candidates" in caplog.text
    assert choose(points([np.nan, 0, 0]), Frames.empty(), 3) == []
    assert sorted(choose(points([2, 0, 0]), points([np.nan, 1, 1], [1, 0, 0]), 3)) == [0]


def test_units_of_columns_change_nothing():
    rows = np.random.default_rng(6).normal(size=(40, 3))
    for stretch in ([2.0**40, 1, 2.0**-30], [3e-7, 5e3, 1e-2]):
        for known in (0, 1, 5):
            plain = choose(points(*rows), points(*rows[:known]) if known else Frames.empty(), 2)
            other = rows * stretch
            assert choose(points(*other), points(*other[:known]) if known else Frames.empty(), 2) == plain
            assert len(plain) > 0


def test_a_model_without_features_is_refused():
    with pytest.raises(InputError, match="needs a model with features, got no model"):
        Part().choose(points([1, 0, 0]), np.zeros(1), Frames.empty(), None, 1, np.random.default_rng(0))


def test_grades_after_are_within_the_tolerance(tmp_path):
    model, pool = toy_model(tmp_path), toy_frames(30, seed=9)
    chosen = pool.take(choose(pool, Frames.empty(), 30, None, model))
    grades = maxvol(model.features(chosen)).grades(model.features(pool))
    assert grades.max() < 13 * (1 + TOLERANCE)  # of K features: any dominant set of the chosen is that near
