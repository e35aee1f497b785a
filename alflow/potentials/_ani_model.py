"""A fitted ANI ensemble: all members from one descriptor pass, forces of their mean from one more.

The mean of the members is a sum over members of last layers, so the gradient of the mean with respect to the
descriptors is one matrix product over the first layers of all members side by side; only forces of each member for
itself cost one descriptor gradient each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alflow.core.frames import Bools, Floats, Frames, Ints
from alflow.core.labels import Labels
from alflow.errors import DataError
from alflow.interfaces import MemberLabels
from alflow.numerics import aev, net_kernels
from alflow.numerics.aev import AevSettings
from alflow.numerics.neighbors import NeighborCache, Neighbors
from alflow.numerics.threads import spread, use_threads
from alflow.potentials._ani_net import ALPHA, Shape
from alflow.store.files import written_whole

SCHEMA: Final = 1


@dataclass(frozen=True, slots=True, eq=False)
class Members:
    """What a file of members holds.

    Attributes:
        settings: of the descriptors.
        hidden: widths of the hidden layers.
        numbers: which members of the ensemble these are.
        weights: parameters as `Shape.views` reads them, (n_members, n_species, count), float32.
        shift_eV: energy of a lone atom of each species, for each member, (n_members, n_species), float64.
    """

    settings: AevSettings
    hidden: tuple[int, ...]
    numbers: tuple[int, ...]
    weights: Tensor
    shift_eV: Tensor

    @property
    def shape(self) -> Shape:
        """Widths of the nets."""
        return Shape((self.settings.n_features, *self.hidden, 1))

    def save(self, path: Path) -> None:
        """Write them, whole or not at all."""
        content = {
            "alflow_ani": SCHEMA,
            "settings": asdict(self.settings),
            "hidden": list(self.hidden),
            "numbers": list(self.numbers),
            "weights": self.weights.detach().cpu().float().clone(),
            "shift_eV": self.shift_eV.detach().cpu().double().clone(),
        }
        with written_whole(path) as draft:
            torch.save(content, draft)

    @staticmethod
    def open(path: Path) -> Members:
        """Read a file of members.

        Raises:
            DataError: not there, not such a file, or damaged.
        """
        try:
            content: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            found = _members(content) if content.get("alflow_ani") == SCHEMA else None
        except Exception as exc:  # torch raises whatever the damage leads to
            raise DataError(f"{path}: cannot be read as ANI members: {exc}") from exc
        if found is None:
            raise DataError(f"{path}: expected ANI members of schema {SCHEMA}, got {content.get('alflow_ani')!r}")
        _check(found, path)
        return found


def _members(content: Mapping[str, Any]) -> Members:
    raw: dict[str, Any] = {k: tuple(v) if isinstance(v, list | tuple) else v for k, v in content["settings"].items()}
    hidden, numbers = tuple(content["hidden"]), tuple(content["numbers"])
    return Members(AevSettings(**raw), hidden, numbers, content["weights"], content["shift_eV"])


def _check(found: Members, path: Path) -> None:
    want = (len(found.numbers), len(found.settings.species), found.shape.count)
    if tuple(found.weights.shape) != want or tuple(found.shift_eV.shape) != want[:2]:
        raise DataError(
            f"{path}: expected weights {want} and shifts {want[:2]}, "
            f"got {tuple(found.weights.shape)} and {tuple(found.shift_eV.shape)}"
        )


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
        self._nets = [_nets_of(members, s, device) for s in range(len(self.settings.species))]

    @staticmethod
    def load(files: Sequence[Path], device: str | None = None) -> AniModel:
        """The ensemble of the members in `files`, on a GPU if there is one and no device is named.

        Raises:
            DataError: no file, one that cannot be read, or two that do not belong together.
        """
        if not files:
            raise DataError("an ANI model needs a file of members, got none")
        groups = [Members.open(f) for f in files]
        first = groups[0]
        for g, file in zip(groups, files, strict=True):
            if (g.settings, g.hidden) != (first.settings, first.hidden):
                raise DataError(f"{file}: descriptors or nets differ from those of {files[0]}: not one ensemble")
        groups.sort(key=lambda g: g.numbers)
        numbers = [n for g in groups for n in g.numbers]
        if len(set(numbers)) < len(numbers):
            raise DataError(f"{', '.join(map(str, files))}: a member stands in two files: {sorted(numbers)}")
        joined = Members(
            first.settings,
            first.hidden,
            tuple(n for g in groups for n in g.numbers),
            torch.cat([g.weights for g in groups]),
            torch.cat([g.shift_eV for g in groups]),
        )
        return AniModel(joined, device or ("cuda" if torch.cuda.is_available() else "cpu"))

    def __getstate__(self) -> dict[str, Any]:
        return {"members": self.members, "device": self.device, "skin_A": self._cache.skin_A}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # rebuilt from what it was made of

    @property
    def cutoff_A(self) -> float:
        return self.settings.radial_cutoff_A

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
            passes = passes_of(self, frames, neighbors)
            atomic, grad_mean, grad_each = self._through_nets(passes.features(), species, each=forces)
        energy = np.add.reduceat(atomic, frames.offsets[:-1], axis=1)
        grad, virial = passes.pull_back(grad_mean[None])
        each = None if grad_each is None else -passes.pull_back(grad_each)[0]
        volume = np.where(frames.pbc.all(axis=1), frames.volumes, np.nan) if stress else np.zeros(0)
        found = MemberLabels(
            Labels(energy.mean(axis=0), -grad[0], virial[0] / volume[:, None, None] if stress else None), energy, each
        )
        _spoil(found, ~neighbors.valid, frames)
        return found

    def _through_nets(
        self, x: Tensor, species: Ints | NDArray[np.int32], *, each: bool
    ) -> tuple[Floats, Tensor, Tensor | None]:
        """Atomic energies with shifts (m, n), gradient of their mean (n, features), and of each if asked."""
        if len(self._nets) == 1:
            return self._nets[0](x, each=each)
        m, n = self.n_members, len(x)
        atomic = np.zeros((m, n))
        mean = torch.zeros_like(x)
        all_of_them = torch.zeros((m, *x.shape), dtype=x.dtype, device=x.device) if each else None
        for s, nets in enumerate(self._nets):
            rows = np.flatnonzero(species == s)
            if len(rows):
                pick = torch.from_numpy(rows).to(x.device)
                atomic[:, rows], mean[pick], part = nets(x[pick], each=each)
                if all_of_them is not None and part is not None:
                    all_of_them[:, pick] = part
        return atomic, mean, all_of_them


def _spoil(found: MemberLabels, bad: Bools, frames: Frames) -> None:
    """Write NaN where a frame is NaN or too dense to have neighbours: the caller's verdict, not our error."""
    if bad.any():
        atoms = bad[frames.frame_of_atom]
        found.mean.energy[bad] = np.nan
        found.mean.forces[atoms] = np.nan
        found.energy[:, bad] = np.nan
        if found.mean.stress is not None:
            found.mean.stress[bad] = np.nan
        if found.forces is not None:
            found.forces[:, atoms] = np.nan


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


class _TorchNets:
    """The nets of one species, all members side by side, in torch."""

    def __init__(self, members: Members, species: int, device: str) -> None:
        layers = [members.shape.views(w[species].to(device)) for w in members.weights]
        self.m = len(layers)
        self.first_w = torch.cat([net[0][0] for net in layers]).contiguous()  # (m * h1, features)
        self.first_b = torch.cat([net[0][1] for net in layers])
        inner = range(1, len(members.hidden))
        self.inner_w = [torch.stack([net[k][0] for net in layers]) for k in inner]  # (m, out, in)
        self.inner_b = [torch.stack([net[k][1] for net in layers])[:, None, :] for k in inner]
        self.last_w = torch.stack([net[-1][0] for net in layers])  # (m, 1, h)
        self.last_b = torch.stack([net[-1][1] for net in layers]).double()
        self.shift = members.shift_eV[:, species].to(device)

    def __call__(self, x: Tensor, *, each: bool) -> tuple[Floats, Tensor, Tensor | None]:
        n = len(x)
        z = torch.addmm(self.first_b, x, self.first_w.T).view(n, self.m, -1).transpose(0, 1)
        h, slope = _celu(z)
        slopes = [slope]
        for w, b in zip(self.inner_w, self.inner_b, strict=True):
            h, slope = _celu(torch.baddbmm(b, h, w.transpose(1, 2)))
            slopes.append(slope)
        out = torch.bmm(h, self.last_w.transpose(1, 2))[:, :, 0].double()
        atomic: Floats = (out + self.last_b + self.shift[:, None]).cpu().numpy()
        a = self.last_w * slopes[-1]
        for w, slope in zip(self.inner_w[::-1], slopes[-2::-1], strict=True):
            a = torch.bmm(a, w) * slope
        mean = a.transpose(0, 1).reshape(n, -1) @ self.first_w / self.m
        grads = torch.bmm(a, self.first_w.view(self.m, a.shape[2], -1)) if each else None
        return atomic, mean, grads


def _celu(z: Tensor) -> tuple[Tensor, Tensor]:
    """CELU and its slope; NaN stays NaN."""
    slope = torch.clamp(z, max=0).div_(ALPHA).exp_()
    return torch.clamp(z, min=0).add_(slope, alpha=ALPHA).sub_(ALPHA), slope


def _nets_of(members: Members, species: int, device: str) -> _CpuNets | _TorchNets:
    """The compiled kernels on a CPU, torch elsewhere."""
    return (_CpuNets if device == "cpu" else _TorchNets)(members, species, device)


def passes_of(model: AniModel, frames: Frames, neighbors: Neighbors) -> _Cpu | _Torch:
    """The compiled kernels on a CPU, torch elsewhere."""
    return (_Cpu if model.device == "cpu" else _Torch)(model, frames, neighbors)


class _Cpu:
    """Descriptors and their gradients by compiled kernels."""

    def __init__(self, model: AniModel, frames: Frames, neighbors: Neighbors) -> None:
        self._args = (model.settings, frames, neighbors)

    def features(self) -> Tensor:
        return torch.from_numpy(aev.features(*self._args))

    def pull_back(self, g: Tensor) -> tuple[Floats, Floats]:
        return aev.vjp(*self._args, g.numpy())


class _Torch:
    """Descriptors in torch, differentiated by it, on any device."""

    def __init__(self, model: AniModel, frames: Frames, neighbors: Neighbors) -> None:
        from alflow.numerics import aev_torch

        geometry = aev_torch.Geometry.of(model.settings, frames, neighbors, model.device)
        positions, cell = aev_torch.tensors(frames, torch.float64, model.device)
        strain = torch.zeros_like(cell)
        self._inputs = (positions.requires_grad_(), strain.requires_grad_())
        with torch.enable_grad():
            self._x = aev_torch.features(model.settings, geometry, positions, cell, strain, torch.float32)

    def features(self) -> Tensor:
        return self._x.detach()

    def pull_back(self, g: Tensor) -> tuple[Floats, Floats]:
        parts = [torch.autograd.grad(self._x, self._inputs, one, retain_graph=True) for one in g]
        grad = np.stack([p[0].double().cpu().numpy() for p in parts])
        return grad, np.stack([p[1].double().cpu().numpy() for p in parts])


def read_neurochem(path: Path) -> AniModel:
    """The ensemble in NeuroChem format that the ``.info`` file at `path` describes."""
    from alflow.potentials._neurochem import read

    return read(path)
