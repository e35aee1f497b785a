"""A fitted ensemble of nets on bispectrum components: all members and the forces of their mean from one expansion."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from alflow.core.frames import Floats, Frames
from alflow.core.labels import Labels
from alflow.interfaces import MemberLabels
from alflow.numerics import bispectrum
from alflow.numerics.bispectrum import BispectrumSettings
from alflow.numerics.geometry_torch import GeometryCache
from alflow.numerics.neighbors import NeighborCache, Neighbors
from alflow.potentials._nets_model import NetMembers, TorchNets, TorchPasses, spoil, through_nets

LEAST_ATOMS: Final = 1500
"""Fewer in one call keep a GPU waiting for orders: there four cores of a CPU were faster (benchmarks/gpu.py)."""


class Members(NetMembers):
    """What a file of members holds; float64."""

    KIND = "snap_nn"
    SETTINGS = BispectrumSettings
    DTYPE = torch.float64

    @property
    def species(self) -> tuple[int, ...]:
        return tuple(self.settings.numbers)


class SnapNnModel:
    """An ensemble of nets on bispectrum components; the prediction is their mean. Double precision.

    Args:
        members: settings, weights and atomic shifts.
        device: ``cpu`` runs compiled kernels; another torch device runs the descriptors in torch.
        least_atoms: of a call, for it to go to another device than the CPU.
        skin_A: how much farther neighbour lists reach than the cutoff, so that they last several steps.
    """

    def __init__(self, members: Members, device: str = "cpu", least_atoms: int = 0, skin_A: float = 0.5) -> None:
        self.members, self.settings = members, members.settings
        self.device, self.least_atoms = device, least_atoms
        self._cache = NeighborCache(self.settings.cutoff_A, skin_A)
        self._geometry = GeometryCache(self.settings, device)
        self._nets = {d: [TorchNets(members, s, d) for s in range(len(members.species))] for d in {"cpu", device}}

    @staticmethod
    def load(files: Sequence[Path], device: str | None = None) -> SnapNnModel:
        """The ensemble of the members in `files`; if no device is named, large calls go to a GPU if there is one.

        Raises:
            DataError: no file, one that cannot be read, or two that do not belong together.
        """
        members = Members.gathered(files)
        if device is None and torch.cuda.is_available():
            return SnapNnModel(members, "cuda", LEAST_ATOMS)
        return SnapNnModel(members, device or "cpu")

    def __getstate__(self) -> dict[str, Any]:
        kept = {"device": self.device, "least_atoms": self.least_atoms, "skin_A": self._cache.skin_A}
        return {"members": self.members, **kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # rebuilt from what it was made of

    @property
    def cutoff_A(self) -> float:
        return float(self.settings.cutoff_A)

    @property
    def n_members(self) -> int:
        return len(self.members.numbers)

    def predict(self, frames: Frames, *, stress: bool = True) -> Labels:
        return self.predict_members(frames, forces=False, stress=stress).mean

    def predict_members(self, frames: Frames, *, forces: bool, stress: bool = False) -> MemberLabels:
        if not len(frames):
            each = np.zeros((self.n_members, 0, 3)) if forces else None
            return MemberLabels(Labels.missing(frames, stress), np.zeros((self.n_members, 0)), each)
        neighbors = self._cache.update(frames)
        on_cpu = self.device == "cpu" or frames.n_atoms < self.least_atoms
        atomic, grad, virial, each = (self._on_cpu if on_cpu else self._on_device)(frames, neighbors, forces)
        energy = np.add.reduceat(atomic, frames.offsets[:-1], axis=1)
        tension = None
        if stress:
            volume = np.where(frames.pbc.all(axis=1), frames.volumes, np.nan)[:, None, None]
            tension = (virial + virial.transpose(0, 2, 1)) / 2 / volume
        found = MemberLabels(Labels(energy.mean(axis=0), -grad, tension), energy, each)
        spoil(found, ~neighbors.valid, frames)
        return found

    def features(self, frames: Frames) -> Floats:
        """1 and the bispectrum components of every atom, (n_atoms, n_features): what the nets see, as of `snap`.

        The energy is not linear in them; a gauge on them says whether an environment is new, not how wrong a net is.
        """
        b = np.zeros((0, self.settings.n_features))
        if len(frames):
            b = bispectrum.features(self.settings, frames, self._cache.update(frames))
        return np.hstack([np.ones((len(b), 1)), b])

    def pair_style(self, folder: Path) -> Sequence[str]:
        """Write what LAMMPS needs into `folder`; the lines for atom types in the order of the elements.

        Raises:
            InputError: LAMMPS does not know the activation.
        """
        from alflow.potentials._snap_nn_lammps import write

        return write(self.members, folder)

    def _on_cpu(self, frames: Frames, neighbors: Neighbors, forces: bool) -> _Found:
        """By compiled kernels."""
        nets, species = self._nets["cpu"], self.settings.species_index(frames.numbers)
        kept: list[tuple[Floats, Tensor | None]] = []

        def respond(b: Floats) -> Floats:
            atomic, mean, each = through_nets(nets, self.n_members, torch.from_numpy(b), species, each=forces)
            kept.append((atomic, each))
            return np.asarray(mean.numpy())

        _, grad, virial = bispectrum.evaluate(self.settings, frames, neighbors, respond)
        ((atomic, slopes),) = kept
        if slopes is None:
            return atomic, grad, virial, None
        each = np.stack([-bispectrum.vjp(self.settings, frames, neighbors, g)[0] for g in slopes.numpy()])
        return atomic, grad, virial, each

    def _on_device(self, frames: Frames, neighbors: Neighbors, forces: bool) -> _Found:
        """In torch."""
        from alflow.numerics import bispectrum_torch

        nets = self._nets[self.device]
        species, geometry = self.settings.species_index(frames.numbers), self._geometry.of(frames, neighbors)
        passes = TorchPasses(bispectrum_torch.features, self.settings, geometry, frames, torch.float64)
        with torch.no_grad():
            atomic, mean, each = through_nets(nets, self.n_members, passes.features(), species, each=forces)
        grad, virial = passes.pull_back(mean[None])
        return atomic, grad[0], virial[0], None if each is None else -passes.pull_back(each)[0]


_Found = tuple[Floats, Floats, Floats, Floats | None]
"""Atomic energies (m, n), gradient (n, 3) and virial (n_frames, 3, 3) of the mean, forces of each (m, n, 3)."""
