"""Descriptors against torchani, closed forms, finite differences and invariances."""

import os

os.environ.setdefault("TORCHANI_NO_WARN_EXTENSIONS", "1")

import numpy as np
import pytest
import torch

from alflow.core.frames import Frames
from alflow.numerics import aev
from alflow.numerics.neighbors import neighbor_list

ONE = aev.AevSettings.spaced((13,))
TWO = aev.AevSettings.spaced((29, 13), 6.0, 4.2, n_radial=9, n_angular=5, n_angles=6, eta_r=12.0, eta_a=4.0, zeta=14.1)
THREE = aev.AevSettings.spaced(
    (8, 1, 6), 4.6, 3.1, n_radial=5, n_angular=3, n_angles=4, eta_r=16.0, eta_a=8.0, zeta=8.0
)


def random_frames(rng, species, sizes=(1, 2, 5, 12), volume=8.0, pbc=True, skew=0.35):
    """Random triclinic cells at about the density of a solid, most of them smaller than the cutoff."""
    parts = []
    for n in sizes:
        cell = np.eye(3) + rng.uniform(-skew, skew, (3, 3)) * ~np.eye(3, dtype=bool)
        cell *= (n * volume / abs(np.linalg.det(cell))) ** (1 / 3)
        parts.append(Frames.single(rng.choice(species, n), spread(rng, n, cell), cell, pbc))
    return Frames.concat(parts)


def spread(rng, n, cell):
    """Positions on a jittered grid of fractional coordinates, so that no two atoms touch; some outside the cell."""
    side = int(np.ceil(n ** (1 / 3)))
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)
    chosen = rng.permutation(len(grid))[:n]
    return ((grid[chosen] + rng.uniform(-0.2, 0.2, (n, 3))) / side + rng.integers(-1, 2, (n, 3))) @ cell


def torchani_features(settings, frame):
    """What torchani makes of one frame, in double precision."""
    from torchani.aev import AEVComputer, ANIAngular, ANIRadial

    radial = ANIRadial(settings.eta_r, settings.shifts_r_A, settings.radial_cutoff_A)
    angular = ANIAngular(
        settings.eta_a, settings.zeta, settings.shifts_a_A, settings.angles_rad, settings.angular_cutoff_A
    )
    computer = AEVComputer(radial, angular, settings.n_species).double()
    species = torch.as_tensor(settings.species_index(frame.numbers).astype(np.int64))[None]
    pbc = torch.as_tensor(frame.pbc[0])
    periodic = (torch.as_tensor(frame.cell[0]), pbc) if pbc.any() else (None, None)
    return computer(species, torch.as_tensor(frame.positions)[None], *periodic)[0].numpy()


@pytest.mark.parametrize("settings", [ONE, TWO, THREE], ids=["one", "two", "three"])
@pytest.mark.parametrize("pbc", [True, False, (True, False, True)], ids=["periodic", "open", "slab"])
def test_equals_torchani(settings, pbc):
    # torchani wraps atoms along the Cartesian axes where only some directions are periodic: no skewed slabs
    skew = 0.35 if isinstance(pbc, bool) else 0.0
    frames = random_frames(np.random.default_rng(1), settings.species, pbc=pbc, skew=skew)
    pairs = neighbor_list(frames, settings.radial_cutoff_A + 0.5)
    double = aev.features(settings, frames, pairs, dtype=np.float64)
    single = aev.features(settings, frames, pairs)
    assert double.shape == (frames.n_atoms, settings.n_features)
    assert single.dtype == np.float32
    for i in range(len(frames)):
        want = torchani_features(settings, frames[i])
        atoms = frames.atoms_of([i])
        # torchani keeps its parameters in single precision; so 1e-6 and not 1e-12
        np.testing.assert_allclose(double[atoms], want, rtol=2e-6, atol=1e-6)
        np.testing.assert_allclose(single[atoms], want, rtol=2e-6, atol=1e-6)
    assert np.abs(double).max() > (0.05 if np.any(pbc) else 0.0)
