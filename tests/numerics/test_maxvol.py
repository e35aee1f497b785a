from itertools import combinations

import numpy as np
import pytest

from alflow.errors import DataError
from alflow.numerics import maxvol as module
from alflow.numerics.maxvol import FLOOR, TOLERANCE, UNFILLED, ActiveSet, maxvol, settle
from alflow.testing.devices import DEVICES


def plain_maxvol(rows, start, tolerance):
    """The textbook: whole coefficients anew by a solver for every single swap."""
    chosen = list(start)
    while True:
        c = np.linalg.solve(rows[chosen].T, rows.T).T
        i, j = np.unravel_index(np.abs(c).argmax(), c.shape)
        if abs(c[i, j]) <= 1 + tolerance:
            return chosen, c
        chosen[j] = i


def by_chunks(rows, size, tolerance=TOLERANCE):
    """A look at all rows, so many at a time."""
    every = np.arange(len(rows))

    def look(active):
        for i in range(0, len(rows), size):
            active = active.updated(rows[i : i + size], every[i : i + size], tolerance)
        return active

    return look


@pytest.mark.parametrize("seed", range(8))
def test_a_dominant_set_is_near_the_greatest_volume_and_cannot_be_bettered_by_one_swap(seed):
    rng = np.random.default_rng(seed)
    k = int(rng.integers(1, 5))
    rows = rng.normal(size=(12, k)) * 10.0 ** rng.integers(-3, 3, k)
    found = maxvol(rows, tolerance=1e-9)
    volume = abs(np.linalg.det(rows[found.source]))
    best = max(abs(np.linalg.det(rows[list(c)])) for c in combinations(range(12), k))
    assert best * (1 - 1e-9) <= k ** (k / 2) * volume
    assert volume <= best * (1 + 1e-9)
    assert found.log_volume == pytest.approx(np.log(volume))
    assert np.array_equal(found.rows, rows[found.source])
    for i in range(12):
        for j in range(k):
            other = found.source.copy()
            other[j] = i
            assert abs(np.linalg.det(rows[other])) <= volume * (1 + 1e-8)


def test_it_agrees_with_the_textbook():
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(300, 7)) @ rng.normal(size=(7, 7))
    tolerance = 1e-6
    mine = maxvol(rows, tolerance)
    theirs, c = plain_maxvol(rows, mine.source, tolerance)
    assert theirs == mine.source.tolist()  # the textbook finds nothing to swap
    np.testing.assert_allclose(mine.coefficients(rows), c, atol=1e-10)
    np.testing.assert_allclose(mine.grades(rows), np.abs(c).max(axis=1), atol=1e-10)
    from_elsewhere, c = plain_maxvol(rows, range(7), tolerance)
    start = ActiveSet(rows[:7], np.arange(7), np.abs(rows).max(axis=0))
    same_start, dominant = settle(start, by_chunks(rows, 300, tolerance))
    assert dominant
    assert same_start.source.tolist() == from_elsewhere  # swap by swap, for all rows are one block


def test_the_first_choice_is_that_of_elimination_with_complete_pivoting():
    rng = np.random.default_rng(4)
    rows = rng.normal(size=(40, 5))
    scale, pivots = np.abs(rows).max(axis=0), []
    rest = rows / scale / (1 + 1e-6 * np.arange(5))
    for _ in range(5):
        i, j = np.unravel_index(np.abs(rest).argmax(), rest.shape)
        pivots.append((int(i), int(j)))
        rest = rest - np.outer(rest[:, j], rest[i]) / rest[i, j]
    found = ActiveSet.empty(5).updated(rows, np.arange(40), tolerance=1e4)  # so high that nothing is swapped back
    assert found.filled.all()
    assert {int(s): j for j, s in enumerate(found.source)} == dict(pivots)
    assert np.array_equal(found.scale, scale)


def test_active_rows_have_grade_one_and_others_at_most_that():
    rows = np.random.default_rng(0).normal(size=(5000, 30)) ** 3
    found = maxvol(rows)
    grades = found.grades(rows)
    np.testing.assert_allclose(grades[found.source], 1, atol=1e-10)
    np.testing.assert_allclose(found.coefficients(found.rows), np.eye(30), atol=1e-10)
    assert grades.max() <= 1 + TOLERANCE + 1e-9
    assert found.grades(2 * rows) == pytest.approx(2 * grades)
    assert found.filled.all()


def test_the_volume_grows_by_each_grade_that_is_swapped_in():
    rows = np.random.default_rng(1).normal(size=(60, 6))
    found = maxvol(rows[:50])
    for row in rows[50:]:
        after = found.updated(row[None] * 3, np.array([7]))
        grade = found.grades(row[None] * 3)[0]
        if grade > 1 + TOLERANCE:
            assert after.log_volume - found.log_volume == pytest.approx(np.log(grade))
            assert after.grades(row[None] * 3) == pytest.approx(1)
        else:
            assert after is found
        found = after


def test_grades_know_nothing_of_the_units_or_the_basis_of_the_columns():
    rng = np.random.default_rng(2)
    rows, new, turn = rng.normal(size=(400, 8)), rng.normal(size=(20, 8)), rng.normal(size=(8, 8))
    found = maxvol(rows)
    turned = ActiveSet(found.rows @ turn, found.source, found.scale)
    np.testing.assert_allclose(turned.grades(new @ turn), found.grades(new), rtol=1e-9)
    stretch = 10.0 ** rng.integers(-12, 12, 8)
    stretched = maxvol(rows * stretch)  # units change not even the choice
    assert np.array_equal(stretched.source, found.source)
    np.testing.assert_allclose(stretched.grades(new * stretch), found.grades(new), rtol=1e-7)


@pytest.mark.parametrize("size", [1, 3, 17, 100, 1000])
def test_chunks_of_any_size_end_in_a_dominant_set(size):
    rng = np.random.default_rng(6)
    rows = rng.normal(size=(600, 9)) * np.linspace(0.1, 5, 600)[:, None]  # the largest come last
    found, dominant = settle(ActiveSet.empty(9), by_chunks(rows, size))
    assert dominant
    assert found.filled.all()
    assert np.array_equal(found.rows, rows[found.source])
    assert found.grades(rows).max() <= 1 + TOLERANCE + 1e-9
    assert found.log_volume == pytest.approx(maxvol(rows).log_volume, abs=9 / 2 * np.log(9))


def test_small_blocks_and_large_ones_give_the_same_guarantee(monkeypatch):
    rows = np.random.default_rng(7).normal(size=(2000, 12))
    whole = maxvol(rows)
    monkeypatch.setattr(module, "_BLOCK_BYTES", 1)
    blocked = maxvol(rows)
    for found in (whole, blocked):
        assert found.grades(rows).max() <= 1 + TOLERANCE + 1e-9


def test_passes_that_do_not_suffice_are_said():
    rows = np.random.default_rng(8).normal(size=(300, 9))
    found, dominant = settle(ActiveSet.empty(9), by_chunks(rows, 10), most_passes=1)
    assert not dominant
    assert found.filled.all()


def test_fewer_rows_than_columns_leave_places_unfilled():
    rng = np.random.default_rng(9)
    rows = rng.normal(size=(4, 7))
    found = maxvol(rows)
    assert sorted(found.source[found.filled].tolist()) == [0, 1, 2, 3]
    assert (found.source[~found.filled] == UNFILLED).all()
    assert found.grades(rows).max() <= 1 + TOLERANCE
    mixed = rng.uniform(-0.25, 0.25, (10, 4)) @ rows
    assert found.grades(mixed).max() <= 1 + 1e-6  # what the rows span is known
    assert found.grades(rng.normal(size=(10, 7))).min() > 1e3  # anything else is not
    assert not ActiveSet.empty(3).filled.any()
    assert ActiveSet.empty(3).grades(np.zeros((1, 3))).tolist() == [0]


@pytest.mark.parametrize("noise", [0, 1e-12])
def test_columns_that_repeat_others_or_hold_nothing_are_left_out(noise):
    rng = np.random.default_rng(10)
    free = rng.normal(size=(200, 4)) * [1, 1e-5, 1e4, 3]
    rows = np.column_stack([free, free @ rng.normal(size=(4, 2)), np.full(200, 2.5), 4 * free[:, 0], np.zeros(200)])
    rows += noise * np.abs(rows).max(axis=0) * rng.normal(size=rows.shape)
    found = maxvol(rows)
    assert found.filled.sum() == np.linalg.matrix_rank(rows / np.maximum(np.abs(rows).max(axis=0), 1e-300), tol=1e-7)
    assert found.filled.sum() == 5
    assert np.isfinite(found.inverse).all()
    assert found.grades(rows).max() <= 1 + TOLERANCE
    odd = rows[:1].copy()
    odd[0, 7] += 0.1 * found.scale[7]  # breaks what bound two columns to each other
    assert found.grades(odd)[0] > 1e4
    after = found.updated(odd, np.array([999]))
    assert after.filled.sum() == 6
    assert after.grades(odd) == pytest.approx(1)


def test_equal_rows_are_one():
    rng = np.random.default_rng(11)
    rows = np.repeat(rng.normal(size=(10, 5)), 3, axis=0)
    found = maxvol(rows)
    assert len({s // 3 for s in found.source.tolist()}) == 5
    assert maxvol(np.tile(rows[:1], (8, 1))).filled.sum() == 1


def test_rows_that_are_not_finite_have_no_grade_and_never_enter():
    rng = np.random.default_rng(12)
    rows = rng.normal(size=(100, 4))
    clean = maxvol(np.delete(rows, [5, 50, 51], axis=0))
    rows[5, 1], rows[50, 0], rows[51] = np.nan, np.inf, -np.inf
    found = maxvol(rows)
    assert np.isnan(found.grades(rows)).nonzero()[0].tolist() == [5, 50, 51]
    assert np.isfinite(found.rows).all()
    assert np.array_equal(found.rows, clean.rows)
    nothing = found.updated(np.full((3, 4), np.nan), np.arange(3))
    assert nothing is found


@pytest.mark.parametrize(("small", "large"), [(1e-200, 1e200), (1e-3, 1e307), (1e-20, 1e270)])
def test_rows_too_far_outside_for_a_number_are_passed_over_without_a_word(small, large):
    rng = np.random.default_rng(17)
    near, far = (rng.uniform(-1, 1, size=(200, 8)) * size for size in (small, large))
    found = maxvol(near)
    assert np.isnan(found.grades(far)).any()
    for _ in range(3):
        found = found.updated(far, np.arange(200))
    assert (found.grades(near) <= 1 + TOLERANCE).all()
    with_both = maxvol(np.vstack([near, far]))
    assert (with_both.source >= 200).all()
    assert (with_both.grades(np.vstack([near, far])) <= 1 + TOLERANCE).all()


def test_rows_as_large_as_floating_point_allows():
    rows = np.random.default_rng(18).uniform(-1, 1, size=(500, 12))
    found = maxvol(rows * 1.7e308)
    np.testing.assert_allclose(found.grades(rows * 1.7e308), maxvol(rows).grades(rows), rtol=1e-9)


def test_many_updates_of_an_ill_conditioned_set_do_not_spoil_the_inverse():
    rng = np.random.default_rng(13)
    turn = np.linalg.qr(rng.normal(size=(40, 40)))[0]
    rows = rng.normal(size=(3000, 40)) * np.logspace(0, -5, 40) @ turn  # condition 1e5
    found, dominant = settle(ActiveSet.empty(40), by_chunks(rows, 7))
    assert dominant
    assert found.filled.all()
    np.testing.assert_allclose(found.coefficients(found.rows), np.eye(40), atol=1e-9)


@pytest.mark.parametrize("device", DEVICES)
def test_torch_gives_the_same_grades(device):
    rng = np.random.default_rng(14)
    rows = rng.normal(size=(500, 6))
    found = maxvol(rows, device=device)
    np.testing.assert_allclose(found.grades(rows, device), found.grades(rows), rtol=1e-12)
    np.testing.assert_array_equal(found.source, maxvol(rows).source)
    assert found.grades(np.full((1, 6), np.nan), device).tolist() == pytest.approx([np.nan], nan_ok=True)
    assert found.grades(rows[:0], device).shape == found.grades(rows[:0]).shape == (0,)


@pytest.mark.parametrize("tiny", [5e-324, 1e-310, 1e-290, 1e-281])
def test_columns_of_next_to_nothing_are_columns_of_nothing(tiny):
    """1 / 1e-310 is no number any more."""
    rows = np.random.default_rng(16).normal(size=(30, 4)) * [1.0, tiny, 1e3, tiny]
    found = maxvol(rows)
    assert found.filled.sum() == 2
    assert np.isfinite(found.grades(rows)).all()
    assert (found.grades(rows) <= 1 + TOLERANCE).all()
    np.testing.assert_array_equal(np.sort(found.source), np.sort(maxvol(rows * [1, 0, 1, 0]).source))


def test_no_rows_leave_all_as_it_is():
    found = maxvol(np.zeros((0, 3)))
    assert not found.filled.any()
    np.testing.assert_allclose(found.rows, FLOOR * np.eye(3), rtol=1e-5)


def test_rows_of_another_length_are_refused():
    found = maxvol(np.eye(3))
    for bad in (np.zeros((2, 4)), np.zeros(3)):
        with pytest.raises(DataError, match="expected rows of 3 features"):
            found.grades(bad)
    with pytest.raises(DataError, match="negative"):
        found.updated(np.eye(3), np.array([0, -1, 2]))
    with pytest.raises(DataError, match="3 sources for 2 rows"):
        found.updated(np.eye(3)[:2], np.arange(3))
    with pytest.raises(DataError, match="sources, rows"):
        ActiveSet(np.eye(3), np.arange(2), np.ones(2))
