"""Bispectrum components in torch: derivatives of first and second order, precision, devices.

That they are those of the kernels, and these those of LAMMPS, is in test_bispectrum.py.
"""

import numpy as np
import pytest
import torch

from alflow.core.frames import Frames
from alflow.numerics import bispectrum, bispectrum_torch
from alflow.numerics.bispectrum import BispectrumSettings
from alflow.numerics.geometry_torch import Geometry, tensors
from alflow.numerics.neighbors import neighbor_list
from alflow.testing.devices import DEVICES

SETTINGS = BispectrumSettings((74, 4), 4, 4.0, (0.5, 0.45), (1.0, 0.7), rmin0_A=0.1)


def batch(seed=0, sizes=(1, 2, 4)):
    """Small skewed cells in which atoms see their own images."""
    rng, parts = np.random.default_rng(seed), []
    for n in sizes:
        cell = np.diag([2.6 * n, 2.8, 3.1]) + rng.uniform(-0.4, 0.4, (3, 3))
        fraction = np.column_stack([np.arange(n) / n, np.zeros(n), np.zeros(n)]) + rng.uniform(-0.05, 0.05, (n, 3))
        parts.append(Frames.single(rng.choice(SETTINGS.numbers, n), fraction @ cell, cell))
    return Frames.concat(parts)


def case(frames, settings=SETTINGS, dtype=torch.float64, device="cpu"):
    geometry = Geometry.of(settings, frames, neighbor_list(frames, settings.cutoff_A), device)
    x, cell = tensors(frames, dtype, device)
    return (
        geometry,
        x.requires_grad_(),
        cell,
        torch.zeros(len(frames), 3, 3, dtype=dtype, device=device).requires_grad_(),
    )


def test_first_and_second_derivatives_are_finite_differences():
    frames = batch(sizes=(1, 2))
    geometry, x, cell, strain = case(frames)

    def of(x, strain):
        return bispectrum_torch.features(SETTINGS, geometry, x, cell, strain)

    assert torch.autograd.gradcheck(of, (x, strain), eps=1e-6, atol=1e-5, rtol=1e-5)
    assert torch.autograd.gradgradcheck(of, (x, strain), eps=1e-6, atol=1e-4, rtol=1e-4, fast_mode=True)


@pytest.mark.parametrize("twojmax", [0, 1, 2, 3, 5, 8])
def test_forces_can_be_trained(twojmax):
    """The gradient of a loss of forces by parameters of a nonlinear energy, as force matching needs it."""
    settings = BispectrumSettings(SETTINGS.numbers, twojmax, 4.0, SETTINGS.radii, SETTINGS.weights)
    geometry, x, cell, _ = case(batch(1, (3, 4)), settings)
    rng = torch.Generator().manual_seed(0)
    weights = torch.randn(settings.n_features, generator=rng, dtype=torch.float64)
    weights = (weights / settings.n_features).requires_grad_()
    wanted, change = (torch.randn(shape, generator=rng, dtype=torch.float64) for shape in (x.shape, weights.shape))

    def loss(w):
        energy = torch.tanh(bispectrum_torch.features(settings, geometry, x, cell) @ w / 10).sum()
        return (torch.autograd.grad(energy, x, create_graph=True)[0] - wanted).square().sum()

    (slope,) = torch.autograd.grad(loss(weights), weights)
    h = 1e-4 / settings.n_features
    moved = [float(loss(weights + step * h * change).detach()) for step in (-2, -1, 1, 2)]
    want = (8 * (moved[2] - moved[1]) - (moved[3] - moved[0])) / (12 * h)
    assert float((slope * change).sum()) == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("device", DEVICES)
def test_single_precision_and_devices(device):
    settings = BispectrumSettings((74, 4), 8, 4.0, (0.5, 0.45), (1.0, 0.7))
    frames = batch(2)
    g = np.random.default_rng(3).normal(size=(frames.n_atoms, settings.n_features))
    want = bispectrum.evaluate(settings, frames, neighbor_list(frames, settings.cutoff_A), lambda _: g)
    for dtype, digits in ((torch.float32, 2e-5), (torch.float64, 1e-12)):
        geometry, x, cell, strain = case(frames, settings, device=device)
        b = bispectrum_torch.features(settings, geometry, x, cell, strain, dtype)
        assert b.dtype == dtype
        gradients = torch.autograd.grad((b * torch.as_tensor(g, device=device)).sum(), [x, strain])
        for have, expected in zip((b, *gradients), want, strict=True):
            largest = np.abs(expected).max()
            np.testing.assert_allclose(have.detach().cpu().numpy(), expected, rtol=0, atol=digits * largest)


def test_atoms_without_neighbours_and_no_atoms():
    lone = Frames.single([74], [[0, 0, 0]], np.eye(3) * 20)
    geometry, x, cell, _ = case(lone)
    b = bispectrum_torch.features(SETTINGS, geometry, x, cell)
    assert float(b.detach().abs().max()) < 1e-12
    assert not torch.autograd.grad(b.sum(), x)[0].any()
    geometry, x, cell, _ = case(Frames.empty())
    assert bispectrum_torch.features(SETTINGS, geometry, x, cell).shape == (0, 14)
