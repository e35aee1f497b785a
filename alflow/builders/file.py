"""Structures of a file."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from alflow.core.frames import Frames
from alflow.errors import DataError, InputError
from alflow.interfaces import part
from alflow.store.convert import read_file
from alflow.store.shards import Shard


@part
class Part:
    """Structures of any file that ase reads: extended XYZ, POSCAR, cif ...

    Asked for fewer than there are, it draws without replacement; for more, it goes through them again and again. Where
    the file says ``group=...`` of a structure, what is sampled from it belongs to that group, else to one named after
    the stage.

    Attributes:
        path: the file.
        index: which of its structures: a number or a Python slice, such as ``"0"``, ``":"``, ``"::10"``.
        shuffle: draw in random order; otherwise in the order of the file.
    """

    path: Path
    index: str = ":"
    shuffle: bool = True

    def check(self) -> None:
        self._read()

    def elements(self) -> frozenset[str]:
        from ase.data import chemical_symbols

        return frozenset(chemical_symbols[z] for z in np.unique(self._read().frames.numbers))

    def group_names(self) -> frozenset[str]:
        return frozenset(self._groups()) - {""}

    def groups(self, frames: Frames) -> list[str]:
        known = dict(zip(self._read().frames.ids(), self._groups(), strict=True))
        return [known[name] for name in frames.ids()]

    def build(self, count: int, rng: np.random.Generator, source: Frames | None = None) -> Frames:  # noqa: ARG002 -- the role's
        frames = self._read().frames
        order = [
            rng.permutation(len(frames)) if self.shuffle else np.arange(len(frames))
            for _ in range(-(-count // len(frames)))
        ]
        return frames.take(np.concatenate([*order, np.zeros(0, np.int64)])[:count])

    def _groups(self) -> list[str]:
        shard = self._read()
        return [str(g) for g in shard.columns.get("group", [""] * len(shard.frames))]

    def _read(self) -> Shard:
        """The structures.

        Raises:
            InputError: they cannot be read.
        """
        try:
            stat = self.path.stat() if self.path.exists() else None
            return _kept(self.path, self.index, stat and (stat.st_mtime_ns, stat.st_size))
        except DataError as exc:
            raise InputError(
                "path", str(exc), "give a file of structures that ase can read, and an index it has"
            ) from exc


@lru_cache(maxsize=2)
def _kept(path: Path, index: str, _state: tuple[int, int] | None) -> Shard:
    """A file's structures: a large one takes many seconds to read, and is asked for its elements and groups, too.

    Its time and size are for the cache.
    """
    return read_file(path, index)
