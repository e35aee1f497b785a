"""Many small systems minimised at once by FIRE, each at its own pace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from alflow.core.frames import Bools, Floats, Frames, Ints
from alflow.core.labels import Labels

Predict = Callable[[Frames], Labels]

_FIRST_STEP: Final = 0.1
_LONGEST_STEP: Final = 1.0
_MIXING: Final = 0.1
_PATIENCE: Final = 5
_GROW, _SHRINK, _UNMIX = 1.1, 0.5, 0.99


class FireBatch:
    """Fast inertial relaxation (Bitzek et al., Phys. Rev. Lett. 97, 170201, 2006) with one clock for each system.

    What a system does depends on itself only. All masses are 1, so that times are in Å/√eV. Cells stay as they are.

    Args:
        frames: the systems.
        predict: energy and forces; called once here and once a step.
        cap_A: no atom moves farther in one step.

    Attributes:
        frames: the systems as they are now.
        energy: in eV, (n_frames,).
        forces: in eV/angstrom, (n_atoms, 3).
    """

    def __init__(self, frames: Frames, predict: Predict, cap_A: float) -> None:
        self._predict, self._cap = predict, cap_A
        self.frames = frames
        self.energy: Floats
        self.forces: Floats
        self._velocity: Floats = np.zeros((frames.n_atoms, 3))
        self._dt: Floats = np.full(len(frames), _FIRST_STEP)
        self._mixing: Floats = np.full(len(frames), _MIXING)
        self._downhill: Ints = np.zeros(len(frames), np.int64)
        self._set(predict(frames))

    def step(self) -> None:
        """Move every system once."""
        owner = self.frames.frame_of_atom
        f2, v2, power = (self._sums(a, b) for a, b in self._pairs())
        uphill = ~(power > 0)
        self._clock(uphill)
        with np.errstate(invalid="ignore", divide="ignore"):
            along = np.where(f2 > 0, self._mixing * np.sqrt(v2 / f2), 0.0)
        keep = np.where(uphill, 0.0, 1 - self._mixing)
        turn = np.where(uphill, 0.0, along) + self._dt
        velocity = keep[owner, None] * self._velocity + turn[owner, None] * self.forces
        move = self._dt[owner, None] * velocity
        longest = np.sqrt(np.maximum.reduceat((move * move).sum(axis=1), self.frames.offsets[:-1]))
        move *= (np.minimum(1.0, self._cap / np.maximum(longest, 1e-300)))[owner, None]
        self._velocity = velocity
        self.frames = self.frames.moved(self.frames.positions + move)
        self._set(self._predict(self.frames))

    def take(self, keep: Ints) -> None:
        """Go on with the systems at `keep` only."""
        atoms = self.frames.atoms_of(keep)
        self.frames = self.frames.take(keep)
        self.energy, self.forces, self._velocity = self.energy[keep], self.forces[atoms], self._velocity[atoms]
        self._dt, self._mixing, self._downhill = self._dt[keep], self._mixing[keep], self._downhill[keep]

    def _clock(self, uphill: Bools) -> None:
        self._downhill = np.where(uphill, 0, self._downhill + 1)
        faster = self._downhill > _PATIENCE
        self._dt = np.where(faster, np.minimum(self._dt * _GROW, _LONGEST_STEP), self._dt)
        self._dt = np.where(uphill, self._dt * _SHRINK, self._dt)
        self._mixing = np.where(uphill, _MIXING, np.where(faster, self._mixing * _UNMIX, self._mixing))

    def _pairs(self) -> tuple[tuple[Floats, Floats], ...]:
        f, v = self.forces, self._velocity
        return (f, f), (v, v), (f, v)

    def _sums(self, a: Floats, b: Floats) -> Floats:
        total: Floats = np.add.reduceat((a * b).sum(axis=1), self.frames.offsets[:-1])
        return total

    def _set(self, said: Labels) -> None:
        self.energy, self.forces = said.energy, said.forces
