"""The universal screened repulsion of nuclei, ended smoothly as LAMMPS ends it.

Ziegler, Biersack, Littmark, The Stopping and Range of Ions in Matter (1985)::

    E(r) = k Zi Zj phi(r / a) / r + S(r),  a = 0.46850 / (Zi^0.23 + Zj^0.23)
    phi(x) = 0.18175 e^(-3.1998 x) + 0.50986 e^(-0.94229 x) + 0.28022 e^(-0.4029 x) + 0.02817 e^(-0.20162 x)

S is a constant up to the inner cutoff, and from there a polynomial of degree four that brings E, E' and E'' to zero at
the outer one (LAMMPS, ``pair_style zbl``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from alflow.core.frames import Floats, Frames
from alflow.errors import DataError
from alflow.numerics.neighbors import Neighbors

COULOMB_eV_A: Final = 14.399645
"""e^2 / (4 pi epsilon_0) as LAMMPS has it in ``units metal``."""
_C: Final = np.array([0.18175, 0.50986, 0.28022, 0.02817])
_D: Final = np.array([3.1998, 0.94229, 0.4029, 0.20162])


@dataclass(frozen=True, slots=True)
class Zbl:
    """Where the repulsion ends.

    Attributes:
        inner_A: from here on it is bent to zero.
        outer_A: here it ends.

    Raises:
        DataError: not 0 < inner_A < outer_A.
    """

    inner_A: float
    outer_A: float

    def __post_init__(self) -> None:
        if not 0 < self.inner_A < self.outer_A < np.inf:
            raise DataError(f"zbl: expected 0 < inner_A < outer_A, got {self.inner_A} and {self.outer_A}")


def pair_energy(zbl: Zbl, r: Floats, zi: Floats, zj: Floats) -> tuple[Floats, Floats]:
    """Energy in eV of pairs at the distances `r` below ``outer_A``, and its slope in eV/angstrom, each (n_pairs,)."""
    value, slope, _ = _screened(r, zi, zj)
    end, end1, end2 = _screened(np.full_like(r, zbl.outer_A), zi, zj)
    width = zbl.outer_A - zbl.inner_A
    a = (-3 * end1 + width * end2) / width**2
    b = (2 * end1 - width * end2) / width**3
    t = np.maximum(r - zbl.inner_A, 0.0)
    shift = -end + width * end1 / 2 - width**2 * end2 / 12
    return value + shift + a / 3 * t**3 + b / 4 * t**4, slope + a * t**2 + b * t**3


def evaluate(zbl: Zbl, frames: Frames, neighbors: Neighbors) -> tuple[Floats, Floats, Floats]:
    """Energy of each frame (n_frames,), gradient by positions (n_atoms, 3) and by strain (n_frames, 3, 3).

    NaN where a frame has no list, or atoms in one place. Strain as in `alflow.numerics.bispectrum`.
    """
    if neighbors.cutoff_A < zbl.outer_A:
        raise DataError(f"zbl: expected a list to {zbl.outer_A} Å, got one to {neighbors.cutoff_A} Å")
    i, frame = neighbors.i, frames.frame_of_atom
    apart = frames.positions[neighbors.j] - frames.positions[i]
    apart += np.einsum("pa,pab->pb", neighbors.shift, frames.cell[frame[i]])
    r = np.linalg.norm(apart, axis=1)
    near = r < zbl.outer_A
    i, j, apart, r = i[near], neighbors.j[near], apart[near], r[near]
    with np.errstate(all="ignore"):  # atoms in one place
        value, slope = pair_energy(zbl, r, frames.numbers[i].astype(float), frames.numbers[j].astype(float))
        pull = (slope / r)[:, None] * apart / 2  # a pair stands twice in the list
    endless = ~np.isfinite(np.column_stack([value, pull])).all(1)
    value[endless], pull[endless] = 0.0, 0.0
    grad, strain = np.zeros((frames.n_atoms, 3)), np.zeros((len(frames), 3, 3))
    np.add.at(grad, j, pull)
    np.subtract.at(grad, i, pull)
    np.add.at(strain, frame[i], pull[:, :, None] * apart[:, None, :])
    energy: Floats = np.bincount(frame[i], value / 2, len(frames)).astype(np.float64)
    bad = ~neighbors.valid
    bad[frame[i[endless]]] = True
    energy[bad], strain[bad], grad[bad[frame]] = np.nan, np.nan, np.nan
    return energy, grad, strain


def _screened(r: Floats, zi: Floats, zj: Floats) -> tuple[Floats, Floats, Floats]:
    """The screened repulsion, k Zi Zj phi(r / a) / r, and its first and second derivative."""
    d = _D * ((zi**0.23 + zj**0.23) / 0.46850)[:, None]
    terms = _C * np.exp(-d * r[:, None])
    f, f1, f2 = terms.sum(1), -(d * terms).sum(1), (d**2 * terms).sum(1)
    k = COULOMB_eV_A * zi * zj
    return k * f / r, k * (f1 / r - f / r**2), k * (f2 / r - 2 * f1 / r**2 + 2 * f / r**3)
