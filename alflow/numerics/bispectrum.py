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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alflow.core.frames import Floats, Frames, Ints
from alflow.errors import DataError
from alflow.numerics import bispectrum_kernels as kernels
from alflow.numerics import bispectrum_tables as tables
from alflow.numerics.bispectrum_coupling_kernels import components
from alflow.numerics.lanes import LANES
from alflow.numerics.neighbors import Neighbors
from alflow.numerics.species import species_index
from alflow.numerics.threads import spread


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
        return len(tables.triples(self.twojmax))

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
    c = constants(settings)
    return _components(frames, neighbors, c, _expansion(batch(settings, frames, neighbors), c))


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
    c, known = constants(settings), batch(settings, frames, neighbors)
    return _gradients(frames, neighbors, c, known, _expansion(known, c), g)


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
    c, known = constants(settings), batch(settings, frames, neighbors)
    u = _expansion(known, c)
    b = _components(frames, neighbors, c, u)
    return b, *_gradients(frames, neighbors, c, known, u, respond(b))


def _expansion(known: tuple[NDArray[Any], ...], c: kernels.Constants) -> Floats:
    """U of all atoms, eight of them side by side: (n_groups, n_half, 2, 8)."""
    n_groups = -(-len(known[0]) // LANES)
    u = np.zeros((n_groups, len(c.place), 2, LANES))
    spread(kernels.expand, n_groups, known, c, u)
    return u


def _components(frames: Frames, neighbors: Neighbors, c: kernels.Constants, u: Floats) -> Floats:
    out = np.empty((frames.n_atoms, len(c.base)))
    spread(components, len(u), u, c, out)
    out[~neighbors.valid[frames.frame_of_atom]] = np.nan
    return out


def _gradients(
    frames: Frames, neighbors: Neighbors, c: kernels.Constants, known: tuple[NDArray[Any], ...], u: Floats, g: Floats
) -> tuple[Floats, Floats]:
    g = np.ascontiguousarray(g, np.float64)
    of_pairs, of_atoms = np.zeros((neighbors.n_pairs, 3)), np.zeros((frames.n_atoms, 3, 3))
    spread(kernels.pair_gradients, len(u), known, c, u, g, of_pairs, of_atoms)
    grad = np.zeros((frames.n_atoms, 3))
    spread(kernels.collect, frames.n_atoms, neighbors.start, neighbors.reverse, of_pairs, grad, least=64)
    virial = np.add.reduceat(of_atoms, frames.offsets[:-1], axis=0) if len(frames) else np.zeros((0, 3, 3))
    grad[~neighbors.valid[frames.frame_of_atom]] = np.nan
    virial[~neighbors.valid] = np.nan
    return grad, virial


def batch(settings: BispectrumSettings, frames: Frames, neighbors: Neighbors) -> tuple[NDArray[Any], ...]:
    """What the kernels want to know about the batch."""
    check_list(settings, frames, neighbors)
    species = settings.species_index(frames.numbers)
    position, cell = np.ascontiguousarray(frames.positions), np.ascontiguousarray(frames.cell)
    return (position, cell, frames.frame_of_atom, neighbors.start, neighbors.j, neighbors.shift, species)


def constants(settings: BispectrumSettings) -> kernels.Constants:
    """The settings as the kernels want them."""
    radius, J = np.array(settings.radii), settings.twojmax
    half = tables.half(J)
    return kernels.Constants(
        J,
        settings.rcutfac_A * (radius[:, None] + radius),
        np.array(settings.weights),
        settings.rfac0,
        settings.rmin0_A,
        settings.switch,
        np.array([last + 1.0 for _, _, last in tables.triples(J)]) * settings.bzero,
        tables.level_starts(J)[-1],
        half.starts,
        half.place,
        half.mirror,
        half.sign,
        half.ends,
        half.own,
        half.norm,
        half.norm * np.where(half.ends, 1, 2),
        tables.couplings(J),
        tables.adjoint_couplings(J),
    )


def rows(settings: BispectrumSettings, frames: Frames, neighbors: Neighbors) -> tuple[Floats, Floats]:
    """Derivatives of ``b[frame, t]``, the sum of the features over the atoms of element t: what linear fits need.

    Returns:
        by positions, (n_atoms, 3, n_types, n_features), and by strain, (n_frames, 3, 3, n_types, n_features): the
        contraction with coefficients per element is the gradient of the energy. NaN where a frame has no list.
    """
    c, known = constants(settings), batch(settings, frames, neighbors)
    shape = (len(settings.numbers), settings.n_features)
    of_atoms, of_frames = np.zeros((frames.n_atoms, 3, *shape)), np.zeros((len(frames), 3, 3, *shape))
    spread(kernels.rows, len(frames), frames.offsets, known, c, of_atoms, of_frames)
    of_atoms[~neighbors.valid[frames.frame_of_atom]] = np.nan
    of_frames[~neighbors.valid] = np.nan
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
