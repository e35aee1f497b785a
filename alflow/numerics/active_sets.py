"""Extrapolation grades of frames: an active set for the atoms of each element, or one for whole frames."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from alflow.core.frames import Bools, Floats, Frames, Ints
from alflow.numerics.maxvol import FLOOR, TOLERANCE, ActiveSet, settle

Per = Literal["atom", "frame"]
UNKNOWN: Final = 1 / FLOOR
"""Grade of what holds an element that no set knows: as of a row that goes where no other does."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Rows for one of the sets.

    Attributes:
        which: index of the set.
        rows: (n, n_columns).
        source: number of the frame that each came from, (n,).
    """

    which: int
    rows: Floats
    source: Ints


@dataclass(frozen=True, slots=True, eq=False)
class ActiveSets:
    """The active sets of a model's basis functions.

    ``atom``: a set for each element, of the rows of its atoms (the neighbourhoods of MTP, and ACE); the grade of a
    frame is the greatest of its atoms'. ``frame``: one set, of the mean rows of frames: for each element the sum over
    its atoms, divided by the atoms of the frame, one after the other, for that is what a linear energy per atom is
    fitted to. So the grade of a supercell is that of its cell.

    Attributes:
        per: what a row is of.
        numbers: atomic numbers of the elements, rising.
        sets: one an element, or one.
    """

    per: Per
    numbers: tuple[int, ...]
    sets: tuple[ActiveSet, ...]

    @staticmethod
    def empty(per: Per, numbers: Iterable[int], n_features: int) -> ActiveSets:
        """Sets that know nothing."""
        known = tuple(sorted({int(z) for z in numbers}))
        if per == "atom":
            return ActiveSets(per, known, tuple(ActiveSet.empty(n_features) for _ in known))
        return ActiveSets(per, known, (ActiveSet.empty(n_features * len(known)),))

    def rows(self, frames: Frames, features: Floats, first: int = 0) -> tuple[Rows, ...]:
        """What may enter the sets: nothing of a frame that has an unknown element, or features that are not finite.

        Args:
            frames: the structures.
            features: basis rows, (n_atoms, n_features).
            first: number of the first frame.
        """
        element = element_of(frames, self.numbers)
        lost = (element < 0) | ~_finite(features)
        good = ~_any_atom(frames, lost)
        if self.per == "frame":
            rows = frame_rows(frames, features, self.numbers)[good]
            return (Rows(0, rows, first + np.flatnonzero(good)),)
        of_frame, atoms = frames.frame_of_atom, good[frames.frame_of_atom]
        picks = [np.flatnonzero(atoms & (element == k)) for k in range(len(self.numbers))]
        return tuple(Rows(k, features[pick], first + of_frame[pick]) for k, pick in enumerate(picks) if len(pick))

    def updated(self, batches: Iterable[Sequence[Rows]], tolerance: float, device: str | None = None) -> ActiveSets:
        """The sets after one look at rows; itself if they change nothing."""
        sets = list(self.sets)
        for batch in batches:
            for part in batch:
                sets[part.which] = sets[part.which].updated(part.rows, part.source, tolerance, device)
        same = all(new is old for new, old in zip(sets, self.sets, strict=True))
        return self if same else replace(self, sets=tuple(sets))

    def grades(self, frames: Frames, features: Floats, device: str | None = None) -> tuple[Floats, Floats | None]:
        """Grade of each frame, (n_frames,), and of each atom, (n_atoms,), where that is what the sets are of.

        NaN where the features are not finite; `UNKNOWN` where an element is unknown.
        """
        element = element_of(frames, self.numbers)
        if self.per == "frame":
            per_frame = self.sets[0].grades(frame_rows(frames, features, self.numbers), device)
            strange = _any_atom(frames, element < 0)
            per_frame[strange & ~np.isnan(per_frame)] = UNKNOWN
            return per_frame, None
        per_atom = np.where(_finite(features), UNKNOWN, np.nan)
        for k, active in enumerate(self.sets):
            pick = np.flatnonzero(element == k)
            per_atom[pick] = active.grades(features[pick], device)
        return greatest_of_frames(frames, per_atom), per_atom

    def extended(
        self, frames: Frames, features: Floats, tolerance: float = TOLERANCE, device: str | None = None
    ) -> ActiveSets:
        """Sets that are dominant over their own rows and those of `frames`, which are numbered on from theirs."""
        wider = self._with_elements(np.unique(frames.numbers).tolist(), features.shape[1])
        first = 1 + max((int(s.source.max(initial=-1)) for s in self.sets), default=-1)
        own = [Rows(k, s.rows[s.filled], s.source[s.filled]) for k, s in enumerate(wider.sets)]
        batches = [wider.rows(frames, features, first), own]
        return settle(wider, lambda found: found.updated(batches, tolerance, device))[0]

    def rescaled(self, other: ActiveSets) -> ActiveSets:
        """These sets, with unfilled places as small as in others of the same elements."""
        pairs = zip(self.sets, other.sets, strict=True)
        return replace(self, sets=tuple(mine.rescaled(theirs.scale) for mine, theirs in pairs))

    def _with_elements(self, numbers: Sequence[int], n_features: int) -> ActiveSets:
        known = tuple(sorted({*self.numbers, *numbers}))
        if known == self.numbers:
            return self
        if not self.numbers:
            return ActiveSets.empty(self.per, known, n_features)
        place = [known.index(z) for z in self.numbers]
        if self.per == "atom":
            sets = [ActiveSet.empty(n_features) for _ in known]
            for k, old in zip(place, self.sets, strict=True):
                sets[k] = old
            return ActiveSets(self.per, known, tuple(sets))
        old, new = self.sets[0], ActiveSet.empty(n_features * len(known))
        at = np.concatenate([np.arange(k * n_features, (k + 1) * n_features) for k in place])
        rows, source, scale = new.rows.copy(), new.source.copy(), new.scale.copy()
        rows[np.ix_(at, at)], source[at], scale[at] = old.rows, old.source, old.scale
        return ActiveSets(self.per, known, (ActiveSet(rows, source, scale),))


def frame_rows(frames: Frames, features: Floats, numbers: Sequence[int]) -> Floats:
    """Mean row of each frame: for each element the sum over its atoms, divided by the atoms of the frame.

    Args:
        frames: the structures.
        features: basis rows, (n_atoms, n_features).
        numbers: atomic numbers, rising; atoms of others count for nothing but the division.

    Returns:
        (n_frames, n_elements * n_features), a row of NaN for a frame with features that are not finite.
    """
    n, kinds = features.shape[1], len(numbers)
    if not len(frames):
        return np.zeros((0, kinds * n))
    element = element_of(frames, numbers)
    wide = np.zeros((frames.n_atoms, kinds, n))
    mine = np.flatnonzero(element >= 0)
    wide[mine, element[mine]] = features[mine]
    rows: Floats = np.add.reduceat(wide.reshape(frames.n_atoms, -1), frames.offsets[:-1]) / frames.sizes[:, None]
    rows[_any_atom(frames, ~_finite(features))] = np.nan
    return rows


def element_of(frames: Frames, numbers: Sequence[int]) -> Ints:
    """Index of each atom's element among rising atomic numbers, -1 for one that is not there, (n_atoms,)."""
    known = np.array(numbers, np.int64)
    found: Ints = np.where(np.isin(frames.numbers, known), np.searchsorted(known, frames.numbers), -1)
    return found


def greatest_of_frames(frames: Frames, per_atom: Floats) -> Floats:
    """Greatest value of the atoms of each frame, (n_frames,); NaN if one is."""
    if not len(frames):
        return np.zeros(0)
    found: Floats = np.maximum.reduceat(per_atom, frames.offsets[:-1])
    return found


def _finite(rows: Floats) -> Bools:
    return np.asarray(np.isfinite(rows).all(axis=1), np.bool_)


def _any_atom(frames: Frames, atoms: Bools) -> Bools:
    """Frames that have one of `atoms` (n_atoms,), (n_frames,)."""
    found = np.zeros(len(frames), np.bool_)
    found[frames.frame_of_atom[atoms]] = True
    return found
