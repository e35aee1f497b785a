"""What the stand-in computes: the tight-binding many-body potential of some metals, bent by the settings of a run.

Cleri and Rosato, Phys. Rev. B 48, 22 (1993), equations 1 to 3 and table II: a sum of repulsions and minus the square
root of a sum of squared hopping integrals. Settings bend it a little and smoothly, as they do in DFT: the total energy
by the cutoff and the k-points, the band term by the smearing, so that the free energy (of which the forces are the
derivative) and the energy extrapolated to zero smearing differ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from alflow.core.frames import Floats
from alflow.testing.fake_vasp.inputs import Inputs, RefusedError

_CLERI_ROSATO: Final = {  # A / eV, xi / eV, p, q, nearest-neighbour distance / angstrom
    "Al": (0.1221, 1.316, 8.612, 2.516, 2.864),
    "Ni": (0.0376, 1.070, 16.999, 1.189, 2.492),
    "Cu": (0.0855, 1.224, 10.960, 2.278, 2.556),
    "Pd": (0.1746, 1.718, 10.867, 3.742, 2.751),
    "Ag": (0.1028, 1.178, 10.928, 3.139, 2.889),
    "Pt": (0.2975, 2.695, 10.612, 4.004, 2.775),
    "Au": (0.2061, 1.790, 10.229, 4.036, 2.884),
}
_ON_A: Final = 5.0
_CUTOFF_A: Final = 6.5
_SMEARING: Final = 0.002
"""Entropy term of the smearing, as a fraction of the band energy for each eV^2 of SIGMA."""
_GGA: Final = {"PE": 1.0, "PS": 1.02, "RP": 0.97, "AM": 1.03, "91": 1.001, "CA": 1.05}


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What one calculation gives.

    Attributes:
        free: free energy in eV.
        entropy: ``-T S`` of the smearing in eV.
        forces: derivative of the free energy, (n_atoms, 3), eV/angstrom.
        stress: Cauchy stress of the free energy, tension positive, (3, 3), eV/angstrom^3.
        ismear: kind of smearing.
    """

    free: float
    entropy: float
    forces: Floats
    stress: Floats
    ismear: int

    @property
    def without_entropy(self) -> float:
        return self.free - self.entropy

    @property
    def sigma0(self) -> float:
        """Extrapolated to zero smearing: half way for Gaussian and Fermi smearing, ``1/(N+2)`` of it for order N."""
        return self.free - self.entropy / (max(self.ismear, 0) + 2)


def compute(inputs: Inputs) -> Result:
    """Energy, forces and stress of the inputs' structure under their settings."""
    if unknown := {s.element for s in inputs.species} - set(_CLERI_ROSATO):
        raise RefusedError(f"this stand-in knows no {', '.join(sorted(unknown))}")
    sigma = float(inputs.tag("SIGMA", 0.2))
    scale, extra = _scale(inputs), _SMEARING * sigma**2
    repulsion, band, forces, virial = _cleri_rosato(inputs, 1 + extra)
    free = scale * (repulsion + (1 + extra) * band)
    volume = abs(np.linalg.det(inputs.lattice))
    return Result(free, scale * extra * band, scale * forces, scale * virial / volume, int(inputs.tag("ISMEAR", 1)))


def _scale(inputs: Inputs) -> float:
    """How the settings bend the energy: a factor near one, which does not depend on where the atoms are."""
    cutoff = float(inputs.tag("ENCUT", max(s.enmax for s in inputs.species)))
    points = math.prod(inputs.grid) * len(inputs.fractions) * (1.0 if inputs.style == "Gamma" else 1.1)
    moments = inputs.tag("MAGMOM", [1.0]) if inputs.tag("ISPIN", 1) == 2 else [0.0]
    spin = 1e-4 * float(np.mean(np.square(moments)))
    dispersion = 1e-3 * float(inputs.tag("IVDW", 0)) / 10
    functional = _GGA[str(inputs.tag("GGA", inputs.species[0].lexch)).upper()]
    return functional * (1 - 0.01 * math.exp(-cutoff / 100) + 0.002 / points + spin + dispersion)


def _cleri_rosato(inputs: Inputs, band_weight: float) -> tuple[float, float, Floats, Floats]:
    """Repulsive energy, band energy, and forces and virial of their sum with the band energy weighted."""
    first, second, vector = _pairs(inputs.fractions, inputs.lattice)
    a, xi, p, q, r0 = _parameters(inputs.symbols, first, second)
    distance = np.linalg.norm(vector, axis=1)
    with np.errstate(over="ignore"):
        switch, slope = _switch(distance)
        bare = a * np.exp(-p * (distance / r0 - 1))
        hop = xi**2 * np.exp(-2 * q * (distance / r0 - 1))
        root = np.sqrt(np.bincount(first, hop * switch, minlength=len(inputs.fractions)))
    inverse = np.divide(1.0, root, out=np.zeros_like(root), where=root > 0)
    pull = bare * (slope - p / r0 * switch) - band_weight * hop * (slope - 2 * q / r0 * switch) * inverse[first] / 2
    along = (pull / distance)[:, None] * vector
    forces = np.stack(
        [np.bincount(first, x, minlength=len(root)) - np.bincount(second, x, minlength=len(root)) for x in along.T], 1
    )
    return float((bare * switch).sum()), -float(root.sum()), forces, along.T @ vector


def _pairs(fractions: Floats, lattice: Floats) -> tuple[Floats, Floats, Floats]:
    """Every ordered pair within the cutoff, once for each image: indices, and vectors from the first to the second."""
    heights = 1 / np.linalg.norm(np.linalg.inv(lattice), axis=0)
    reach = [int(n) for n in np.ceil(_CUTOFF_A / heights)]
    shifts = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in reach], indexing="ij"), -1).reshape(-1, 3)
    positions = (fractions % 1.0) @ lattice
    found = []
    for shift in shifts @ lattice:
        vector = positions[None, :, :] + shift - positions[:, None, :]
        square = (vector**2).sum(-1)
        near = (square < _CUTOFF_A**2) & (square > 0)
        if not shift.any():
            np.fill_diagonal(near, val=False)
        i, j = np.nonzero(near)
        found.append((i, j, vector[i, j]))
    first, second, vectors = zip(*found, strict=True)
    return np.concatenate(first), np.concatenate(second), np.concatenate(vectors)


def _parameters(symbols: list[str], first: Floats, second: Floats) -> tuple[Floats, ...]:
    """Of each pair: geometric means of the energies, arithmetic means of the rest."""
    table = np.array([_CLERI_ROSATO[s] for s in symbols])
    one, two = table[first], table[second]
    mean = (one + two) / 2
    mean[:, :2] = np.sqrt(one[:, :2] * two[:, :2])
    return tuple(mean.T)


def _switch(distance: Floats) -> tuple[Floats, Floats]:
    """Goes smoothly from one to zero at the cutoff; value and slope."""
    t = np.clip((distance - _ON_A) / (_CUTOFF_A - _ON_A), 0, 1)
    return 1 - t**3 * (10 - 15 * t + 6 * t**2), -30 * t**2 * (1 - t) ** 2 / (_CUTOFF_A - _ON_A)
