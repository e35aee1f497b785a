"""Perfect crystals of one element: fcc, hcp, bcc, sc and diamond, by volume per atom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from alflow.core.frames import Floats, Frames
from alflow.errors import InputError

IDEAL_C_OVER_A: Final = sqrt(8 / 3)
"""c/a of hcp from touching spheres."""


@dataclass(frozen=True, slots=True, eq=False)
class Lattice:
    """A crystal structure in units of its lattice constant a.

    Attributes:
        cell: lattice vectors as rows, (3, 3).
        basis: fractional coordinates, (n, 3).
    """

    cell: Floats
    basis: Floats

    @property
    def volume(self) -> float:
        """Volume per atom in units of a^3."""
        return float(abs(np.linalg.det(self.cell))) / len(self.basis)


def _lattice(cell: ArrayLike, basis: ArrayLike = ((0.0, 0.0, 0.0),)) -> Lattice:
    return Lattice(np.asarray(cell, np.float64), np.asarray(basis, np.float64))


_FACES = ((0.0, 0.0, 0.0), (0.0, 0.5, 0.5), (0.5, 0.0, 0.5), (0.5, 0.5, 0.0))
_FCC_CELL = ((0.0, 0.5, 0.5), (0.5, 0.0, 0.5), (0.5, 0.5, 0.0))
_QUARTER = (0.25, 0.25, 0.25)
_BCC_CELL = ((-0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.5, 0.5, -0.5))

PRIMITIVE: Final[Mapping[str, Lattice]] = {
    "fcc": _lattice(_FCC_CELL),
    "bcc": _lattice(_BCC_CELL),
    "sc": _lattice(np.eye(3)),
    "diamond": _lattice(_FCC_CELL, ((0.0, 0.0, 0.0), _QUARTER)),
}
"""Primitive cells of the cubic structures; hcp depends on c/a, see `lattice`."""
CONVENTIONAL: Final[Mapping[str, Lattice]] = {
    "fcc": _lattice(np.eye(3), _FACES),
    "bcc": _lattice(np.eye(3), ((0.0, 0.0, 0.0), (0.5, 0.5, 0.5))),
    "sc": _lattice(np.eye(3)),
    "diamond": _lattice(np.eye(3), (*_FACES, *(np.asarray(_FACES) + _QUARTER))),
}
"""Cubic cells of the cubic structures."""
CUBIC: Final = frozenset(PRIMITIVE)
"""Structures of cubic symmetry."""
BRAVAIS: Final = frozenset({"fcc", "bcc", "sc"})
"""Structures in which every atom sits on a centre of inversion of every strained crystal: no internal relaxation."""
STRUCTURES: Final = ("fcc", "hcp", "bcc", "sc", "diamond")
"""Every structure this module knows."""


def lattice(name: str, *, conventional: bool = False, c_over_a: float = IDEAL_C_OVER_A) -> Lattice:
    """A structure in units of a.

    Args:
        name: one of `STRUCTURES`.
        conventional: the cubic cell rather than the primitive one; hcp has one cell, of two atoms.
        c_over_a: axis ratio of hcp.

    Raises:
        InputError: no such structure.
    """
    if name == "hcp":
        cell = ((1.0, 0.0, 0.0), (-0.5, sqrt(3) / 2, 0.0), (0.0, 0.0, c_over_a))
        return _lattice(cell, ((1 / 3, 2 / 3, 0.25), (2 / 3, 1 / 3, 0.75)))
    if name not in CUBIC:
        raise InputError("crystals", f"no crystal {name!r}", f"use one of {', '.join(STRUCTURES)}")
    return (CONVENTIONAL if conventional else PRIMITIVE)[name]


def lattice_constant(name: str, volume: float, c_over_a: float = IDEAL_C_OVER_A) -> float:
    """Lattice constant a in angstrom of a structure with `volume` in cubic angstrom per atom."""
    return float((volume / lattice(name, c_over_a=c_over_a).volume) ** (1 / 3))


def crystals(
    name: str, number: int, volumes: ArrayLike, *, min_atoms: int = 1, c_over_a: float = IDEAL_C_OVER_A
) -> Frames:
    """One crystal at many volumes: fractional coordinates are the same in all frames.

    Args:
        name: one of `STRUCTURES`.
        number: atomic number.
        volumes: cubic angstrom per atom, (n_frames,) or one value.
        min_atoms: the primitive cell if it has so many atoms, else the smallest compact supercell that has
            (of the conventional cell where there is one).
        c_over_a: axis ratio of hcp.
    """
    unit = supercell(name, min_atoms, c_over_a)
    per_atom = np.atleast_1d(np.asarray(volumes, np.float64))
    n, m = len(unit.basis), len(per_atom)
    cells = np.cbrt(per_atom / unit.volume)[:, None, None] * unit.cell
    positions = np.einsum("ax,fxy->fay", unit.basis, cells).reshape(-1, 3)
    return Frames(
        np.full(n * m, number, np.int64),
        positions,
        cells,
        np.ones((m, 3), np.bool_),
        np.arange(m + 1, dtype=np.int64) * n,
    )


def rattled(
    perfect: Frames, count: int, rng: np.random.Generator, *, volume: float, displacement_A: float, strain: float
) -> Frames:
    """Displaced and strained copies of one crystal: from hardly disturbed to nearly molten, evenly.

    Copy i of n is disturbed by (i + 1)/n of the given amplitudes, so that every `count` covers the whole range.

    Args:
        perfect: one frame.
        count: copies.
        rng: decides the displacements and strains.
        volume: the volume is scaled by a uniform factor within 1 ± `volume`.
        displacement_A: standard deviation of each Cartesian displacement of the last copy.
        strain: components of the symmetric strain of the last copy are uniform within ± `strain`.
    """
    amplitude = np.arange(1, count + 1) / max(count, 1)
    frames = perfect.take(np.zeros(count, np.int64))
    shear = rng.uniform(-strain, strain, (count, 3, 3)) * amplitude[:, None, None]
    scale = np.cbrt(1 + rng.uniform(-volume, volume, count) * amplitude)
    deform = scale[:, None, None] * (np.eye(3) + (shear + shear.transpose(0, 2, 1)) / 2)
    owner = frames.frame_of_atom
    positions = np.einsum("ax,axy->ay", frames.positions, deform[owner])
    kick = rng.normal(size=positions.shape) * (displacement_A * amplitude)[owner, None]
    return frames.moved(positions + kick, frames.cell @ deform)


def crystal_atoms(name: str, min_atoms: int = 1) -> int:
    """Atoms in the cell that `crystals` builds."""
    return len(supercell(name, min_atoms).basis)


def supercell(name: str, min_atoms: int, c_over_a: float = IDEAL_C_OVER_A) -> Lattice:
    """The cell of at least `min_atoms` atoms, in units of a: its thinnest direction is repeated until it has them."""
    unit = lattice(name, c_over_a=c_over_a)
    if len(unit.basis) >= min_atoms:
        return unit
    unit = lattice(name, conventional=True, c_over_a=c_over_a)
    widths = 1 / np.linalg.norm(np.linalg.inv(unit.cell), axis=0)
    repeat = np.ones(3, np.int64)
    while repeat.prod() * len(unit.basis) < min_atoms:
        repeat[np.argmin(np.round(repeat * widths, 9))] += 1
    return _repeated(unit, repeat.tolist())


def _repeated(unit: Lattice, repeat: Sequence[int]) -> Lattice:
    images = np.stack(np.meshgrid(*(np.arange(r) for r in repeat), indexing="ij"), axis=-1).reshape(-1, 1, 3)
    basis = (images + unit.basis).reshape(-1, 3) / np.asarray(repeat)
    return Lattice(unit.cell * np.asarray(repeat)[:, None], basis)
