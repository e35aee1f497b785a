"""Take candidates at random: what every cleverer selector has to beat."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from alflow.core.frames import Floats, Frames, Ints
from alflow.interfaces import Capability, Model, part


@part
class Part:
    """At most `limit` candidates, each subset as likely as any other, in the order of the pool.

    Frames that are already known, or come twice, are passed over. Scores are not looked at.
    """

    requires: ClassVar[frozenset[Capability]] = frozenset()

    def choose(
        self,
        pool: Frames,
        scores: Floats,  # noqa: ARG002 - chance decides
        known: Frames,
        model: Model | None,  # noqa: ARG002
        limit: int,
        rng: np.random.Generator,
    ) -> Ints:
        known_ids, first = set(known.ids()), dict[str, int]()
        for i, name in enumerate(pool.ids()):
            if name not in known_ids:
                first.setdefault(name, i)
        fresh = np.array(sorted(first.values()), np.int64)
        chosen: Ints = np.sort(rng.choice(fresh, size=max(0, min(limit, len(fresh))), replace=False))
        return chosen
