"""What parts of nets refuse; see `alflow.interfaces.Potential.check`. Each error is an `InputError` with the field."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ase.data import atomic_numbers

from alflow.errors import InputError

_POSITIVE = (
    *("members", "lr", "warm_lr", "min_lr", "patience", "batch", "max_epochs", "max_seconds", "cache_GB"),
    "checkpoint_s",
)


def check_positive(part: Any, names: Sequence[str]) -> None:
    """Fields that are positive or None: `names`, and those that all nets share."""
    for name in (*names, *_POSITIVE):
        value = getattr(part, name)
        if value is not None and not 0 < value < math.inf:
            raise InputError(name, f"expected a positive number, got {value}")


def check_training(part: Any) -> None:
    """Weights of the loss, learning rates, and members that share a task."""
    for name in ("energy_weight", "force_weight_A", "stress_weight", "members_per_task"):
        if not 0 <= getattr(part, name) < math.inf:
            raise InputError(name, f"expected zero or more, got {getattr(part, name)}")
    if not part.energy_weight + part.force_weight_A > 0:
        raise InputError("energy_weight", "energy_weight and force_weight_A are both zero: nothing to fit")
    if not part.min_lr <= min(part.lr, part.warm_lr):
        raise InputError("min_lr", f"expected at most lr and warm_lr, got {part.min_lr}")


def check_hidden(hidden: Sequence[int]) -> None:
    """Widths of the hidden layers."""
    if not hidden or min(hidden) < 1:
        raise InputError("hidden", f"expected one width or more, each at least 1, got {list(hidden)}")


def check_elements(named: Sequence[str], held: frozenset[str]) -> None:
    """The elements a part names against those that the structures hold."""
    strange = sorted(s for s in {*named, *held} if atomic_numbers.get(s, 0) < 1)
    if strange:
        raise InputError("elements", f"not chemical symbols: {', '.join(strange)}")
    if len(set(named)) < len(named):
        raise InputError("elements", f"expected each element once, got {', '.join(named)}")
    absent = sorted(held - set(named)) if named else []
    if absent:
        raise InputError("elements", f"the structures hold {', '.join(absent)} too", "add them, or leave it out")
