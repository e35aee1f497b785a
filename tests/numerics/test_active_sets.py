import numpy as np
import pytest

from alflow.core.frames import Frames
from alflow.numerics.active_sets import UNKNOWN, ActiveSets, greatest_of_frames
from alflow.numerics.maxvol import TOLERANCE, maxvol, settle


def frames_of(sizes, rng, numbers=(13, 29)):
    return Frames.concat(
        [Frames.single(rng.choice(numbers, n), rng.uniform(0, 5, (n, 3)), 5 * np.eye(3)) for n in sizes]
    )


def found_in(per, frames, features, numbers=(13, 29)):
    start = ActiveSets.empty(per, numbers, features.shape[1])
    found, dominant = settle(start, lambda sets: sets.updated([sets.rows(frames, features)], TOLERANCE))
    assert dominant
    return found


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_atoms_of_each_element_have_a_set_of_their_own(rng):
    frames = frames_of([4, 9, 1, 20, 12], rng)
    features = rng.normal(size=(frames.n_atoms, 3)) * np.where(frames.numbers == 13, 1, 100)[:, None]
    sets = found_in("atom", frames, features)
    per_frame, per_atom = sets.grades(frames, features)
    for z in (13, 29):
        mine = frames.numbers == z
        alone = maxvol(features[mine])
        np.testing.assert_allclose(per_atom[mine], alone.grades(features[mine]), rtol=1e-9)
        assert sets.sets[(13, 29).index(z)].source.tolist() == frames.frame_of_atom[mine][alone.source].tolist()
    assert per_frame.tolist() == [per_atom[a:b].max() for a, b in zip(frames.offsets, frames.offsets[1:], strict=False)]


def test_a_frame_has_the_mean_row_of_each_element(rng):
    frames = frames_of([4, 9, 1, 20, 12, 7, 7, 3], rng)
    features = rng.normal(size=(frames.n_atoms, 2))
    rows = []
    for k in range(len(frames)):
        at = slice(frames.offsets[k], frames.offsets[k + 1])
        z, f = frames.numbers[at], features[at]
        rows.append(np.concatenate([f[z == 13].sum(axis=0), f[z == 29].sum(axis=0)]) / len(z))
    sets = found_in("frame", frames, features)
    per_frame, per_atom = sets.grades(frames, features)
    assert per_atom is None
    np.testing.assert_allclose(per_frame, maxvol(np.array(rows)).grades(np.array(rows)), rtol=1e-9)
    twice = Frames.concat([frames, frames])
    merged = Frames(twice.numbers, twice.positions, frames.cell[:1], frames.pbc[:1], np.array([0, twice.n_atoms]))
    cell = Frames(frames.numbers, frames.positions, frames.cell[:1], frames.pbc[:1], np.array([0, frames.n_atoms]))
    one, two = sets.grades(cell, features)[0], sets.grades(merged, np.tile(features, (2, 1)))[0]
    np.testing.assert_allclose(one, two, rtol=1e-9)  # a supercell is as strange as its cell


@pytest.mark.parametrize("per", ["atom", "frame"])
def test_a_frame_with_what_is_not_finite_has_no_grade_and_does_not_enter(per, rng):
    frames = frames_of([4, 9, 5, 20, 12], rng)
    features = rng.normal(size=(frames.n_atoms, 2))
    features[frames.offsets[1]] = 1e6
    features[frames.offsets[1] + 1, 0] = np.nan
    sets = found_in(per, frames, features)
    assert not any((s.source == 1).any() for s in sets.sets)
    per_frame, per_atom = sets.grades(frames, features)
    assert np.isnan(per_frame).tolist() == [False, True, False, False, False]
    assert np.nanmax(np.delete(per_frame, 1)) <= 1 + TOLERANCE + 1e-9
    if per == "atom":
        assert np.isnan(per_atom).nonzero()[0].tolist() == [frames.offsets[1] + 1]


@pytest.mark.parametrize("per", ["atom", "frame"])
def test_an_element_that_is_new_is_far_outside_until_it_is_learnt(per, rng):
    frames = frames_of([6] * 12, rng)
    features = rng.normal(size=(frames.n_atoms, 2))
    known = found_in(per, frames, features)
    new = frames_of([7] * 8, rng, (13, 29, 47))
    new.numbers[new.offsets[:-1]] = 47
    strange, ordinary = rng.normal(size=(new.n_atoms, 2)), new.numbers != 47
    before, per_atom = known.grades(new, strange)
    assert (before == UNKNOWN).all()
    assert not any(len(r.rows) for r in known.rows(new, strange))
    if per == "atom":
        assert (per_atom[~ordinary] == UNKNOWN).all()
        assert per_atom[ordinary].max() < 100
    after = known.extended(new, strange)
    assert after.numbers == (13, 29, 47)
    assert after.grades(new, strange)[0].max() <= 1 + TOLERANCE + 1e-9
    old = known.grades(frames, features)[0]
    assert after.grades(frames, features)[0].max() < 50  # what was known is still far from unknown
    assert known.grades(frames, features)[0].tolist() == old.tolist()  # and the old sets are as they were


@pytest.mark.parametrize("per", ["atom", "frame"])
def test_extended_sets_are_dominant_over_their_own_rows_and_the_new(per, rng):
    frames = frames_of([6] * 12, rng)
    features = rng.normal(size=(frames.n_atoms, 3))
    sets = found_in(per, frames, features)
    new = frames_of([3, 30], rng)
    strange = 5 * rng.normal(size=(new.n_atoms, 3))
    assert sets.grades(new, strange)[0].max() > 2
    after = sets.extended(new, strange)
    assert after.grades(new, strange)[0].max() <= 1 + TOLERANCE + 1e-9
    for old, now in zip(sets.sets, after.sets, strict=True):
        assert now.log_volume > old.log_volume
        assert now.grades(old.rows).max() <= 1 + TOLERANCE + 1e-9
        assert set(now.source[now.source >= 12]) <= {12, 13}  # numbered on
    assert after.extended(new, strange).sets[0].source.tolist() == after.sets[0].source.tolist()


def test_sets_that_know_nothing_learn(rng):
    new = frames_of([5] * 9, rng)
    features = rng.normal(size=(new.n_atoms, 2))
    nothing = ActiveSets.empty("atom", (), 2)
    assert (nothing.grades(new, features)[0] == UNKNOWN).all()
    for per in ("atom", "frame"):
        after = ActiveSets.empty(per, (), 2).extended(new, features)
        assert after.grades(new, features)[0].max() <= 1 + TOLERANCE + 1e-9


@pytest.mark.parametrize("per", ["atom", "frame"])
def test_no_frames(per):
    sets = ActiveSets.empty(per, (13,), 3)
    grades, _ = sets.grades(Frames.empty(), np.zeros((0, 3)))
    assert grades.shape == (0,)
    assert all(len(r.rows) == 0 for r in sets.rows(Frames.empty(), np.zeros((0, 3))))
    assert greatest_of_frames(Frames.empty(), np.zeros(0)).shape == (0,)
