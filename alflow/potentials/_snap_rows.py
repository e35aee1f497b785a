"""Rows of the least-squares problem of SNAP: what coefficients are multiplied with to give energies and derivatives.

The basis of an atom is ``B_1 ... B_K``, and for quadratic SNAP ``B_1^2 / 2, B_1 B_2, ...`` after it. Of a product,

    d/dx_a sum_i B_ik B_il = M_kl + M_lk,   M_kl = sum_i dB_ik/dx_a B_il,

so that M, a product of two small matrices for each atom, gives all of them at once.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np

from alflow.core.frames import Floats, Frames, Ints
from alflow.numerics import bispectrum
from alflow.numerics.bispectrum import BispectrumSettings
from alflow.numerics.bispectrum_jacobian import jacobian, vectors
from alflow.numerics.neighbors import Neighbors, neighbor_list
from alflow.potentials._snap_files import n_terms
from alflow.potentials._snap_labels import KINDS
from alflow.potentials._snap_model import products

VOIGT: Final = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Sums over the atoms of each element of each frame, and their derivatives; F terms an element.

    Attributes:
        energy: (n_frames, n_elements, F).
        gradient: derivatives by positions, in 1/angstrom, (n_atoms, 3, n_elements, F), or None if not asked for.
        strain: derivatives by strain, in the order of `VOIGT`, (n_frames, 6, n_elements, F), or None if not asked for.
    """

    energy: Floats
    gradient: Floats | None
    strain: Floats | None


def rows_of(settings: BispectrumSettings, quadratic: bool, frames: Frames, kinds: Collection[str] = KINDS) -> Rows:
    """The rows of some frames that labels of `kinds` need; NaN for a frame that can have no neighbour list."""
    neighbors = neighbor_list(frames, settings.cutoff_A)
    element = settings.species_index(frames.numbers).astype(np.int64)
    b = bispectrum.features(settings, frames, neighbors)
    gradient = strain = None
    if quadratic and {"force", "stress"} & {*kinds}:
        slopes = jacobian(settings, frames, neighbors)
        if "force" in kinds:
            gradient = _quadratic_gradient(b, slopes, element, neighbors, len(settings.numbers))
            gradient[~neighbors.valid[frames.frame_of_atom]] = np.nan
        if "stress" in kinds:
            strain = _summed(_quadratic_strain(b, slopes, frames, neighbors), element, frames, settings)
    elif {"force", "stress"} & {*kinds}:
        gradient, whole = bispectrum.rows(settings, frames, neighbors)
        strain = np.stack([whole[:, i, j] for i, j in VOIGT], 1) if "stress" in kinds else None
        gradient = gradient if "force" in kinds else None
    terms = np.hstack([b, products(b)]) if quadratic else b
    return Rows(_summed(terms, element, frames, settings), gradient, strain)


def _quadratic_strain(b: Floats, slopes: Floats, frames: Frames, neighbors: Neighbors) -> Floats:
    """(n_atoms, 6, K + K (K + 1) / 2)."""
    apart = vectors(frames, neighbors)
    turned = _per_atom(np.stack([slopes[:, i] * apart[:, j, None] for i, j in VOIGT], 1), neighbors)
    return np.concatenate([turned, _of_products(b[:, None, :, None] * turned[:, :, None, :])], 2)


def _quadratic_gradient(b: Floats, slopes: Floats, element: Ints, neighbors: Neighbors, n_elements: int) -> Floats:
    """(n_atoms, 3, n_elements, K + K (K + 1) / 2)."""
    n, k = b.shape
    out = np.zeros((n, 3, n_elements, n_terms(k, quadratic=True)))
    own = -_per_atom(slopes, neighbors)
    factors = np.hstack([np.ones((n, 1)), b])  # with the 1, the first column of m has the linear terms
    for a in range(n):
        pairs = np.arange(neighbors.start[a], neighbors.start[a + 1])
        who = neighbors.j[pairs]
        for e in range(n_elements):
            here = element[who] == e
            toward = slopes[neighbors.reverse[pairs[here]]]  # of the neighbour's descriptors, by the vector to us
            m = (toward.reshape(-1, 3 * k).T @ factors[who[here]]).reshape(3, k, 1 + k)
            if element[a] == e:
                m += own[a][:, :, None] * factors[a]
            out[a, :, e, :k] = m[:, :, 0]
            out[a, :, e, k:] = _of_products(m[:, :, 1:])
    return out


def _of_products(m: Floats) -> Floats:
    """Derivatives of the products, (..., K (K + 1) / 2), of the (..., K, K) derivatives of one times the other."""
    k = m.shape[-1]
    above, below, factor = _places(k)
    flat = m.reshape(*m.shape[:-2], k * k)
    found: Floats = (flat.take(above, -1) + flat.take(below, -1)) * factor
    return found


@cache
def _places(k: int) -> tuple[Ints, Ints, Floats]:
    """Of each product: its elements in a flat matrix, above and below the diagonal, and its factor; a half on it."""
    i, j = np.triu_indices(k)
    return i * k + j, j * k + i, np.where(i == j, 0.5, 1.0)


def _per_atom(of_pairs: Floats, neighbors: Neighbors) -> Floats:
    """Sums over the pairs of each atom; zero of an atom without any."""
    out = np.zeros((len(neighbors.start) - 1, *of_pairs.shape[1:]))
    some = np.flatnonzero(np.diff(neighbors.start))
    if len(some):
        out[some] = np.add.reduceat(of_pairs, neighbors.start[some])
    return out


def _summed(per_atom: Floats, element: Any, frames: Frames, settings: BispectrumSettings) -> Floats:
    """Sums over the atoms of each element of each frame: (n_atoms, ..., F) to (n_frames, ..., n_elements, F)."""
    parts = []
    for e in range(len(settings.numbers)):
        of_it = (element == e).reshape(-1, *[1] * (per_atom.ndim - 1))
        parts.append(np.add.reduceat(np.where(of_it, per_atom, 0.0), frames.offsets[:-1]))
    return np.stack(parts, -2)
