"""Seeds that depend on what a task is, never on when or where it ran."""

from __future__ import annotations

import hashlib

import numpy as np


def task_seed(campaign_seed: int, name: str) -> int:
    """A 64-bit seed from the campaign's seed and a name within it."""
    digest = hashlib.sha256(f"{campaign_seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little")


def task_rng(campaign_seed: int, name: str) -> np.random.Generator:
    """The generator of one task: the same for the same campaign seed and name."""
    return np.random.default_rng(task_seed(campaign_seed, name))
