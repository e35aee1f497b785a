"""Neighbour lists against ase and brute force."""

import numpy as np
import pytest
from ase.neighborlist import primitive_neighbor_list

from alflow.core.frames import Frames
from alflow.errors import DataError
from alflow.numerics.neighbors import NeighborCache, Neighbors, in_order, neighbor_list


def random_frames(rng, count, most=30):
    """Skewed cells of any size and periodicity, atoms anywhere, also outside the cell."""
    out = []
    while len(out) < count:
        n = int(rng.integers(1, most))
        cell = rng.normal(size=(3, 3)) * rng.uniform(1, 6) + np.eye(3) * rng.uniform(1, 9)
        if (np.linalg.norm(np.linalg.inv(cell), axis=0) < 1).all():  # thinner cells take ase minutes
            x = rng.uniform(-2, 2, (n, 3)) @ cell
            out.append(Frames.single(np.full(n, 13), x, cell, rng.random(3) < 0.7))
    return Frames.concat(out)


def vectors(frames, pairs):
    """D of every pair, (n_pairs, 3)."""
    cell = frames.cell[frames.frame_of_atom[pairs.i]]
    offset = np.einsum("pa,pab->pb", pairs.shift, cell)
    return frames.positions[pairs.j] - frames.positions[pairs.i] + offset


def as_set(pairs: Neighbors):
    rows = set(zip(pairs.i.tolist(), pairs.j.tolist(), *pairs.shift.T.tolist(), strict=True))
    assert len(rows) == pairs.n_pairs
    return rows


@pytest.mark.parametrize("seed", range(4))
def test_same_pairs_as_ase(seed):
    frames = random_frames(np.random.default_rng(seed), 25)
    pairs = neighbor_list(frames, 4.5)
    want = set()
    for k in range(len(frames)):
        i, j, shift = primitive_neighbor_list("ijS", frames.pbc[k], frames.cell[k], frames[k].positions, 4.5)
        first = frames.offsets[k]
        want |= set(zip((i + first).tolist(), (j + first).tolist(), *shift.T.tolist(), strict=True))
    assert as_set(pairs) == want
    assert pairs.valid.all()


def test_one_atom_sees_its_images():
    """Simple cubic: 6, 12, 8 and 6 neighbours at 1, sqrt 2, sqrt 3 and 2 lattice constants."""
    frame = Frames.single([13], [[0.3, 9.0, -7.0]], np.eye(3) * 2.0)
    pairs = neighbor_list(frame, 4.01)
    r = np.linalg.norm(vectors(frame, pairs), axis=1)
    assert np.unique(r.round(6), return_counts=True)[1].tolist() == [6, 12, 8, 6]


@pytest.mark.parametrize("n", [300, 2000])
def test_large_cells_by_brute_force(n):
    """Where there are many bins; open in one direction, whose cell vector is zero."""
    rng = np.random.default_rng(n)
    side = (n * 16.0) ** (1 / 3)
    cell = np.diag([side, side, 0.0])
    x = rng.uniform(0, side, (n, 3))
    frame = Frames.single(np.full(n, 13), x, cell, (True, True, False))
    d = x[None] - x[:, None]
    d[..., :2] -= side * np.round(d[..., :2] / side)
    want = np.argwhere((np.linalg.norm(d, axis=2) < 5.0) & ~np.eye(n, dtype=bool))
    pairs = neighbor_list(frame, 5.0)
    assert sorted(zip(pairs.i.tolist(), pairs.j.tolist(), strict=True)) == sorted(map(tuple, want.tolist()))


def test_reverse_pairs():
    frames = random_frames(np.random.default_rng(9), 10)
    pairs = neighbor_list(frames, 5.0)
    np.testing.assert_array_equal(pairs.reverse[pairs.reverse], np.arange(pairs.n_pairs))
    np.testing.assert_array_equal(pairs.i[pairs.reverse], pairs.j)
    np.testing.assert_array_equal(vectors(frames, pairs)[pairs.reverse], -vectors(frames, pairs))


def test_hopeless_frames_get_no_pairs_and_spoil_no_others():
    good = Frames.single([13] * 4, np.random.default_rng(0).uniform(0, 4, (4, 3)), np.eye(3) * 4.1)
    bad = [
        good.moved(np.where(np.arange(12).reshape(4, 3) == 5, np.nan, good.positions)),
        good.moved(good.positions * np.inf),
        good.moved(good.positions + 1e12),
        good.moved(good.positions, good.cell * np.nan),
        good.moved(good.positions, good.cell * 0),
        good.moved(good.positions, good.cell * 1e200),
        good.moved(good.positions, good.cell * [[1], [1], [0]]),
        good.moved(good.positions, good.cell * 1e-3),
        Frames.single([13] * 2, [[0, 0, 0], [1, 1, 1]], np.diag([1e-4, 5, 5]), (True, False, False)),
    ]
    frames = Frames.concat([good, *bad, good])
    pairs = neighbor_list(frames, 5.0)
    assert pairs.valid.tolist() == [True, *[False] * len(bad), True]
    alone = neighbor_list(good, 5.0)
    assert pairs.n_pairs == 2 * alone.n_pairs > 0
    assert neighbor_list(Frames.empty(), 5.0).n_pairs == 0


@pytest.mark.parametrize("cutoff", [0.0, -1.0, np.nan, np.inf])
def test_bad_cutoff(cutoff):
    with pytest.raises(DataError, match="positive cutoff_A"):
        neighbor_list(Frames.empty(), cutoff)


class TestCache:
    """A list with a skin never misses a pair, and is not rebuilt without need."""

    def frames(self):
        rng = np.random.default_rng(1)
        cells = [np.eye(3) * 6 + rng.uniform(-1, 1, (3, 3)) for _ in range(2)]
        parts = [
            Frames.single([13] * 6, rng.uniform(0, 6, (6, 3)), c, p) for c, p in zip(cells, (True, False), strict=True)
        ]
        return Frames.concat(parts)

    def missing(self, cache, frames):
        return as_set(neighbor_list(frames, cache.cutoff_A)) - as_set(cache.update(frames))

    def test_random_walk_with_a_breathing_cell(self):
        rng, frames, cache = np.random.default_rng(2), self.frames(), NeighborCache(5.0, skin_A=0.6)
        for _ in range(150):
            deform = np.eye(3) + rng.normal(0, 2e-3, (3, 3))
            frames = frames.moved((frames.positions + rng.normal(0, 0.02, (12, 3))) @ deform, frames.cell @ deform)
            assert not self.missing(cache, frames)
        assert 5 < cache.builds < 75

    def test_small_moves_keep_the_list_and_large_ones_do_not(self):
        frames, cache = self.frames(), NeighborCache(5.0, skin_A=0.6)
        first = cache.update(frames)
        assert cache.update(frames.moved(frames.positions + np.array([0.29, 0, 0]))) is first
        assert cache.update(frames.moved(frames.positions + np.array([0.31, 0, 0]))) is not first

    def test_a_strain_that_brings_pairs_in_rebuilds(self):
        frames, cache = self.frames(), NeighborCache(5.0, skin_A=0.6)
        first = cache.update(frames)
        assert cache.update(frames.moved(frames.positions * 0.99, frames.cell * 0.99)) is first
        assert cache.update(frames.moved(frames.positions * 0.85, frames.cell * 0.85)) is not first

    def test_another_batch_rebuilds(self):
        frames, cache = self.frames(), NeighborCache(5.0, skin_A=0.6)
        first = cache.update(frames)
        second = cache.update(frames.take([1, 0]))
        assert second is not first
        opened = Frames(frames.numbers, frames.positions, frames.cell, ~frames.pbc, frames.offsets)
        assert not self.missing(cache, opened)

    def test_nan_rebuilds_and_recovers(self):
        frames, cache = self.frames(), NeighborCache(5.0, skin_A=0.6)
        cache.update(frames)
        broken = frames.positions.copy()
        broken[0, 0] = np.nan
        assert cache.update(frames.moved(broken)).valid.tolist() == [False, True]
        assert cache.update(frames).valid.all()
        assert not self.missing(cache, frames)


def test_an_ordered_list_does_not_tell_when_it_was_built():
    rng = np.random.default_rng(8)
    frames = Frames.single(np.full(12, 13), rng.random((12, 3)) * 5, np.diag([5.0, 4.0, 6.0]))
    moved = frames.moved(frames.positions + rng.normal(scale=0.05, size=(12, 3)))
    cache = NeighborCache(4.0, 0.8, ordered=True)
    old, new = in_order(neighbor_list(moved, 4.0)), cache.update(frames)
    assert cache.update(moved) is new
    D = moved.positions[new.j] - moved.positions[new.i] + new.shift @ moved.cell[0]
    within = np.linalg.norm(D, axis=1) < 4.0
    for name in ("i", "j", "shift"):
        np.testing.assert_array_equal(getattr(new, name)[within], getattr(old, name))
    np.testing.assert_array_equal(new.j[new.reverse], new.i)
    np.testing.assert_array_equal(new.shift[new.reverse], -new.shift)
    np.testing.assert_array_equal(new.reverse[new.reverse], np.arange(new.n_pairs))
