"""The descriptors of a fit of `ani`: scaled, with their Jacobians in memory as far as there is room."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import torch
from torch import Tensor

from alflow.core.frames import Floats, Frames, Ints
from alflow.errors import ResourceError
from alflow.interfaces import Halt, never
from alflow.numerics import aev
from alflow.numerics.aev import AevSettings
from alflow.numerics.aev_jacobian import Jacobian, jacobian_bytes
from alflow.numerics.neighbors import Neighbors, neighbor_list
from alflow.potentials._nets_data import SLOTS, chunks

BLOCK_ATOMS: Final = 4096
"""Atoms whose descriptors are computed between two questions to `halt`."""
_VOIGT: Final = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
_FROM_VOIGT: Final = (0, 5, 4, 5, 1, 3, 4, 3, 2)
"""Place in `_VOIGT` of each element of a symmetric matrix."""


class Descriptors:
    """Scaled features x = (G - mean) / width of all frames, and products with their Jacobian.

    The Jacobian of a frame is made once and kept as far as memory allows, in the form that takes less of it (see
    `_memory`): a dense matrix for small frames, up to about 32 atoms with the settings of ANI-Al in solid aluminium,
    its nonzero parts for larger ones. The other frames have their products computed from the formulas at every use.

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
        memory = np.empty((2, len(frames)))
        for pick in self._blocks(halt):
            some = frames.take(pick)
            near = self._near(some)
            features[frames.atoms_of(pick)] = aev.features(settings, some, near)
            memory[:, pick] = self._memory(some, near)
        self.mean, spread = features.mean(0, np.float64), features.std(0, dtype=np.float64)
        typical = float(np.sqrt((spread**2).mean())) or 1.0
        self.width = np.sqrt(typical * np.maximum(spread, 0.01 * typical))
        self.x = torch.from_numpy(((features - self.mean) / self.width).astype(np.float32)).to(self.device)
        self._width = torch.from_numpy(self.width.astype(np.float32)).to(self.device)
        self._jacobian: list[_Dense | _Sparse] = []
        room = np.cumsum(memory.min(0)) <= cache_bytes
        for pick in self._blocks(halt):
            for i in pick[room[pick]]:
                frame = frames[int(i)]
                form = _Dense if memory[0, i] <= memory[1, i] else _Sparse
                self._jacobian.append(form(settings, frame, self._near(frame), strains, self._width))

    @property
    def n_cached(self) -> int:
        """How many frames have their Jacobian in memory."""
        return len(self._jacobian)

    @property
    def nbytes(self) -> int:
        """Memory that the Jacobians take."""
        return sum(kept.nbytes for kept in self._jacobian)

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
        for k, atoms, kept in self._cached(pick):
            down[:, atoms], bend = kept.pull(g[:, atoms])
            if strain is not None and bend is not None:
                strain[:, k] = bend
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
        for k, atoms, kept in self._cached(pick):
            change[:, atoms] = kept.push(u[:, atoms], None if strain is None else strain[:, k])
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

    def _memory(self, frames: Frames, near: Neighbors) -> Floats:
        """Bytes that the Jacobian of each frame takes as `_Dense` and as `_Sparse`, (2, n_frames).

        The less of the two decides the form, of each frame by itself, so no bit depends on the frames beside it. The
        sparse form knows the CPU only.
        """
        dense = 4.0 * (3 * frames.sizes + 6 * self.strains) * frames.sizes * self.settings.n_features
        on_cpu = self.device.type == "cpu"
        sparse = jacobian_bytes(self.settings, frames, near) if on_cpu else np.full(len(frames), np.inf)
        return np.stack([dense, sparse])

    def _cached(self, pick: Ints) -> Iterator[tuple[int, slice, _Dense | _Sparse]]:
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


class _Dense:
    """Jacobian of x of one frame, a row for every direction: (3 n_atoms [+ 6 strains], n_atoms * n_features)."""

    def __init__(self, settings: AevSettings, frame: Frames, near: Neighbors, strains: bool, width: Tensor) -> None:
        n, self._strains = frame.n_atoms, strains
        rows = 3 * n + 6 * strains
        u, strain = np.zeros((rows, 3 * n)), np.zeros((rows, 1, 3, 3))
        u[: 3 * n] = np.eye(3 * n)
        for k, (a, b) in enumerate(_VOIGT if strains else ()):  # symmetric: a virial is read off as it is
            strain[3 * n + k, 0, a, b] += 0.5
            strain[3 * n + k, 0, b, a] += 0.5
        change = aev.jvp(settings, frame, near, u.reshape(-1, n, 3), strain)
        self._matrix = (torch.from_numpy(change).to(width.device) / width).flatten(1)
        self.nbytes = self._matrix.nbytes

    def pull(self, g: Tensor) -> tuple[Tensor, Tensor | None]:
        """Gradients wrt positions (m, n_atoms, 3), and wrt strain (m, 3, 3) if asked for."""
        out = torch.cat([g[m : m + SLOTS].flatten(1) @ self._matrix.T for m in range(0, len(g), SLOTS)])
        n = 3 * g.shape[1]
        strain = out[:, n:][:, _FROM_VOIGT].view(-1, 3, 3) if self._strains else None
        return out[:, :n].reshape(len(g), -1, 3), strain

    def push(self, u: Tensor, strain: Tensor | None) -> Tensor:
        """Change of x, (m, n_atoms, n_features); `strain` is (m, 3, 3) or None."""
        direction = u.flatten(1)
        if self._strains:
            bend = u.new_zeros((len(u), 6))
            if strain is not None:
                for v, (a, b) in enumerate(_VOIGT):
                    bend[:, v] = strain[:, a, b] * (1 if a == b else 2)
            direction = torch.cat([direction, bend], 1)
        out = torch.cat([direction[m : m + SLOTS] @ self._matrix for m in range(0, len(u), SLOTS)])
        return out.view(*u.shape[:2], -1)


class _Sparse:
    """The nonzero parts of the Jacobian of one frame; on the CPU.

    One frame a product, so each runs on the thread that asks for it: `spread` shares frames out, and the trainer has
    a thread for every chunk already.
    """

    def __init__(self, settings: AevSettings, frame: Frames, near: Neighbors, strains: bool, width: Tensor) -> None:
        self._kept, self._strains, self._width = Jacobian(settings, frame, near), strains, width
        self.nbytes = self._kept.nbytes

    def pull(self, g: Tensor) -> tuple[Tensor, Tensor | None]:
        """Gradients wrt positions (m, n_atoms, 3), and wrt strain (m, 3, 3) if asked for."""
        used = g.flatten(1).any(1)  # each row is added up by itself, so empty slots can be left out
        grad, virial = self._kept.vjp((g[used] / self._width).numpy())
        down, strain = g.new_zeros((*g.shape[:2], 3)), g.new_zeros((len(g), 3, 3))
        down[used], strain[used] = torch.from_numpy(grad).to(g.dtype), torch.from_numpy(virial[:, 0]).to(g.dtype)
        return down, strain if self._strains else None

    def push(self, u: Tensor, strain: Tensor | None) -> Tensor:
        """Change of x, (m, n_atoms, n_features); `strain` is (m, 3, 3) or None."""
        used = u.flatten(1).any(1)
        if strain is not None:
            used |= strain.flatten(1).any(1)
        bend = None if strain is None else strain[used, None].numpy()
        out = u.new_zeros((*u.shape[:2], len(self._width)))
        out[used] = torch.from_numpy(self._kept.jvp(u[used].numpy(), bend)) / self._width
        return out
