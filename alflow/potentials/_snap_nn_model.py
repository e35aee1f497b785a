"""A fitted ensemble of nets on bispectrum components: all members and the forces of their mean from one expansion."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alflow.core.frames import Floats, Frames
from alflow.core.labels import Labels
from alflow.interfaces import MemberLabels
from alflow.numerics import bispectrum
from alflow.numerics.bispectrum import BispectrumSettings
from alflow.numerics.neighbors import NeighborCache
from alflow.potentials._nets_model import NetMembers, TorchNets, spoil


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
        skin_A: how much farther neighbour lists reach than the cutoff, so that they last several steps.
    """

    def __init__(self, members: Members, skin_A: float = 0.5) -> None:
        self.members, self.settings = members, members.settings
        self._cache = NeighborCache(self.settings.cutoff_A, skin_A)
        self._nets = [TorchNets(members, s, "cpu") for s in range(len(members.species))]

    @staticmethod
    def load(files: Sequence[Path]) -> SnapNnModel:
        """The ensemble of the members in `files`.

        Raises:
            DataError: no file, one that cannot be read, or two that do not belong together.
        """
        return SnapNnModel(Members.gathered(files))

    def __getstate__(self) -> dict[str, Any]:
        return {"members": self.members, "skin_A": self._cache.skin_A}

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
        atomic = np.empty((self.n_members, frames.n_atoms))
        slopes: list[Floats] = []

        def respond(b: Floats) -> Floats:
            atomic[:], mean, each = self._through_nets(b, frames, each=forces)
            slopes.extend([] if each is None else each)
            return mean

        _, grad, virial = bispectrum.evaluate(self.settings, frames, neighbors, respond)
        energy = np.add.reduceat(atomic, frames.offsets[:-1], axis=1)
        each = None
        if forces:
            each = np.stack([-bispectrum.vjp(self.settings, frames, neighbors, g)[0] for g in slopes])
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

    def _through_nets(self, b: Floats, frames: Frames, *, each: bool) -> tuple[Floats, Floats, Floats | None]:
        """Atomic energies (m, n), slope of their mean (n, features), and of each (m, n, features) if asked."""
        species = self.settings.species_index(frames.numbers)
        x = torch.from_numpy(b)
        atomic, mean = np.zeros((self.n_members, len(b))), np.zeros_like(b)
        slopes = np.zeros((self.n_members, *b.shape)) if each else None
        for s, nets in enumerate(self._nets):
            rows = np.flatnonzero(species == s)
            if len(rows):
                atomic[:, rows], of_mean, of_each = nets(x[torch.from_numpy(rows)], each=each)
                mean[rows] = of_mean.numpy()
                if slopes is not None and of_each is not None:
                    slopes[:, rows] = of_each.numpy()
        return atomic, mean, slopes
