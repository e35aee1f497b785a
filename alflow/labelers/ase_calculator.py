"""Labels from any ASE calculator: the door for users of other codes."""

from __future__ import annotations

import math
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import field, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from alflow.core.frames import Frames
from alflow.core.labels import Cause, Labels, Theory, Verdict
from alflow.engines.ase_process import LOG, AseProcess, Introduction, Setup
from alflow.errors import InfrastructureError, InputError, ResourceError
from alflow.interfaces import UNLIMITED, Code, Limits, part
from alflow.store.files import digest
from alflow.store.kept import Labelled, kept_each
from alflow.validation import suggestion

_NAME: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_NOT_THEORY: Final = frozenset({"command", "directory", "label", "txt", "debug"})
"""Settings that say where and how a calculator runs, never what it computes."""
_REFUSED: Final = {
    "atoms": "the frames come from alflow",
    "restart": "a label must not depend on an earlier calculation",
}


@part
class Part:
    """Energies, forces and stress of an ASE calculator, in a process of its own that a crash does not leave.

    Naming a class runs the code of its module, as importing it in Python would: name only what you trust. It must be a
    subclass of ``ase.calculators.calculator.BaseCalculator`` that Python finds without the current folder. Programs
    behind a calculator are configured as ASE wants it, by its configuration file or ``settings: {command: ...}``.

    Attributes:
        calculator: dotted name of a class, such as ``ase.calculators.emt.EMT``, or one of ASE's short names, such as
            ``emt``, ``gpaw``, ``cp2k``.
        settings: its keyword arguments.
        files: files that `settings` name: a text in `settings` that is the name of one of them stands for its path,
            and its content is part of the theory.
        elements: chemical symbols it may be asked for; empty for any.
        energy: ``free_energy`` is the energy that forces and stress are the derivatives of; calculators that know only
            one energy give that. ``energy`` is what ASE calls the energy: for metals most codes extrapolate it to zero
            smearing, and forces are not its derivative.
        stress: ask for the stress of frames that are periodic in all directions.
        moments_muB: initial magnetic moment of each element in Bohr magnetons, such as ``{Fe: 2.2}``.
        reuse: keep one calculator for all frames of a task, for those that take long to make, such as neural networks.
            By default every frame gets a new one, so that a label never depends on what was computed before.
        version_note: whatever else decides the numbers, such as the version of a model or the name of a
            pseudopotential library; part of the theory.
        max_seconds: longest a frame may take.
        code: entry of the site file's ``codes:`` whose ``env`` and ``scratch`` the calculator gets, and whose
            ``command``, if any, is the Python that has it; empty for none.
    """

    calculator: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    elements: tuple[str, ...] = ()
    energy: Literal["free_energy", "energy"] = "free_energy"
    stress: bool = True
    moments_muB: Mapping[str, float] = field(default_factory=dict)
    reuse: bool = False
    version_note: str = ""
    max_seconds: float = 3600.0
    code: str = ""

    def check(self, elements: frozenset[str], code: Code | None) -> None:
        self._check_fields(elements, code)
        with tempfile.TemporaryDirectory(prefix="alflow-ase-") as folder:
            process = AseProcess(self._setup(), Path(folder), *_python(code))
            try:
                told = process.introduction()
            finally:
                process.close()
        self._check_introduction(told)

    def theory(self, code: Code | None) -> Theory:  # noqa: ARG002 -- where it runs is no theory
        content = {str(f.absolute()): f"{f.name}:{digest(f)}" for f in self._files()}
        content |= self._in_folders()
        settings = {k: v for k, v in self.settings.items() if k not in _NOT_THEORY}
        return Theory(
            "ase",
            {
                "calculator": self.calculator,
                "settings": _mapped(self._resolved(settings), content),
                "energy": self.energy,
                **({"moments_muB": dict(self.moments_muB)} if self.moments_muB else {}),
                **({"version_note": self.version_note} if self.version_note else {}),
            },
        )

    def label(self, frames: Frames, code: Code | None, workdir: Path, limits: Limits = UNLIMITED) -> Labelled:
        cap = self.max_seconds if limits.seconds is None else min(limits.seconds, self.max_seconds)
        limits = replace(limits, seconds=cap)
        place = code.scratch if code is not None and code.scratch else workdir
        with _private(place.absolute()) as home:
            process = AseProcess(self._setup(), home, *_python(code))
            try:
                return kept_each(
                    frames, self.theory(code), workdir, lambda frame: self._one(process, frame, home, limits)
                )
            finally:
                process.close()

    # ---- one frame ----

    def _one(self, process: AseProcess, frame: Frames, home: Path, limits: Limits) -> Labelled:
        labels = Labels.missing(frame, self.stress)
        if reason := self._unfit(frame):
            return labels, (Verdict.bad(Cause.STRUCTURE, reason),)
        folder, began = home / frame.ids()[0], time.monotonic()
        folder.mkdir(mode=0o700, exist_ok=True)
        asked = self.stress and bool(frame.pbc.all())
        try:
            answer = process.answer(frame, folder, stress=asked, seconds=limits.seconds, halt=limits.halt)
        except ResourceError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        seconds = time.monotonic() - began
        log = folder / LOG
        if answer.cause is None or not (log.is_file() and log.stat().st_size):
            shutil.rmtree(folder, ignore_errors=True)
        if answer.cause is not None:
            shown = log if log.is_file() else ""
            return labels, (Verdict.bad(answer.cause, answer.reason, shown, seconds=seconds),)
        assert answer.forces is not None
        stress = answer.stress[None] if answer.stress is not None else labels.stress
        return Labels(np.array([answer.energy]), answer.forces, stress), (Verdict(ok=True, seconds=seconds),)

    def _unfit(self, frame: Frames) -> str:
        """Why the calculator is not asked for this frame, or empty."""
        from ase.data import chemical_symbols

        if not (np.isfinite(frame.positions).all() and np.isfinite(frame.cell).all()):
            return "positions or cell are not finite"
        symbols = {chemical_symbols[z] for z in frame.numbers}
        if self.elements and (unknown := sorted(symbols - set(self.elements))):
            return f"the calculator is not for {', '.join(unknown)}"
        vectors = frame.cell[0][frame.pbc[0]]
        if len(vectors) and np.linalg.matrix_rank(vectors, tol=1e-3) < len(vectors):
            return "the periodic lattice vectors span no volume"
        return ""

    # ---- settings ----

    def _setup(self) -> Setup:
        return Setup(self.calculator, self._resolved(self.settings), self.reuse, self.moments_muB, self.energy)

    def _resolved(self, settings: Mapping[str, Any]) -> Any:
        return _mapped(settings, {f.name: str(f.absolute()) for f in self.files})

    def _files(self) -> list[Path]:
        """Every file that decides the numbers: `files`, and absolute paths in `settings`."""
        named = (Path(v) for v in _texts(self.settings) if v.startswith("/"))
        return [*self.files, *(p for p in named if p.is_file())]

    def _in_folders(self) -> dict[str, str]:
        """Of absolute folders in `settings`: what stands for them, and for the files there that other settings name.

        A folder of which nothing is named stands for itself: what is in it may decide.
        """
        texts, found = set(_texts(self.settings)), dict[str, str]()
        for place in (v for v in texts if v.startswith("/") and Path(v).is_dir()):
            folder = Path(place)
            files = [folder / v for v in texts if v and not v.startswith("/") and (folder / v).is_file()]
            if files:
                found |= {str(f.relative_to(folder)): f"{f.name}:{digest(f)}" for f in files} | {place: "folder"}
        return found

    def _check_fields(self, elements: frozenset[str], code: Code | None) -> None:
        if not _NAME.fullmatch(self.calculator):
            hint = "such as ase.calculators.emt.EMT, or one of ase's short names such as emt"
            raise InputError("calculator", f"is no dotted name of a class: {self.calculator!r}", hint)
        for word in self.settings:
            if word in _REFUSED:
                raise InputError(f"settings.{word}", f"cannot be set: {_REFUSED[word]}")
        for file in self.files:
            if not file.is_file():
                raise InputError("files", f"the file {file} does not exist")
            if file.name not in set(_texts(self.settings)):
                raise InputError("files", f"{file.name} is named nowhere in settings", f"write {file.name!r} there")
        if self.elements and (missing := sorted(elements - set(self.elements))):
            raise InputError("elements", f"has no {', '.join(missing)}, only {', '.join(self.elements)}")
        if not 0 < self.max_seconds < math.inf:
            raise InputError("max_seconds", f"expected a number > 0, got {self.max_seconds}")
        if code is not None and code.launcher:
            hint = "put the launcher into the calculator's own command"
            raise InputError(f"codes.{code.name}.launcher", "cannot be used: the calculator starts its program", hint)

    def _check_introduction(self, told: Introduction) -> None:
        if told.problem == "keyword":
            where, hint = f"settings.{told.said}", suggestion(told.said, told.known)
            raise InputError(where, f"is no keyword of {self.calculator}", hint)
        if told.problem == "name":
            raise InputError("calculator", told.said, suggestion(self.calculator.rpartition(".")[2], told.known))
        if told.problem == "import":
            hint = "install its package where alflow runs, or name the Python that has it in codes of the site file"
            raise InputError("calculator", f"{self.calculator} cannot be imported: {told.said}", hint)
        if told.problem:
            raise InputError("settings", f"{self.calculator} refuses them: {told.said}", "try them in Python")
        if missing := {"energy", "forces"} - set(told.properties):
            raise InputError("calculator", f"{self.calculator} computes no {', '.join(sorted(missing))}")
        if self.stress and "stress" not in told.properties:
            raise InputError("stress", f"{self.calculator} computes no stress", "write stress: false")


@contextmanager
def _private(place: Path) -> Iterator[Path]:
    """A folder that only we may read; the logs of what failed in it stay, the rest is removed."""
    place.mkdir(parents=True, exist_ok=True)
    home, keep = Path(tempfile.mkdtemp(prefix="ase-", dir=place)), False
    try:
        yield home
    except InfrastructureError:  # it says where its log is
        keep = True
        raise
    finally:
        if not keep and not any(p.is_dir() for p in home.iterdir()):
            shutil.rmtree(home, ignore_errors=True)


def _python(code: Code | None) -> tuple[tuple[str, ...], Mapping[str, str]]:
    """The Python to start, and its environment."""
    if code is None:
        return (sys.executable,), {}
    return code.command or (sys.executable,), code.env


def _texts(value: Any) -> Iterator[str]:
    """Every text in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _mapped(value: Any, words: Mapping[str, str]) -> Any:
    """A JSON value with texts replaced as `words` say."""
    if isinstance(value, str):
        return words.get(value, value)
    if isinstance(value, Mapping):
        return {k: _mapped(v, words) for k, v in value.items()}
    return [_mapped(v, words) for v in value] if isinstance(value, list | tuple) else value
