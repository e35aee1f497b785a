"""Take the candidates that stray farthest."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from alflow.core.frames import Floats, Frames, Ints
from alflow.interfaces import Capability, Model, part


@part
class Part:
    """The `limit` candidates of the highest scores, highest first; of equal scores, the one that came first.

    Frames that are already known, or come twice, are passed over. A score of NaN says that no gauge was asked: such
    frames are chosen only when there are none with a score left.
    """

    requires: ClassVar[frozenset[Capability]] = frozenset()

    def choose(
        self,
        pool: Frames,
        scores: Floats,
        known: Frames,
        model: Model | None,  # noqa: ARG002
        limit: int,
        rng: np.random.Generator,  # noqa: ARG002 - nothing is left to chance
    ) -> Ints:
        rank = np.where(np.isnan(scores), np.inf, -scores)
        unscored = np.isnan(scores)
        names, seen, chosen = pool.ids(), set(known.ids()), list[int]()
        for i in np.lexsort((rank, unscored)).tolist():
            if len(chosen) >= limit:
                break
            if names[i] not in seen:
                seen.add(names[i])
                chosen.append(i)
        return np.array(chosen, np.int64)
