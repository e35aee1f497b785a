"""What stays the same during a fit of nets: scaled descriptors, and labels in the units the nets see."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import torch
from torch import Tensor

from alflow.core.frames import Bools, Floats, Frames, Ints
from alflow.core.labels import Labels
from alflow.errors import UnphysicalError
from alflow.numerics.statistics import atomic_shift

SLOTS: Final = 8
"""Members go through a Jacobian in blocks of so many rows."""


class Inputs(Protocol):
    """Scaled features x = (G - mean) / width of all frames, and products with their Jacobian.

    Attributes:
        settings: of the descriptors.
        frames: all frames of the fit.
        device: where x is.
        mean: (n_features,).
        width: (n_features,).
        x: (n_atoms, n_features), float32.
    """

    settings: Any
    frames: Frames
    device: torch.device
    mean: Floats
    width: Floats
    x: Tensor

    def pull(self, pick: Ints, g: Tensor) -> tuple[Tensor, Tensor | None]:
        """Gradients of ``sum(g[m] * x)`` over the frames `pick`.

        Args:
            pick: indices of frames, rising, (n_pick,).
            g: (m, n_atoms of pick, n_features), m a multiple of `SLOTS`.

        Returns:
            gradient wrt positions (m, n_atoms of pick, 3), and wrt strain (m, n_pick, 3, 3) if strains were asked for.
        """
        ...

    def push(self, pick: Ints, u: Tensor, strain: Tensor | None) -> Tensor:
        """Change of x along displacements and strains, (m, n_atoms of pick, n_features).

        Args:
            pick: indices of frames, rising, (n_pick,).
            u: (m, n_atoms of pick, 3), m a multiple of `SLOTS`.
            strain: symmetric, (m, n_pick, 3, 3), or None; only if strains were asked for.
        """
        ...


def chunks(sizes: Ints, pick: Ints, max_atoms: int) -> Iterator[Ints]:
    """Consecutive parts of `pick` of about `max_atoms` atoms, one frame at least; `sizes` are those of all frames."""
    if len(pick):
        part = (np.cumsum(sizes[pick]) - 1) // max_atoms
        yield from np.split(pick, np.flatnonzero(np.diff(part)) + 1)


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights of the loss; see `Part`."""

    energy: float
    force_A: float
    stress: float

    @staticmethod
    def ratios(energy: float, force_A: float, stress: float) -> Weights:
        """The same but for a factor, for only that of energies or of forces is 1: nets begin at the size of labels."""
        largest = max(energy, force_A)
        return Weights(energy / largest, force_A / largest, stress / largest)

    @property
    def slopes(self) -> bool:
        """Whether the loss holds more than energies, so that descriptors must be differentiated."""
        return self.force_A > 0 or self.stress > 0


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """Labels in the units of the nets: energy = atomic shifts + scale * sum of e.

    Attributes:
        species: index of each atom's species, (n_atoms,).
        shift: energy of an atom of each species in eV, (n_species,).
        scale: eV per unit, chosen such that the loss of a constant energy and no forces is one.
        energy: without the shifts, (n_frames,).
        forces: (n_atoms, 3); zero where they do not count.
        has_forces: where they do, (n_frames,).
        virial: volume times stress, (n_frames, 3, 3), zero where there is none; None if stress is not fitted.
        has_virial: where there is one, (n_frames,).
    """

    species: Ints
    shift: Floats
    scale: float
    energy: Floats
    forces: Floats
    has_forces: Bools
    virial: Floats | None
    has_virial: Bools

    @staticmethod
    def of(
        frames: Frames,
        labels: Labels,
        numbers: tuple[int, ...],
        species: Ints,
        weights: Weights,
        without: Bools | None = None,
    ) -> Targets:
        """Labels of `frames` in the nets' units.

        Args:
            frames: the structures.
            labels: theirs.
            numbers: atomic numbers, one a species.
            species: index of each atom's, (n_atoms,).
            weights: of the loss.
            without: whose forces, and stress, do not count although there are some, (n_frames, 2), or None.

        Raises:
            UnphysicalError: stress is to be fitted and no frame has any, or labels are too large for floating point.
        """
        species = species.astype(np.int64)
        shift = atomic_shift(frames, labels.energy, numbers)
        energy = labels.energy - np.add.reduceat(shift[species], frames.offsets[:-1])
        without = np.zeros((len(frames), 2), np.bool_) if without is None else without
        has_forces = ~without[:, 0] & (weights.force_A > 0)
        forces = np.where(has_forces[frames.frame_of_atom, None], labels.forces, 0.0)
        square = np.add.reduceat((forces**2).sum(1), frames.offsets[:-1])
        loss = (weights.energy**2 * energy**2 + weights.force_A**2 * square) / frames.sizes
        scale = float(np.sqrt(loss.mean())) or 1.0
        if not np.isfinite(scale):
            raise UnphysicalError(f"labels of {len(frames)} frames cannot be fitted: their spread is {scale} eV")
        virial, has = None, np.zeros(len(frames), np.bool_)
        if weights.stress:
            virial, has = _virial(frames, labels, scale, ~without[:, 1])
        return Targets(species, shift, scale, energy / scale, forces / scale, has_forces, virial, has)


def _virial(frames: Frames, labels: Labels, scale: float, counts: Bools) -> tuple[Floats, Bools]:
    """Volume times stress in units of `scale`, and which frames have one."""
    has = labels.has_stress(frames) & counts
    if labels.stress is None or not has.any():
        raise UnphysicalError("stress_weight is set, but no label of the dataset has a stress that counts")
    virial: Floats = np.where(has[:, None, None], labels.stress, 0.0) * (frames.volumes / scale)[:, None, None]
    return virial, has
