"""What a batch of trajectories has brought so far, and how it survives a killed process."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from alflow.core.frames import Floats, Frames, Ints
from alflow.core.units import U_A3_g_cm3
from alflow.engines.batched_md import wrapped
from alflow.engines.contacts import closest_A
from alflow.interfaces import Harvest, Stop
from alflow.store.files import written_whole

_ARRAYS = ("numbers", "positions", "cell", "pbc", "offsets")


@dataclass(slots=True, eq=False)
class Pile:
    """Frames and their figures, by trajectory.

    Attributes:
        rows: of each trajectory that has any, its frames (each of one frame) with named values, oldest first.
    """

    rows: dict[int, list[tuple[Frames, Mapping[str, float]]]] = field(default_factory=dict)

    def add(self, trajectory: int, frame: Frames, figures: Mapping[str, float]) -> None:
        """Put a frame on the pile."""
        self.rows.setdefault(trajectory, []).append((frame, figures))

    def last_time_ps(self, trajectory: int) -> float:
        """When the newest frame of a trajectory was taken; long ago if there is none."""
        mine = self.rows.get(trajectory)
        return mine[-1][1]["time_ps"] if mine else -np.inf

    def frames(self) -> Frames:
        """All frames, trajectory by trajectory."""
        return Frames.concat([frame for i in sorted(self.rows) for frame, _ in self.rows[i]])

    def origin(self) -> Ints:
        """The trajectory of each frame."""
        return np.array([i for i in sorted(self.rows) for _ in self.rows[i]], np.int64)

    def columns(self) -> dict[str, Floats]:
        """Figures as columns, NaN where a frame has none."""
        figures = [row for i in sorted(self.rows) for _, row in self.rows[i]]
        names = dict.fromkeys(name for row in figures for name in row)
        return {n: np.array([row.get(n, np.nan) for row in figures], np.float64) for n in names}

    def arrays(self, prefix: str) -> dict[str, Any]:
        """Plain arrays for a checkpoint."""
        frames = self.frames()
        columns = {f"{prefix}:{name}": values for name, values in self.columns().items()}
        return {f"{prefix}_{n}": getattr(frames, n) for n in _ARRAYS} | {f"{prefix}_origin": self.origin()} | columns

    @staticmethod
    def of(arrays: Mapping[str, Any], prefix: str) -> Pile:
        """The pile that `arrays` was made of."""
        pile, start = Pile(), f"{prefix}:"
        columns = {name.removeprefix(start): a for name, a in arrays.items() if name.startswith(start)}
        frames = Frames(*(arrays[f"{prefix}_{n}"] for n in _ARRAYS))
        for k, trajectory in enumerate(arrays[f"{prefix}_origin"].tolist()):
            pile.add(trajectory, frames[k], {name: float(values[k]) for name, values in columns.items()})
        return pile


@dataclass(slots=True, eq=False)
class Record:
    """Candidates and ends of all trajectories of a batch.

    Attributes:
        n: number of trajectories.
        candidates: frames worth a label, in the order they were found.
        products: final frames that are not.
        ends: why, in words, and where on the way (ps), of each trajectory that has ended.
    """

    n: int
    candidates: Pile = field(default_factory=Pile)
    products: Pile = field(default_factory=Pile)
    ends: dict[int, tuple[Stop, str, float]] = field(default_factory=dict)

    def end(self, which: Sequence[int], stop: Stop, words: Sequence[str], length_ps: float) -> None:
        """Close trajectories."""
        for i, said in zip(which, words, strict=True):
            self.ends[i] = (stop, said, length_ps)

    def harvest(self, masses_u: Floats) -> Harvest:
        """Everything, trajectory by trajectory. `masses_u` is the mass of every element, by atomic number."""
        frames, columns = wrapped(self.candidates.frames()), self.candidates.columns()
        weight = np.bincount(frames.frame_of_atom, weights=masses_u[frames.numbers], minlength=len(frames))
        open_cell = ~frames.pbc.all(axis=1)
        columns["density_g_cm3"] = U_A3_g_cm3 * weight / np.where(open_cell, np.nan, frames.volumes)
        columns["min_distance_A"] = closest_A(frames)
        ends = [self.ends[i] for i in range(self.n)]
        return Harvest(
            candidates=frames,
            scores=columns.pop("score", np.zeros(0)),
            origin=self.candidates.origin(),
            products=wrapped(self.products.frames()),
            stops=tuple(e[0] for e in ends),
            detail=tuple(e[1] for e in ends),
            lengths=np.array([e[2] for e in ends], np.float64),
            columns=columns,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A run between two steps.

    Attributes:
        step: steps done.
        alive: trajectories that still run, (n_alive,).
        positions: of their atoms in angstrom, (n_atoms, 3).
        momenta: of their atoms, (n_atoms, 3).
        cell: (n_alive, 3, 3).
        rate: steps of their descent, (n_alive,).
        energy: of every trajectory at its start in eV, (n,).
        record: what they have brought.
    """

    step: int
    alive: Ints
    positions: Floats
    momenta: Floats
    cell: Floats
    rate: Floats
    energy: Floats
    record: Record

    def save(self, path: Path, key: str) -> None:
        """Write it whole or not at all; `key` names the run it belongs to."""
        numbers = {n: getattr(self, n) for n in ("alive", "positions", "momenta", "cell", "rate", "energy")}
        record = self.record
        piles = record.candidates.arrays("candidates") | record.products.arrays("products")
        ends = np.array(json.dumps([record.n, sorted(record.ends.items())]))
        with written_whole(path) as draft, draft.open("wb") as f:
            np.savez(f, key=np.array(key), step=np.array(self.step), ends=ends, **numbers, **piles)

    @staticmethod
    def load(path: Path, key: str) -> Checkpoint | None:
        """The checkpoint of the run called `key`; None if there is none, or it belongs to another run."""
        if not path.exists():
            return None
        with np.load(path, allow_pickle=False) as found:
            a = dict(found)
        if str(a["key"]) != key:
            return None
        n, ends = json.loads(str(a["ends"]))
        closed = {i: (Stop(stop), said, length) for i, (stop, said, length) in ends}
        record = Record(n, Pile.of(a, "candidates"), Pile.of(a, "products"), closed)
        return Checkpoint(
            int(a["step"]), a["alive"], a["positions"], a["momenta"], a["cell"], a["rate"], a["energy"], record
        )
