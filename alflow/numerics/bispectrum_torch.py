"""The descriptors of `alflow.numerics.bispectrum` in torch: differentiable twice, on any device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from alflow.numerics.aev_torch import Geometry, tensors
from alflow.numerics.bispectrum import BispectrumSettings
from alflow.numerics.bispectrum_tables import clebsch_gordan, triples

__all__ = ["Geometry", "features", "tensors"]

_SAME_PLACE: float = 1e-10
"""Atoms closer than this (angstrom) have no direction; as in LAMMPS they do not see each other."""


def features(
    settings: BispectrumSettings,
    geometry: Geometry,
    positions: Tensor,
    cell: Tensor,
    strain: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Descriptors of all atoms, (n_atoms, n_features), differentiable in all three tensors.

    Args:
        settings: of the descriptors.
        geometry: pairs complete to the longest cutoff.
        positions: in angstrom, (n_atoms, 3).
        cell: lattice vectors as rows in angstrom, (n_frames, 3, 3).
        strain: (n_frames, 3, 3) or None; deforms positions and cells together, x to x (1 + e)^T.
        dtype: precision after the differences of positions are taken; that of `positions` if None.
    """
    owner = geometry.frame_of_atom[geometry.i]
    offset = torch.einsum("pa,pab->pb", geometry.shift.to(cell.dtype), cell[owner])
    d = positions[geometry.j] - positions[geometry.i] + offset
    if strain is not None:
        d = d + torch.einsum("pab,pb->pa", strain[owner], d)
    d = d.to(dtype or d.dtype)
    radius, weight = d.new_tensor(settings.radii), d.new_tensor(settings.weights)
    kind = geometry.species
    end = settings.rcutfac_A * (radius[kind[geometry.i]] + radius[kind[geometry.j]])
    square = d.detach().square().sum(1)
    near = (square < end.square()) & (square > _SAME_PLACE**2)
    i, d, end, w = geometry.i[near], d[near], end[near], weight[kind[geometry.j[near]]]
    u = _expansion(settings, len(kind), i, d, end, w)
    columns = [_component(u, *triple) for triple in triples(settings.twojmax)]
    b = torch.stack(columns, 1)
    if settings.bzero:
        b = b - b.new_tensor([J + 1.0 for _, _, J in triples(settings.twojmax)])
    return b


def _expansion(settings: BispectrumSettings, n: int, i: Tensor, d: Tensor, end: Tensor, w: Tensor) -> list[Tensor]:
    """U_J of every atom, (n_atoms, J + 1, J + 1) complex, for each J."""
    r = d.square().sum(1).sqrt()
    reach = (r - settings.rmin0_A) / (end - settings.rmin0_A)
    t = settings.rfac0 * torch.pi * reach
    if settings.switch:
        w = w * torch.where(reach > 0, 0.5 + 0.5 * torch.cos(torch.pi * reach), 1.0)
    side = torch.where(torch.sin(t) < 0, -1.0, 1.0).to(r.dtype)  # below rmin0 LAMMPS takes the opposite pole
    cosine, sine = side * torch.cos(t), side * torch.sin(t) / r
    a, b = torch.complex(cosine, -sine * d[:, 2]), torch.complex(sine * d[:, 1], -sine * d[:, 0])
    u, out = w.to(a.dtype)[:, None, None], []
    for J in range(settings.twojmax + 1):
        if J:
            u = _next_level(u, a, b, J)
        start = torch.eye(J + 1, dtype=u.dtype, device=u.device).expand(n, -1, -1)
        out.append(start.index_add(0, i, u))
    return out


def _next_level(u: Tensor, a: Tensor, b: Tensor, J: int) -> Tensor:
    """U_J of U_(J - 1), (n_pairs, J + 1, J + 1): one more spin 1/2 joins J - 1 of them, all made symmetric."""
    k = torch.arange(J + 1, dtype=a.real.dtype, device=u.device)
    a, b = a[:, None, None], b[:, None, None]
    low, high = torch.sqrt(J - k)[:J, None], torch.sqrt(k)[1:, None]  # of the last spin down, up
    pad = torch.nn.functional.pad
    left = pad(u * low * a, (0, 0, 0, 1)) - pad(u * high * b.conj(), (0, 0, 1, 0))
    right = pad(u[..., -1:] * low * b, (0, 0, 0, 1)) + pad(u[..., -1:] * high * a.conj(), (0, 0, 1, 0))
    return torch.cat([left / torch.sqrt(J - k)[:J], right / J**0.5], 2)


def _component(u: list[Tensor], J1: int, J2: int, J: int) -> Tensor:
    """B of every atom, (n_atoms,)."""
    couple = _couplings(J1, J2, J, u[0].real)
    both = torch.einsum("nac,nbd->nabcd", u[J1], u[J2])
    z = torch.einsum("abk,nabcd->nkcd", couple, both)
    z = torch.einsum("cdl,nkcd->nkl", couple, z)
    return (u[J].conj() * z).sum((1, 2)).real


def _couplings(J1: int, J2: int, J: int, like: Tensor) -> Tensor:
    """Clebsch-Gordan coefficients, (J1 + 1, J2 + 1, J + 1), complex."""
    c = clebsch_gordan(J1, J2, J)
    k1, k2 = np.nonzero(c)
    out = np.zeros((*c.shape, J + 1))
    out[k1, k2, k1 + k2 - (J1 + J2 - J) // 2] = c[k1, k2]
    return torch.as_tensor(out, dtype=like.dtype, device=like.device).to(torch.complex(like[:0], like[:0]).dtype)
