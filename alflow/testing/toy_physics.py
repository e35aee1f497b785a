"""The physics under the toy parts: pair sums over periodic images by brute force, numpy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from alflow.core.frames import Bools, Floats, Frames, Ints
from alflow.core.labels import Labels

MORSE: Final = {"depth_eV": 0.27, "inverse_width_per_A": 1.16, "r0_A": 3.25, "cutoff_A": 5.0}
"""The reference: near the Girifalco-Weizer Morse aluminium (Phys. Rev. 114, 687), switched off at 5 angstrom."""


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Both directions of every pair within a cutoff: atom i sees an image of j at `vectors` = r_j - r_i."""

    i: Ints
    vectors: Floats
    r: Floats


def pairs_within(frames: Frames, cutoff_A: float) -> Pairs:
    """All pairs of all frames; a frame with a position that is not finite has none."""
    found_i, found_v = [np.zeros(0, np.int64)], [np.zeros((0, 3))]
    for k in range(len(frames)):
        start, stop = int(frames.offsets[k]), int(frames.offsets[k + 1])
        i, vectors = _pairs_of_one(frames.positions[start:stop], frames.cell[k], frames.pbc[k], cutoff_A)
        found_i.append(i + start)
        found_v.append(vectors)
    vectors = np.concatenate(found_v)
    return Pairs(np.concatenate(found_i), vectors, np.sqrt((vectors**2).sum(axis=1)))


def _pairs_of_one(x: Floats, cell: Floats, pbc: Bools, cutoff_A: float) -> tuple[Ints, Floats]:
    if not np.isfinite(x).all():
        return np.zeros(0, np.int64), np.zeros((0, 3))
    inverse = np.linalg.pinv(cell)  # of a cell with zero rows too: those directions are not periodic
    x = x - (np.floor(x @ inverse) * pbc) @ cell
    heights = 1 / np.maximum(np.linalg.norm(inverse, axis=0), 1e-12)
    reach = np.where(pbc, np.floor(cutoff_A / heights) + 1, 0).astype(int)
    axes = [np.arange(-n, n + 1) for n in reach]
    images = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    vectors = (x[None, :] - x[:, None])[:, :, None] + images @ cell
    squares = (vectors**2).sum(axis=-1)
    squares[np.arange(len(x)), np.arange(len(x)), len(images) // 2] = np.inf  # an atom does not see itself
    near = squares < cutoff_A**2
    return np.nonzero(near)[0].astype(np.int64), vectors[near]


def switch(r: Floats, cutoff_A: float) -> tuple[Floats, Floats]:
    """One inside, zero at the cutoff, twice differentiable; and its derivative."""
    width = 0.3 * cutoff_A
    u = np.clip((cutoff_A - r) / width, 0, 1)
    return u**3 * (10 - 15 * u + 6 * u**2), -30 * u**2 * (1 - u) ** 2 / width


def sum_rows(values: Floats, where: Ints, n: int) -> Floats:
    """Sum rows of `values` (n_rows, k) into `n` bins."""
    columns = [np.bincount(where, weights=c, minlength=n) for c in values.T]
    return np.stack(columns, axis=1) if columns else np.zeros((n, 0))


def forces_and_stress(frames: Frames, pairs: Pairs, slope: Floats, stress: bool) -> tuple[Floats, Floats | None]:
    """From dV/dr of every directed pair."""
    pull = (slope / np.maximum(pairs.r, 1e-12))[:, None] * pairs.vectors
    forces = sum_rows(pull, pairs.i, frames.n_atoms)
    if not stress:
        return forces, None
    outer = 0.5 * (pull[:, :, None] * pairs.vectors[:, None, :]).reshape(-1, 9)
    virial = sum_rows(outer, frames.frame_of_atom[pairs.i], len(frames)).reshape(-1, 3, 3)
    volumes = np.where(frames.pbc.all(axis=1), frames.volumes, np.nan)
    return forces, virial / volumes[:, None, None]


def spoil(frames: Frames, labels: Labels) -> Labels:
    """NaN in, NaN out: a frame with a position that is not finite has no labels."""
    bad = np.zeros(len(frames), np.bool_)
    bad[frames.frame_of_atom[~np.isfinite(frames.positions).all(axis=1)]] = True
    if bad.any():
        labels.energy[bad] = np.nan
        labels.forces[bad[frames.frame_of_atom]] = np.nan
        if labels.stress is not None:
            labels.stress[bad] = np.nan
    return labels


def morse(frames: Frames) -> Labels:
    """Energy, forces and stress of the toy reference."""
    pairs = pairs_within(frames, MORSE["cutoff_A"])
    e = np.exp(-MORSE["inverse_width_per_A"] * (pairs.r - MORSE["r0_A"]))
    value = MORSE["depth_eV"] * (e**2 - 2 * e)
    slope = -2 * MORSE["inverse_width_per_A"] * MORSE["depth_eV"] * (e**2 - e)
    on, fall = switch(pairs.r, MORSE["cutoff_A"])
    energy = 0.5 * sum_rows((value * on)[:, None], frames.frame_of_atom[pairs.i], len(frames))[:, 0]
    forces, stress = forces_and_stress(frames, pairs, slope * on + value * fall, stress=True)
    return spoil(frames, Labels(energy, forces, stress))
