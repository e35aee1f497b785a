"""Figures over labelled frames: atomic energy shifts and errors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alflow.core.frames import Floats, Frames, Ints
from alflow.core.labels import Labels
from alflow.core.units import EV_A3_GPa
from alflow.errors import DataError


def composition(frames: Frames, numbers: Sequence[int]) -> Ints:
    """Atoms of each atomic number in each frame, (n_frames, n_species).

    Raises:
        DataError: a frame holds an element that is not among `numbers`.
    """
    known = np.asarray(numbers, np.int64)
    strange = np.setdiff1d(frames.numbers, known)
    if len(strange):
        raise DataError(f"frames hold the atomic numbers {strange.tolist()}, expected only {known.tolist()}")
    counts = np.zeros((len(frames), len(known)), np.int64)
    column = np.argsort(known)[np.searchsorted(np.sort(known), frames.numbers)]
    np.add.at(counts, (frames.frame_of_atom, column), 1)
    return counts


def atomic_shift(frames: Frames, energy: Floats, numbers: Sequence[int]) -> Floats:
    """Energy per atom of each element that explains total energies best, in eV, (n_species,).

    Least squares of energy per atom against mole fractions. Where the compositions do not decide it (one composition
    only, an element that is absent) the solution of least norm is taken about the mean energy per atom, so every
    element is near that mean.

    Args:
        frames: the structures.
        energy: total energy in eV, (n_frames,).
        numbers: atomic numbers, one a species.
    """
    fractions = composition(frames, numbers) / frames.sizes[:, None]
    per_atom = energy / frames.sizes
    mean = float(per_atom.mean())
    rest, *_ = np.linalg.lstsq(fractions, per_atom - mean, rcond=1e-8)
    shift: Floats = np.asarray(mean + rest, np.float64)
    return shift


def rmse(errors: Floats) -> float:
    """Root of the mean square; NaN of nothing."""
    return float(np.sqrt(np.mean(np.square(errors)))) if np.size(errors) else float("nan")


def mae(errors: Floats) -> float:
    """Mean of the absolute; NaN of nothing."""
    return float(np.mean(np.abs(errors))) if np.size(errors) else float("nan")


def label_errors(frames: Frames, got: Labels, want: Labels) -> dict[str, float]:
    """Errors of predictions against references, named with their unit; those of stress only where both have it.

    Energy is per atom; force and stress errors are per Cartesian component.
    """
    energy = (got.energy - want.energy) / frames.sizes * 1000
    forces = (got.forces - want.forces) * 1000
    out = {
        "energy_rmse_meV_atom": rmse(energy),
        "energy_mae_meV_atom": mae(energy),
        "force_rmse_meV_A": rmse(forces),
        "force_mae_meV_A": mae(forces),
        "force_max_meV_A": float(np.abs(forces).max()) if forces.size else float("nan"),
    }
    if got.stress is not None and want.stress is not None:
        has = want.has_stress(frames)  # predictions have one in the same frames
        out["stress_rmse_GPa"] = rmse((got.stress[has] - want.stress[has]) * EV_A3_GPa)
    return out
