"""Structures of an earlier stage, drawn again."""

from __future__ import annotations

import numpy as np

from alflow.core.frames import Frames
from alflow.errors import UnphysicalError
from alflow.interfaces import part


@part
class Part:
    """Frames of the stage `from_stage`, drawn without replacement; for more than there are, again and again.

    Attributes:
        from_stage: name of an earlier stage of the workflow.
    """

    from_stage: str

    def check(self) -> None:
        """Nothing can be wrong before the other stage has run; the workflow checks its name."""

    def elements(self) -> frozenset[str]:
        return frozenset()

    def build(self, count: int, rng: np.random.Generator, source: Frames | None = None) -> Frames:
        if source is None or not len(source):
            raise UnphysicalError(f"stage {self.from_stage!r} has no frames to draw from")
        rounds = -(-count // len(source))
        order = [rng.permutation(len(source)) for _ in range(rounds)]
        return source.take(np.concatenate([*order, np.zeros(0, np.int64)])[:count])
