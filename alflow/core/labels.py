"""Reference labels, the level of theory they belong to, and the verdict on each."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from alflow.core.frames import Bools, Floats, Frames
from alflow.errors import DataError


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """Reference values or predictions for a batch of frames.

    Attributes:
        energy: total energy in eV, (n_frames,); NaN where there is none.
        forces: forces in eV/angstrom, (n_atoms, 3).
        stress: Cauchy stress in eV/angstrom^3, tension positive, (n_frames, 3, 3), or None;
            rows of NaN where a frame has none.
    """

    energy: Floats
    forces: Floats
    stress: Floats | None = None

    def __post_init__(self) -> None:
        if self.energy.ndim != 1 or self.forces.ndim != 2 or self.forces.shape[1] != 3:
            raise DataError(
                f"Labels: expected energy (n_frames,) and forces (n_atoms, 3), "
                f"got {self.energy.shape} and {self.forces.shape}"
            )
        if self.stress is not None and self.stress.shape != (len(self.energy), 3, 3):
            raise DataError(f"Labels.stress has shape {self.stress.shape}, expected {(len(self.energy), 3, 3)}")

    def __len__(self) -> int:
        return len(self.energy)

    def take(self, frames: Frames, indices: ArrayLike) -> Labels:
        """The labels of `frames` at `indices`, in that order."""
        pick = np.asarray(indices, np.int64).reshape(-1)
        stress = None if self.stress is None else self.stress[pick]
        return Labels(self.energy[pick], self.forces[frames.atoms_of(pick)], stress)

    def has_stress(self, frames: Frames) -> Bools:
        """Which of `frames`, theirs, have a stress, (n_frames,): a finite one, in a cell that is closed all around.

        Others have no volume that a stress could be of.
        """
        closed = np.asarray(frames.pbc.all(axis=1), np.bool_)
        return np.zeros_like(closed) if self.stress is None else closed & np.isfinite(self.stress).all(axis=(1, 2))

    @staticmethod
    def missing(frames: Frames, stress: bool = True) -> Labels:
        """Labels of NaN: the place of what could not be computed."""
        n = len(frames)
        return Labels(
            np.full(n, np.nan),
            np.full((frames.n_atoms, 3), np.nan),
            np.full((n, 3, 3), np.nan) if stress else None,
        )

    @staticmethod
    def concat(parts: Sequence[Labels]) -> Labels:
        """Lay several end to end; a missing stress becomes NaN if any part has one."""
        if not parts:
            return Labels(np.zeros(0), np.zeros((0, 3)))
        stress = None
        if any(p.stress is not None for p in parts):
            stress = np.concatenate([np.full((len(p), 3, 3), np.nan) if p.stress is None else p.stress for p in parts])
        return Labels(np.concatenate([p.energy for p in parts]), np.concatenate([p.forces for p in parts]), stress)


@dataclass(frozen=True, slots=True)
class Theory:
    """A level of theory: labels of two different ones never share a dataset unless the workflow says they may.

    Attributes:
        code: the family of programs, such as ``espresso`` or ``lammps``.
        settings: everything that decides the numbers, as plain JSON values.
    """

    code: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change when any setting does."""
        text = json.dumps([self.code, dict(self.settings)], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def differences(self, other: Theory) -> list[str]:
        """What sets `other` apart, in words such as ``ENCUT: 400 there, 520 here``; `self` is here."""
        mine, theirs = ({"code": t.code, **_flat(t.settings)} for t in (self, other))
        keys = dict.fromkeys([*mine, *theirs])
        return [f"{k}: {theirs.get(k)} there, {mine.get(k)} here" for k in keys if mine.get(k) != theirs.get(k)]


def _flat(value: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, item in value.items():
        found |= _flat(item, f"{before}{key}.") if isinstance(item, Mapping) else {f"{before}{key}": item}
    return found


class Cause(StrEnum):
    """What kind of thing kept a label from being bought: what failures are counted by."""

    CONTACT = "contact"
    """Two atoms are too close."""
    STRUCTURE = "structure"
    """Cell, size or species that the reference cannot take."""
    UNCONVERGED = "unconverged"
    """No self-consistency, after every correction that is safe."""
    LABEL_CHANGING = "label-changing"
    """Only a correction that changes the level of theory would have helped."""
    PROGRAM = "program"
    """The program ended with an error that no correction is known for."""
    OUTPUT = "output"
    """What the program wrote is missing, cut off, damaged, or of another structure."""
    VALUE = "value"
    """The label is not finite, or beyond the caps for energy, force or stress."""
    TIME = "time"
    """It took longer than it may."""
    MEMORY = "memory"
    """It needed more memory than there is, or was killed."""
    QUARANTINED = "quarantined"
    """The same structure failed before."""
    OTHER = "other"


AGAIN = frozenset({Cause.TIME, Cause.MEMORY})
"""Causes that more time, or more nodes, may mend; the others belong to the structure."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of the label of one frame.

    Attributes:
        ok: the label may enter a dataset.
        reason: why not, in a few words; empty if ok.
        log: path of the log that shows it, or empty.
        corrections: what was changed on the way, one dict each: ``handler``, ``errors``, and ``changes``, of each
            setting its value before and after.
        cause: the kind of `reason`; None if ok.
        theory: the level of theory of the label where a correction that the workflow allows has changed it; None for
            the labeler's own.
        seconds: wall time it took; NaN where nobody looked at the clock.
    """

    ok: bool
    reason: str = ""
    log: str = ""
    corrections: tuple[Mapping[str, Any], ...] = ()
    cause: Cause | None = None
    theory: Theory | None = None
    seconds: float = math.nan

    def __post_init__(self) -> None:
        if not self.ok and self.cause is None:
            object.__setattr__(self, "cause", Cause.OTHER)

    @staticmethod
    def bad(cause: Cause, reason: str, log: str | Path = "", **more: Any) -> Verdict:
        """The verdict on a frame that has no label."""
        return Verdict(False, reason, str(log), cause=cause, **more)
