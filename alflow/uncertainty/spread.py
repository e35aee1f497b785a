"""Disagreement of an ensemble, in energy and in forces."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

import numpy as np
from pydantic import Field

from alflow.core.frames import Floats, Frames
from alflow.core.labels import Labels
from alflow.errors import InputError, UnphysicalError
from alflow.interfaces import Capability, HasMembers, MemberLabels, Model, Scores, part
from alflow.store.dataset import Dataset
from alflow.store.files import write_json

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Threshold = Positive | Literal["auto"] | None

ENERGY: Final = "energy_deviation_meV_sqrt_atom"
FORCE_MEAN: Final = "force_deviation_mean_eV_A"
FORCE_MAX: Final = "force_deviation_max_eV_A"
_FILE: Final = "spread.json"
_TUKEY: Final = 1.5
_BATCH_ATOMS: Final = 4096


@part
class Part:
    """How far the members of an ensemble disagree, as a multiple of a threshold: 1 is at the threshold.

    With M members, a frame of N atoms, and sample statistics (M - 1 below the line):

    * energy: the standard deviation of the members' total energies over √N, in meV/√atom. Independent errors of the
      atoms grow like √N, so this means the same in cells of all sizes (Smith et al., J. Chem. Phys. 148, 241733).
    * forces: of each atom, σ = √(Σₘ |fₘ - f̄|² / (M - 1)) in eV/Å; of the frame, the mean and the maximum of σ.

    The score is the greatest of deviation / threshold over the criteria that are set, so a workflow's thresholds are
    ``{select: 1, stop: 1}``. A threshold ``auto`` is learnt from the training set by the outlier rule of Lysogorskiy
    et al., Phys. Rev. Materials 7, 043801 (2023), appendix B: with Q3 the third quartile and IQR the interquartile
    range of the training errors, it is the greatest deviation among training frames whose error is at most
    Q3 + 1.5 IQR. (The printed multiplier was lost; 1.5 is Tukey's.) Errors are measured as deviations are: of energy
    over √N, of forces as the mean or the maximum over the atoms of a frame.

    Attributes:
        energy_meV: threshold of the energy deviation in meV/√atom, ``auto``, or null for none.
        force_mean_eV_A: threshold of the mean force deviation in eV/Å, ``auto``, or null for none.
        force_max_eV_A: threshold of the greatest force deviation in eV/Å, ``auto``, or null for none.
        forces_every: look at forces at every so many evaluations; each time costs a backward pass a member. In
            between, energy decides alone. 0 for never.
        scale: factor on thresholds that are ``auto``.
    """

    energy_meV: Threshold = "auto"
    force_mean_eV_A: Threshold = None
    force_max_eV_A: Threshold = None
    forces_every: Annotated[int, Field(ge=0)] = 1
    scale: Positive = 1.0

    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.MEMBERS})

    def __post_init__(self) -> None:
        forces = self.force_mean_eV_A is not None or self.force_max_eV_A is not None
        if not forces and self.energy_meV is None:
            raise InputError("energy_meV", "no threshold is set", "set one of energy_meV, force_mean_eV_A, ...")
        if forces and not self.forces_every:
            raise InputError("forces_every", "is 0, so the force threshold would never be looked at", "set 1 or more")
        if self.energy_meV is None and self.forces_every > 1:
            raise InputError(
                "forces_every",
                f"is {self.forces_every} and energy_meV is null, so there would be no score in between",
                "set forces_every: 1, or an energy threshold",
            )

    def calibrate(self, model: Model, data: Dataset, out: Path) -> Mapping[str, float]:
        ensemble = _ensemble(model)
        wanted = {ENERGY: self.energy_meV, FORCE_MEAN: self.force_mean_eV_A, FORCE_MAX: self.force_max_eV_A}
        set_ = {name: value for name, value in wanted.items() if value is not None}
        auto = [name for name, value in set_.items() if value == "auto"]
        figures: dict[str, float] = {}
        if auto:
            deviations, errors = _measured(ensemble, data, forces=auto != [ENERGY])
            for name in auto:
                bound, greatest = outlier_rule(errors[name], deviations[name])
                if not greatest > 0:
                    raise UnphysicalError(f"spread: no threshold for {name}: the members agree on all training frames")
                figures[name.replace("deviation", "error_bound")] = bound
                set_[name] = self.scale * greatest
        thresholds = {name: float(value) for name, value in set_.items()}
        write_json(out / _FILE, thresholds)
        return {**figures, **{name.replace("deviation", "threshold"): value for name, value in thresholds.items()}}

    def load(self, model: Model, out: Path) -> Spread:
        return Spread(_ensemble(model), json.loads((out / _FILE).read_text()), self.forces_every)


@dataclass(slots=True, eq=False)
class Spread:
    """The gauge: counts its evaluations to know when forces are due.

    Attributes:
        model: the ensemble.
        thresholds: threshold of each criterion, by its name in the details.
        forces_every: how often forces are looked at.
    """

    model: HasMembers
    thresholds: Mapping[str, float]
    forces_every: int = 1
    _calls: int = field(default=0, init=False)

    def evaluate(self, frames: Frames, *, stress: bool = False) -> tuple[Labels, Scores]:
        wants_forces = bool({FORCE_MEAN, FORCE_MAX} & set(self.thresholds))
        due = wants_forces and self._calls % self.forces_every == 0
        self._calls += 1
        said = self.model.predict_members(frames, forces=due, stress=stress)
        detail, per_atom = deviations(frames, said)
        ratios = [detail[name] / limit for name, limit in self.thresholds.items() if name in detail]
        score = np.max(ratios, axis=0)  # NaN wins
        score[_lost(frames, said.mean)] = np.nan
        if wants_forces and not due:  # every evaluation has the same columns
            detail |= {name: np.full(len(frames), np.nan) for name in (FORCE_MEAN, FORCE_MAX)}
        return said.mean, Scores(score, detail, per_atom)

    def extended(self, frames: Frames) -> Spread:  # noqa: ARG002 - an ensemble learns by fitting only
        return self


def deviations(frames: Frames, said: MemberLabels) -> tuple[dict[str, Floats], Floats | None]:
    """Deviations of each frame by name, each (n_frames,), and of the force on each atom, (n_atoms,), if asked for."""
    with np.errstate(invalid="ignore", over="ignore"):  # infinite members deviate by NaN
        detail: dict[str, Floats] = {ENERGY: 1e3 * said.energy.std(axis=0, ddof=1) / np.sqrt(frames.sizes)}
        if said.forces is None:
            return detail, None
        sigma: Floats = np.sqrt(said.forces.var(axis=0, ddof=1).sum(axis=1))
    detail[FORCE_MEAN], detail[FORCE_MAX] = _over_atoms(frames, sigma)
    return detail, sigma


def outlier_rule(errors: Floats, deviations: Floats) -> tuple[float, float]:
    """The error bound Q3 + 1.5 IQR, and the greatest deviation among frames whose error is at most that.

    Args:
        errors: absolute training error of each frame, (n_frames,).
        deviations: deviation of the ensemble of each frame, (n_frames,).

    Raises:
        UnphysicalError: no frame has both.
    """
    known = np.isfinite(errors) & np.isfinite(deviations)
    if not known.any():
        raise UnphysicalError("spread: the model gives NaN on every training frame, or there is none")
    q1, q3 = np.quantile(errors[known], [0.25, 0.75])
    bound = float(q3 + _TUKEY * (q3 - q1))
    return bound, float(deviations[known & (errors <= bound)].max())


def _measured(model: HasMembers, data: Dataset, *, forces: bool) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Deviations and errors of every training frame, by the name of the criterion."""
    rows: list[tuple[dict[str, Floats], dict[str, Floats]]] = []
    for frames, labels in data.batches(_BATCH_ATOMS):
        said = model.predict_members(frames, forces=forces)
        error = {ENERGY: 1e3 * np.abs(said.mean.energy - labels.energy) / np.sqrt(frames.sizes)}
        if forces:
            size = np.asarray(np.linalg.norm(said.mean.forces - labels.forces, axis=1), np.float64)
            error[FORCE_MEAN], error[FORCE_MAX] = _over_atoms(frames, size)
        rows.append((deviations(frames, said)[0], error))
    if not rows:
        raise UnphysicalError("spread: no training frames to calibrate with")
    return _joined([d for d, _ in rows]), _joined([e for _, e in rows])


def _joined(rows: list[dict[str, Floats]]) -> dict[str, Floats]:
    return {name: np.concatenate([r[name] for r in rows]) for name in rows[0]}


def _over_atoms(frames: Frames, values: Floats) -> tuple[Floats, Floats]:
    """Mean and maximum over the atoms of each frame."""
    if not len(frames):
        return np.zeros(0), np.zeros(0)
    first = frames.offsets[:-1]
    return np.add.reduceat(values, first) / frames.sizes, np.maximum.reduceat(values, first)


def _lost(frames: Frames, labels: Labels) -> Any:
    """Frames whose energy or forces are not finite, (n_frames,)."""
    if not len(frames):
        return np.zeros(0, np.bool_)
    bad = np.logical_or.reduceat(~np.isfinite(labels.forces).all(axis=1), frames.offsets[:-1])
    return bad | ~np.isfinite(labels.energy)


def _ensemble(model: Model) -> HasMembers:
    if not isinstance(model, HasMembers):
        raise InputError("uncertainty 'spread'", f"needs an ensemble, got {type(model).__name__}")
    if model.n_members < 2:
        raise UnphysicalError(f"spread: needs at least 2 members to disagree, {model.n_members} arrived")
    return model
