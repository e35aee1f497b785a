"""Kept derivatives against those computed from the formulas."""

import numpy as np
import pytest

from alflow.core.frames import Frames
from alflow.numerics import aev
from alflow.numerics.aev_jacobian import Jacobian, jacobian_bytes
from alflow.numerics.neighbors import neighbor_list

ONE = aev.AevSettings.spaced((13,))
THREE = aev.AevSettings.spaced(
    (8, 1, 6), 4.6, 3.1, n_radial=5, n_angular=3, n_angles=4, eta_r=16.0, eta_a=8.0, zeta=8.0
)


def random_frames(settings, sizes=(1, 6, 3)):
    rng, parts = np.random.default_rng(0), []
    for n in sizes:
        side = int(np.ceil(n ** (1 / 3)))
        grid = np.stack(np.meshgrid(*[np.arange(side)] * 3), -1).reshape(-1, 3)[:n] + rng.uniform(-0.2, 0.2, (n, 3))
        cell = (np.eye(3) + rng.uniform(-0.1, 0.1, (3, 3))) * 2.3 * side
        parts.append(Frames.single(rng.choice(settings.species, n), grid / side @ cell, cell))
    return Frames.concat(parts)


@pytest.mark.parametrize("settings", [ONE, THREE], ids=["one", "three"])
@pytest.mark.parametrize("pick", [None, [2, 0], [1]])
def test_products_are_those_of_the_formulas(settings, pick):
    frames = random_frames(settings)
    pairs = neighbor_list(frames, settings.radial_cutoff_A + 0.4)
    kept = Jacobian(settings, frames, pairs, np.float64)
    some = frames if pick is None else frames.take(pick)
    near, rng = neighbor_list(some, settings.radial_cutoff_A), np.random.default_rng(1)
    g = rng.normal(size=(2, some.n_atoms, settings.n_features))
    u, strain = rng.normal(size=(2, some.n_atoms, 3)), rng.normal(size=(2, len(some), 3, 3))
    for got, want in zip(kept.vjp(g, pick), aev.vjp(settings, some, near, g, np.float64), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12 * np.abs(want).max())
    for bend in (None, strain):
        want = aev.jvp(settings, some, near, u, bend, np.float64)
        np.testing.assert_allclose(kept.jvp(u, bend, pick), want, rtol=1e-10, atol=1e-12 * np.abs(want).max())


def test_single_precision_and_memory():
    frames = random_frames(ONE)
    pairs = neighbor_list(frames, ONE.radial_cutoff_A)
    kept = Jacobian(ONE, frames, pairs)
    foreseen = jacobian_bytes(ONE, frames, pairs)
    assert foreseen.shape == (len(frames),)
    assert abs(foreseen.sum() - kept.nbytes) <= 16
    g = np.random.default_rng(2).normal(size=(3, frames.n_atoms, ONE.n_features)).astype(np.float32)
    want = aev.vjp(ONE, frames, pairs, g, np.float64)[0]
    np.testing.assert_allclose(kept.vjp(g)[0], want, atol=3e-6 * np.abs(want).max())
