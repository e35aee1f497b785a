"""Tasks, events and the state they fold into. Pure: no clock, no disk, no randomness."""

from __future__ import annotations

from enum import StrEnum


class Verb(StrEnum):
    """What a task does."""

    BUILD = "build"
    SAMPLE = "sample"
    SELECT = "select"
    LABEL = "label"
    FIT = "fit"
    CALIBRATE = "calibrate"
    """Join the members that arrived into a model, calibrate its gauge, measure it on held-out frames."""
    EVALUATE = "evaluate"
    """Hold the stage's last model against the reference on structures it never saw."""


class FailureKind(StrEnum):
    """Whose fault a failure was, which decides what happens next."""

    INFRASTRUCTURE = "infrastructure"
    """The machine's: the same again, at no cost, up to a cap."""
    RESOURCE = "resource"
    """Too little memory or time: again, with more."""
    UNPHYSICAL = "unphysical"
    """The structure's: dropped and counted."""
    DEFECT = "defect"
    """Ours: stop, loudly."""
