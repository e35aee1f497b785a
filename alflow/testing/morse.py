"""An analytic reference for tests: a Morse pair potential with a smooth end, and datasets labelled with it."""

from __future__ import annotations

from itertools import product
from typing import Final

import numpy as np

from alflow.core.frames import Floats, Frames
from alflow.core.labels import Labels, Theory
from alflow.store.dataset import Dataset

CUTOFF_A: Final = 6.0
DEPTH_eV: Final = 0.2703
ALPHA_per_A: Final = 1.1646
R0_A: Final = 3.253
"""Morse parameters of Al: Girifalco and Weizer, Phys. Rev. 114, 687 (1959)."""
THEORY: Final = Theory("morse", {"depth_eV": DEPTH_eV, "alpha_per_A": ALPHA_per_A, "r0_A": R0_A, "cutoff_A": CUTOFF_A})


def morse_labels(frames: Frames) -> Labels:
    """Energy, forces and stress of every frame: E = sum over pairs of D (e^{-2a(r-r0)} - 2 e^{-a(r-r0)}) c(r).

    c(r) = (1-x)^3 (1+3x+6x^2) with x = r / 6 angstrom ends the sum with two continuous derivatives. Elements differ
    by an invented rule: r0 of a pair is the mean of 3.253 (Z/13)^0.1 angstrom. Brute force over periodic images.
    """
    energy, forces, stress = np.zeros(len(frames)), np.zeros((frames.n_atoms, 3)), np.zeros((len(frames), 3, 3))
    for i in range(len(frames)):
        atoms = slice(int(frames.offsets[i]), int(frames.offsets[i + 1]))
        r_ij, partner = _pairs(frames.positions[atoms], frames.cell[i], frames.pbc[i])
        z = frames.numbers[atoms]
        size = R0_A * (z / 13.0) ** 0.1
        length = np.linalg.norm(r_ij, axis=1)
        r0 = (size[partner[0]] + size[partner[1]]) / 2
        value, slope = _morse(length, r0)
        pull = (slope / length)[:, None] * r_ij
        energy[i] = value.sum() / 2
        np.add.at(forces[atoms], partner[0], pull)
        stress[i] = np.einsum("pa,pb->ab", pull, r_ij) / 2 / abs(np.linalg.det(frames.cell[i]))
    return Labels(energy, forces, stress)


def morse_dataset(count: int, seed: int, n_atoms: tuple[int, int] = (4, 10), z: tuple[int, ...] = (13,)) -> Dataset:
    """`count` disordered periodic cells of `n_atoms` (from, to inclusive) atoms of the elements `z`, labelled.

    Densities spread by about 20 % around 18 cubic angstrom an atom; no two atoms are closer than about 2.1 angstrom.
    """
    rng = np.random.default_rng(seed)
    parts = [_disordered(int(rng.integers(n_atoms[0], n_atoms[1] + 1)), z, rng) for _ in range(count)]
    frames = Frames.concat(parts)
    return Dataset(frames, morse_labels(frames), THEORY)


def _disordered(n: int, z: tuple[int, ...], rng: np.random.Generator) -> Frames:
    """Random points in a random triclinic cell, pushed apart until none are close."""
    cell = np.eye(3) + 0.15 * rng.normal(size=(3, 3))
    cell *= (n * 18 * rng.uniform(0.8, 1.25) / abs(np.linalg.det(cell))) ** (1 / 3)
    positions = rng.uniform(size=(n, 3)) @ cell
    for _ in range(200):
        r_ij, partner = _pairs(positions, cell, np.ones(3, np.bool_))
        length = np.linalg.norm(r_ij, axis=1)
        close = (length < 2.3) & (partner[0] != partner[1])
        if not close.any():
            break
        push = (0.3 * (2.4 - length[close]) / length[close])[:, None] * r_ij[close]
        np.add.at(positions, partner[0][close], -push)
    numbers = np.array(z)[np.arange(n) % len(z)]
    return Frames.single(numbers, positions, cell)


def _pairs(positions: Floats, cell: Floats, pbc: np.ndarray) -> tuple[Floats, tuple[np.ndarray, np.ndarray]]:
    """All r_j - r_i within the cutoff, (n_pairs, 3), and the indices (i, j); every pair appears twice."""
    inverse = np.linalg.inv(cell)
    heights = 1 / np.linalg.norm(inverse, axis=0)
    whole = np.where(pbc, np.floor(positions @ inverse), 0.0)
    inside = positions - whole @ cell
    reach = np.where(pbc, np.ceil(CUTOFF_A / heights).astype(int) + 1, 0)
    images = np.array(list(product(*(range(-n, n + 1) for n in reach)))) @ cell
    r_ij = inside[None, :, None, :] + images[None, None] - inside[:, None, None, :]
    square = (r_ij**2).sum(-1)
    i, j, image = np.nonzero((square < CUTOFF_A**2) & (square > 1e-12))
    return r_ij[i, j, image], (i, j)


def _morse(r: Floats, r0: Floats) -> tuple[Floats, Floats]:
    """Value and derivative of the cut Morse curve, in eV and eV/angstrom, each (n_pairs,)."""
    y = np.exp(-ALPHA_per_A * (r - r0))
    well, well_slope = DEPTH_eV * (y * y - 2 * y), -2 * DEPTH_eV * ALPHA_per_A * (y * y - y)
    x = r / CUTOFF_A
    end, end_slope = (1 - x) ** 3 * (1 + 3 * x + 6 * x * x), -30 * x * x * (1 - x) ** 2 / CUTOFF_A
    return well * end, well_slope * end + well * end_slope
