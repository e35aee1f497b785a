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
        self._inverse: Floats = np.zeros((0, 3, 3))
        self.searches = 0
        self._search(frames, np.arange(len(frames)))

    def too_close(self, frames: Frames) -> Bools:
        """Whether a pair of each frame, periodic images included, is closer than its limit, (n_frames,)."""
        room = self._room(frames)
        if (room < 0).any():  # and with them those that would be next: one search costs little more than another
            self._search(frames, np.flatnonzero(~(room > 0.5 * self._gap)))
        return self._gap < 0

    def take(self, keep: Ints) -> None:
        """Go on with the frames at `keep` only."""
        self._reach, self._gap = self._reach[self._seen.atoms_of(keep)], self._gap[keep]
        self._seen, self._inverse = self._seen.take(keep), self._inverse[keep]

    def _room(self, frames: Frames) -> Floats:
        """How much closer than its limit no pair can have come, in angstrom; if negative, one may have.

        A pair that was d apart is at least d * smallest stretch - 2 * (farthest an atom moved besides) apart.
        """
        old = self._seen
        moved, stretch = frames.positions - old.positions, np.ones(len(frames))
        if not np.array_equal(frames.cell, old.cell):
            cell = frames.cell if frames.pbc.all() else completed_cells(frames)[0]
            strain = self._inverse @ cell
            stretch = np.asarray(np.linalg.svd(strain, compute_uv=False)[:, -1], np.float64)
            moved = frames.positions - transformed(old, strain)
        loss = np.maximum(1 - stretch, 0) * 2 * np.maximum.reduceat(self._reach, frames.offsets[:-1])
        x, y, z = moved.T
        farthest = np.sqrt(np.maximum.reduceat(x * x + y * y + z * z, frames.offsets[:-1]))
        room: Floats = stretch * self._gap - 2 * farthest - loss
        return np.where(np.isnan(room), -np.inf, room)

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
        self._inverse = np.asarray(np.linalg.inv(completed_cells(self._seen)[0]), np.float64)


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


def transformed(frames: Frames, matrix: Floats) -> Floats:
    """Positions times the matrix of their frame, x @ matrix[frame], (n_atoms, 3)."""
    m = np.repeat(matrix.reshape(-1, 9), frames.sizes, axis=0)
    x, y, z = frames.positions.T[:, :, None]
    product: Floats = x * m[:, :3] + y * m[:, 3:6] + z * m[:, 6:]
    return product


def _distances(frames: Frames, pairs: Neighbors) -> Floats:
    i, j, shift = pairs.i, pairs.j, pairs.shift
    cell = completed_cells(frames)[0][frames.frame_of_atom[i]]
    d = frames.positions[j] - frames.positions[i] + np.einsum("na,nab->nb", shift, cell)
    return np.asarray(np.linalg.norm(d, axis=1), np.float64)
