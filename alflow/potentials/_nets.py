"""Passes through one small net, written out by hand so that no descriptor is ever differentiated twice.

A net maps scaled features x to an atomic energy e. Forces are F = -J^T g with g = de/dx and J the fixed Jacobian of
the features. The gradient of any loss L(E, F) with respect to the weights W is that of ``sum c e + sum u.g(W)`` at
constant c = dL/dE and u = -J dL/dF, and ``sum u.g`` is the derivative of e along u: one tangent pass and one reverse
pass through the net (J. S. Smith et al., Nat. Commun. 12, 1257 (2021), "within a factor of two of the cost of the
forces"). The reverse of the tangent stream is de/dz, which the force pass has already made.

All arrays are torch tensors of one dtype and device; rows are atoms.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

ALPHA: Final = 0.1
"""CELU(z) = max(z, 0) + ALPHA (exp(min(z, 0) / ALPHA) - 1), as in NeuroChem and torchani."""


@dataclass(frozen=True, slots=True)
class Activation:
    """What hidden layers do to z.

    Attributes:
        gain: of the first weights, such that signals keep their size from layer to layer.
        of: the value and the slope at z, which may be overwritten.
        curve: the second derivative, from value and slope.
    """

    gain: float
    of: Callable[[Tensor], tuple[Tensor, Tensor]]
    curve: Callable[[Tensor, Tensor], Tensor]


def _celu(z: Tensor) -> tuple[Tensor, Tensor]:
    slope = torch.clamp(z, max=0).div_(ALPHA).exp_()
    return z.clamp_(min=0).add_(slope, alpha=ALPHA).sub_(ALPHA), slope


def _softplus(z: Tensor) -> tuple[Tensor, Tensor]:
    """log(1 + exp(z)); from 40 on it is z to the last digit, and exp stays finite."""
    return torch.nn.functional.softplus(z, threshold=40), torch.sigmoid(z)


def _tanh(z: Tensor) -> tuple[Tensor, Tensor]:
    h = z.tanh_()
    return h, 1 - h * h


ACTIVATIONS: Final = {
    "celu": Activation(math.sqrt(2.0), _celu, lambda _, slope: (slope * (slope < 1)).div_(ALPHA)),  # slope 1: z >= 0
    "softplus": Activation(1.85, _softplus, lambda _, slope: slope * (1 - slope)),
    "tanh": Activation(5 / 3, _tanh, lambda h, slope: -2 * h * slope),
}
"""By name."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Widths of a net: features, hidden layers, 1. Its parameters lie in one vector, W then b, layer by layer.

    Attributes:
        widths: of all layers.
        activation: of the hidden ones, a key of `ACTIVATIONS`.
    """

    widths: tuple[int, ...]
    activation: str = "celu"

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
        """Normal weights and zero biases; the last layer is small, so the first energies are near the shift."""
        parts, last = [], len(self.widths) - 2
        for k, (fan_in, fan_out) in enumerate(zip(self.widths, self.widths[1:], strict=False)):
            gain = ACTIVATIONS[self.activation].gain if k < last else 0.5
            parts += [rng.normal(0, gain / math.sqrt(fan_in), fan_in * fan_out), np.zeros(fan_out)]
        return torch.from_numpy(np.concatenate(parts))


@dataclass(slots=True)
class Tape:
    """What the passes leave behind for the next: hidden values, slopes, and the reverse stream of the energy."""

    activation: Activation
    h: list[Tensor]
    slope: list[Tensor]
    energy: Tensor
    a: list[Tensor]
    q: list[Tensor]


def energies(layers: list[tuple[Tensor, Tensor]], x: Tensor, activation: str = "celu") -> Tape:
    """Atomic energies of x (n, features)."""
    h, slopes, act = [x], [], ACTIVATIONS[activation]
    for w, b in layers[:-1]:
        value, slope = act.of(torch.addmm(b, h[-1], w.T))
        h.append(value)
        slopes.append(slope)
    w, b = layers[-1]
    return Tape(act, h, slopes, torch.mv(h[-1], w[0]) + b, [], [])


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
    layers: list[tuple[Tensor, Tensor]], tape: Tape, c: Tensor, u: Tensor | None, out: list[tuple[Tensor, Tensor]]
) -> None:
    """Add the gradient of ``sum_i c_i e_i + u_i . de_i/dx_i`` with respect to the parameters to `out`.

    Args:
        layers: the net.
        tape: what `energies` and then, unless u is None, `gradient` left at the same x.
        c: weight of each atomic energy, (n,).
        u: weight of each de/dx, (n, features), or None for the energies alone.
        out: gradients of each layer, shaped as the layers are.
    """
    tangent, speeds = u, []  # derivative along u of what enters a layer, and of z in it
    for (w, _), slope in zip(layers[:-1], tape.slope, strict=True):
        if tangent is not None:
            speeds.append((tangent, tangent @ w.T))
            tangent = slope * speeds[-1][1]
    w_out, b_out = out[-1]
    w_out[0].add_(torch.mv(tape.h[-1].T, c))
    if tangent is not None:
        w_out[0].add_(tangent.sum(0))
    b_out.add_(c.sum())
    back = torch.outer(c, layers[-1][0][0])  # adjoint of h
    for k in range(len(layers) - 2, -1, -1):
        slope = tape.slope[k]
        w_out, b_out = out[k]
        if speeds:
            before, speed = speeds[k]
            r = tape.activation.curve(tape.h[k + 1], slope).mul_(speed).mul_(tape.a[k]).addcmul_(back, slope)
            w_out.addmm_(tape.q[k].T, before)
        else:
            r = back.mul_(slope)
        w_out.addmm_(r.T, tape.h[k])
        b_out.add_(r.sum(0))
        if k:
            back = r @ layers[k][0]
