"""What stays the same during a fit: scaled descriptors with their Jacobians, and labels in the units the nets see."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from alflow.core.frames import Bools, Floats, Frames, Ints
from alflow.core.labels import Labels
from alflow.errors import ResourceError, UnphysicalError
from alflow.interfaces import Halt, never
from alflow.numerics import aev
from alflow.numerics.aev import AevSettings
from alflow.numerics.neighbors import Neighbors, neighbor_list
from alflow.numerics.statistics import atomic_shift

SLOTS: Final = 8
"""Members go through a Jacobian in blocks of so many rows."""
BLOCK_ATOMS: Final = 4096
"""Atoms whose descriptors are computed between two questions to `halt`."""
_VOIGT: Final = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


class Descriptors:
    """Scaled features x = (G - mean) / width of all frames, and products with their Jacobian.

    The Jacobian of a frame of N atoms is a dense matrix (3 N, and 6 strains if asked for; N features), made once and
    kept as far as memory allows; the other frames have their products computed from the formulas at every use.

    Args:
        settings: of the descriptors.
        frames: all frames of the fit.
        cache_bytes: memory for Jacobians; the first frames get it.
        strains: whether derivatives with respect to strain are wanted.
        halt: asked between blocks of frames.
        device: where features and Jacobians are kept; what is computed at every use is computed on the CPU.

    Attributes:
        mean: of each feature over the frames, (n_features,).
        width: geometric mean of its standard deviation and the root mean square one of all, (n_features,). Dividing
            by the full standard deviation fits forces worse, and makes a feature that hardly varies in the data
            shout as soon as a new structure moves it; so this has a floor, too.
        x: (n_atoms, n_features).

    Raises:
        ResourceError: halted.
    """

    def __init__(
        self,
        settings: AevSettings,
        frames: Frames,
        cache_bytes: float,
        strains: bool,
        halt: Halt = never,
        device: str = "cpu",
    ) -> None:
        self.settings, self.frames, self.strains, self._sizes = settings, frames, strains, frames.sizes
        self.device = torch.device(device)
        features = np.empty((frames.n_atoms, settings.n_features), np.float32)
        for pick in self._blocks(halt):
            some = frames.take(pick)
            features[frames.atoms_of(pick)] = aev.features(settings, some, self._near(some))
        self.mean, spread = features.mean(0, np.float64), features.std(0, dtype=np.float64)
        typical = float(np.sqrt((spread**2).mean())) or 1.0
        self.width = np.sqrt(typical * np.maximum(spread, 0.01 * typical))
        self.x = torch.from_numpy(((features - self.mean) / self.width).astype(np.float32)).to(self.device)
        self._width = torch.from_numpy(self.width.astype(np.float32)).to(self.device)
        self._jacobian: list[Tensor] = []
        rows = 3 * self._sizes + 6 * strains
        room = np.cumsum(4.0 * rows * self._sizes * settings.n_features) <= cache_bytes
        for pick in self._blocks(halt):
            self._jacobian += [self._dense(frames[int(i)]) for i in pick[room[pick]]]

    @property
    def n_cached(self) -> int:
        """How many frames have their Jacobian in memory."""
        return len(self._jacobian)

    def pull(self, pick: Ints, g: Tensor) -> tuple[Tensor, Tensor | None]:
        """Gradients of ``sum(g[m] * x)`` over the frames `pick`.

        Args:
            pick: indices of frames, rising, (n_pick,).
            g: (m, n_atoms of pick, n_features), m a multiple of `SLOTS`.

        Returns:
            gradient wrt positions (m, n_atoms of pick, 3), and wrt strain (m, n_pick, 3, 3) if strains were asked for.
        """
        down = g.new_empty((*g.shape[:2], 3))
        strain = g.new_empty((len(g), len(pick), 3, 3)) if self.strains else None
        for k, atoms, matrix in self._cached(pick):
            n = 3 * (atoms.stop - atoms.start)
            for m in range(0, len(g), SLOTS):
                out = g[m : m + SLOTS, atoms].reshape(SLOTS, -1) @ matrix.T
                down[m : m + SLOTS, atoms] = out[:, :n].view(SLOTS, -1, 3)
                if strain is not None:
                    for v, (a, b) in enumerate(_VOIGT):
                        strain[m : m + SLOTS, k, a, b] = strain[m : m + SLOTS, k, b, a] = out[:, n + v]
        first, atom = self._rest(pick)
        if first < len(pick):
            frames = self.frames.take(pick[first:])
            grad, virial = aev.vjp(self.settings, frames, self._near(frames), (g[:, atom:] / self._width).cpu().numpy())
            down[:, atom:] = torch.from_numpy(grad)
            if strain is not None:
                strain[:, first:] = torch.from_numpy(virial)
        return down, strain

    def push(self, pick: Ints, u: Tensor, strain: Tensor | None) -> Tensor:
        """Change of x along displacements and strains, (m, n_atoms of pick, n_features).

        Args:
            pick: indices of frames, rising, (n_pick,).
            u: (m, n_atoms of pick, 3), m a multiple of `SLOTS`.
            strain: symmetric, (m, n_pick, 3, 3), or None; only if strains were asked for.
        """
        change = u.new_empty((*u.shape[:2], self.settings.n_features))
        for k, atoms, matrix in self._cached(pick):
            for m in range(0, len(u), SLOTS):
                direction = u[m : m + SLOTS, atoms].reshape(SLOTS, -1)
                if self.strains:
                    bend = u.new_zeros((SLOTS, 6))
                    if strain is not None:
                        for v, (a, b) in enumerate(_VOIGT):
                            bend[:, v] = strain[m : m + SLOTS, k, a, b] * (1 if a == b else 2)
                    direction = torch.cat([direction, bend], 1)
                change[m : m + SLOTS, atoms] = (direction @ matrix).view(SLOTS, -1, change.shape[2])
        first, atom = self._rest(pick)
        if first < len(pick):
            frames = self.frames.take(pick[first:])
            some = None if strain is None else strain[:, first:].cpu().numpy()
            rest = aev.jvp(self.settings, frames, self._near(frames), u[:, atom:].cpu().numpy(), some)
            change[:, atom:] = torch.from_numpy(rest).to(self.device) / self._width
        return change

    def _blocks(self, halt: Halt) -> Iterator[Ints]:
        for pick in chunks(self._sizes, np.arange(len(self.frames)), BLOCK_ATOMS):
            if halt():
                raise ResourceError("fit halted while its descriptors were computed; call it again to start over")
            yield pick

    def _near(self, frames: Frames) -> Neighbors:
        return neighbor_list(frames, self.settings.radial_cutoff_A)

    def _dense(self, frame: Frames) -> Tensor:
        """Jacobian of x of one frame, a row for every direction: (3 n_atoms [+ 6], n_atoms * n_features)."""
        n = frame.n_atoms
        rows = 3 * n + 6 * self.strains
        u, strain = np.zeros((rows, 3 * n)), np.zeros((rows, 1, 3, 3))
        u[: 3 * n] = np.eye(3 * n)
        for k, (a, b) in enumerate(_VOIGT if self.strains else ()):  # symmetric: a virial is read off as it is
            strain[3 * n + k, 0, a, b] += 0.5
            strain[3 * n + k, 0, b, a] += 0.5
        change = aev.jvp(self.settings, frame, self._near(frame), u.reshape(-1, n, 3), strain)
        return (torch.from_numpy(change).to(self.device) / self._width).flatten(1)

    def _cached(self, pick: Ints) -> Iterator[tuple[int, slice, Tensor]]:
        """Place in `pick`, atoms in the chunk, and Jacobian of each frame that has one."""
        at = 0
        for k, i in enumerate(pick[: self._rest(pick)[0]]):
            n = int(self._sizes[i])
            yield k, slice(at, at + n), self._jacobian[i]
            at += n

    def _rest(self, pick: Ints) -> tuple[int, int]:
        """The first frame of `pick` without a Jacobian, and its first atom in the chunk."""
        first = int(np.searchsorted(pick, len(self._jacobian)))
        return first, int(self._sizes[pick[:first]].sum())


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


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """Labels in the units of the nets: energy = atomic shifts + scale * sum of e.

    Attributes:
        species: index of each atom's species, (n_atoms,).
        shift: energy of an atom of each species in eV, (n_species,).
        scale: eV per unit, chosen such that the loss of a constant energy and no forces is one.
        energy: without the shifts, (n_frames,).
        forces: (n_atoms, 3).
        virial: volume times stress, (n_frames, 3, 3), zero where there is none; None if stress is not fitted.
        has_virial: where there is one, (n_frames,).
    """

    species: Ints
    shift: Floats
    scale: float
    energy: Floats
    forces: Floats
    virial: Floats | None
    has_virial: Bools

    @staticmethod
    def of(frames: Frames, labels: Labels, settings: AevSettings, weights: Weights) -> Targets:
        """Labels of `frames` in the nets' units.

        Raises:
            UnphysicalError: stress is to be fitted and no frame has any, or labels are too large for floating point.
        """
        species = settings.species_index(frames.numbers).astype(np.int64)
        shift = atomic_shift(frames, labels.energy, settings.species)
        energy = labels.energy - np.add.reduceat(shift[species], frames.offsets[:-1])
        square = np.add.reduceat((labels.forces**2).sum(1), frames.offsets[:-1])
        loss = (weights.energy**2 * energy**2 + weights.force_A**2 * square) / frames.sizes
        scale = float(np.sqrt(loss.mean())) or 1.0
        if not np.isfinite(scale):
            raise UnphysicalError(f"labels of {len(frames)} frames cannot be fitted: their spread is {scale} eV")
        virial, has = None, np.zeros(len(frames), np.bool_)
        if weights.stress:
            virial, has = _virial(frames, labels, scale)
        return Targets(species, shift, scale, energy / scale, labels.forces / scale, virial, has)


def _virial(frames: Frames, labels: Labels, scale: float) -> tuple[Floats, Bools]:
    """Volume times stress in units of `scale`, and which frames have one."""
    stress = np.full((len(frames), 3, 3), np.nan) if labels.stress is None else labels.stress
    has: Bools = np.asarray(np.isfinite(stress).all((1, 2)))
    if not has.any():
        raise UnphysicalError("stress_weight is set, but no label of the dataset has a stress")
    virial: Floats = np.where(has[:, None, None], stress, 0.0) * (frames.volumes / scale)[:, None, None]
    return virial, has
