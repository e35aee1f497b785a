"""Atoms, cells and neighbours as tensors on one device, for descriptors in torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alflow.core.frames import Frames, Ints
from alflow.numerics.neighbors import Neighbors


class HasSpecies(Protocol):
    """Settings of descriptors that know some elements."""

    def species_index(self, numbers: Ints) -> NDArray[np.int32]:
        """Place of each atomic number among the elements, (n_atoms,)."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """Who is whose neighbour, as tensors on one device; holds no positions.

    Attributes:
        i: centre of each pair, (n_pairs,).
        j: neighbour of each pair, (n_pairs,).
        shift: lattice vectors to add, (n_pairs, 3).
        frame_of_atom: (n_atoms,).
        species: index of each atom's species, (n_atoms,).
    """

    i: Tensor
    j: Tensor
    shift: Tensor
    frame_of_atom: Tensor
    species: Tensor

    @staticmethod
    def of(settings: HasSpecies, frames: Frames, neighbors: Neighbors, device: Any = "cpu") -> Geometry:
        """Copy a list to `device`."""
        arrays = (
            neighbors.i,
            neighbors.j,
            neighbors.shift,
            frames.frame_of_atom,
            settings.species_index(frames.numbers),
        )
        return Geometry(*(torch.as_tensor(a, device=device).long() for a in arrays))  # widened there: half the bytes

    def vectors(self, positions: Tensor, cell: Tensor, strain: Tensor | None = None) -> Tensor:
        """From each atom to each of its neighbours, angstrom, (n_pairs, 3); see `features` for the arguments."""
        owner = self.frame_of_atom[self.i]
        offset = torch.einsum("pa,pab->pb", self.shift.to(cell.dtype), cell[owner])
        d = positions[self.j] - positions[self.i] + offset
        return d if strain is None else d + torch.einsum("pab,pb->pa", strain[owner], d)


def tensors(frames: Frames, dtype: torch.dtype, device: Any = "cpu") -> tuple[Tensor, Tensor]:
    """Positions (n_atoms, 3) and cells (n_frames, 3, 3)."""
    return (
        torch.as_tensor(frames.positions, dtype=dtype, device=device),
        torch.as_tensor(frames.cell, dtype=dtype, device=device),
    )


class GeometryCache:
    """The tensors of a list on one device, copied there again only when there is another list or other elements."""

    def __init__(self, settings: HasSpecies, device: Any) -> None:
        self.settings, self.device = settings, device
        self._kept: tuple[Neighbors, Ints, Geometry] | None = None

    def of(self, frames: Frames, neighbors: Neighbors) -> Geometry:
        """`Geometry.of`, or what it gave the last time."""
        if self._kept is None or self._kept[0] is not neighbors or not np.array_equal(self._kept[1], frames.numbers):
            found = Geometry.of(self.settings, frames, neighbors, self.device)
            self._kept = (neighbors, frames.numbers.copy(), found)
        return self._kept[2]
