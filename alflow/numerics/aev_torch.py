"""The descriptors of `alflow.numerics.aev` in plain torch: differentiable, on any device; slower on a CPU.

It shares no formula with the compiled kernels, so each is a check of the other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alflow.numerics.aev import AevSettings
from alflow.numerics.geometry_torch import Geometry


def features(
    settings: AevSettings,
    geometry: Geometry,
    positions: Tensor,
    cell: Tensor,
    strain: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Descriptors of all atoms, (n_atoms, n_features), differentiable in all three tensors.

    Args:
        settings: of the descriptors.
        geometry: pairs complete to the radial cutoff.
        positions: in angstrom, (n_atoms, 3).
        cell: lattice vectors as rows in angstrom, (n_frames, 3, 3).
        strain: (n_frames, 3, 3) or None; deforms positions and cells together, x to x (1 + e)^T.
        dtype: precision after the differences of positions are taken; that of `positions` if None.
    """
    d = geometry.vectors(positions, cell, strain).to(dtype or positions.dtype)
    r = d.square().sum(1).sqrt()
    near = r < settings.radial_cutoff_A
    i, j, d, r = geometry.i[near], geometry.j[near], d[near], r[near]
    radial = _radial(settings, geometry, i, j, r)
    near = r < settings.angular_cutoff_A
    angular = _angular(settings, geometry, i[near], j[near], d[near], r[near])
    return torch.cat([radial, angular], 1)


def _cutoff(r: Tensor, end_A: float) -> Tensor:
    """Cosine cutoff, Smith 2017 equation 2."""
    return 0.5 * torch.cos(r * (torch.pi / end_A)) + 0.5


def _radial(settings: AevSettings, geometry: Geometry, i: Tensor, j: Tensor, r: Tensor) -> Tensor:
    """Radial block, (n_atoms, n_radial_features): Smith 2017 equation 3."""
    n, n_species, n_shifts = len(geometry.species), settings.n_species, len(settings.shifts_r_A)
    shifts = r.new_tensor(settings.shifts_r_A)
    terms = (
        0.25
        * torch.exp(-settings.eta_r * (r[:, None] - shifts).square())
        * _cutoff(r, settings.radial_cutoff_A)[:, None]
    )
    out = r.new_zeros((n * n_species, n_shifts)).index_add(0, i * n_species + geometry.species[j], terms)
    return out.reshape(n, -1)


def _angular(settings: AevSettings, geometry: Geometry, i: Tensor, j: Tensor, d: Tensor, r: Tensor) -> Tensor:
    """Angular block, (n_atoms, n_features - n_radial_features): Smith 2017 equation 4."""
    n, n_species = len(geometry.species), settings.n_species
    first, second = _triples(i, n)
    unit = d / r[:, None]
    theta = torch.arccos(0.95 * (unit[first] * unit[second]).sum(1))
    fc = _cutoff(r, settings.angular_cutoff_A)
    mean = (r[first] + r[second]) / 2
    by_angle = ((1 + torch.cos(theta[:, None] - r.new_tensor(settings.angles_rad))) / 2) ** settings.zeta
    by_radius = torch.exp(-settings.eta_a * (mean[:, None] - r.new_tensor(settings.shifts_a_A)).square())
    by_radius = by_radius * (2 * fc[first] * fc[second])[:, None]
    terms = (by_radius[:, :, None] * by_angle[:, None, :]).flatten(1)
    a, b = geometry.species[j[first]], geometry.species[j[second]]
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    block = low * n_species - low * (low - 1) // 2 + high - low
    n_blocks = n_species * (n_species + 1) // 2
    out = r.new_zeros((n * n_blocks, terms.shape[1])).index_add(0, i[first] * n_blocks + block, terms)
    return out.reshape(n, -1)


def _triples(i: Tensor, n_atoms: int) -> tuple[Tensor, Tensor]:
    """Both pairs of every triple: all unordered pairs of the pairs of one atom; `i` is sorted."""
    end = torch.cumsum(torch.bincount(i, minlength=n_atoms), 0)
    pair = torch.arange(len(i), device=i.device)
    after = end[i] - pair - 1
    first = torch.repeat_interleave(pair, after)
    rank = torch.arange(len(first), device=i.device) - torch.repeat_interleave(torch.cumsum(after, 0) - after, after)
    return first, first + 1 + rank
