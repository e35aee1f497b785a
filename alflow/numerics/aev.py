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
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from alflow.core.frames import Floats, Frames, Ints
from alflow.errors import DataError
from alflow.numerics.neighbors import Neighbors

COSINE_SCALE: Final = 0.95
"""Keeps theta away from 0 and pi, where its derivative diverges."""


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
        if min(self.eta_r, self.eta_a, self.zeta) <= 0:
            raise DataError("AevSettings: eta_r, eta_a and zeta must be positive")

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
    def n_features(self) -> int:
        """Length of a descriptor."""
        pairs = self.n_species * (self.n_species + 1) // 2
        return self.n_radial_features + pairs * len(self.shifts_a_A) * len(self.angles_rad)

    def species_index(self, numbers: Ints) -> NDArray[np.int32]:
        """Place of each atomic number in `species`, (n_atoms,).

        Raises:
            DataError: an atomic number that is not in `species`.
        """
        order = np.argsort(self.species)
        known = np.asarray(self.species)[order]
        place = np.minimum(np.searchsorted(known, numbers), len(known) - 1)
        if (known[place] != numbers).any():
            strange = sorted({int(z) for z in np.unique(numbers[known[place] != numbers])})
            raise DataError(f"descriptors know the atomic numbers {self.species}, got {strange} too")
        return order[place].astype(np.int32)


def features(settings: AevSettings, frames: Frames, neighbors: Neighbors, dtype: Any = np.float32) -> NDArray[Any]:
    """Descriptors of all atoms, (n_atoms, n_features)."""
    import torch

    from alflow.numerics import aev_torch

    geometry = aev_torch.Geometry.of(settings, frames, neighbors)
    return aev_torch.features(settings, geometry, *aev_torch.tensors(frames, torch.float64)).numpy().astype(dtype)


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
    import torch

    from alflow.numerics import aev_torch

    geometry = aev_torch.Geometry.of(settings, frames, neighbors)
    positions, cell = aev_torch.tensors(frames, torch.float64)
    strain = torch.zeros((len(frames), 3, 3), dtype=torch.float64)
    grads, virials = [], []
    for weights in g:
        x, e = positions.clone().requires_grad_(), strain.clone().requires_grad_()
        out = aev_torch.features(settings, geometry, x, cell, e)
        grad = torch.autograd.grad((out * torch.as_tensor(weights, dtype=torch.float64)).sum(), [x, e])
        grads.append(grad[0].numpy())
        virials.append(grad[1].numpy().astype(dtype).astype(np.float64))
    return np.stack(grads), np.stack(virials)


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
    import torch

    from alflow.numerics import aev_torch

    geometry = aev_torch.Geometry.of(settings, frames, neighbors)
    positions, cell = aev_torch.tensors(frames, torch.float64)
    zero = torch.zeros((len(frames), 3, 3), dtype=torch.float64)
    out = []
    for m in range(len(u)):
        direction = zero if strain is None else torch.as_tensor(strain[m])
        _, change = torch.autograd.functional.jvp(  # type: ignore[no-untyped-call]
            lambda x, e: aev_torch.features(settings, geometry, x, cell, e),
            (positions, zero),
            (torch.as_tensor(u[m], dtype=torch.float64), direction),
        )
        out.append(change.numpy().astype(dtype))
    return np.stack(out)
