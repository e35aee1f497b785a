"""Take all candidates, in the order they came."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from alflow.core.frames import Floats, Frames, Ints
from alflow.interfaces import Capability, Model, part


@part
class Part:
    """The first `limit` candidates of the pool; a frame that is already known or came before is passed over.

    Scores are not looked at: for pools whose every frame has earned its label, such as the last frames of ANI-Al's
    trajectories.
    """

    requires: ClassVar[frozenset[Capability]] = frozenset()

    def choose(
        self,
        pool: Frames,
        scores: Floats,  # noqa: ARG002 - the order of the pool decides
        known: Frames,
        model: Model | None,  # noqa: ARG002
        limit: int,
        rng: np.random.Generator,  # noqa: ARG002
    ) -> Ints:
        seen, chosen = set(known.ids()), list[int]()
        for i, name in enumerate(pool.ids()):
            if len(chosen) >= limit:
                break
            if name not in seen:
                seen.add(name)
                chosen.append(i)
        return np.array(chosen, np.int64)
