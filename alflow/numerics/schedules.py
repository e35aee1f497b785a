"""Random schedules of temperature and strain for a batch of trajectories.

Each trajectory draws from its own generator, in a fixed order, so its schedule depends on its seed alone and a schedule
need not be stored: draw it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from alflow.core.frames import Floats
from alflow.errors import DataError

Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class TemperatureRanges:
    """Where the numbers of a `TemperatureSchedule` are drawn from, uniformly; defaults: the ANI-Al paper.

    Attributes:
        start_K: temperature of the ramp at its beginning.
        end_K: temperature of the ramp at its end.
        mod_K: height of the oscillation.
        period_ps: period of the oscillation.
    """

    start_K: Range = (10.0, 1000.0)
    end_K: Range = (10.0, 600.0)
    mod_K: Range = (0.0, 2000.0)
    period_ps: Range = (10.0, 50.0)


@dataclass(frozen=True, slots=True, eq=False)
class TemperatureSchedule:
    """T(t) = start + t / length (end - start) + mod sin²(π t / period), one row a trajectory.

    Smith et al., Nat. Commun. 12, 1257 (2021), equation 2. (Its t_max is printed as 250 fs; the stopping rule of the
    same paper, a median of 250 ps, shows that picoseconds are meant.)

    Attributes:
        start_K: (n,).
        end_K: (n,).
        mod_K: (n,).
        period_ps: (n,).
        length_ps: when the ramp ends.
    """

    start_K: Floats
    end_K: Floats
    mod_K: Floats
    period_ps: Floats
    length_ps: float

    @staticmethod
    def draw(rngs: Sequence[np.random.Generator], ranges: TemperatureRanges, length_ps: float) -> TemperatureSchedule:
        """One schedule from each generator.

        Raises:
            DataError: a range that falls, a negative temperature, or a period or length that is not positive.
        """
        for name, low in (("start_K", 0.0), ("end_K", 0.0), ("mod_K", 0.0), ("period_ps", 1e-9)):
            _checked(name, getattr(ranges, name), low)
        if not length_ps > 0:
            raise DataError(f"TemperatureSchedule: expected a positive length_ps, got {length_ps}")
        spans = np.array([ranges.start_K, ranges.end_K, ranges.mod_K, ranges.period_ps], np.float64)
        rows = np.array([rng.uniform(spans[:, 0], spans[:, 1]) for rng in rngs], np.float64).reshape(-1, 4)
        return TemperatureSchedule(rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3], length_ps)

    @staticmethod
    def constant(n: int, T_K: float) -> TemperatureSchedule:
        """The same temperature for all of `n` trajectories at all times."""
        level = np.full(n, float(T_K))
        return TemperatureSchedule(level, level, np.zeros(n), np.ones(n), 1.0)

    def at(self, time_ps: ArrayLike) -> Floats:
        """Temperature in K at one time, or at a time for each trajectory, (n,)."""
        t = np.asarray(time_ps, np.float64)
        ramp = self.start_K + t / self.length_ps * (self.end_K - self.start_K)
        T: Floats = ramp + self.mod_K * np.sin(np.pi * t / self.period_ps) ** 2
        return T


@dataclass(frozen=True, slots=True)
class StrainRanges:
    """Where the numbers of a `StrainSchedule` are drawn from.

    Attributes:
        volume: least and greatest V / V(0) - 1; never left. Zero lies between them, so that the start is allowed.
        shear: greatest principal stretch at constant volume, as a logarithmic strain; never passed.
        period_ps: periods of volume and shape, drawn apart.
    """

    volume: Range = (0.0, 0.0)
    shear: float = 0.0
    period_ps: Range = (10.0, 50.0)


@dataclass(frozen=True, slots=True, eq=False)
class StrainSchedule:
    """A cell that breathes and shears smoothly: F(t) = J^(1/3) exp(S), one row a trajectory.

    J = 1 + volume sin²(π t / volume_period) is the volume ratio and S = shape sin²(π t / shape_period) a symmetric
    traceless logarithmic strain, so det F = J whatever S is, and F does not rotate. F(0) is the unit matrix and its
    rate there is zero: the start keeps its density and is not jolted. This goes beyond the ANI-Al paper, which names
    varying strain as future work.

    Attributes:
        volume: greatest V / V(0) - 1, (n,).
        shape: S at its height, (n, 3, 3).
        volume_period_ps: (n,).
        shape_period_ps: (n,).
    """

    volume: Floats
    shape: Floats
    volume_period_ps: Floats
    shape_period_ps: Floats

    @staticmethod
    def draw(rngs: Sequence[np.random.Generator], ranges: StrainRanges) -> StrainSchedule:
        """One schedule from each generator; directions of shear are isotropic.

        Raises:
            DataError: bounds without zero between them, a volume that vanishes, or a period that is not positive.
        """
        low, high = ranges.volume
        if not (-1 < low <= 0 <= high < np.inf and 0 <= ranges.shear < np.inf):
            raise DataError(
                f"StrainSchedule: expected -1 < low <= 0 <= high and shear >= 0, got {ranges.volume} and {ranges.shear}"
            )
        _checked("period_ps", ranges.period_ps, 1e-9)
        rows = [
            (rng.uniform(low, high), rng.uniform(0, ranges.shear) * _direction(rng), rng.uniform(*ranges.period_ps, 2))
            for rng in rngs
        ]
        periods = np.array([r[2] for r in rows], np.float64).reshape(-1, 2)
        return StrainSchedule(
            np.array([r[0] for r in rows], np.float64),
            np.array([r[1] for r in rows], np.float64).reshape(-1, 3, 3),
            periods[:, 0],
            periods[:, 1],
        )

    def at(self, time_ps: ArrayLike) -> Floats:
        """F such that cell(t) = cell(0) @ F, at one time or one for each trajectory, (n, 3, 3); symmetric."""
        t = np.asarray(time_ps, np.float64)
        volume = 1 + self.volume * np.sin(np.pi * t / self.volume_period_ps) ** 2
        height = np.sin(np.pi * t / self.shape_period_ps) ** 2
        value, vector = np.linalg.eigh(self.shape)
        stretch = np.cbrt(volume)[:, None] * np.exp(value * height[:, None])
        F: Floats = (vector * stretch[:, None, :]) @ vector.swapaxes(1, 2)
        return F


def _direction(rng: np.random.Generator) -> Floats:
    """A random symmetric traceless matrix whose greatest principal value is 1 in size, no direction preferred."""
    m = rng.normal(size=(3, 3))
    m = m + m.T
    m -= np.eye(3) * np.trace(m) / 3
    unit: Floats = m / np.abs(np.linalg.eigvalsh(m)).max()
    return unit


def _checked(name: str, span: Range, least: float) -> None:
    if not (least <= span[0] <= span[1] < np.inf):
        raise DataError(f"schedule: expected {name} to be a rising range from {least:g} on, got {span}")
