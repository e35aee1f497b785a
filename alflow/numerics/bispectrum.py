"""Bispectrum (SNAP) descriptors and their derivatives, in batches, as LAMMPS defines them.

Thompson, Swiler, Trott, Foiles, Tucker, J. Comput. Phys. 285, 316 (2015). The neighbours of an atom are a density on
the three-sphere: a neighbour at distance r in direction n is the rotation ``g = cos(t) - i sin(t) n.sigma`` with
``t = rfac0 pi (r - rmin0) / (rcut - rmin0)``. With the Wigner matrices U_j of these,

    U_j = 1 + sum over neighbours of fc(r) w U_j(g)
    B_(j1, j2, j) = sum over m, m' of conj(U_j[m, m']) Z[m, m']
    Z[m, m'] = sum of <j1 m1 j2 m2 | j m> <j1 m1' j2 m2' | j m'> U_j1[m1, m1'] U_j2[m2, m2']

fc falls from 1 at rmin0 to 0 at rcut as a cosine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from alflow.core.frames import Floats, Frames, Ints
from alflow.errors import DataError
from alflow.numerics.bispectrum_tables import triples
from alflow.numerics.neighbors import Neighbors
from alflow.numerics.species import species_index


@dataclass(frozen=True, slots=True)
class BispectrumSettings:
    """What the descriptors are made of; the names and meanings are those of LAMMPS.

    Attributes:
        numbers: atomic numbers, in the order of `radii` and `weights`.
        twojmax: twice the largest j: 2, 4, 6, 8 give 5, 14, 30, 55 components.
        rcutfac_A: atoms i and j see each other closer than ``rcutfac_A * (radii[i] + radii[j])``.
        radii: of each element, without unit; with 0.5 `rcutfac_A` is the cutoff.
        weights: of each element as a neighbour.
        rfac0: which part of the three-sphere the distances fill.
        rmin0_A: distance that is mapped onto its pole.
        switch: let neighbours fade out towards the cutoff.
        bzero: take away what an atom without neighbours has.

    Raises:
        DataError: a number out of range, lists of different lengths.
    """

    numbers: tuple[int, ...]
    twojmax: int
    rcutfac_A: float
    radii: tuple[float, ...]
    weights: tuple[float, ...]
    rfac0: float = 0.99363
    rmin0_A: float = 0.0
    switch: bool = True
    bzero: bool = True

    def __post_init__(self) -> None:
        if not self.numbers or len(set(self.numbers)) < len(self.numbers):
            raise DataError(f"BispectrumSettings.numbers: at least one, each once, got {self.numbers}")
        if not len(self.numbers) == len(self.radii) == len(self.weights):
            raise DataError(
                f"BispectrumSettings: expected a radius and a weight for each of {self.numbers}, "
                f"got radii {self.radii} and weights {self.weights}"
            )
        if self.twojmax < 0:
            raise DataError(f"BispectrumSettings.twojmax must be at least 0, got {self.twojmax}")
        if not (np.isfinite([*self.radii, self.rcutfac_A]).all() and min(*self.radii, self.rcutfac_A) > 0):
            raise DataError(
                f"BispectrumSettings: rcutfac_A and radii must be positive, got {self.rcutfac_A} and {self.radii}"
            )
        if not np.isfinite(self.weights).all():
            raise DataError(f"BispectrumSettings.weights must be finite, got {self.weights}")
        if not 0 < self.rfac0 <= 1:
            raise DataError(f"BispectrumSettings.rfac0 must be in (0, 1], got {self.rfac0}")
        least = 2 * min(self.radii) * self.rcutfac_A
        if not 0 <= self.rmin0_A < least:
            raise DataError(
                f"BispectrumSettings.rmin0_A must lie between 0 and the shortest cutoff, {least:g} Å, "
                f"got {self.rmin0_A}"
            )

    @property
    def n_features(self) -> int:
        """Length of a descriptor."""
        return len(triples(self.twojmax))

    @property
    def cutoff_A(self) -> float:
        """The longest cutoff of a pair."""
        return 2 * max(self.radii) * self.rcutfac_A

    def species_index(self, numbers: Ints) -> NDArray[np.int32]:
        """Place of each atomic number in `numbers`, (n_atoms,).

        Raises:
            DataError: an atomic number that is not in `numbers`.
        """
        return species_index(self.numbers, numbers)


def features(settings: BispectrumSettings, frames: Frames, neighbors: Neighbors) -> Floats:
    """Descriptors of all atoms, (n_atoms, n_features), in the order of LAMMPS; NaN where a frame has no list."""
    return evaluate(settings, frames, neighbors, np.zeros_like)[0]


def vjp(settings: BispectrumSettings, frames: Frames, neighbors: Neighbors, g: Floats) -> tuple[Floats, Floats]:
    """Gradients of ``sum(g * features)``.

    Args:
        settings: of the descriptors.
        frames: where.
        neighbors: a list that is complete to the longest cutoff.
        g: weights, (n_atoms, n_features).

    Returns:
        gradient wrt positions, (n_atoms, 3), and wrt strain, (n_frames, 3, 3): strain e moves x to x (1 + e)^T.
        NaN where a frame has no list.
    """
    return evaluate(settings, frames, neighbors, lambda _: g)[1:]


def evaluate(
    settings: BispectrumSettings, frames: Frames, neighbors: Neighbors, respond: Callable[[Floats], Floats]
) -> tuple[Floats, Floats, Floats]:
    """Descriptors, and the gradients of what is made of them.

    Args:
        settings: of the descriptors.
        frames: where.
        neighbors: a list that is complete to the longest cutoff.
        respond: gets the features (n_atoms, n_features) and gives the weights of `vjp`, (n_atoms, n_features).

    Returns:
        features, and the gradients by positions and strain as of `vjp`.
    """
    from alflow.numerics import bispectrum_torch

    check_list(settings, frames, neighbors)
    geometry = bispectrum_torch.Geometry.of(settings, frames, neighbors)
    positions, cell = bispectrum_torch.tensors(frames, torch.float64)
    strain = torch.zeros(len(frames), 3, 3, dtype=torch.float64, requires_grad=True)
    b = bispectrum_torch.features(settings, geometry, positions.requires_grad_(), cell, strain)
    out = b.detach().numpy()
    bad = ~neighbors.valid
    out[bad[frames.frame_of_atom]] = np.nan
    g = torch.as_tensor(respond(out)).nan_to_num()
    grad, virial = (x.numpy() for x in torch.autograd.grad((b * g).sum(), [positions, strain]))
    grad[bad[frames.frame_of_atom]] = np.nan
    virial[bad] = np.nan
    return out, grad, virial


def rows(settings: BispectrumSettings, frames: Frames, neighbors: Neighbors) -> tuple[Floats, Floats]:
    """Derivatives of ``b[frame, t]``, the sum of the features over the atoms of element t: what linear fits need.

    Returns:
        by positions, (n_atoms, 3, n_types, n_features), and by strain, (n_frames, 3, 3, n_types, n_features): the
        contraction with coefficients per element is the gradient of the energy. NaN where a frame has no list.
    """
    n_types, K = len(settings.numbers), settings.n_features
    kind = settings.species_index(frames.numbers)
    of_atoms, of_frames = np.empty((frames.n_atoms, 3, n_types, K)), np.empty((len(frames), 3, 3, n_types, K))
    for t in range(n_types):
        for k in range(K):
            g = np.zeros((frames.n_atoms, K))
            g[kind == t, k] = 1.0
            of_atoms[:, :, t, k], of_frames[..., t, k] = vjp(settings, frames, neighbors, g)
    return of_atoms, of_frames


def check_list(settings: BispectrumSettings, frames: Frames, neighbors: Neighbors) -> None:
    """Refuse a list of other frames, or one that ends too early.

    Raises:
        DataError: so.
    """
    if len(neighbors.start) != frames.n_atoms + 1 or neighbors.cutoff_A < settings.cutoff_A:
        raise DataError(
            f"descriptors: expected a list of {frames.n_atoms} atoms to {settings.cutoff_A:g} Å, "
            f"got one of {len(neighbors.start) - 1} to {neighbors.cutoff_A:g}"
        )
