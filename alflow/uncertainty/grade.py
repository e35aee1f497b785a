"""Extrapolation grade of models that are linear in their basis: D-optimality by MaxVol."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

import numpy as np
from pydantic import Field

from alflow.core.frames import Floats, Frames
from alflow.core.labels import Labels
from alflow.errors import DataError, InputError, UnphysicalError
from alflow.interfaces import Capability, HasFeatures, Model, PredictsWithFeatures, Scores, part
from alflow.numerics.active_sets import ActiveSets, Rows, greatest_of_frames
from alflow.numerics.devices import torch_device
from alflow.numerics.maxvol import TOLERANCE, ActiveSet, settle
from alflow.store.dataset import Dataset
from alflow.store.files import written_whole

_FILE: Final = "grade.npz"
_BATCH_ATOMS: Final = 4096
Batches = Callable[[], Iterable[Sequence[Rows]]]


@part
class Part:
    """How far a structure extrapolates: γ = max |b A⁻¹|, b its basis row and A the active set.

    The active set are the rows of the training set of greatest volume, found by MaxVol. At γ <= 1 the prediction is a
    combination of active rows with coefficients of at most 1: it interpolates. Podryabinkin and Shapeev, Comput.
    Mater. Sci. 140, 171 (2017); for ACE, Lysogorskiy et al., Phys. Rev. Materials 7, 043801 (2023). Usual thresholds
    are ``{select: 2, stop: 10}``; Novikov et al. (MLIP, 2021) find 1.1 to 5 and 3 to 20 to work for all they tried.

    Where the training set does not span the basis, places of the active set stay unfilled (figure ``active_unfilled``)
    and what goes in their direction has a grade of thousands, as has an element that was never seen.

    Attributes:
        per: ``atom``: rows of atoms, an active set for each element; a frame has the greatest grade of its atoms.
            ``frame``: rows of energies per atom, one active set of frames: fewer rows, so it asks for less data and
            sees less of what a single atom does.
        tolerance: a row enters the active set if its grade is above 1 + tolerance.
        memory_GB: training rows up to so much are kept in memory; more are computed anew for each look at them.
        device: where grades are computed; ``auto``: on a GPU if there is one.
    """

    per: Literal["atom", "frame"] = "atom"
    tolerance: Annotated[float, Field(gt=0, le=1)] = TOLERANCE
    memory_GB: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 2.0
    device: Literal["auto", "cpu", "cuda"] = "auto"

    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.FEATURES})

    def calibrate(self, model: Model, data: Dataset, out: Path) -> Mapping[str, float]:
        basis, device = _with_features(model), torch_device(self.device)
        if not len(data):
            raise UnphysicalError("grade: no training frames to calibrate with")
        n_features = basis.features(data.frames.take([0])).shape[1]
        start = ActiveSets.empty(self.per, np.unique(data.frames.numbers), n_features)
        batches = self._batches(basis, data, start)
        found, dominant = settle(start, lambda sets: sets.updated(batches(), self.tolerance, device))
        filled = sum(int(s.filled.sum()) for s in found.sets)
        if not filled:
            raise UnphysicalError("grade: the model gives NaN on every training frame, or features that are all 0")
        _write(out / _FILE, found, data.ids)
        places = sum(s.n_features for s in found.sets)
        return {"active_filled": float(filled), "active_unfilled": float(places - filled), "dominant": float(dominant)}

    def _batches(self, basis: HasFeatures, data: Dataset, start: ActiveSets) -> Batches:
        """Rows of all training frames, kept if they may be."""

        def computed() -> Iterable[Sequence[Rows]]:
            first = 0
            for frames, _ in data.batches(_BATCH_ATOMS):
                yield start.rows(frames, basis.features(frames), first)
                first += len(frames)

        n_rows = data.frames.n_atoms if self.per == "atom" else len(data)
        if 8e-9 * n_rows * start.sets[0].n_features > self.memory_GB:
            return computed
        kept = list(computed())
        return lambda: kept

    def load(self, model: Model, out: Path) -> Grade:
        found = _read(out / _FILE)
        if found.per != self.per:
            raise DataError(f"{out / _FILE}: an active set per {found.per}, asked for one per {self.per}")
        return Grade(model, found, self.tolerance, torch_device(self.device))


@dataclass(frozen=True, slots=True, eq=False)
class Grade:
    """The gauge: the model and its active sets.

    Attributes:
        model: a model with features.
        sets: active sets of its basis.
        tolerance: what `extended` lets in has a grade above 1 + tolerance.
        device: torch device that grades are computed on; None for numpy.
    """

    model: Model
    sets: ActiveSets
    tolerance: float = TOLERANCE
    device: str | None = None

    def evaluate(self, frames: Frames, *, stress: bool = False) -> tuple[Labels, Scores]:
        labels, features = _predicted(self.model, frames, stress=stress)
        per_frame, per_atom = self.sets.grades(frames, features, self.device)
        per_frame[_lost(frames, labels)] = np.nan
        detail: dict[str, Floats] = {}
        if per_atom is not None:
            outside = np.bincount(frames.frame_of_atom[per_atom > 1 + self.tolerance], minlength=len(frames))
            detail["extrapolating_atoms"] = np.where(np.isnan(per_frame), np.nan, outside)
        return labels, Scores(per_frame, detail, per_atom)

    def extended(self, frames: Frames) -> Grade:
        features = _with_features(self.model).features(frames)
        return replace(self, sets=self.sets.extended(frames, features, self.tolerance, self.device))


def _predicted(model: Model, frames: Frames, *, stress: bool) -> tuple[Labels, Floats]:
    if isinstance(model, PredictsWithFeatures):
        return model.predict_features(frames, stress=stress)
    return model.predict(frames, stress=stress), _with_features(model).features(frames)


def _lost(frames: Frames, labels: Labels) -> Any:
    """Frames whose energy or forces are not finite, (n_frames,)."""
    return ~np.isfinite(labels.energy + greatest_of_frames(frames, np.abs(labels.forces).max(axis=1, initial=0.0)))


def _with_features(model: Model) -> HasFeatures:
    if not isinstance(model, HasFeatures):
        raise InputError("uncertainty 'grade'", f"needs a model with features, got {type(model).__name__}")
    return model


def _write(path: Path, sets: ActiveSets, ids: Sequence[str]) -> None:
    """Every set's rows, scales, and the content ids of the frames that its rows are of; no frame where unfilled."""
    arrays: dict[str, Any] = {"per": np.array(sets.per), "numbers": np.array(sets.numbers, np.int64)}
    for k, one in enumerate(sets.sets):
        names = np.array([ids[s] if s >= 0 else "" for s in one.source.tolist()], np.str_)
        arrays |= {f"rows{k}": one.rows, f"source{k}": one.source, f"scale{k}": one.scale, f"frame{k}": names}
    with written_whole(path) as draft, draft.open("wb") as file:
        np.savez(file, **arrays)


def _read(path: Path) -> ActiveSets:
    try:
        with np.load(path, allow_pickle=False) as h:
            per: Literal["atom", "frame"] = "atom" if str(h["per"]) == "atom" else "frame"
            numbers = tuple(int(z) for z in h["numbers"])
            count = len(numbers) if per == "atom" else 1
            parts = [(h[f"rows{k}"], h[f"source{k}"], h[f"scale{k}"]) for k in range(count)]
    except (OSError, KeyError, ValueError) as exc:
        raise DataError(f"{path}: cannot be read as active sets: {exc}; calibrate again") from exc
    return ActiveSets(per, numbers, tuple(ActiveSet(*p) for p in parts))
