"""No uncertainty: trajectories run to their end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from alflow.core.frames import Frames
from alflow.core.labels import Labels
from alflow.interfaces import Capability, Model, Scores, part
from alflow.store.dataset import Dataset


@part
class Part:
    """A gauge that trusts the model everywhere: the score is 0, and NaN where the model gives NaN.

    For plain molecular dynamics, and for sets that are built without a model's opinion.
    """

    requires: ClassVar[frozenset[Capability]] = frozenset()
    tells_apart: ClassVar[bool] = False
    """No frame scores more than another."""

    def calibrate(self, model: Model, data: Dataset, out: Path) -> Mapping[str, float]:  # noqa: ARG002
        return {}

    def load(self, model: Model, out: Path) -> Trust:  # noqa: ARG002 - there is nothing to read
        return Trust(model)


@dataclass(frozen=True, slots=True, eq=False)
class Trust:
    """The gauge that scores 0."""

    model: Model

    def evaluate(self, frames: Frames, *, stress: bool = False) -> tuple[Labels, Scores]:
        labels = self.model.predict(frames, stress=stress)
        score = np.where(np.isfinite(labels.energy), 0.0, np.nan)
        score[frames.frame_of_atom[~np.isfinite(labels.forces).all(axis=1)]] = np.nan
        return labels, Scores(score)

    def extended(self, frames: Frames) -> Trust:  # noqa: ARG002
        return self
