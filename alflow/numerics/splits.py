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


def partition(keys: Sequence[str], shares: Sequence[float], seed: int) -> Ints:
    """Part of each frame when a set is cut once, at random, into parts of about the given shares of its frames.

    Unlike `split`, which reads a side off each key, this looks at the whole set: with one key a frame the shares are
    met to a frame. With groups for keys, whole groups go to one part: in random order, each to the part that lacks
    most of its share; so how well the shares are met depends on the largest group, and a part may stay empty where
    there are fewer groups than parts.

    Args:
        keys: one a frame, (n_frames,); equal keys share a part.
        shares: of each part; they sum to one.
        seed: of the order.

    Returns:
        Index of the part of each frame, (n_frames,).

    Raises:
        DataError: no keys, or shares that are negative or do not sum to one.
    """
    if not len(keys) or not len(shares) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-9:
        raise DataError(f"partition: expected keys and shares that sum to 1, got {len(keys)} keys and {shares}")
    units, unit_of, sizes = np.unique(np.asarray(keys, dtype=np.str_), return_inverse=True, return_counts=True)
    lacking = np.asarray(shares, np.float64) * len(keys)
    part = np.zeros(len(units), np.int64)
    for unit in np.random.default_rng([seed % 2**64, len(units)]).permutation(len(units)):
        part[unit] = np.argmax(lacking)
        lacking[part[unit]] -= sizes[unit]
    found: Ints = part[unit_of]
    return found


def shuffled(count: int, seed: int, epoch: int) -> Ints:
    """Order of `count` frames in one epoch, a permutation that depends on (seed, epoch) only."""
    return np.random.default_rng([seed % 2**64, epoch]).permutation(count)
