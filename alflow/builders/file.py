"""Structures of a file."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np

from alflow.core.frames import Frames
from alflow.errors import DataError, InputError
from alflow.interfaces import part
from alflow.store.convert import read_file


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

        return frozenset(chemical_symbols[z] for z in np.unique(self._read()[0].numbers))

    def group_names(self) -> frozenset[str]:
        return frozenset(self._read()[1].values()) - {""}

    def groups(self, frames: Frames) -> list[str]:
        _, group_of = self._read()
        return [group_of.get(name, "") for name in frames.ids()] if group_of else [""] * len(frames)

    def build(self, count: int, rng: np.random.Generator, source: Frames | None = None) -> Frames:  # noqa: ARG002 -- the role's
        frames, _ = self._read()
        order = [
            rng.permutation(len(frames)) if self.shuffle else np.arange(len(frames))
            for _ in range(-(-count // len(frames)))
        ]
        return frames.take(np.concatenate([*order, np.zeros(0, np.int64)])[:count])

    def _read(self) -> tuple[Frames, Mapping[str, str]]:
        """The structures, and the group of each by its content id, if there are groups.

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
def _kept(path: Path, index: str, _state: tuple[int, int] | None) -> tuple[Frames, Mapping[str, str]]:
    """A file's structures and groups: a large one takes many seconds to read, and every task asks for both.

    Its time and size are for the cache.
    """
    shard = read_file(path, index)
    groups = shard.columns.get("group")
    return shard.frames, {} if groups is None else dict(zip(shard.frames.ids(), map(str, groups), strict=True))
