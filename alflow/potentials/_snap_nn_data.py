"""The descriptors of a fit of `snap_nn`: standardised, with their Jacobians in memory as far as there is room."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor

from alflow.core.frames import Bools, Frames, Ints
from alflow.errors import ResourceError, UnphysicalError
from alflow.interfaces import Halt, never
from alflow.numerics import bispectrum
from alflow.numerics.bispectrum import BispectrumSettings
from alflow.numerics.neighbors import Neighbors, neighbor_list
from alflow.potentials._nets_data import chunks
from alflow.potentials._snap_labels import placeholders, refusal
from alflow.potentials._snap_nn_jacobian import Jacobian, jacobian_bytes

if TYPE_CHECKING:
    from alflow.potentials.snap_nn import Part
    from alflow.store.dataset import Dataset

BLOCK_ATOMS: Final = 1024
"""Atoms whose descriptors are computed between two questions to `halt`."""
LEAST: Final = 1e-3
"""Components are divided by this part of their root mean square at least: one that hardly varies in the data would
shout as soon as a new structure moves it."""

DUST: Final = 1e-9
"""A component that varies by less is zero but for rounding: those of a neighbour at hand are of order one."""


def unlabelled(part: Part, data: Dataset, settings: BispectrumSettings, halt: Halt) -> Bools | None:
    """Whose forces, and stress, nobody computed, (n_frames, 2), or None if they shall be fitted as they are.

    Raises:
        UnphysicalError: there are some, and the settings refuse them.
        ResourceError: halted.
    """
    if part.zero_labels == "fit":
        return None
    used = np.tile([part.force_weight_A > 0, part.stress_weight > 0], (len(data), 1))
    used[:, 1] &= data.labels.has_stress(data.frames)
    empty = placeholders(data, settings, used, BLOCK_ATOMS, halt)
    if part.zero_labels == "refuse" and empty.any():
        groups = [str(g) for g in data.columns.get("group", [""] * len(data))]
        raise UnphysicalError(refusal(empty, groups, "zero_labels: skip"))
    return empty


class Descriptors:
    """Standardised components x = (B - mean) / width of all frames, and products with their Jacobian.

    Args:
        settings: of the descriptors.
        frames: all frames of the fit.
        cache_bytes: memory for Jacobians; the first frames get it, the others' are made anew at every use.
        strains: whether derivatives with respect to strain are wanted.
        halt: asked between blocks of frames.

    Attributes:
        mean: of each component over all atoms, (n_features,).
        width: standard deviation, at least `LEAST` of the root mean square, (n_features,).
        x: (n_atoms, n_features).

    Raises:
        ResourceError: halted.
        UnphysicalError: a frame has no descriptors.
    """

    def __init__(
        self, settings: BispectrumSettings, frames: Frames, cache_bytes: float, strains: bool, halt: Halt = never
    ) -> None:
        self.settings, self.frames, self.strains, self._sizes = settings, frames, strains, frames.sizes
        self.device = torch.device("cpu")
        features = np.empty((frames.n_atoms, settings.n_features))
        memory = np.zeros(len(frames))
        for pick in self._blocks(np.arange(len(frames)), halt):
            some, near = self._near(pick)
            features[frames.atoms_of(pick)] = bispectrum.features(settings, some, near)
            if cache_bytes:
                memory[pick] = jacobian_bytes(settings, some, near, strains)
        self.mean = features.mean(0)
        size = np.sqrt((features**2).mean(0))
        self.width = np.maximum(features.std(0), LEAST * size)
        self.width[self.width < DUST] = 1.0
        self.x = torch.from_numpy(((features - self.mean) / self.width).astype(np.float32))
        self._width = self.width.astype(np.float32)
        self._kept: list[Jacobian] = []
        self.n_cached = int((np.cumsum(memory) <= cache_bytes).sum()) if cache_bytes else 0
        self._block = np.zeros(self.n_cached, np.int64)
        for pick in self._blocks(np.arange(self.n_cached), halt):
            self._block[pick] = len(self._kept)
            self._kept.append(self._jacobian(pick))

    @property
    def nbytes(self) -> int:
        """Memory that the Jacobians take."""
        return sum(kept.nbytes for kept in self._kept)

    def pull(self, pick: Ints, g: Tensor) -> tuple[Tensor, Tensor | None]:
        """See `alflow.potentials._nets_data.Inputs`."""
        used = g.flatten(1).any(1)
        down, strain = g.new_zeros((*g.shape[:2], 3)), g.new_zeros((len(g), len(pick), 3, 3))
        weights = g[used].numpy() / self._width
        for places, atoms, jacobian, own in self._parts(pick):
            grad, virial = jacobian.vjp(weights[:, atoms], own)
            down[used, atoms] = torch.from_numpy(grad)
            strain[used, places] = torch.from_numpy(virial)
        return down, strain if self.strains else None

    def push(self, pick: Ints, u: Tensor, strain: Tensor | None) -> Tensor:
        """See `alflow.potentials._nets_data.Inputs`."""
        used = u.flatten(1).any(1)
        if strain is not None:
            used |= strain.flatten(1).any(1)
        change = u.new_zeros((*u.shape[:2], self.settings.n_features))
        moves = u[used].numpy()
        bends = None if strain is None else strain[used].numpy()
        for places, atoms, jacobian, own in self._parts(pick):
            found = jacobian.jvp(moves[:, atoms], None if bends is None else bends[:, places], own)
            change[used, atoms] = torch.from_numpy(found / self._width)
        return change

    def _parts(self, pick: Ints) -> Iterator[tuple[slice, slice, Jacobian, Ints]]:
        """Runs of `pick` that one Jacobian knows: places in `pick`, atoms of the chunk, and its own frames."""
        block = np.concatenate([self._block, [-1]])[np.minimum(pick, self.n_cached)]
        ends = np.cumsum(self._sizes[pick])
        for part in np.split(np.arange(len(pick)), np.flatnonzero(np.diff(block)) + 1):
            a, b = int(part[0]), int(part[-1]) + 1
            atoms = slice(int(ends[a] - self._sizes[pick[a]]), int(ends[b - 1]))
            if block[a] < 0:
                yield slice(a, b), atoms, self._jacobian(pick[a:b]), np.arange(b - a)
            else:
                first = int(np.searchsorted(self._block, block[a]))
                yield slice(a, b), atoms, self._kept[block[a]], pick[a:b] - first

    def _jacobian(self, pick: Ints) -> Jacobian:
        return Jacobian(self.settings, *self._near(pick), self.strains)

    def _blocks(self, pick: Ints, halt: Halt) -> Iterator[Ints]:
        for part in chunks(self._sizes, pick, BLOCK_ATOMS):
            if halt():
                raise ResourceError("fit halted while its descriptors were computed; call it again to start over")
            yield part

    def _near(self, pick: Ints) -> tuple[Frames, Neighbors]:
        some = self.frames.take(pick)
        near = neighbor_list(some, self.settings.cutoff_A)
        if not near.valid.all():
            raise UnphysicalError(
                f"frame {int(pick[~near.valid][0])} of the dataset cannot be fitted: it has no volume, or atoms that "
                "are not numbers or denser than any matter"
            )
        return some, near
