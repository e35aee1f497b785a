"""ANI descriptors (atomic environment vectors) and their derivatives, in batches.

Smith, Isayev, Roitberg, Chem. Sci. 8, 3192 (2017), equations 2-4, with the parameters of ANI-Al (Smith et al., Nature
Communications 12, 1257 (2021)). For atom i with neighbours j, k at distances r and angle theta::

    radial   sum_j   0.25 exp(-eta_r (r_ij - s_r)^2) fc(r_ij)
    angular  sum_j<k 2 ((1 + cos(theta - theta_s)) / 2)^zeta exp(-eta_a ((r_ij + r_ik) / 2 - s_a)^2) fc(r_ij) fc(r_ik)

with theta = arccos(0.95 cos theta_jik), fc the cosine cutoff. Radial block first, by species of the neighbour; then the
angular block, by unordered pair of species, radial shift outer and angle inner: the order of torchani and NeuroChem.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alflow.core.frames import Floats, Frames, Ints
from alflow.errors import DataError
from alflow.numerics import aev_kernels as kernels
from alflow.numerics.neighbors import Neighbors
from alflow.numerics.species import species_index
from alflow.numerics.threads import spread


@dataclass(frozen=True, slots=True)
class AevSettings:
    """What the descriptors are made of.

    Attributes:
        radial_cutoff_A: radial terms end here.
        angular_cutoff_A: angular terms end here.
        eta_r: width of the radial Gaussians in 1/angstrom^2.
        shifts_r_A: their centres.
        eta_a: width of the radial Gaussians of the angular terms in 1/angstrom^2.
        zeta: sharpness in the angle.
        shifts_a_A: centres of the radial Gaussians of the angular terms.
        angles_rad: centres in the angle.
        species: atomic numbers, in the order of the descriptor blocks.

    Raises:
        DataError: a cutoff that is not positive, an angular cutoff beyond the radial one, empty or repeated lists.
    """

    radial_cutoff_A: float
    angular_cutoff_A: float
    eta_r: float
    shifts_r_A: tuple[float, ...]
    eta_a: float
    zeta: float
    shifts_a_A: tuple[float, ...]
    angles_rad: tuple[float, ...]
    species: tuple[int, ...]

    def __post_init__(self) -> None:
        if not 0 < self.angular_cutoff_A <= self.radial_cutoff_A:
            raise DataError(
                f"AevSettings: expected 0 < angular_cutoff_A <= radial_cutoff_A, "
                f"got {self.angular_cutoff_A} and {self.radial_cutoff_A}"
            )
        if not (self.shifts_r_A and self.shifts_a_A and self.angles_rad and self.species):
            raise DataError("AevSettings: shifts_r_A, shifts_a_A, angles_rad and species must not be empty")
        if len(set(self.species)) < len(self.species):
            raise DataError(f"AevSettings.species: each once, got {self.species}")
        if min(self.eta_r, self.eta_a) <= 0 or self.zeta < 1:
            raise DataError("AevSettings: eta_r and eta_a must be positive, and zeta at least 1")

    @classmethod
    def spaced(
        cls,
        species: tuple[int, ...],
        radial_cutoff_A: float = 7.0,
        angular_cutoff_A: float = 5.0,
        n_radial: int = 32,
        n_angular: int = 8,
        n_angles: int = 8,
        eta_r: float = 43.9,
        eta_a: float = 6.5,
        zeta: float = 69.4,
        first_shift_A: float = 1.25,
    ) -> AevSettings:
        """Evenly spaced centres from `first_shift_A` up to one step before the cutoff; the defaults are ANI-Al's.

        Angles lie in the middles of `n_angles` equal parts of 0 to pi.
        """
        if min(n_radial, n_angular, n_angles) < 1:
            raise DataError("AevSettings: n_radial, n_angular and n_angles must be at least 1")
        rise_r = (radial_cutoff_A - first_shift_A) / n_radial
        rise_a = (angular_cutoff_A - first_shift_A) / n_angular
        return cls(
            radial_cutoff_A,
            angular_cutoff_A,
            eta_r,
            tuple(first_shift_A + k * rise_r for k in range(n_radial)),
            eta_a,
            zeta,
            tuple(first_shift_A + k * rise_a for k in range(n_angular)),
            tuple((k + 0.5) * np.pi / n_angles for k in range(n_angles)),
            species,
        )

    @property
    def n_species(self) -> int:
        """How many species."""
        return len(self.species)

    @property
    def n_radial_features(self) -> int:
        """Length of the radial block."""
        return self.n_species * len(self.shifts_r_A)

    @property
    def n_angular_terms(self) -> int:
        """Length of one angular block."""
        return len(self.shifts_a_A) * len(self.angles_rad)

    @property
    def n_features(self) -> int:
        """Length of a descriptor."""
        pairs = self.n_species * (self.n_species + 1) // 2
        return self.n_radial_features + pairs * self.n_angular_terms

    def species_index(self, numbers: Ints) -> NDArray[np.int32]:
        """Place of each atomic number in `species`, (n_atoms,).

        Raises:
            DataError: an atomic number that is not in `species`.
        """
        return species_index(self.species, numbers)


def features(settings: AevSettings, frames: Frames, neighbors: Neighbors, dtype: Any = np.float32) -> NDArray[Any]:
    """Descriptors of all atoms, (n_atoms, n_features)."""
    out = np.zeros((frames.n_atoms, settings.n_features), dtype)
    fixed = (batch(settings, frames, neighbors), constants(settings, dtype))
    spread(kernels.features, frames.n_atoms, *fixed, out)
    return out


def vjp(
    settings: AevSettings, frames: Frames, neighbors: Neighbors, g: NDArray[Any], dtype: Any = np.float32
) -> tuple[Floats, Floats]:
    """Gradients of ``sum(g[m] * features)`` for m weightings at once.

    Args:
        settings: of the descriptors.
        frames: where.
        neighbors: a list that is complete to the radial cutoff.
        g: weights, (m, n_atoms, n_features).
        dtype: precision of the arithmetic.

    Returns:
        gradient wrt positions, (m, n_atoms, 3), and wrt strain, (m, n_frames, 3, 3): strain e moves
        x to x (1 + e)^T, so that element (a, b) is the sum over pairs of gradient_a D_b.
    """
    g = np.ascontiguousarray(g, dtype)
    of_pairs = np.zeros((neighbors.n_pairs, len(g), 3), dtype)
    of_atoms = np.zeros((len(g), frames.n_atoms, 3, 3))
    fixed = (batch(settings, frames, neighbors), constants(settings, dtype))
    spread(kernels.pair_gradients, frames.n_atoms, *fixed, g, of_pairs, of_atoms)
    grad = np.zeros((len(g), frames.n_atoms, 3))
    spread(kernels.collect, frames.n_atoms, neighbors.start, neighbors.reverse, of_pairs, grad, least=64)
    return grad, np.add.reduceat(of_atoms, frames.offsets[:-1], axis=1)


def jvp(
    settings: AevSettings,
    frames: Frames,
    neighbors: Neighbors,
    u: Floats,
    strain: Floats | None = None,
    dtype: Any = np.float32,
) -> NDArray[Any]:
    """Change of the descriptors along m displacements (and strains) at once: the transpose of `vjp`.

    Args:
        settings: of the descriptors.
        frames: where.
        neighbors: a list that is complete to the radial cutoff.
        u: displacement directions, (m, n_atoms, 3).
        strain: strain directions, (m, n_frames, 3, 3), or None.
        dtype: precision of the arithmetic.

    Returns:
        directional derivatives, (m, n_atoms, n_features).
    """
    strain = np.zeros((len(u), len(frames), 3, 3)) if strain is None else np.ascontiguousarray(strain, np.float64)
    out = np.zeros((len(u), frames.n_atoms, settings.n_features), dtype)
    u = np.ascontiguousarray(u, np.float64)
    fixed = (batch(settings, frames, neighbors), constants(settings, dtype))
    spread(kernels.changes, frames.n_atoms, *fixed, u, strain, out)
    return out


def batch(settings: AevSettings, frames: Frames, neighbors: Neighbors) -> tuple[NDArray[Any], ...]:
    """What the kernels want to know about the batch."""
    if len(neighbors.start) != frames.n_atoms + 1 or neighbors.cutoff_A < settings.radial_cutoff_A:
        raise DataError(
            f"descriptors: expected a list of {frames.n_atoms} atoms to {settings.radial_cutoff_A} Å, "
            f"got one of {len(neighbors.start) - 1} to {neighbors.cutoff_A}"
        )
    species = settings.species_index(frames.numbers)
    position, cell = np.ascontiguousarray(frames.positions), np.ascontiguousarray(frames.cell)
    return (position, cell, frames.frame_of_atom, neighbors.start, neighbors.j, neighbors.shift, species)


def constants(settings: AevSettings, dtype: Any) -> kernels.Constants:
    """The settings as the kernels want them."""
    real = np.dtype(dtype).type
    half = np.array(settings.angles_rad) / 2
    return kernels.Constants(
        settings.radial_cutoff_A,
        settings.angular_cutoff_A,
        settings.n_species,
        np.array(settings.shifts_r_A),
        np.array(settings.shifts_a_A),
        np.array([np.sin(half), np.cos(half)], dtype),
        real(settings.eta_r),
        real(settings.eta_a),
        real(settings.zeta),
    )
