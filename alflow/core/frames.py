"""`Frames`: one or many atomic configurations, the only structure type inside alflow."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from alflow.errors import DataError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """A ragged batch of configurations, atoms of all frames laid end to end.

    Attributes:
        numbers: atomic numbers, (n_atoms,), int64.
        positions: Cartesian positions in angstrom, (n_atoms, 3).
        cell: lattice vectors as rows in angstrom, (n_frames, 3, 3).
        pbc: periodicity along each lattice vector, (n_frames, 3).
        offsets: frame i owns atoms offsets[i]:offsets[i+1], (n_frames + 1,).

    Raises:
        DataError: where a shape or the offsets do not fit.
    """

    numbers: Ints
    positions: Floats
    cell: Floats
    pbc: Bools
    offsets: Ints

    def __post_init__(self) -> None:
        n, m = len(self.numbers), len(self.offsets) - 1
        want = {"numbers": (n,), "positions": (n, 3), "cell": (m, 3, 3), "pbc": (m, 3)}
        for name, shape in want.items():
            got = getattr(self, name).shape
            if got != shape:
                raise DataError(f"Frames.{name} has shape {got}, expected {shape}")
        if m < 0 or self.offsets[0] != 0 or self.offsets[-1] != n or (np.diff(self.offsets) < 1).any():
            raise DataError(f"Frames.offsets must rise from 0 to n_atoms={n}, got {self.offsets}")

    @staticmethod
    def single(numbers: ArrayLike, positions: ArrayLike, cell: ArrayLike, pbc: ArrayLike = True) -> Frames:
        """One frame from (n_atoms,), (n_atoms, 3), (3, 3) and (3,) or one bool."""
        z = np.asarray(numbers, np.int64)
        return Frames(
            z,
            np.asarray(positions, np.float64).reshape(-1, 3),
            np.asarray(cell, np.float64).reshape(1, 3, 3),
            np.broadcast_to(np.asarray(pbc, np.bool_), (1, 3)).copy(),
            np.array([0, len(z)], np.int64),
        )

    @staticmethod
    def empty() -> Frames:
        """A batch of no frames."""
        return Frames(
            np.zeros(0, np.int64),
            np.zeros((0, 3)),
            np.zeros((0, 3, 3)),
            np.zeros((0, 3), np.bool_),
            np.zeros(1, np.int64),
        )

    @staticmethod
    def concat(parts: Sequence[Frames]) -> Frames:
        """Lay several batches end to end; an empty sequence gives an empty batch."""
        if not parts:
            return Frames.empty()
        sizes = np.concatenate([p.sizes for p in parts])
        return Frames(
            np.concatenate([p.numbers for p in parts]),
            np.concatenate([p.positions for p in parts]),
            np.concatenate([p.cell for p in parts]),
            np.concatenate([p.pbc for p in parts]),
            np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]),
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Frames:
        return self.take([range(len(self))[index]])

    def __iter__(self) -> Iterator[Frames]:
        return (self[i] for i in range(len(self)))

    @property
    def n_atoms(self) -> int:
        """Atoms in all frames together."""
        return len(self.numbers)

    @property
    def sizes(self) -> Ints:
        """Atoms per frame, (n_frames,)."""
        return np.diff(self.offsets)

    @property
    def volumes(self) -> Floats:
        """Cell volume of each frame in cubic angstrom, (n_frames,)."""
        volumes: Floats = np.abs(np.linalg.det(self.cell))
        return volumes

    @property
    def frame_of_atom(self) -> Ints:
        """Which frame each atom belongs to, (n_atoms,)."""
        return np.repeat(np.arange(len(self)), self.sizes)

    def atoms_of(self, indices: ArrayLike) -> Ints:
        """Indices of the atoms of the frames at `indices`, in that order."""
        pick = np.asarray(indices, np.int64).reshape(-1)
        sizes = self.sizes[pick]
        if not len(pick):
            return np.zeros(0, np.int64)
        shift = self.offsets[pick] - np.concatenate([[0], np.cumsum(sizes)[:-1]])
        atoms: Ints = np.arange(sizes.sum(), dtype=np.int64) + np.repeat(shift, sizes)
        return atoms

    def take(self, indices: ArrayLike) -> Frames:
        """The frames at `indices`, (n,), in that order; copies."""
        pick = np.asarray(indices, np.int64).reshape(-1)
        atoms = self.atoms_of(pick)
        return Frames(
            self.numbers[atoms],
            self.positions[atoms],
            self.cell[pick],
            self.pbc[pick],
            np.concatenate([np.zeros(1, np.int64), np.cumsum(self.sizes[pick])]),
        )

    def batches(self, max_atoms: int) -> Iterator[Frames]:
        """Consecutive batches of at most `max_atoms` atoms, one frame at least."""
        start = 0
        while start < len(self):
            atoms = self.offsets[start + 1 :] - self.offsets[start]
            n = max(1, int(np.searchsorted(atoms, max_atoms, side="right")))
            yield self.take(range(start, start + n))
            start += n

    def moved(self, positions: Floats, cell: Floats | None = None) -> Frames:
        """The same atoms at other positions (n_atoms, 3), and in other cells if given."""
        return Frames(self.numbers, positions, self.cell if cell is None else cell, self.pbc, self.offsets)

    def ids(self) -> tuple[str, ...]:
        """Content digest of each frame: equal iff every input array is equal bit for bit."""
        arrays = [np.ascontiguousarray(a) for a in (self.numbers, self.positions, self.cell, self.pbc)]
        numbers, positions, cell, pbc = arrays
        out = []
        for i in range(len(self)):
            atoms = slice(int(self.offsets[i]), int(self.offsets[i + 1]))
            h = hashlib.sha256(numbers[atoms].tobytes())
            h.update(cell[i].tobytes())
            h.update(pbc[i].tobytes())
            h.update(positions[atoms].tobytes())
            out.append(h.hexdigest()[:16])
        return tuple(out)
