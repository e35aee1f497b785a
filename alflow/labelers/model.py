"""Labels from a saved model: a published potential, or one of our own, as teacher."""

from __future__ import annotations

import itertools
import json
import os
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Final

import numpy as np

from alflow.core.frames import Frames
from alflow.core.labels import Cause, Labels, Theory, Verdict
from alflow.errors import InputError, ResourceError
from alflow.interfaces import UNLIMITED, Code, Limits, Model, part
from alflow.registry import load_model, read_manifest
from alflow.store.files import digest
from alflow.store.kept import Labelled, kept

_MOST_FILES: Final = 1000


@part
class Part:
    """Energies, forces and stress predicted by a saved model.

    Attributes:
        path: a ``model.json``, a folder that holds one, or a file of a format that some potential reads.
        max_force_eV_A: a label with a larger force is refused: far outside what the model knows.
        max_atoms: atoms evaluated together; a larger number needs more memory.
    """

    code: ClassVar[str] = ""

    path: Path
    max_force_eV_A: float = 1000.0
    max_atoms: int = 2000

    def check(self, elements: frozenset[str], code: Code | None) -> None:  # noqa: ARG002 -- needs no code
        self._model()
        known = self._elements()
        if known and (missing := sorted(elements - known)):
            raise InputError(
                "path", f"{self.path} was not fitted to {', '.join(missing)}, only to {', '.join(sorted(known))}"
            )

    def theory(self, code: Code | None) -> Theory:  # noqa: ARG002 -- needs no code
        return Theory("model", {"content": _content(self._file(), _stamp(self._file()))})

    def label(self, frames: Frames, code: Code | None, workdir: Path, limits: Limits = UNLIMITED) -> Labelled:
        return kept(frames, self.theory(code), workdir, lambda chunk: self._label(chunk, limits))

    def _label(self, frames: Frames, limits: Limits = UNLIMITED) -> Labelled:
        """Labels and verdicts. No limit of time: a model takes milliseconds.

        Raises:
            ResourceError: halted.
        """
        verdicts = self._unfit(frames)
        good = np.flatnonzero([v.ok for v in verdicts])
        asked = frames.take(good)
        found, judged = self._judged(asked, self._predicted(asked, limits))
        if len(good) == len(frames):
            return found, judged
        labels = Labels.missing(frames, found.stress is not None)
        labels.energy[good], labels.forces[frames.atoms_of(good)] = found.energy, found.forces
        if labels.stress is not None:
            labels.stress[good] = found.stress
        for i, verdict in zip(good, judged, strict=True):
            verdicts[i] = verdict
        return labels, tuple(verdicts)

    def _predicted(self, frames: Frames, limits: Limits) -> Labels:
        parts, start, model = [], 0, self._model()
        while start < len(frames):
            if limits.halt():
                raise ResourceError("halted")
            size = int(np.searchsorted(frames.offsets, frames.offsets[start] + self.max_atoms, side="right")) - 1
            stop = max(start + 1, size)
            parts.append(model.predict(frames.take(range(start, stop)), stress=True))
            start = stop
        return Labels.concat(parts)

    def _unfit(self, frames: Frames) -> list[Verdict]:
        """What is wrong with each frame before the model sees it."""
        from ase.data import atomic_numbers, chemical_symbols

        known = np.array([atomic_numbers[s] for s in self._elements()], np.int64)
        strange = ~np.isin(frames.numbers, known) if len(known) else np.zeros(frames.n_atoms, np.bool_)
        verdicts = [Verdict(ok=True)] * len(frames)
        for i, f in enumerate(frames):
            atoms = strange[frames.offsets[i] : frames.offsets[i + 1]]
            names = sorted({chemical_symbols[z] for z in f.numbers[atoms]})
            if names:
                verdicts[i] = Verdict.bad(Cause.STRUCTURE, f"the model does not know {', '.join(names)}")
            elif not (np.isfinite(f.positions).all() and np.isfinite(f.cell).all()):
                verdicts[i] = Verdict.bad(Cause.STRUCTURE, "positions or cell are not finite")
        return verdicts

    def _judged(self, frames: Frames, labels: Labels) -> Labelled:
        """Rows of NaN and a reason where a prediction is not finite or absurd."""
        which = frames.frame_of_atom
        size = np.linalg.norm(labels.forces, axis=1)
        largest = np.maximum.reduceat(size, frames.offsets[:-1]) if len(frames) else np.zeros(0)
        verdicts = []
        for i in range(len(frames)):
            if not (np.isfinite(labels.energy[i]) and np.isfinite(largest[i])):
                verdicts.append(Verdict.bad(Cause.VALUE, "the model gave NaN or infinity"))
            elif largest[i] > self.max_force_eV_A:
                reason = f"largest force {largest[i]:.3g} eV/Å, more than {self.max_force_eV_A:g}"
                verdicts.append(Verdict.bad(Cause.VALUE, reason))
            else:
                verdicts.append(Verdict(ok=True))
        bad = np.array([not v.ok for v in verdicts], np.bool_)
        stress = None if labels.stress is None else np.where(bad[:, None, None], np.nan, labels.stress)
        forces = np.where(bad[which][:, None], np.nan, labels.forces)
        return Labels(np.where(bad, np.nan, labels.energy), forces, stress), tuple(verdicts)

    def _file(self) -> Path:
        """The manifest or foreign file that `path` stands for.

        Raises:
            InputError: it does not exist.
        """
        path = self.path / "model.json" if (self.path / "model.json").is_file() else self.path
        if not path.is_file():
            raise InputError("path", f"{self.path}: no such model", "give a model.json, or a file of a known potential")
        return path

    def _model(self) -> Model:
        path = self._file()
        return _loaded(os.getpid(), path, _stamp(path))

    def _elements(self) -> frozenset[str]:
        """Chemical symbols the model was fitted to; empty if it does not say."""
        path = self._file()
        if path.suffix == ".json":
            return frozenset(read_manifest(path).elements)
        return frozenset(getattr(self._model(), "elements", ()))


def _stamp(path: Path) -> tuple[int, int]:
    """Changes when a file is written anew, so that what is remembered of it is forgotten."""
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


@lru_cache(maxsize=2)
def _loaded(pid: int, path: Path, stamp: tuple[int, int]) -> Model:  # noqa: ARG001 -- a model is not shared with a fork
    return load_model(path)


@lru_cache(maxsize=8)
def _content(path: Path, stamp: tuple[int, int]) -> dict[str, object]:  # noqa: ARG001 -- of the file as it is now
    """What decides the model's numbers: settings and content of its files, never their place."""
    if path.suffix == ".json":
        manifest = read_manifest(path)
        fields = json.loads(json.dumps(dict(manifest.fields)))
        return {"kind": manifest.kind, "fields": fields, "files": [digest(f) for f in manifest.files]}
    companions = list(itertools.islice((p for p in path.parent.rglob("*") if p.is_file()), _MOST_FILES + 1))
    if len(companions) > _MOST_FILES:
        hint = "its networks are looked for beside it: put the model into a folder of its own"
        raise InputError("path", f"the folder of {path} holds more than {_MOST_FILES} files", hint)
    return {"file": digest(path), "files": sorted(digest(p) for p in companions)}
