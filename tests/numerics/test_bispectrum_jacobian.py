"""Derivatives of each pair: contracted, they are the gradients of `bispectrum.vjp`, which is checked against LAMMPS."""

import numpy as np
import pytest

from alflow.core.frames import Frames
from alflow.numerics import bispectrum
from alflow.numerics.bispectrum import BispectrumSettings
from alflow.numerics.bispectrum_jacobian import jacobian, vectors
from alflow.numerics.neighbors import neighbor_list
from alflow.testing.morse import morse_dataset


@pytest.mark.parametrize("twojmax", [3, 6])
@pytest.mark.parametrize("switch", [True, False])
def test_pairs_sum_up_to_the_gradients(twojmax, switch):
    settings = BispectrumSettings((13, 29), twojmax, 4.6, (0.5, 0.42), (1.0, -0.7), switch=switch)
    frames = morse_dataset(4, 0, (1, 8), (13, 29)).frames
    lone = Frames.single([29, 13], [[0, 0, 0], [0, 9, 0]], np.eye(3) * 20, pbc=False)
    frames = Frames.concat([frames, lone])
    near = neighbor_list(frames, settings.cutoff_A + 0.5)
    g = np.random.default_rng(1).normal(size=(frames.n_atoms, settings.n_features))
    want_grad, want_strain = bispectrum.vjp(settings, frames, near, g)
    apart, i = vectors(frames, near), near.i
    pull = np.einsum("pck,pk->pc", jacobian(settings, frames, near), g[i])
    grad, strain = np.zeros_like(want_grad), np.zeros_like(want_strain)
    np.add.at(grad, near.j, pull)
    np.subtract.at(grad, i, pull)
    np.add.at(strain, frames.frame_of_atom[i], pull[:, :, None] * apart[:, None, :])
    scale = np.abs(want_grad).max()
    np.testing.assert_allclose(grad, want_grad, atol=1e-12 * scale)
    np.testing.assert_allclose(strain, want_strain, atol=1e-11 * scale)
    far = np.linalg.norm(apart, axis=1) > settings.cutoff_A
    assert far.any()
    assert not jacobian(settings, frames, near)[far].any()
