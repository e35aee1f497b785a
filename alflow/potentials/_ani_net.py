"""Passes through one small CELU net, written out by hand so that no descriptor is ever differentiated twice.

A net maps scaled features x to an atomic energy e. Forces are F = -J^T g with g = de/dx and J the fixed Jacobian of
the features. The gradient of any loss L(E, F) with respect to the weights W is that of ``sum c e + sum u.g(W)`` at
constant c = dL/dE and u = -J dL/dF, and ``sum u.g`` is the derivative of e along u: one tangent pass and one reverse
pass through the net (J. S. Smith et al., Nat. Commun. 12, 1257 (2021), "within a factor of two of the cost of the
forces"). The reverse of the tangent stream is de/dz, which the force pass has already made.

All arrays are torch tensors of one dtype and device; rows are atoms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

ALPHA: Final = 0.1
"""CELU(z) = max(z, 0) + ALPHA (exp(min(z, 0) / ALPHA) - 1), as in NeuroChem and torchani."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Widths of a net: features, hidden layers, 1. Its parameters lie in one vector, W then b, layer by layer."""

    widths: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many parameters."""
        return sum((a + 1) * b for a, b in zip(self.widths, self.widths[1:], strict=False))

    def views(self, flat: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Weights (out, in) and biases (out,) of each layer: views into `flat` (count,)."""
        out, at = [], 0
        for fan_in, fan_out in zip(self.widths, self.widths[1:], strict=False):
            w = flat[at : at + fan_in * fan_out].view(fan_out, fan_in)
            at += fan_in * fan_out
            out.append((w, flat[at : at + fan_out]))
            at += fan_out
        return out

    def initial(self, rng: np.random.Generator) -> Tensor:
        """He-normal weights and zero biases; the last layer is small, so the first energies are near the shift."""
        parts = []
        for fan_in, fan_out in zip(self.widths, self.widths[1:], strict=False):
            gain = math.sqrt(2.0) if fan_out > 1 else 0.5
            parts += [rng.normal(0, gain / math.sqrt(fan_in), fan_in * fan_out), np.zeros(fan_out)]
        return torch.from_numpy(np.concatenate(parts))


@dataclass(slots=True)
class Tape:
    """What the passes leave behind for the next: hidden values, slopes, and the reverse stream of the energy."""

    h: list[Tensor]
    slope: list[Tensor]
    energy: Tensor
    a: list[Tensor]
    q: list[Tensor]


def energies(layers: list[tuple[Tensor, Tensor]], x: Tensor) -> Tape:
    """Atomic energies of x (n, features)."""
    h, slopes = [x], []
    for w, b in layers[:-1]:
        z = torch.addmm(b, h[-1], w.T)
        slope = torch.clamp(z, max=0).div_(ALPHA).exp_()
        h.append(z.clamp_(min=0).add_(slope, alpha=ALPHA).sub_(ALPHA))
        slopes.append(slope)
    w, b = layers[-1]
    return Tape(h, slopes, torch.mv(h[-1], w[0]) + b, [], [])


def gradient(layers: list[tuple[Tensor, Tensor]], tape: Tape) -> Tensor:
    """de/dx of every row, (n, features); keeps the reverse stream on the tape."""
    a = layers[-1][0].expand(len(tape.energy), -1)
    for (w, _), slope in zip(layers[-2::-1], tape.slope[::-1], strict=True):
        q = a * slope
        tape.a.append(a)
        tape.q.append(q)
        a = q @ w
    tape.a.reverse()
    tape.q.reverse()
    return a


def add_weight_gradient(
    layers: list[tuple[Tensor, Tensor]], tape: Tape, c: Tensor, u: Tensor, out: list[tuple[Tensor, Tensor]]
) -> None:
    """Add the gradient of ``sum_i c_i e_i + u_i . de_i/dx_i`` with respect to the parameters to `out`.

    Args:
        layers: the net.
        tape: what `energies` and then `gradient` left at the same x.
        c: weight of each atomic energy, (n,).
        u: weight of each de/dx, (n, features).
        out: gradients of each layer, shaped as the layers are.
    """
    tangent, speeds = u, []  # derivative along u of what enters a layer, and of z in it
    for (w, _), slope in zip(layers[:-1], tape.slope, strict=True):
        speeds.append((tangent, tangent @ w.T))
        tangent = slope * speeds[-1][1]
    w_out, b_out = out[-1]
    w_out[0].add_(torch.mv(tape.h[-1].T, c)).add_(tangent.sum(0))
    b_out.add_(c.sum())
    back = torch.outer(c, layers[-1][0][0])  # adjoint of h
    for k in range(len(layers) - 2, -1, -1):
        slope, (before, speed) = tape.slope[k], speeds[k]
        # slope' = slope / ALPHA where z < 0; there slope < 1
        curve = (slope * (slope < 1)).mul_(speed).mul_(tape.a[k]).div_(ALPHA)
        r = curve.addcmul_(back, slope)
        w_out, b_out = out[k]
        w_out.addmm_(r.T, tape.h[k]).addmm_(tape.q[k].T, before)
        b_out.add_(r.sum(0))
        if k:
            back = r @ layers[k][0]
