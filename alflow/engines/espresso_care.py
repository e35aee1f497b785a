"""What goes wrong in ``pw.x``, and custodian's handlers for it.

Each ending has one diagnosis, so no two handlers correct the same run. All but the last step of `SelfConsistency`
change only the numerical path; that one doubles the smearing, which changes the label: `custody` refuses it unless the
workflow allows it.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from subprocess import Popen
from typing import Any, ClassVar, Final

import numpy as np
from custodian.custodian import ErrorHandler, Validator

from alflow.core.labels import Cause
from alflow.engines.custody import Program
from alflow.engines.espresso import LOG, PREFIX, SCHEMA, Asked, PwResult, read_schema, sound_density
from alflow.engines.espresso_input import change, read_settings
from alflow.errors import DataError

CRASH: Final = "CRASH"
"""Where each rank writes why it stopped; what others than the first print may be lost."""
_ERROR: Final = re.compile(
    r"(?:Error in routine\s+(?P<new>[^\n(]*?)\s*\(\s*-?\d+\):?|from\s+(?P<old>\S+)\s*:\s*error\s*#\s*-?\d+)"
    r"[ \t]*\n\s*(?P<said>[^\n]*)"
)
_RUNTIME: Final = re.compile(r"(?:Fortran runtime error|forrtl: severe \(\d+\)): ([^\n]*)")
_UNCONVERGED: Final = re.compile(r"convergence NOT achieved after\s+(\d+)")
_ACCURACY: Final = re.compile(r"estimated scf accuracy\s+<\s+(\S+) Ry")
_STOPPED: Final = ("Maximum CPU time exceeded", "Program stopped by user request")
_MEMORY: Final = re.compile(
    r"cannot allocate|not enough memory|insufficient (?:virtual )?memory|out of memory|oom.?kill|std::bad_alloc"
    r"|allocation would exceed memory|signal 9 \(killed\)|cgroup out-of-memory",
    re.IGNORECASE,
)
_DIAGONALIZATION: Final = re.compile(
    r"problems computing cholesky|S matrix not positive definite|too many bands are not converged"
    r"|diagonali[sz]ation failed|eigenvectors failed to converge|(?:p?[cr]diaghg|[cr]egterg|c_bands)\b",
    re.IGNORECASE,
)
_PSEUDO: Final = re.compile(r"\b(?:readpp|read_upf\w*|upf_\w*|read_pseudo\w*)\b", re.IGNORECASE)
_DEFAULT_BETA: Final = 0.7
_DEFAULT_STEPS: Final = 100


class Trouble(StrEnum):
    """Ways in which ``pw.x`` ends without a label."""

    STOPPED = "stopped"
    """Cleanly, by its own clock or because it was asked to."""
    MEMORY = "memory"
    PSEUDO = "pseudopotential"
    OVERLAP = "overlap"
    DIAGONALIZATION = "diagonalization"
    UNCONVERGED = "unconverged"
    ERROR = "error"
    """Any other error it reports."""


def diagnose(text: str) -> tuple[Trouble, str] | None:
    """What went wrong, by the output, and in words; None where it reports no error."""
    error, runtime = _ERROR.search(text), _RUNTIME.search(text)
    if _MEMORY.search(text) and "JOB DONE." not in text:  # an MPI that warns at its start is none
        return Trouble.MEMORY, "not enough memory"
    if error:
        routine, said = error["new"] or error["old"], error["said"].strip()
        words = f"pw.x: error in {routine}: {said}"
        if "overlap" in said and routine == "check_atoms":
            return Trouble.OVERLAP, words
        for pattern, trouble in ((_PSEUDO, Trouble.PSEUDO), (_DIAGONALIZATION, Trouble.DIAGONALIZATION)):
            if pattern.search(f"{routine} {said}"):
                return trouble, words
        return Trouble.ERROR, words
    if runtime:
        return Trouble.ERROR, f"pw.x: {runtime[1].strip()}"
    if cycles := _UNCONVERGED.search(text):
        return Trouble.UNCONVERGED, f"not self-consistent after {cycles[1]} cycles"
    if any(words in text for words in _STOPPED):
        return Trouble.STOPPED, "stopped by its clock" if _STOPPED[0] in text else "stopped as asked"
    return None


def bad_words(text: str) -> bool:
    """Whether ``pw.x`` did not understand its namelists, which are the same for all structures."""
    error = _ERROR.search(text)
    return error is not None and (error["new"] or error["old"]) in {"read_namelists", "set_dft_from_name"}


def stopped_cleanly(text: str) -> bool:
    """Whether ``pw.x`` has left all that ``restart_mode = 'restart'`` needs."""
    found = diagnose(text)
    return found is not None and found[0] is Trouble.STOPPED and "JOB DONE." in text


class PwProgram(Program):
    """``pw.x``: it stops by itself a little before its time is up, and when asked to.

    Args:
        words: command line.
        env: environment.
        outdir: its scratch folder.
        seconds: wall time of all runs together, or None.
    """

    def __init__(self, words: Sequence[str], env: Mapping[str, str], outdir: Path, seconds: float | None) -> None:
        super().__init__(words, env, LOG)
        self._exit = outdir / f"{PREFIX}.EXIT"
        self._seconds, self._began = seconds, time.monotonic()

    def run(self, directory: str = "./") -> Popen[bytes]:
        """Start it with what is left of the time, less what it takes to write its state."""
        for old in (self._exit, Path(directory) / CRASH):
            old.unlink(missing_ok=True)
        if self._seconds is not None:
            left = self._seconds - (time.monotonic() - self._began)
            spare = min(30.0, max(1.0, 0.05 * self._seconds))
            change(Path(directory), {"control.max_seconds": round(max(left - spare, 0.5 * left, 0.1), 2)})
        return super().run(directory)

    def ask_to_stop(self, folder: Path) -> bool:  # noqa: ARG002
        self._exit.touch()
        return True


class _Handler(ErrorHandler):  # type: ignore[misc]  # custodian's classes are untyped here
    """A handler of some diagnoses, which gives up unless it overrides `steps`.

    Args:
        outdir: scratch folder of ``pw.x``.
    """

    troubles: ClassVar[frozenset[Trouble]]
    cause: ClassVar[Cause] = Cause.PROGRAM
    is_monitor = False

    def __init__(self, outdir: Path) -> None:
        self.outdir = outdir
        self.text = self.said = ""

    def check(self, directory: str = "./") -> bool:
        self.text = output(Path(directory))
        found = diagnose(self.text)
        self.said = found[1] if found else ""
        return found is not None and found[0] in self.troubles

    def correct(self, directory: str = "./") -> dict[str, Any]:
        folder = Path(directory)
        changes = self.steps(read_settings(folder))
        if changes is None:
            return {"errors": [self.said], "actions": None}
        density = _descended(self.text) and sound_density(self.outdir)
        start = {
            "control.restart_mode": None,
            "electrons.startingpot": "file" if density else None,
            "electrons.startingwfc": None,
        }
        change(folder, start | changes)
        return {"errors": [self.said], "actions": [{"input": "pw.in", "set": changes}]}

    def steps(self, settings: Mapping[str, Any]) -> dict[str, Any] | None:  # noqa: ARG002  for those who have some
        """The settings to change next, or None if nothing is left to try."""
        return None


class Stopped(_Handler):
    """It stopped in time to go on later."""

    troubles = frozenset({Trouble.STOPPED})
    cause = Cause.TIME


class OutOfMemory(_Handler):
    """It could not have the memory it wanted."""

    troubles = frozenset({Trouble.MEMORY})
    cause = Cause.MEMORY


class Overlap(_Handler):
    """Two atoms are on one spot."""

    troubles = frozenset({Trouble.OVERLAP})
    cause = Cause.CONTACT


class OtherError(_Handler):
    """An error that no correction is known for, unless what it started from is at fault: then once from scratch."""

    troubles = frozenset({Trouble.ERROR, Trouble.PSEUDO})

    def steps(self, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        goes_on = settings.get("control.restart_mode") == "restart" or settings.get("electrons.startingpot") == "file"
        return {} if goes_on and "iteration #" not in self.text else None


class Diagonalization(_Handler):
    """Davidson's method broke down: conjugate gradients are slower and hardly ever do."""

    troubles = frozenset({Trouble.DIAGONALIZATION})

    def __init__(self, outdir: Path) -> None:
        super().__init__(outdir)
        self._left: list[dict[str, Any]] = [
            {"electrons.diagonalization": "cg"},
            {"electrons.diagonalization": "ppcg"},
            {"electrons.diagonalization": "david", "electrons.diago_david_ndim": 4, "electrons.mixing_beta": 0.3},
        ]

    def steps(self, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        while self._left:
            changes = self._left.pop(0)
            if any(settings.get(k) != v for k, v in changes.items()):
                return changes
        return None


class SelfConsistency(_Handler):
    """More cycles while it converges, then more cautious mixing, then another diagonalization, then more smearing.

    Args:
        outdir: scratch folder of ``pw.x``.
        inhomogeneous: the cell holds much vacuum, where local Thomas-Fermi screening mixes better.
    """

    troubles = frozenset({Trouble.UNCONVERGED})
    cause = Cause.UNCONVERGED

    def __init__(self, outdir: Path, *, inhomogeneous: bool = False) -> None:
        super().__init__(outdir)
        self._screened = {"electrons.mixing_mode": "local-TF"} if inhomogeneous else {}
        self._extended = self._smeared = False

    def steps(self, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        cycles = int(settings.get("electrons.electron_maxstep", _DEFAULT_STEPS))
        beta = float(settings.get("electrons.mixing_beta", _DEFAULT_BETA))
        more = "electrons.electron_maxstep"
        if not self._extended and _converging(self.text):
            self._extended = True
            return {more: max(2 * cycles, _DEFAULT_STEPS)}
        for gentler in (0.3, 0.1):
            if beta > gentler:
                return {"electrons.mixing_beta": gentler, more: max(cycles, 2 * _DEFAULT_STEPS), **self._screened}
        if settings.get("electrons.diagonalization", "david") != "cg":
            return {"electrons.diagonalization": "cg"}
        degauss = settings.get("system.degauss")
        if degauss and not self._smeared:
            self._smeared = True
            return {"system.degauss": 2 * float(degauss)}
        return None


class SoundOutput(Validator):  # type: ignore[misc]
    """The output is whole, converged, and of the structure that was asked for.

    Args:
        program: what wrote it.
        outdir: its scratch folder.
        asked: what was asked for.

    Attributes:
        reason: what is wrong with it.
        result: what it holds, if it is sound.
    """

    def __init__(self, program: Program, outdir: Path, asked: Asked) -> None:
        self._program, self._outdir, self._asked = program, outdir, asked
        self.reason = ""
        self.result: PwResult | None = None

    def check(self, directory: str = "./") -> bool:
        if not self._program.succeeded:
            return False  # its status says more
        if "JOB DONE." not in output(Path(directory)):
            self.reason = f"{LOG} is cut off before its end"
            return True
        try:
            self.result = read_schema(self._outdir / SCHEMA, self._asked)
        except DataError as exc:
            self.reason = str(exc)
        return self.result is None

    def as_dict(self) -> dict[str, Any]:
        """For custodian.json."""
        return {"@module": type(self).__module__, "@class": type(self).__name__, "reason": self.reason}


def handlers(outdir: Path, *, inhomogeneous: bool) -> list[_Handler]:
    """The handlers of one calculation."""
    simple = [kind(outdir) for kind in (Stopped, OutOfMemory, Overlap, OtherError, Diagonalization)]
    return [*simple, SelfConsistency(outdir, inhomogeneous=inhomogeneous)]


def output(folder: Path) -> str:
    """What was printed, and what the ranks say of their end."""
    text = ""
    for name in (LOG, CRASH):
        with contextlib.suppress(OSError):
            text += (folder / name).read_text(encoding="utf-8", errors="replace")
    return text


def _accuracies(text: str) -> list[float]:
    """Estimated error of each cycle in Ry; NaN where it is not a number."""
    found = []
    for word in _ACCURACY.findall(text):
        try:
            found.append(float(word))
        except ValueError:  # asterisks
            found.append(float("nan"))
    return found


def _descended(text: str) -> bool:
    """Whether the last density is nearer to self-consistency than the first."""
    errors = _accuracies(text)
    return len(errors) > 1 and bool(np.isfinite(errors).all()) and errors[-1] < errors[0]


def _converging(text: str) -> bool:
    """Whether the second half of the cycles brought it ten times nearer."""
    errors = _accuracies(text)
    return _descended(text) and errors[-1] < 0.1 * errors[len(errors) // 2 - 1]
