"""Frames, labels and a fitted ensemble for tests, made with the toy parts in milliseconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from alflow.core.frames import Frames
from alflow.store.dataset import Dataset
from alflow.testing.toy_physics import morse
from alflow.testing.toys import ToyLabeler, ToyModel, ToyPotential


def toy_frames(count: int, seed: int = 0, n_atoms: int = 8, spacing_A: float = 2.7, rattle_A: float = 0.4) -> Frames:
    """Rattled cubic grids of aluminium, the last places empty, in skewed periodic cells; each frame another cell."""
    rng, m = np.random.default_rng(seed), int(np.ceil(np.cbrt(n_atoms) - 1e-9))
    grid = np.stack(np.meshgrid(*[np.arange(m)] * 3, indexing="ij"), -1).reshape(-1, 3)[:n_atoms] / m
    frames = []
    for _ in range(count):
        cell = np.diag(m * spacing_A * rng.uniform(0.95, 1.1, 3)) + np.tril(rng.uniform(-0.4, 0.4, (3, 3)), -1)
        x = grid @ cell + rng.uniform(-rattle_A, rattle_A, grid.shape)
        frames.append(Frames.single(np.full(n_atoms, 13), x, cell))
    return Frames.concat(frames)


def toy_dataset(count: int, seed: int = 0, n_atoms: int = 8) -> Dataset:
    """`toy_frames` with the labels that `ToyLabeler` would give."""
    frames = toy_frames(count, seed, n_atoms)
    return Dataset(frames, morse(frames), ToyLabeler().theory(None))


def toy_model(out: Path, count: int = 12, seed: int = 0) -> ToyModel:
    """A `ToyPotential` fitted to `toy_dataset`, written into `out`."""
    potential = ToyPotential()
    report = potential.fit(toy_dataset(count, seed), range(potential.members), seed, out)
    return potential.load([out / name for name in report.files])
