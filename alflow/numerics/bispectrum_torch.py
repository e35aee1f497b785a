"""The descriptors of `alflow.numerics.bispectrum` in torch: differentiable twice, on any device."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from alflow.numerics import bispectrum_tables as tables
from alflow.numerics.bispectrum import BispectrumSettings
from alflow.numerics.bispectrum_tables import triples
from alflow.numerics.geometry_torch import Geometry

_SAME_PLACE_A: Final = 1e-10
"""Atoms closer than this have no direction; as in LAMMPS they do not see each other."""
_AT_ONCE: Final = {"cpu": 2**21, "cuda": 2**24}
"""Products made in one go: to stay near a CPU's caches, to fill a GPU without its memory."""


def features(
    settings: BispectrumSettings,
    geometry: Geometry,
    positions: Tensor,
    cell: Tensor,
    strain: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Descriptors of all atoms, (n_atoms, n_features), differentiable twice in all three tensors.

    Atoms of frames that have no list come out like atoms without neighbours: the caller knows `Neighbors.valid`.

    Args:
        settings: of the descriptors.
        geometry: pairs complete to the longest cutoff.
        positions: in angstrom, (n_atoms, 3).
        cell: lattice vectors as rows in angstrom, (n_frames, 3, 3).
        strain: (n_frames, 3, 3) or None; deforms positions and cells together, x to x (1 + e)^T.
        dtype: precision after the differences of positions are taken; that of `positions` if None.
    """
    d = geometry.vectors(positions, cell, strain).to(dtype or positions.dtype)
    radius, weight = d.new_tensor(settings.radii), d.new_tensor(settings.weights)
    kind = geometry.species
    end = settings.rcutfac_A * (radius[kind[geometry.i]] + radius[kind[geometry.j]])
    square = d.detach().square().sum(1)
    near = (square < end.square()) & (square > _SAME_PLACE_A**2)
    i, d, end, w = geometry.i[near], d[near], end[near], weight[kind[geometry.j[near]]]
    u = _expansion(settings, len(kind), i, d, end, w)
    b: Tensor = _Components.apply(u.T, settings.twojmax).T  # type: ignore[no-untyped-call]
    if settings.bzero:
        b = b - b.new_tensor([J + 1.0 for _, _, J in triples(settings.twojmax)])
    return b


def _expansion(settings: BispectrumSettings, n: int, i: Tensor, d: Tensor, end: Tensor, w: Tensor) -> Tensor:
    """U of every atom as a half, (n_atoms, n_half) complex."""
    r = d.square().sum(1).sqrt()
    reach = (r - settings.rmin0_A) / (end - settings.rmin0_A)
    t = settings.rfac0 * torch.pi * reach
    if settings.switch:
        w = w * torch.where(reach > 0, 0.5 + 0.5 * torch.cos(torch.pi * reach), 1.0)
    side = torch.where(torch.sin(t) < 0, -1.0, 1.0).to(r.dtype)  # below rmin0 LAMMPS takes the opposite pole
    cosine, sine = side * torch.cos(t), side * torch.sin(t) / r
    a, b = torch.complex(cosine, -sine * d[:, 2]), torch.complex(sine * d[:, 1], -sine * d[:, 0])
    a, b = a[:, None, None], b[:, None, None]
    level = w.to(a.dtype)[:, None, None]
    levels = [level]
    for J in range(1, settings.twojmax + 1):
        new = _multiplied(level, a, -b.conj())
        if J % 2 == 0:
            new = torch.cat([new, _multiplied(level[:, -1:], b, a.conj())], 1)
        levels.append(level := new)
    half = tables.half(settings.twojmax)
    added = torch.cat([x.flatten(1) for x in levels], 1)
    total = added.new_zeros((n, added.shape[1])).index_add(0, i, added)
    return total * r.new_tensor(half.norm) + r.new_tensor(half.own)


def _multiplied(v: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """Polynomials [l, k], (n_pairs, .., J), times p + q t, (n_pairs, .., J + 1)."""
    pad = torch.nn.functional.pad
    return pad(p * v, (0, 1)) + pad(q * v, (1, 0))


# ---- couplings -----------------------------------------------------------------------------------------------------
# Left to autograd they would keep every product of two elements of U. Their derivatives are sums of such products, too:
# so nothing but U is kept.


class _Components(torch.autograd.Function):
    """B, (K, n_atoms), from a half of U, (n_half, n_atoms)."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, twojmax: int) -> Tensor:
        ctx.save_for_backward(u)
        ctx.twojmax = twojmax
        s = _sums(twojmax, True, u.device, u.real.dtype)
        full = _complete(u, twojmax)
        return s.of_component @ (u[s.place].conj() * s.products(full, full)).real

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return _Adjoint.apply(ctx.saved_tensors[0], g, ctx.twojmax), None  # type: ignore[no-untyped-call]


class _Adjoint(torch.autograd.Function):
    """Gradient of the sum of g B, (n_half, n_atoms), from a half of U and g, (K, n_atoms)."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, g: Tensor, twojmax: int) -> Tensor:
        ctx.save_for_backward(u, g)
        ctx.twojmax = twojmax
        s = _sums(twojmax, False, u.device, u.real.dtype)
        full = _complete(u, twojmax)
        return s.to_levels(g[s.component] * s.products(full, full))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, along: Tensor) -> Any:
        """Second derivatives of g B are symmetric: so that by U along a direction is how the gradient changes."""
        (u, g), J = ctx.saved_tensors, ctx.twojmax
        s = _sums(J, False, u.device, u.real.dtype)
        along = _own_partners(along, J)
        full, other = _complete(u, J), _complete(along, J)
        of_u = s.to_levels(g[s.component] * (s.products(full, other) + s.products(other, full)))
        of_g = s.of_component @ (along[s.place].conj() * s.products(full, full)).real
        return of_u, of_g, None


def _complete(half: Tensor, twojmax: int) -> Tensor:
    """All elements, (n_all, n_atoms)."""
    h = tables.half(twojmax)
    rest = np.flatnonzero(~h.ends)
    full = half.new_empty((tables.level_starts(twojmax)[-1], half.shape[1]))
    full[torch.as_tensor(h.place, device=half.device)] = half
    sign = half.real.new_tensor(h.sign[rest])[:, None]
    full[torch.as_tensor(h.mirror[rest], device=half.device)] = sign * half[rest].conj()
    return full


def _own_partners(half: Tensor, twojmax: int) -> Tensor:
    """Make the columns l = J / 2, which are their own partners, what U is: equal to their partners."""
    h = tables.half(twojmax)
    ends = np.flatnonzero(h.ends)
    among = np.argsort(h.place[ends])
    partner = ends[among[np.searchsorted(h.place[ends][among], h.mirror[ends])]]
    out, sign = half.clone(), half.real.new_tensor(h.sign[ends])[:, None]
    out[ends] = (half[ends] + sign * half[partner].conj()) / 2
    return out


@dataclass(frozen=True, slots=True, eq=False)
class _Sums:
    """Couplings for tensors: elements with equally many terms are made together.

    Attributes:
        groups: places of both factors and the coefficients, (n, n_terms) each.
        place: of each element in a half, (n_elements,).
        component: which B each belongs to, (n_elements,).
        of_component: adds elements of one component, (K, n_elements); twice those whose partners are not there.
        of_place: adds elements of one place, (n_half, n_elements), by their shares; likewise.
    """

    groups: tuple[tuple[Tensor, Tensor, Tensor], ...]
    place: Tensor
    component: Tensor
    of_component: Tensor
    of_place: Tensor

    def products(self, u: Tensor, v: Tensor) -> Tensor:
        """The elements, (n_elements, n_atoms), of the products of u and v, (n_all, n_atoms)."""
        out, most = [], _AT_ONCE.get(u.device.type, _AT_ONCE["cuda"])
        for a, b, factor in self.groups:
            step = max(1, most // (a.shape[1] * max(1, u.shape[1])))
            for k in range(0, len(a), step):
                terms = u[a[k : k + step]] * v[b[k : k + step]]
                out.append((terms * factor[k : k + step, :, None]).sum(1))
        return torch.cat(out)

    def to_levels(self, elements: Tensor) -> Tensor:
        """Sums of elements of one place, (n_half, n_atoms)."""
        return torch.complex(self.of_place @ elements.real, self.of_place @ elements.imag)


@cache
def _sums(twojmax: int, forth: bool, device: torch.device, dtype: torch.dtype) -> _Sums:
    t = tables.couplings(twojmax) if forth else tables.adjoint_couplings(twojmax)
    half, count = tables.half(twojmax), np.diff(t.first)
    sizes = (t.level + 1) * (t.level // 2 + 1)
    block = np.repeat(np.arange(len(sizes)), sizes)
    place = half.starts[t.level][block] + np.arange(len(block)) - (np.cumsum(sizes) - sizes)[block]
    order, groups = np.argsort(count, kind="stable"), []
    for n in np.unique(count):
        terms = t.first[:-1][count == n][:, None] + np.arange(n)
        a, b = (torch.as_tensor(x[terms].astype(np.int64), device=device) for x in (t.a, t.b))
        groups.append((a, b, torch.as_tensor(t.factor[terms], device=device, dtype=dtype)))
    place, block = place[order], block[order]
    twice = np.where(half.ends, 1.0, 2.0)[place]
    of_component, of_place = np.zeros((t.component.max() + 1, len(place))), np.zeros((len(half.place), len(place)))
    share = t.share[block] * twice
    of_component[t.component[block], np.arange(len(place))] = share
    of_place[place, np.arange(len(place))] = share
    integers = (torch.as_tensor(x, device=device) for x in (place, t.component[block]))
    reals = (torch.as_tensor(x, device=device, dtype=dtype) for x in (of_component, of_place))
    return _Sums(tuple(groups), *integers, *reals)
