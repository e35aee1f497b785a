"""A fitted ANI ensemble: all members from one descriptor pass, forces of their mean from one more.

The mean of the members is a sum over members of last layers, so the gradient of the mean with respect to the
descriptors is one matrix product over the first layers of all members side by side; only forces of each member for
itself cost one descriptor gradient each.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alflow.core.frames import Floats, Frames
from alflow.core.labels import Labels
from alflow.interfaces import MemberLabels
from alflow.numerics import aev, net_kernels
from alflow.numerics.aev import AevSettings
from alflow.numerics.geometry_torch import GeometryCache
from alflow.numerics.neighbors import NeighborCache, Neighbors
from alflow.numerics.threads import spread, use_threads
from alflow.potentials._nets import ALPHA
from alflow.potentials._nets_model import NetMembers, TorchNets, TorchPasses, spoil, through_nets


class Members(NetMembers):
    """What a file of members holds; float32."""

    KIND = "ani"
    SETTINGS = AevSettings
    DTYPE = torch.float32

    @property
    def species(self) -> tuple[int, ...]:
        return tuple(self.settings.species)


class AniModel:
    """An ensemble of ANI nets; the prediction is their mean.

    Args:
        members: settings, weights and atomic shifts.
        device: ``cpu`` runs compiled kernels; another torch device runs the descriptors in torch.
        skin_A: how much farther neighbour lists reach than the cutoff, so that they last several steps.
    """

    def __init__(self, members: Members, device: str = "cpu", skin_A: float = 0.8) -> None:
        self.members, self.settings, self.device = members, members.settings, device
        self._cache = NeighborCache(self.settings.radial_cutoff_A, skin_A)
        self._geometry = GeometryCache(self.settings, device)
        self._nets = [_nets_of(members, s, device) for s in range(len(self.settings.species))]

    @staticmethod
    def load(files: Sequence[Path], device: str | None = None) -> AniModel:
        """The ensemble of the members in `files`, on a GPU if there is one and no device is named.

        Raises:
            DataError: no file, one that cannot be read, or two that do not belong together.
        """
        return AniModel(Members.gathered(files), device or ("cuda" if torch.cuda.is_available() else "cpu"))

    def __getstate__(self) -> dict[str, Any]:
        return {"members": self.members, "device": self.device, "skin_A": self._cache.skin_A}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # rebuilt from what it was made of

    @property
    def cutoff_A(self) -> float:
        return float(self.settings.radial_cutoff_A)

    @property
    def n_members(self) -> int:
        return len(self.members.numbers)

    def predict(self, frames: Frames, *, stress: bool = True) -> Labels:
        return self.predict_members(frames, forces=False, stress=stress).mean

    def predict_members(self, frames: Frames, *, forces: bool, stress: bool = False) -> MemberLabels:
        use_threads(torch.get_num_threads())
        if not len(frames):
            each = np.zeros((self.n_members, 0, 3)) if forces else None
            return MemberLabels(Labels.missing(frames, stress), np.zeros((self.n_members, 0)), each)
        species = self.settings.species_index(frames.numbers)
        neighbors = self._cache.update(frames)
        with torch.no_grad():
            passes = self._passes(frames, neighbors)
            atomic, grad_mean, grad_each = through_nets(
                self._nets, self.n_members, passes.features(), species, each=forces
            )
        energy = np.add.reduceat(atomic, frames.offsets[:-1], axis=1)
        grad, virial = passes.pull_back(grad_mean[None])
        each = None if grad_each is None else -passes.pull_back(grad_each)[0]
        volume = np.where(frames.pbc.all(axis=1), frames.volumes, np.nan) if stress else np.zeros(0)
        found = MemberLabels(
            Labels(energy.mean(axis=0), -grad[0], virial[0] / volume[:, None, None] if stress else None), energy, each
        )
        spoil(found, ~neighbors.valid, frames)
        return found

    def _passes(self, frames: Frames, neighbors: Neighbors) -> _Cpu | TorchPasses:
        """The compiled kernels on a CPU, torch elsewhere."""
        if self.device == "cpu":
            return _Cpu(self.settings, frames, neighbors)
        from alflow.numerics import aev_torch

        geometry = self._geometry.of(frames, neighbors)
        return TorchPasses(aev_torch.features, self.settings, geometry, frames, torch.float32)


class _CpuNets:
    """The nets of one species, all members, by compiled kernels."""

    def __init__(self, members: Members, species: int, _device: str) -> None:
        layers = [members.shape.views(w[species]) for w in members.weights]
        stacks = [
            (torch.stack([net[k][0] for net in layers]), torch.stack([net[k][1] for net in layers]))
            for k in range(len(layers[0]))
        ]
        self.m = len(layers)
        self._inward = tuple(w.transpose(1, 2).contiguous().numpy() for w, _ in stacks[:-1])
        self._outward = tuple(w.contiguous().numpy() for w, _ in stacks[:-1])
        self._bias = tuple(b.contiguous().numpy() for _, b in stacks[:-1])
        self._last = stacks[-1][0][:, 0].contiguous().numpy()
        self._constant = (stacks[-1][1].double() + members.shift_eV[:, species, None]).numpy()

    def __call__(self, x: Tensor, *, each: bool) -> tuple[Floats, Tensor, Tensor | None]:
        energy = np.empty((self.m, len(x)), np.float32)
        mean, grads = torch.zeros_like(x), torch.zeros((self.m if each else 0, *x.shape))
        nets = (self._inward, self._outward, self._bias, self._last, np.float32(ALPHA))
        spread(net_kernels.passes, len(x), x.numpy(), *nets, energy, mean.numpy(), grads.numpy(), least=8)
        return energy + self._constant, mean, grads if each else None


def _nets_of(members: Members, species: int, device: str) -> _CpuNets | TorchNets:
    """The compiled kernels on a CPU, torch elsewhere."""
    return (_CpuNets if device == "cpu" else TorchNets)(members, species, device)


class _Cpu:
    """Descriptors and their gradients by compiled kernels."""

    def __init__(self, settings: AevSettings, frames: Frames, neighbors: Neighbors) -> None:
        self._args = (settings, frames, neighbors)

    def features(self) -> Tensor:
        return torch.from_numpy(aev.features(*self._args))

    def pull_back(self, g: Tensor) -> tuple[Floats, Floats]:
        return aev.vjp(*self._args, g.numpy())


def read_neurochem(path: Path) -> AniModel:
    """The ensemble in NeuroChem format that the ``.info`` file at `path` describes."""
    from alflow.potentials._neurochem import read

    return read(path)
