"""Groups of a campaign's frames: by which fits weigh them, splits keep them together and reports tell them apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from alflow.core.frames import Frames
from alflow.interfaces import HasGroups

if TYPE_CHECKING:
    from alflow.spec.workflow import Stage

GROUP: Final = "group"
"""The column of a dataset."""
NAMED: Final = (GROUP, "id", "label", "model", "origin", "theory")
"""Columns of words that every dataset of a campaign has; ``origin`` is the trajectory."""


def group_names(stage: Stage) -> frozenset[str]:
    """What the groups of a stage's frames can be called."""
    own = stage.builder.group_names() if isinstance(stage.builder, HasGroups) else frozenset()
    return own | {stage.name}


def groups_of(stage: Stage, frames: Frames) -> NDArray[np.str_]:
    """The group of each frame that the stage's builder has made: its own, or the name of the stage, (n_frames,)."""
    own = stage.builder.groups(frames) if isinstance(stage.builder, HasGroups) else [""] * len(frames)
    return np.array([name or stage.name for name in own], np.str_)
