"""Atoms that come too close, watched at every step and looked for only when they may have."""

from __future__ import annotations

from typing import Final

import numpy as np

from alflow.core.frames import Bools, Floats, Frames, Ints
from alflow.numerics.neighbors import Neighbors, completed_cells, neighbor_list

_SKIN_A: Final = 1.0


class ContactWatch:
    """Says which frames of a moving batch have a pair closer than its limit.

    Distances are computed when the watch begins, and again for a frame only when the farthest an atom has moved since,
    and the strain of its cell, could have used up the room its closest pair had. The answer is exact all the same.

    Args:
        frames: the systems.
        reach_A: half a limit of each atom; a pair's limit is the sum of its two, (n_atoms,).
    """

    def __init__(self, frames: Frames, reach_A: Floats) -> None:
        self._reach = reach_A
        self._seen = frames
        self._gap: Floats = np.zeros(len(frames))
        self.searches = 0
        self._search(frames, np.arange(len(frames)))

    def too_close(self, frames: Frames) -> Bools:
        """Whether a pair of each frame, periodic images included, is closer than its limit, (n_frames,)."""
        stale = np.flatnonzero(~self._safe(frames))
        if len(stale):
            self._search(frames, stale)
        return self._gap < 0

    def take(self, keep: Ints) -> None:
        """Go on with the frames at `keep` only."""
        self._reach, self._gap = self._reach[self._seen.atoms_of(keep)], self._gap[keep]
        self._seen = self._seen.take(keep)

    def _safe(self, frames: Frames) -> Bools:
        """A pair that was d apart is at least d * smallest stretch - 2 * (farthest an atom moved besides) apart."""
        old, owner = self._seen, frames.frame_of_atom
        moved, stretch = frames.positions - old.positions, np.ones(len(frames))
        if not np.array_equal(frames.cell, old.cell):
            strain = np.linalg.inv(completed_cells(old)[0]) @ completed_cells(frames)[0]
            stretch = np.asarray(np.linalg.svd(strain, compute_uv=False)[:, -1], np.float64)
            moved = frames.positions - np.einsum("na,nab->nb", old.positions, strain[owner])
        farthest = np.sqrt(np.maximum.reduceat((moved * moved).sum(axis=1), frames.offsets[:-1]))
        limit = 2 * np.maximum.reduceat(self._reach, frames.offsets[:-1])
        safe: Bools = stretch * self._gap - 2 * farthest >= np.maximum(1 - stretch, 0) * limit
        return safe

    def _search(self, frames: Frames, which: Ints) -> None:
        self.searches += 1
        some, reach = frames.take(which), self._reach[frames.atoms_of(which)]
        pairs = neighbor_list(some, 2 * float(reach.max()) + _SKIN_A)
        room = _distances(some, pairs) - reach[pairs.i] - reach[pairs.j]
        gap: Floats = np.full(len(some), _SKIN_A)
        np.minimum.at(gap, some.frame_of_atom[pairs.i], room)
        self._gap[which] = np.where(pairs.valid, gap, -1.0)  # no list: NaN, or denser than any matter
        seen_x, seen_cell = self._seen.positions.copy(), self._seen.cell.copy()
        seen_x[frames.atoms_of(which)], seen_cell[which] = some.positions, some.cell
        self._seen = frames.moved(seen_x, seen_cell)


def closest_A(frames: Frames, up_to_A: float = 30.0) -> Floats:
    """Distance of the closest pair of each frame, periodic images included; infinite if beyond `up_to_A`."""
    closest = np.full(len(frames), np.inf)
    cutoff = 3.5
    while len(missing := np.flatnonzero(np.isinf(closest))) and cutoff < up_to_A:
        some = frames.take(missing)
        pairs = neighbor_list(some, cutoff)
        found = np.full(len(some), np.inf)
        np.minimum.at(found, some.frame_of_atom[pairs.i], _distances(some, pairs))
        closest[missing] = np.where(pairs.valid, found, np.nan)
        cutoff *= 2
    return closest


def _distances(frames: Frames, pairs: Neighbors) -> Floats:
    i, j, shift = pairs.i, pairs.j, pairs.shift
    cell = completed_cells(frames)[0][frames.frame_of_atom[i]]
    d = frames.positions[j] - frames.positions[i] + np.einsum("na,nab->nb", shift, cell)
    return np.asarray(np.linalg.norm(d, axis=1), np.float64)
