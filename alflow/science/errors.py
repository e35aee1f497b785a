"""How far predictions are from a reference."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from alflow.core.frames import Floats, Frames
from alflow.core.labels import Labels
from alflow.core.units import EV_A3_GPa
from alflow.errors import DataError


@dataclass(frozen=True, slots=True)
class Errors:
    """Errors of predictions over the frames both sides have; NaN where nothing could be compared.

    Attributes:
        n_frames: frames compared.
        n_no_reference: frames left out since the reference has no label.
        n_no_prediction: frames left out since the model gave NaN: a defect of the model, not of the frame.
        energy_rmse_meV_atom: root mean square error of the energy per atom.
        energy_mae_meV_atom: mean absolute error of the energy per atom.
        energy_bias_meV_atom: mean error of the energy per atom.
        energy_shifted_rmse_meV_atom: as energy_rmse, a constant (the bias) removed.
        energy_shifted_mae_meV_atom: as energy_mae, a constant (the bias) removed.
        force_rmse_meV_A: root mean square error of a force component, over all atoms of all frames.
        force_mae_meV_A: mean absolute error of a force component.
        force_norm_meV_A: root mean square of a force component of the reference: the scale of force_rmse.
        stress_rmse_GPa: root mean square error of a stress component (all nine), frames with stress only.
        stress_mae_GPa: mean absolute error of a stress component.
    """

    n_frames: int
    n_no_reference: int
    n_no_prediction: int
    energy_rmse_meV_atom: float
    energy_mae_meV_atom: float
    energy_bias_meV_atom: float
    energy_shifted_rmse_meV_atom: float
    energy_shifted_mae_meV_atom: float
    force_rmse_meV_A: float
    force_mae_meV_A: float
    force_norm_meV_A: float
    stress_rmse_GPa: float
    stress_mae_GPa: float

    def to_json(self) -> dict[str, Any]:
        """Plain values, None for NaN."""
        return {k: plain(v) for k, v in asdict(self).items()}


def plain(value: float) -> float | int | None:
    """A number as JSON can hold it: None for what is not finite."""
    if isinstance(value, int | np.integer):
        return int(value)
    return float(value) if np.isfinite(value) else None


def complete(frames: Frames, labels: Labels) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which frames have a finite energy and finite forces on every atom, (n_frames,)."""
    broken = ~np.isfinite(labels.forces).all(axis=1)
    good: np.ndarray[Any, np.dtype[np.bool_]] = np.isfinite(labels.energy)
    good[frames.frame_of_atom[broken]] = False
    return good


def compare(frames: Frames, predicted: Labels, reference: Labels) -> Errors:
    """Errors of `predicted` against `reference`, both labels of `frames`.

    Raises:
        DataError: the labels are not of these frames.
    """
    for name, labels in (("predicted", predicted), ("reference", reference)):
        if len(labels) != len(frames) or len(labels.forces) != frames.n_atoms:
            raise DataError(
                f"compare: {name} has {len(labels)} energies and {len(labels.forces)} forces, "
                f"expected {len(frames)} and {frames.n_atoms}"
            )
    known, given = complete(frames, reference), complete(frames, predicted)
    both = known & given
    per_atom = 1e3 * (predicted.energy - reference.energy)[both] / frames.sizes[both]
    bias = _mean(per_atom)
    atoms = both[frames.frame_of_atom]
    force = 1e3 * (predicted.forces - reference.forces)[atoms]
    stress = _stress_errors(predicted, reference, both)
    return Errors(
        n_frames=int(both.sum()),
        n_no_reference=int((~known).sum()),
        n_no_prediction=int((known & ~given).sum()),
        energy_rmse_meV_atom=_rms(per_atom),
        energy_mae_meV_atom=_mean(np.abs(per_atom)),
        energy_bias_meV_atom=bias,
        energy_shifted_rmse_meV_atom=_rms(per_atom - bias),
        energy_shifted_mae_meV_atom=_mean(np.abs(per_atom - bias)),
        force_rmse_meV_A=_rms(force),
        force_mae_meV_A=_mean(np.abs(force)),
        force_norm_meV_A=1e3 * _rms(reference.forces[atoms]),
        stress_rmse_GPa=_rms(stress),
        stress_mae_GPa=_mean(np.abs(stress)),
    )


def _stress_errors(predicted: Labels, reference: Labels, both: np.ndarray[Any, np.dtype[np.bool_]]) -> Floats:
    if predicted.stress is None or reference.stress is None:
        return np.zeros(0)
    error: Floats = EV_A3_GPa * (predicted.stress - reference.stress)[both]
    return error[np.isfinite(error).all(axis=(1, 2))]


def _mean(values: Floats) -> float:
    return float(values.mean()) if values.size else float("nan")


def _rms(values: Floats) -> float:
    return float(np.sqrt(np.mean(values**2))) if values.size else float("nan")
