"""The potential whose minima are diverse (or ordered) configurations: V = V_repulsive - N K S, with its forces.

Karabin and Perez, J. Chem. Phys. 153, 094110 (2020); Montes de Oca Zapiain et al., npj Comput. Mater. 8, 189 (2022),
equation 1. S is the entropy of the descriptors of a configuration's N atoms, in the metric given. K counts per atom, so
that one value means the same for cells of any size: the papers' K is N times ours, N the number of atoms that have
another of their element to be compared with. A positive K makes environments
differ, a negative one makes them alike.

V_repulsive keeps atoms apart. The papers give no form of it; ours acts below a distance d of each pair, smooth where it
begins and without bound where atoms meet: A (d / r - 1)^2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numba
import numpy as np
from numpy.typing import NDArray

from alflow.core.frames import Floats, Frames
from alflow.numerics import bispectrum
from alflow.numerics.entropy import Known, entropies
from alflow.numerics.neighbors import Neighbors, completed_cells
from alflow.numerics.threads import spread

_LEAST: Final = 1e-3
"""Pairs closer than this part of their distance are pushed as if they were so far apart: no force is infinite."""


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """What the potential says of a batch; NaN for frames that can have no neighbour list.

    Attributes:
        energy: V in eV, (n_frames,).
        gradient: dV/dx in eV/angstrom, (n_atoms, 3).
        strain: derivative of V with respect to a homogeneous strain in eV, (n_frames, 3, 3), as of `bispectrum.vjp`.
        S: entropy, (n_frames,); NaN where no atom has another of its element (it counts as 0 in `energy`).
        repulsion: V_repulsive in eV, (n_frames,).
    """

    energy: Floats
    gradient: Floats
    strain: Floats
    S: Floats
    repulsion: Floats


@dataclass(frozen=True, slots=True, eq=False)
class EntropyPotential:
    """V of a batch of frames.

    Attributes:
        descriptors: which bispectrum components.
        metric: what descriptors are multiplied with before distances are taken, (n_features, any).
        floor: smallest distance that counts, in that metric.
        height_eV: A of the repulsion.
        known: environments that have been seen before, in that metric; those to be made alike do not look at them.
        across: whether the environments of all frames with K > 0 are to differ, not only those within each.
    """

    descriptors: bispectrum.BispectrumSettings
    metric: Floats
    floor: float
    height_eV: float
    known: Known | None = None
    across: bool = False

    def evaluate(self, frames: Frames, neighbors: Neighbors, K_eV: Floats, reach_A: Floats) -> Told:
        """V, its parts and its slopes.

        Args:
            frames: the configurations.
            neighbors: a list that is complete to the cutoff of the descriptors, which no repulsion exceeds.
            K_eV: K of each frame, per atom, (n_frames,).
            reach_A: half the distance at which repulsion begins, of each atom; a pair's is the sum, (n_atoms,).
        """
        S, part = np.full(len(frames), np.nan), np.zeros(len(frames))
        diverse = K_eV > 0
        kind = np.where(diverse[frames.frame_of_atom], frames.numbers, -frames.numbers)

        def respond(b: Floats) -> Floats:
            rows = metered(b, self.metric)
            across = diverse if self.across else None
            said = entropies(rows, frames.offsets, kind, self.floor, -K_eV, self.known, across)
            S[:], part[:] = said.S, -K_eV * said.count * np.nan_to_num(said.S)
            return metered(said.gradient, self.metric.T)

        _, gradient, strain = bispectrum.evaluate(self.descriptors, frames, neighbors, respond)
        repulsion, push, stretch = self._repulsion(frames, neighbors, reach_A)
        return Told(repulsion + part, gradient + push, strain + stretch, S, repulsion)

    def _repulsion(self, frames: Frames, neighbors: Neighbors, reach_A: Floats) -> tuple[Floats, Floats, Floats]:
        """Energy, (n_frames,), and gradients by positions, (n_atoms, 3), and strain, (n_frames, 3, 3)."""
        cell, _ = completed_cells(frames)
        n = frames.n_atoms
        energy, gradient, strain = np.zeros(n), np.zeros((n, 3)), np.zeros((n, 9))
        pairs = (neighbors.start, neighbors.j, neighbors.shift)
        fixed = (frames.positions, cell, frames.frame_of_atom, *pairs, reach_A, self.height_eV)
        spread(_repel, n, *fixed, energy, gradient, strain, least=64)
        first = frames.offsets[:-1]
        V = np.where(neighbors.valid, np.add.reduceat(energy, first), np.nan)
        return V, gradient, np.add.reduceat(strain, first, axis=0).reshape(-1, 3, 3)


def metered(rows: Floats, metric: Floats) -> Floats:
    """``rows @ metric``, rounded alike whatever the number of rows: BLAS does not promise that."""
    product: Floats = (rows[:, :, None] * metric).sum(axis=1)
    return product


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _repel(
    begin: int,
    end: int,
    positions: Floats,
    cell: Floats,
    owner: NDArray[Any],
    start: NDArray[Any],
    neighbor: NDArray[Any],
    shift: NDArray[Any],
    reach: Floats,
    height: float,
    energy: Floats,
    gradient: Floats,
    strain: Floats,
) -> None:
    """Half the energy of each pair, and half its part in the virial, go to each of its two atoms."""
    D = np.empty(3)
    for i in range(begin, end):
        box = cell[owner[i]]
        for p in range(start[i], start[i + 1]):
            j = neighbor[p]
            d, r2 = reach[i] + reach[j], 0.0
            for k in range(3):
                D[k] = positions[j, k] - positions[i, k]
                for a in range(3):
                    D[k] += shift[p, a] * box[a, k]
                r2 += D[k] * D[k]
            if r2 >= d * d:
                continue
            r = max(np.sqrt(r2), _LEAST * d)
            over = d / r - 1
            energy[i] += 0.5 * height * over * over
            slope = -2 * height * over * d / (r * r * r)  # dv/dr / r
            for k in range(3):
                gradient[i, k] -= slope * D[k]
                for a in range(3):
                    strain[i, 3 * k + a] += 0.5 * slope * D[k] * D[a]
