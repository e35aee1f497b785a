"""Structures of a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from alflow.core.frames import Frames
from alflow.errors import DataError, InputError
from alflow.interfaces import part
from alflow.store.convert import read_file


@part
class Part:
    """Structures of any file that ase reads: extended XYZ, POSCAR, cif ...

    Asked for fewer than there are, it draws without replacement; for more, it goes through them again and again.

    Attributes:
        path: the file.
        index: which of its structures: a number or a Python slice, such as ``"0"``, ``":"``, ``"::10"``.
        shuffle: draw in random order; otherwise in the order of the file.
    """

    path: Path
    index: str = ":"
    shuffle: bool = True

    def check(self) -> None:
        self._frames()

    def elements(self) -> frozenset[str]:
        from ase.data import chemical_symbols

        return frozenset(chemical_symbols[z] for z in np.unique(self._frames().numbers))

    def build(self, count: int, rng: np.random.Generator, source: Frames | None = None) -> Frames:  # noqa: ARG002 -- the role's
        frames = self._frames()
        order = [
            rng.permutation(len(frames)) if self.shuffle else np.arange(len(frames))
            for _ in range(-(-count // len(frames)))
        ]
        return frames.take(np.concatenate([*order, np.zeros(0, np.int64)])[:count])

    def _frames(self) -> Frames:
        """The structures.

        Raises:
            InputError: they cannot be read.
        """
        try:
            return read_file(self.path, self.index).frames
        except DataError as exc:
            raise InputError(
                "path", str(exc), "give a file of structures that ase can read, and an index it has"
            ) from exc
