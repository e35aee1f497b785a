"""Neighbour lists of a whole batch of frames: any cell, any periodicity, several images of one atom.

A pair says that atom `j`, moved by `shift` whole lattice vectors, lies within the cutoff of atom `i`:
``D_ij = x_j - x_i + shift @ cell``. Shifts are whole numbers, so a list outlives a change of the cell.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from alflow.core.frames import Bools, Floats, Frames
from alflow.errors import DataError
from alflow.numerics import neighbor_kernels as kernels
from alflow.numerics.threads import spread

Ints32 = NDArray[np.int32]

MAX_NEIGHBORS: Final = 5000
"""A frame with more neighbours per atom than this on average is denser than any matter: it gets no list."""
MAX_FRACTION: Final = 1e8
"""A frame with an atom more lattice vectors than this from the origin gets no list: its digits are gone."""

_LONGEST_A: Final = 1e90
"""The product of three vectors of this length still is a number."""


@dataclass(frozen=True, slots=True, eq=False)
class Neighbors:
    """All ordered pairs within a cutoff, rows of atom i at start[i]:start[i+1].

    Attributes:
        start: first pair of each atom, (n_atoms + 1,).
        j: neighbour of each pair, an index into the atoms of the batch, (n_pairs,).
        shift: lattice vectors to add to the neighbour, (n_pairs, 3).
        reverse: index of the pair (j, i, -shift) of each pair (i, j, shift), (n_pairs,).
        valid: False for frames that cannot have a list: NaN, no volume, or denser than any matter, (n_frames,).
            They have no pairs; what is computed from them must be NaN.
        cutoff_A: pairs are complete up to here for the positions the list was built with.
    """

    start: Ints32
    j: Ints32
    shift: Ints32
    reverse: Ints32
    valid: Bools
    cutoff_A: float

    @property
    def n_pairs(self) -> int:
        """Ordered pairs in all frames together."""
        return len(self.j)

    @property
    def i(self) -> Ints32:
        """The atom each pair belongs to, (n_pairs,)."""
        return np.repeat(np.arange(len(self.start) - 1, dtype=np.int32), np.diff(self.start))


def neighbor_list(frames: Frames, cutoff_A: float) -> Neighbors:
    """All pairs of `frames` closer than `cutoff_A`.

    Atoms are sorted into bins along the lattice vectors, so the work grows linearly with the number of atoms.

    Raises:
        DataError: the cutoff is not a positive number, or there are more pairs than 32 bits can count.
    """
    if not (np.isfinite(cutoff_A) and cutoff_A > 0):
        raise DataError(f"neighbor_list: expected a positive cutoff_A, got {cutoff_A}")
    cell, valid = completed_cells(frames)
    fraction = np.einsum("na,nab->nb", frames.positions, np.linalg.inv(cell)[frames.frame_of_atom])
    bad_atom = ~(np.abs(fraction) < MAX_FRACTION).all(1)
    valid[frames.frame_of_atom[bad_atom]] = False
    heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=1)
    sphere = 4 / 3 * np.pi * cutoff_A**3
    crowded = frames.pbc.all(1) & (frames.sizes * sphere > MAX_NEIGHBORS * np.abs(np.linalg.det(cell)))
    images = np.where(frames.pbc, 2 * np.ceil(cutoff_A / heights) + 1, 1).prod(1)
    valid &= ~crowded & ((images - 27) * frames.sizes < 4 * MAX_NEIGHBORS)
    fraction[~valid[frames.frame_of_atom]] = 0.0
    wrap = np.where(frames.pbc[frames.frame_of_atom], np.floor(fraction), 0.0)
    bins = _bins(frames, fraction - wrap, heights, cutoff_A)
    wrapped = frames.positions - np.einsum("na,nab->nb", wrap, cell[frames.frame_of_atom])
    fixed = (wrapped, wrap.astype(np.int32), cell, frames.pbc, frames.frame_of_atom, valid, bins, cutoff_A**2)
    count = np.zeros(frames.n_atoms, np.int64)
    spread(kernels.count, frames.n_atoms, *fixed, count, least=16)
    total = int(count.sum())
    if total >= 2**31:
        raise DataError(f"neighbor_list: {total} pairs within {cutoff_A} Å are too many for one batch")
    start = np.zeros(frames.n_atoms + 1, np.int32)
    np.cumsum(count, out=start[1:])
    j, shift = np.empty(total, np.int32), np.empty((total, 3), np.int32)
    spread(kernels.fill, frames.n_atoms, *fixed, start, j, shift, least=16)
    reverse = np.empty(total, np.int32)
    spread(kernels.reverse, frames.n_atoms, start, j, shift, reverse, least=16)
    return Neighbors(start, j, shift, reverse, valid, float(cutoff_A))


class NeighborCache:
    """A list with a skin, rebuilt only when an atom or the cell has moved so far that a pair may be missing.

    Args:
        cutoff_A: pairs closer than this are always in the list.
        skin_A: how much farther the list reaches when it is built.
        ordered: whether pairs come in an order that does not tell when the list was built. Sums over them are then
            rounded alike, so that what becomes of a frame does not depend on those it shares a batch with.
    """

    def __init__(self, cutoff_A: float, skin_A: float = 0.8, *, ordered: bool = False) -> None:
        self.cutoff_A, self.skin_A, self.ordered = cutoff_A, skin_A, ordered
        self.builds = 0
        self._built_for: tuple[Frames, Floats] | None = None
        self._list: Neighbors | None = None

    def update(self, frames: Frames) -> Neighbors:
        """A list that holds every pair of `frames` within the cutoff, and some beyond it."""
        if self._list is None or not self._still_good(frames):
            found = neighbor_list(frames, self.cutoff_A + self.skin_A)
            self._list = in_order(found) if self.ordered else found
            copy = frames.take(np.arange(len(frames)))
            self._built_for = (copy, completed_cells(frames)[0])
            self.builds += 1
        return self._list

    def _still_good(self, frames: Frames) -> bool:
        """No missing pair can have come within the cutoff.

        With F the strain of the cell since the list was built and d what atoms moved besides, a pair that was
        farther than cutoff + skin is now farther than (cutoff + skin) * smallest stretch of F - 2 max |d|.
        """
        assert self._built_for is not None
        old, old_cell = self._built_for
        if not np.array_equal(old.offsets, frames.offsets) or not np.array_equal(old.pbc, frames.pbc):
            return False
        moved: Floats = frames.positions - old.positions
        stretch: Floats = np.ones(len(frames))
        if not np.array_equal(old.cell, frames.cell):
            cell, valid = completed_cells(frames)
            if not valid.all():
                return False
            strain = np.linalg.solve(old_cell, cell)
            stretch = np.asarray(np.linalg.svd(strain, compute_uv=False)[:, -1], np.float64)
            moved = frames.positions - np.einsum("na,nab->nb", old.positions, strain[frames.frame_of_atom])
        farthest = np.sqrt(np.maximum.reduceat((moved * moved).sum(1), frames.offsets[:-1]))
        return bool((2 * farthest <= (self.cutoff_A + self.skin_A) * stretch - self.cutoff_A).all())


def in_order(neighbors: Neighbors) -> Neighbors:
    """The same pairs, those of each atom by neighbour and shift."""
    x, y, z = neighbors.shift.T
    order = np.lexsort((z, y, x, neighbors.j, neighbors.i))
    place = np.empty(len(order), np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    return replace(
        neighbors, j=neighbors.j[order], shift=neighbors.shift[order], reverse=place[neighbors.reverse[order]]
    )


def completed_cells(frames: Frames) -> tuple[Floats, Bools]:
    """Cells with unit vectors where a direction is open, so that all can be inverted.

    Returns:
        cells, (n_frames, 3, 3), and whether each is usable (finite, with a volume), (n_frames,); others are unit cells.
    """
    cell = frames.cell.copy()
    for f in np.flatnonzero(~frames.pbc.all(1)):
        kept = cell[f][frames.pbc[f]]
        if np.isfinite(kept).all():  # rows of the null space of what is kept: orthogonal to it and to each other
            cell[f][~frames.pbc[f]] = np.linalg.svd(np.vstack([kept, np.zeros((3, 3))]))[2][len(kept) :]
    valid = (np.abs(cell) < _LONGEST_A).all((1, 2))  # False for NaN, too
    cell[~valid] = np.eye(3)
    length: Floats = np.linalg.norm(cell, axis=2).prod(1)
    valid &= np.abs(np.linalg.det(cell)) > 1e-6 * np.maximum(length, 1e-9)
    cell[~valid] = np.eye(3)
    return cell, valid


def _bins(frames: Frames, fraction: Floats, heights: Floats, cutoff_A: float) -> tuple[Any, ...]:
    """Sort atoms into bins of about half a cutoff.

    Returns:
        bins along each lattice vector (n_frames, 3), how many to look at on either side (n_frames, 3), first bin of
        each frame (n_frames + 1,), bin of each atom along each vector (n_atoms, 3), first atom of each bin in
        `order` (n_bins + 1,), and `order`, the atoms sorted by bin (n_atoms,).
    """
    if not len(frames):
        none = np.zeros((0, 3), np.int64)
        return none, none, np.zeros(1, np.int64), none, np.zeros(1, np.int64), np.zeros(0, np.int64)
    first = frames.offsets[:-1]
    low = np.where(frames.pbc, 0.0, np.minimum.reduceat(fraction, first))
    width = np.where(frames.pbc, 1.0, np.maximum.reduceat(fraction, first) - low + 1e-9)
    most = np.maximum(np.ceil(np.cbrt(frames.sizes)), 1)[:, None]  # never many more bins than atoms
    count = np.clip(np.floor(2 * width * heights / cutoff_A), 1, most).astype(np.int64)
    reach = np.ceil(cutoff_A / (width * heights) * count).astype(np.int64)
    reach = np.where(frames.pbc, reach, np.minimum(reach, count))
    owner = frames.frame_of_atom
    place = np.clip(((fraction - low[owner]) / width[owner] * count[owner]).astype(np.int64), 0, count[owner] - 1)
    base = np.concatenate([[0], np.cumsum(count.prod(1))])
    flat = base[owner] + (place[:, 0] * count[owner, 1] + place[:, 1]) * count[owner, 2] + place[:, 2]
    order = np.argsort(flat, kind="stable")
    first_in_bin = np.searchsorted(flat[order], np.arange(base[-1] + 1))
    return count, reach, base, place, first_in_bin, order
