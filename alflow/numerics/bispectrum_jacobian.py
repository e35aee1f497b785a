"""Derivatives of the bispectrum of each atom by the vector to each neighbour: what products of descriptors need."""

from __future__ import annotations

import numpy as np

from alflow.core.frames import Floats, Frames
from alflow.numerics import bispectrum_jacobian_kernels as kernels
from alflow.numerics.bispectrum import BispectrumSettings, batch, constants
from alflow.numerics.lanes import LANES
from alflow.numerics.neighbors import Neighbors
from alflow.numerics.threads import spread


def jacobian(settings: BispectrumSettings, frames: Frames, neighbors: Neighbors) -> Floats:
    """Derivatives of the descriptors of the first atom of each pair by its vector to the second.

    Returns:
        (n_pairs, 3, n_features), in 1/angstrom; zero for pairs beyond their cutoff.
    """
    known = batch(settings, frames, neighbors)
    out = np.zeros((neighbors.n_pairs, 3, settings.n_features))
    groups = -(-frames.n_atoms // LANES)
    spread(kernels.jacobian, groups, known, constants(settings), out)
    return out


def vectors(frames: Frames, neighbors: Neighbors) -> Floats:
    """From the first to the second atom of each pair, in angstrom, (n_pairs, 3)."""
    i = neighbors.i
    moved = np.einsum("pa,pab->pb", neighbors.shift, frames.cell[frames.frame_of_atom[i]])
    apart: Floats = frames.positions[neighbors.j] - frames.positions[i] + moved
    return apart
