"""One pass of several nets over some frames: errors, and gradients of the loss with respect to the weights.

Loss of one frame of N atoms, equation 1 of Smith et al., Nat. Commun. 12, 1257 (2021), per atom, and with stress::

    L = [ w_E^2 dE^2 + l0^2 sum_j |dF_j|^2 + w_S^2 V^2 |d sigma|^2 ] / N

All in units of `Targets.scale`. Where only w_E counts, no descriptor is differentiated and the force sums are NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alflow.core.frames import Bools, Floats, Ints
from alflow.potentials._nets import Shape, Tape, add_weight_gradient, energies, gradient
from alflow.potentials._nets_data import SLOTS, Inputs, Targets, Weights


@dataclass(slots=True)
class Sums:
    """What passes add up for each of m members over the frames that count for it; arrays are (m,).

    Attributes:
        loss: of frames.
        energy: squares of energy errors per atom.
        force: squares of force errors, all components.
        frames: how many frames.
        atoms: how many atoms whose forces count.
    """

    loss: Floats
    energy: Floats
    force: Floats
    frames: Floats
    atoms: Floats

    @staticmethod
    def zero(m: int) -> Sums:
        """Nothing yet."""
        return Sums(*(np.zeros(m) for _ in fields(Sums)))

    def add(self, other: Sums) -> None:
        """Add a pass over other frames."""
        for f in fields(self):
            setattr(self, f.name, getattr(self, f.name) + getattr(other, f.name))


@dataclass(slots=True)
class _Stream:
    """One net of one member on its way through a pass, and the atoms of the chunk that it is for."""

    slot: int
    layers: list[tuple[Tensor, Tensor]]
    gradient: list[tuple[Tensor, Tensor]] | None
    rows: Tensor | slice
    tape: Tape


@dataclass(slots=True)
class Net:
    """A member as a pass sees it.

    Attributes:
        index: which member; decides its slot.
        weights: one net for each species, end to end.
        use: which frames count for it, (n_frames,).
        share: weight of one frame's loss in the gradient.
        gradient: where to add the gradient, or None for errors only.
    """

    index: int
    weights: Tensor
    use: Bools
    share: float = 0.0
    gradient: Tensor | None = None


class Problem:
    """Everything that is constant during a fit, and the passes over it.

    Args:
        descriptors: of all frames.
        targets: their labels.
        weights: of the loss.
        shape: of one net.
    """

    def __init__(self, descriptors: Inputs, targets: Targets, weights: Weights, shape: Shape) -> None:
        self.descriptors, self.targets, self.weights, self.shape = descriptors, targets, weights, shape
        self.frames = descriptors.frames
        self.sizes, self.device = self.frames.sizes, descriptors.device
        self.species = self._tensor(targets.species)
        self.energy = self._tensor(targets.energy)
        self.forces = self._tensor(targets.forces).float()
        self.has_forces = self._tensor(targets.has_forces)
        self.virial = None if targets.virial is None else self._tensor(targets.virial).float()
        self.has_virial = self._tensor(targets.has_virial)

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def layers(self, weights: Tensor, species: int) -> list[tuple[Tensor, Tensor]]:
        """The net of one species within the parameters of a member (or within their gradient)."""
        n = self.shape.count
        return self.shape.views(weights[species * n : (species + 1) * n])

    def visit(self, nets: Sequence[Net], pick: Ints) -> Sums:
        """Errors of `nets` on the frames `pick` (rising indices), and their gradients where wanted.

        A member has its fixed slot in arrays of `SLOTS` rows, the others' are empty. A matrix product of one shape
        adds up in one order, so no bit of a member's result depends on who trains beside it.
        """
        blocks = sorted({net.index // SLOTS for net in nets})
        slots = [blocks.index(net.index // SLOTS) * SLOTS + net.index % SLOTS for net in nets]
        atoms, frame = self._tensor(self.frames.atoms_of(pick)), self._tensor(pick)
        owner = self._tensor(np.repeat(np.arange(len(pick)), self.sizes[pick]))
        used, shares = np.zeros((len(blocks) * SLOTS, len(pick)), np.bool_), np.zeros(len(blocks) * SLOTS)
        for net, slot in zip(nets, slots, strict=True):
            used[slot], shares[slot] = net.use[pick], net.share
        counts, share = self._tensor(used), self._tensor(shares)
        streams, energy, g = self._forward(nets, slots, atoms, owner, counts)
        # residuals, zero for frames that do not count
        dE = (energy - self.energy[frame]) * counts
        loss, square = self.weights.energy**2 * dE**2, torch.full_like(dE, torch.nan)
        pushed = counts & self.has_forces[frame]
        dF = dS = None
        if g is not None:
            down, strain = self.descriptors.pull(pick, g)
            dF = (down + self.forces[atoms]).neg_() * pushed[:, owner, None]
            square = torch.zeros_like(dE).index_add_(1, owner, dF.square().sum(2).double())
            loss += self.weights.force_A**2 * square
            if strain is not None and self.virial is not None:
                dS = (strain - self.virial[frame]) * (counts * self.has_virial[frame])[:, :, None, None]
                loss += self.weights.stress**2 * dS.square().sum((2, 3)).double()
        size = self._tensor(self.sizes[pick].astype(np.float64))
        if any(s.gradient is not None for s in streams):
            each = 2 * share[:, None] / size
            change = None
            if dF is not None:
                u = dF * (-(self.weights.force_A**2) * each).float()[:, owner, None]
                bend = None if dS is None else dS * (self.weights.stress**2 * each).float()[:, :, None, None]
                change = self.descriptors.push(pick, u, bend)
            self._backward(streams, (self.weights.energy**2 * each * dE).float()[:, owner], change)
        sums = (loss / size, (dE / size).square(), square, counts.double(), pushed * size)
        return Sums(*(s.sum(1)[slots].cpu().numpy() for s in sums))

    def _forward(
        self, nets: Sequence[Net], slots: Sequence[int], atoms: Tensor, owner: Tensor, counts: Tensor
    ) -> tuple[list[_Stream], Tensor, Tensor | None]:
        """Streams, energies of frames (m, n), and dE/dx (m, n_atoms, n_features) if it counts."""
        x, species = self.descriptors.x[atoms], self.species[atoms]
        g = x.new_zeros((len(counts), *x.shape)) if self.weights.slopes else None
        energy = x.new_zeros(counts.shape, dtype=torch.float64)
        streams = []
        for net, slot in zip(nets, slots, strict=True):
            mine = counts[slot, owner]
            for s in range(len(self.targets.shift)):
                here = mine & (species == s) if len(self.targets.shift) > 1 else mine
                rows: Tensor | slice = slice(None) if bool(here.all()) else here.nonzero()[:, 0]
                if not isinstance(rows, slice) and not len(rows):
                    continue
                layers = self.layers(net.weights, s)
                tape = energies(layers, x[rows], self.shape.activation)
                if g is not None:
                    g[slot, rows] = gradient(layers, tape)
                energy[slot].index_add_(0, owner[rows], tape.energy.double())
                out = None if net.gradient is None else self.layers(net.gradient, s)
                streams.append(_Stream(slot, layers, out, rows, tape))
        return streams, energy, g

    @staticmethod
    def _backward(streams: Sequence[_Stream], c: Tensor, u: Tensor | None) -> None:
        """Add to the gradients what c (m, n_atoms) and u (m, n_atoms, n_features) give."""
        for s in streams:
            if s.gradient is not None:
                mine = None if u is None else u[s.slot, s.rows]
                add_weight_gradient(s.layers, s.tape, c[s.slot, s.rows], mine, s.gradient)
