"""`Dataset`: an immutable snapshot of labelled frames of one theory."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from alflow.core.frames import Frames, Ints
from alflow.core.labels import Labels, Theory
from alflow.errors import DataError
from alflow.numerics.splits import partition
from alflow.store.shards import Column, Shard, read_shard


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled frames of one level of theory, in memory.

    Attributes:
        frames: the structures.
        labels: their labels, none of them NaN in energy or forces.
        theory: the level of theory all of them share.
        columns: provenance and figures per frame, each (n_frames,).
    """

    frames: Frames
    labels: Labels
    theory: Theory
    columns: Mapping[str, Column] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.frames) or len(self.labels.forces) != self.frames.n_atoms:
            raise DataError(f"Dataset: {len(self.labels)} labels for {len(self.frames)} frames")
        if not (np.isfinite(self.labels.energy).all() and np.isfinite(self.labels.forces).all()):
            raise DataError("Dataset: NaN or infinite energies or forces; failed labels must not be stored")

    @staticmethod
    def open(shards: Sequence[tuple[Path, int, int]] | Sequence[Path], same: Collection[str] = ()) -> Dataset:
        """Read shards, or frames start:stop of each, in the given order; see `join`."""
        return Dataset.join([read_shard(*(s if isinstance(s, tuple) else (s,))) for s in shards], same)

    @staticmethod
    def join(parts: Sequence[Shard], same: Collection[str] = ()) -> Dataset:
        """The labelled frames of several shards, in the given order; a frame met twice is kept once.

        Args:
            parts: the shards.
            same: fingerprints of theories that count as the same as the others'. Of the theories that are there, the
                dataset is of the one that is not among them.

        Raises:
            DataError: no shard, a shard without labels, or two theories.
        """
        if not parts:
            raise DataError("Dataset: no shards")
        theories = {p.theory.fingerprint: p.theory for p in parts if p.theory is not None}
        if any(p.labels is None for p in parts):
            raise DataError("Dataset: a shard holds no labels")
        own = [t for f, t in theories.items() if f not in same] or list(theories.values())[-1:]
        if len(own) > 1:
            apart = "; ".join(own[0].differences(own[1])[:5])
            raise DataError(
                f"Dataset: labels of {len(own)} levels of theory do not mix ({apart}). If they may, "
                f"list the other fingerprint in the stage's same_theory: {', '.join(t.fingerprint for t in own)}"
            )
        return _joined(parts, own[0])

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Content id of each frame."""
        return self.frames.ids()

    def __len__(self) -> int:
        return len(self.frames)

    def take(self, indices: Ints | Sequence[int]) -> Dataset:
        """The frames at `indices`, in that order."""
        pick = np.asarray(indices, np.int64)
        return Dataset(
            self.frames.take(pick),
            self.labels.take(self.frames, pick),
            self.theory,
            {k: v[pick] for k, v in self.columns.items()},
        )

    def split(self, parts: Mapping[str, float], by: str = "frame", seed: int = 0) -> dict[str, Dataset]:
        """Cut the set at random into named parts of the given shares, once.

        Args:
            parts: name and share of each part; shares sum to one.
            by: ``frame``, or the name of a column, such as ``group``: frames of equal values stay together, so that a
                part is tested on groups that another was not trained on.
            seed: of chance.

        Raises:
            DataError: no such column, no frames, or shares that do not sum to one.
        """
        if by != "frame" and by not in self.columns:
            raise DataError(
                f"Dataset.split: no column {by!r} to split by; there are: {', '.join(self.columns) or 'none'}"
            )
        keys = self.ids if by == "frame" else [str(k) for k in self.columns[by].tolist()]
        part = partition(keys, list(parts.values()), seed)
        return {name: self.take(np.flatnonzero(part == k)) for k, name in enumerate(parts)}

    def batches(self, max_atoms: int) -> Iterator[tuple[Frames, Labels]]:
        """Consecutive batches of at most `max_atoms` atoms, one frame at least."""
        start = 0
        for frames in self.frames.batches(max_atoms):
            yield frames, self.labels.take(self.frames, range(start, start + len(frames)))
            start += len(frames)


def _joined(parts: Sequence[Shard], theory: Theory) -> Dataset:
    frames = Frames.concat([p.frames for p in parts])
    labels = Labels.concat([p.labels for p in parts if p.labels is not None])
    names = set.intersection(*(set(p.columns) for p in parts))
    columns = {n: np.concatenate([p.columns[n] for p in parts]) for n in sorted(names)}
    whole = Dataset(frames, labels, theory, columns)
    _, first = np.unique(np.array(whole.ids), return_index=True)
    return whole if len(first) == len(whole) else whole.take(np.sort(first))
