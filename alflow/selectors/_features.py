"""What selectors that look at basis rows share."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np

from alflow.core.frames import Floats, Frames, Ints
from alflow.errors import InputError
from alflow.interfaces import HasFeatures, Model

logger = logging.getLogger(__name__)
_BATCH_ATOMS = 4096


def with_features(model: Model | None, selector: str) -> HasFeatures:
    """The model, if it has features.

    Raises:
        InputError: it has none, or there is no model.
    """
    if not isinstance(model, HasFeatures):
        got = "no model" if model is None else type(model).__name__
        hint = "select after a first fit: policy.initial is the size of its training set"
        raise InputError(f"selector {selector!r}", f"needs a model with features, got {got}", hint)
    return model


def fresh(pool: Frames, known: Frames) -> Ints:
    """Indices of the candidates that are not known, each frame once, rising."""
    seen, found = set(known.ids()), list[int]()
    for i, name in enumerate(pool.ids()):
        if name not in seen:
            seen.add(name)
            found.append(i)
    return np.array(found, np.int64)


def batches(model: HasFeatures, frames: Frames) -> Iterator[tuple[Frames, Floats, int]]:
    """Consecutive frames with their features, and the number of the first of them."""
    start = 0
    for part in frames.batches(_BATCH_ATOMS):
        yield part, model.features(part), start
        start += len(part)


def say_lost(count: int, pool: int) -> None:
    """Log how many candidates cannot be chosen."""
    if count:
        logger.warning("%d of %d candidates have features that are not finite: they are not chosen", count, pool)
