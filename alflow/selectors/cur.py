"""CUR selection: candidates drawn by their leverage on the descriptors of the pool."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from alflow.core.frames import Floats, Frames, Ints
from alflow.interfaces import Capability, Model, part
from alflow.numerics.active_sets import frame_rows
from alflow.selectors._features import batches, fresh, say_lost, with_features

_NOTHING = 1e-10
"""Singular values that are smaller, as a part of the greatest, are rounding."""


@part
class Part:
    """At most `limit` candidates, drawn without replacement with chances in proportion to their leverage scores.

    The rows are those of a linear energy per atom: the mean features of a frame, element by element, each column
    divided by its root mean square. The leverage of a row is the squared length of its part of the left singular
    vectors of the `rank` greatest singular values (Mahoney and Drineas, PNAS 106, 697, 2009). They see the pool, not
    what is known; frames that are known, come twice, or have features that are not finite (their number is logged)
    are passed over. Scores are not looked at.

    Attributes:
        rank: how many singular vectors count; null: as many as frames may be chosen.
    """

    rank: Annotated[int, Field(ge=1)] | None = None

    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.FEATURES})

    def choose(
        self,
        pool: Frames,
        scores: Floats,  # noqa: ARG002 - leverage decides
        known: Frames,
        model: Model | None,
        limit: int,
        rng: np.random.Generator,
    ) -> Ints:
        basis, at = with_features(model, "cur"), fresh(pool, known)
        if not len(at) or limit < 1:
            return np.zeros(0, np.int64)
        numbers = np.unique(pool.numbers).tolist()
        parts = [frame_rows(some, features, numbers) for some, features, _ in batches(basis, pool.take(at))]
        rows = np.concatenate(parts)
        good = np.isfinite(rows).all(axis=1)
        say_lost(int((~good).sum()), len(at))
        leverage = leverages(rows[good], self.rank or limit)
        with np.errstate(divide="ignore"):  # a frame without leverage is never drawn
            keys = np.log(leverage) + rng.gumbel(size=len(leverage))  # the greatest k of them are such a draw of k
        order = np.argsort(-keys, kind="stable")[:limit]
        chosen: Ints = at[good][np.sort(order[np.isfinite(keys[order])])]
        return chosen


def leverages(rows: Floats, rank: int) -> Floats:
    """Leverage score of each row (n, k), in [0, 1], by the `rank` greatest singular vectors, (n,).

    Columns are divided by their root mean square first; those of zeros count for nothing.
    """
    size = np.sqrt(np.mean(rows**2, axis=0)) if len(rows) else np.zeros(rows.shape[1])
    scaled = rows[:, size > 0] / size[size > 0]
    if not scaled.size:
        return np.zeros(len(rows))
    left, values, _ = np.linalg.svd(scaled, full_matrices=False)
    count = min(rank, int((values > _NOTHING * values[0]).sum()))
    found: Floats = (left[:, :count] ** 2).sum(axis=1)
    return found
