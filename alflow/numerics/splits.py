"""Which frames a member trains on, stops by, and never sees: a function of the frame, never of the dataset's order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from alflow.core.frames import Bools, Ints
from alflow.errors import DataError

PAPER: Final = (13 / 16, 2 / 16, 1 / 16)
"""Shares of train, valid and test of each net of ANI-Al."""


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """The sides of one member; every frame is on exactly one, except where there is one unit only.

    Attributes:
        train: frames to fit, (n_frames,).
        valid: frames that decide when to stop, (n_frames,).
        test: frames that decide nothing, (n_frames,).
    """

    train: Bools
    valid: Bools
    test: Bools


def split(keys: Sequence[str], member: int, shares: tuple[float, float, float] = PAPER) -> Split:
    """Sides of the frames of `keys` for one member of an ensemble.

    A key is a frame's content id, or the name of its group where related frames must stay together. The side is read
    off a hash of (key, member), so a frame keeps its side while the dataset grows and members differ in their sides.
    Two exceptions keep a tiny set usable: at least half of the keys train, and at least one is held out for
    stopping (a single key serves as both); the keys moved for that are the ones nearest to the border.

    Args:
        keys: one a frame, (n_frames,); equal keys share a side.
        member: which member of the ensemble.
        shares: of train, valid and test; they sum to one.

    Raises:
        DataError: no keys, or shares that are negative or do not sum to one.
    """
    if not len(keys) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-9:
        raise DataError(f"split: expected keys and shares that sum to 1, got {len(keys)} keys and shares {shares}")
    units, unit_of = np.unique(np.asarray(keys, dtype=np.str_), return_inverse=True)
    u = np.array([_uniform(str(k), member) for k in units])
    order = np.argsort(u)
    side = np.digitize(u, np.cumsum(shares)[:2])
    side[order[: (len(units) + 1) // 2]] = 0
    if len(units) > 1 and not (side == 1).any():
        side[order[-1]] = 1
    train, valid, test = (side[unit_of] == k for k in range(3))
    return Split(train, train.copy() if len(units) == 1 else valid, test)


def _uniform(key: str, member: int) -> float:
    """A number in [0, 1) that depends on (key, member) only."""
    word = hashlib.sha256(f"{key}/{member}".encode()).digest()[:6]
    return int.from_bytes(word, "big") / 2.0**48


def shuffled(count: int, seed: int, epoch: int) -> Ints:
    """Order of `count` frames in one epoch, a permutation that depends on (seed, epoch) only."""
    return np.random.default_rng([seed % 2**64, epoch]).permutation(count)
