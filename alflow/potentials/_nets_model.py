"""What fitted ensembles of nets have in common: their files, all nets of a species side by side, and NaN."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alflow.core.frames import Bools, Floats, Frames, Ints
from alflow.errors import DataError
from alflow.interfaces import MemberLabels
from alflow.numerics.geometry_torch import Geometry, tensors
from alflow.potentials._nets import ACTIVATIONS, Shape
from alflow.store.files import written_whole

SCHEMA: Final = 1


@dataclass(frozen=True, slots=True, eq=False)
class NetMembers:
    """What a file of members holds; a subclass says of which kind.

    Attributes:
        settings: of the descriptors.
        hidden: widths of the hidden layers.
        numbers: which members of the ensemble these are.
        weights: parameters as `Shape.views` reads them, (n_members, n_species, count).
        shift_eV: energy that each species has by itself, for each member, (n_members, n_species), float64.
        activation: of the hidden layers.
    """

    KIND: ClassVar[str]
    SETTINGS: ClassVar[type[Any]]
    DTYPE: ClassVar[torch.dtype]

    settings: Any
    hidden: tuple[int, ...]
    numbers: tuple[int, ...]
    weights: Tensor
    shift_eV: Tensor
    activation: str = "celu"

    @property
    def shape(self) -> Shape:
        """Widths of the nets."""
        return Shape((self.settings.n_features, *self.hidden, 1), self.activation)

    @property
    def species(self) -> tuple[int, ...]:
        """Atomic numbers, in the order of the nets."""
        raise NotImplementedError

    @property
    def form(self) -> tuple[Any, Shape]:
        """What must be equal for members to be of one ensemble, or to go on from each other."""
        return self.settings, self.shape

    def save(self, path: Path) -> None:
        """Write them, whole or not at all."""
        content = {
            f"alflow_{self.KIND}": SCHEMA,
            "settings": asdict(self.settings),
            "hidden": list(self.hidden),
            "activation": self.activation,
            "numbers": list(self.numbers),
            "weights": self.weights.detach().cpu().to(self.DTYPE).clone(),
            "shift_eV": self.shift_eV.detach().cpu().double().clone(),
        }
        with written_whole(path) as draft:
            torch.save(content, draft)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read a file of members.

        Raises:
            DataError: not there, not such a file, or damaged.
        """
        try:
            content: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            schema = content.get(f"alflow_{cls.KIND}")
            found = cls._of(content) if schema == SCHEMA else None
        except Exception as exc:  # torch raises whatever the damage leads to
            raise DataError(f"{path}: cannot be read as members of a {cls.KIND} model: {exc}") from exc
        if found is None:
            raise DataError(f"{path}: expected members of a {cls.KIND} model, schema {SCHEMA}, got {schema!r}")
        want = (len(found.numbers), len(found.species), found.shape.count)
        if tuple(found.weights.shape) != want or tuple(found.shift_eV.shape) != want[:2]:
            raise DataError(
                f"{path}: expected weights {want} and shifts {want[:2]}, "
                f"got {tuple(found.weights.shape)} and {tuple(found.shift_eV.shape)}"
            )
        if found.activation not in ACTIVATIONS:
            raise DataError(f"{path}: expected an activation of {', '.join(ACTIVATIONS)}, got {found.activation!r}")
        if not (torch.isfinite(found.weights).all() and torch.isfinite(found.shift_eV).all()):
            raise DataError(f"{path}: is damaged: weights or shifts are not finite")
        return found

    @classmethod
    def _of(cls, content: Mapping[str, Any]) -> Self:
        raw: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list | tuple) else v for k, v in content["settings"].items()
        }
        return cls(
            cls.SETTINGS(**raw),
            tuple(content["hidden"]),
            tuple(content["numbers"]),
            content["weights"],
            content["shift_eV"],
            content.get("activation", "celu"),
        )

    @classmethod
    def gathered(cls, files: Sequence[Path]) -> Self:
        """The members in `files`, in the order of their numbers.

        Raises:
            DataError: no file, one that cannot be read, or two that do not belong together.
        """
        if not files:
            raise DataError(f"a {cls.KIND} model needs a file of members, got none")
        groups = [cls.open(f) for f in files]
        first = groups[0]
        for g, file in zip(groups, files, strict=True):
            if g.form != first.form:
                raise DataError(f"{file}: descriptors or nets differ from those of {files[0]}: not one ensemble")
        groups.sort(key=lambda g: g.numbers)
        numbers = [n for g in groups for n in g.numbers]
        if len(set(numbers)) < len(numbers):
            raise DataError(f"{', '.join(map(str, files))}: a member stands in two files: {sorted(numbers)}")
        return replace(
            first,
            numbers=tuple(numbers),
            weights=torch.cat([g.weights for g in groups]),
            shift_eV=torch.cat([g.shift_eV for g in groups]),
        )


class TorchNets:
    """The nets of one species, all members side by side, in torch."""

    def __init__(self, members: NetMembers, species: int, device: str) -> None:
        layers = [members.shape.views(w[species].to(device)) for w in members.weights]
        self.m, self._act = len(layers), ACTIVATIONS[members.activation]
        self.first_w = torch.cat([net[0][0] for net in layers]).contiguous()  # (m * h1, features)
        self.first_b = torch.cat([net[0][1] for net in layers])
        inner = range(1, len(members.hidden))
        self.inner_w = [torch.stack([net[k][0] for net in layers]) for k in inner]  # (m, out, in)
        self.inner_b = [torch.stack([net[k][1] for net in layers])[:, None, :] for k in inner]
        self.last_w = torch.stack([net[-1][0] for net in layers])  # (m, 1, h)
        self.last_b = torch.stack([net[-1][1] for net in layers]).double()
        self.shift = members.shift_eV[:, species].to(device)

    def __call__(self, x: Tensor, *, each: bool) -> tuple[Floats, Tensor, Tensor | None]:
        """Atomic energies with shifts (m, n), gradient of their mean (n, features), and of each if asked."""
        n = len(x)
        z = torch.addmm(self.first_b, x, self.first_w.T).view(n, self.m, -1).transpose(0, 1)
        h, slope = self._act.of(z)
        slopes = [slope]
        for w, b in zip(self.inner_w, self.inner_b, strict=True):
            h, slope = self._act.of(torch.baddbmm(b, h, w.transpose(1, 2)))
            slopes.append(slope)
        out = torch.bmm(h, self.last_w.transpose(1, 2))[:, :, 0].double()
        atomic: Floats = (out + self.last_b + self.shift[:, None]).cpu().numpy()
        a = self.last_w * slopes[-1]
        for w, slope in zip(self.inner_w[::-1], slopes[-2::-1], strict=True):
            a = torch.bmm(a, w) * slope
        mean = a.transpose(0, 1).reshape(n, -1) @ self.first_w / self.m
        grads = torch.bmm(a, self.first_w.view(self.m, a.shape[2], -1)) if each else None
        return atomic, mean, grads


Nets = Callable[..., tuple[Floats, Tensor, Tensor | None]]
"""All nets of one species, called as `TorchNets` are."""


def through_nets(
    nets: Sequence[Nets], n_members: int, x: Tensor, species: Ints | NDArray[np.int32], *, each: bool
) -> tuple[Floats, Tensor, Tensor | None]:
    """Every row of x (n, features) through the nets of its species; returns what `TorchNets` do."""
    if len(nets) == 1:
        return nets[0](x, each=each)
    atomic, mean = np.zeros((n_members, len(x))), torch.zeros_like(x)
    all_of_them = torch.zeros((n_members, *x.shape), dtype=x.dtype, device=x.device) if each else None
    for s, of_species in enumerate(nets):
        rows = np.flatnonzero(species == s)
        if len(rows):
            pick = torch.from_numpy(rows).to(x.device)
            atomic[:, rows], mean[pick], part = of_species(x[pick], each=each)
            if all_of_them is not None and part is not None:
                all_of_them[:, pick] = part
    return atomic, mean, all_of_them


class TorchPasses:
    """Descriptors in torch, differentiated by it, on any device.

    Args:
        describe: ``features`` of `aev_torch` or of `bispectrum_torch`.
        settings: of the descriptors.
        geometry: of `frames`; its device is the one.
        frames: what to describe.
        dtype: of the descriptors.
    """

    def __init__(
        self, describe: Callable[..., Tensor], settings: Any, geometry: Geometry, frames: Frames, dtype: torch.dtype
    ) -> None:
        positions, cell = tensors(frames, torch.float64, geometry.i.device)
        strain = torch.zeros_like(cell)
        self._inputs = (positions.requires_grad_(), strain.requires_grad_())
        with torch.enable_grad():
            self._x = describe(settings, geometry, positions, cell, strain, dtype)

    def features(self) -> Tensor:
        """Of every atom, (n_atoms, n_features)."""
        return self._x.detach()

    def pull_back(self, g: Tensor) -> tuple[Floats, Floats]:
        """Gradients of ``sum(g[m] * features)`` by positions (m, n_atoms, 3) and by strain (m, n_frames, 3, 3)."""
        parts = [torch.autograd.grad(self._x, self._inputs, one, retain_graph=True) for one in g]
        grad = np.stack([p[0].double().cpu().numpy() for p in parts])
        return grad, np.stack([p[1].double().cpu().numpy() for p in parts])


def spoil(found: MemberLabels, bad: Bools, frames: Frames) -> None:
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
