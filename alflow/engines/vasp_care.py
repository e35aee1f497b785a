"""Custodian's jobs, handlers and validators of VASP, chosen for static labels, and which corrections are safe.

Of custodian's handlers these are left out, because a static label gives them nothing to mend:

* NonConvergingErrorHandler, DriftErrorHandler, PotimErrorHandler, IncorrectSmearingHandler look at ionic steps;
* LrfCommutatorHandler is for linear response, KspacingMetalHandler for mesh rules that are the user's to choose;
* WalltimeHandler, CheckpointHandler, StoppedRunHandler: `custody.attend` keeps the time, and asks VASP to stop.

The rest is in `handlers`.
"""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from custodian.custodian import ErrorHandler
from custodian.vasp import handlers as custodians
from custodian.vasp.jobs import VaspJob
from custodian.vasp.validators import VasprunXMLValidator
from pymatgen.io.vasp import Incar

from alflow.core.labels import Cause
from alflow.engines import custody, vasp_inputs, vasp_outputs, vasp_potcars, vasp_rules

LOG: Final = "vasp.out"
"""Standard output and standard error of VASP, together."""
_MEMORY: Final = re.compile(
    r"oom.?kill|out of memory|exceed memory limit|insufficient virtual memory|cannot allocate memory|"
    r"killed by signal:? 9|signal 9 \(Killed\)",
    re.IGNORECASE,
)
_TAIL_BYTES: Final = 100_000


def rules(allowed: frozenset[str]) -> custody.Rules:
    """What corrections of VASP may do."""
    return custody.Rules(vasp_inputs.read, vasp_inputs.INPUTS, vasp_rules.on_path, allowed)


class VaspProgram(custody.Program, VaspJob):  # type: ignore[misc]  # custodian's classes are untyped here
    """Runs of VASP, each under the guard of `engines.processes`; the POTCAR lies in the folder only while one runs.

    Args:
        words: command line of ``vasp_std``.
        gamma_words: of ``vasp_gam``, which is twice as fast where Gamma is the only k-point; or empty.
        env: environment.
        potcar: text of the joined POTCAR.
    """

    def __init__(self, words: Sequence[str], gamma_words: Sequence[str], env: Mapping[str, str], potcar: str) -> None:
        VaspJob.__init__(self, words, output_file=LOG, stderr_file=LOG, backup=False, auto_gamma=False)
        custody.Program.__init__(self, words, env, LOG)
        self._std, self._gamma, self._potcar = tuple(words), tuple(gamma_words), potcar

    def run(self, directory: str = "./") -> Any:
        folder = Path(directory)
        vasp_potcars.check_order((folder / "POSCAR").read_text(), self._potcar)
        for name in (vasp_outputs.VASPRUN, "STOPCAR"):  # an old one must not pass for the answer
            (folder / name).unlink(missing_ok=True)
        path = folder / vasp_potcars.POTCAR
        path.unlink(missing_ok=True)
        path.touch(0o600)
        path.write_text(self._potcar)
        only_gamma = vasp_inputs.grid_in(vasp_inputs.read(folder)["KPOINTS"]) == (1, 1, 1)
        self.words = self._gamma if self._gamma and only_gamma else self._std
        return super().run(directory)

    def ask_to_stop(self, folder: Path) -> bool:
        (folder / "STOPCAR").write_text("LABORT = .TRUE.\n")
        return True


class _Tidy(ErrorHandler):  # type: ignore[misc]
    """Before other handlers read and pack files, when VASP has ended: takes the POTCAR away, and makes the log text.

    Launchers and libraries print what is no UTF-8, which other handlers stumble over.
    """

    is_monitor = True

    def __init__(self, program: VaspProgram) -> None:
        self._program = program

    def check(self, directory: str = "./") -> bool:
        if not self._program.at_work:
            (Path(directory) / vasp_potcars.POTCAR).unlink(missing_ok=True)
            log = Path(directory) / LOG
            content = log.read_bytes()
            if (text := content.decode(errors="replace").encode()) != content:
                log.write_bytes(text)
        return False

    def correct(self, directory: str = "./") -> dict[str, Any]:  # noqa: ARG002
        return {"errors": [], "actions": None}


class VaspErrorHandler(custodians.VaspErrorHandler):  # type: ignore[misc]
    """The messages of VASP.

    Corrections that only mean something where atoms move are none here: they would run the same calculation again.
    """

    def correct(self, directory: str = "./") -> dict[str, Any]:
        poscar = Path(directory) / "POSCAR"
        content = poscar.read_bytes()
        told = dict(super().correct(directory=directory))
        actions = told["actions"] or []
        if any(a.get("file") == "CONTCAR" for a in actions):
            poscar.write_bytes(content)  # the same atoms with fewer digits
        tags = Incar.from_file(Path(directory) / "INCAR")
        restarts = tags.get("ICHARG") in {0, 1} or tags.get("ISTART", 0) > 0
        return told | {"actions": [a for a in actions if not _idle(a, restarts=restarts)] or None}


def _idle(action: Mapping[str, Any], *, restarts: bool) -> bool:
    """Whether an action changes nothing about a static calculation."""
    if "file" in action:
        return action["file"] == "CONTCAR" or not restarts  # deletes what is only read in a restart
    return set(action["action"].get("_set", {})) == {"POTIM"}


class UnconvergedErrorHandler(custodians.UnconvergedErrorHandler):  # type: ignore[misc]
    """Goes from algorithm to algorithm, then to softer mixing, and gives up where it would try the same again."""

    cause = Cause.UNCONVERGED

    def __init__(self) -> None:
        super().__init__()
        self._tried: list[dict[str, Any]] = []

    def correct(self, directory: str = "./") -> dict[str, Any]:
        path = Path(directory) / "INCAR"
        self._tried.append(dict(Incar.from_file(path)))
        told = dict(super().correct(directory=directory))
        return told | {"actions": None} if dict(Incar.from_file(path)) in self._tried else told


class FrozenJobErrorHandler(custodians.FrozenJobErrorHandler):  # type: ignore[misc]
    """Starts a run that hangs once more with the normal algorithm; one that hangs with it is the machine's."""

    cause = Cause.TIME


class PositiveEnergyErrorHandler(custodians.PositiveEnergyErrorHandler):  # type: ignore[misc]
    """Asks again, of the safest algorithm, where the energy is positive.

    It is right for squeezed atoms, or the sign of a loop gone astray: what the safe algorithm says is the label.
    """

    def check(self, directory: str = "./") -> bool:
        if not super().check(directory=directory):
            return False
        algo = str(Incar.from_file(Path(directory) / "INCAR").get("ALGO", "Normal")).lower()
        return algo not in {"normal", "n", "all", "a"}


class _ValidRun(VasprunXMLValidator):  # type: ignore[misc]
    """Refuses a run without a whole ``vasprun.xml``, and says why; where VASP failed, its exit status says more.

    Attributes:
        reason: why, in words.
    """

    def __init__(self, program: VaspProgram) -> None:
        super().__init__(output_file=LOG, stderr_file=LOG)
        self._program, self.reason = program, ""

    def check(self, directory: str = "./") -> bool:
        if not self._program.succeeded:
            return False
        run = vasp_outputs.load(Path(directory) / vasp_outputs.VASPRUN)
        self.reason = run.reason if isinstance(run, vasp_outputs.Refusal) else ""
        return bool(self.reason)


def handlers(program: VaspProgram, tags: Mapping[str, Any], allowed: frozenset[str], frozen_s: float) -> list[Any]:
    """Custodian's handlers for a static label.

    Args:
        program: what they watch.
        tags: the INCAR's.
        allowed: settings that may change although they change the label.
        frozen_s: seconds without a word after which VASP hangs.
    """
    chosen = [_Tidy(program), VaspErrorHandler(LOG), custodians.StdErrHandler(LOG)]
    chosen += [UnconvergedErrorHandler(), PositiveEnergyErrorHandler()]
    chosen.append(FrozenJobErrorHandler(LOG, timeout=frozen_s))
    if int(tags.get("ISYM", 2)) > 0:  # without symmetry VASP's complaint about the mesh means nothing
        chosen.append(custodians.MeshSymmetryErrorHandler(LOG))
    if str(tags.get("PREC", "Normal")).lower().startswith("a"):  # at a coarser PREC aliasing is what was asked for
        chosen.append(custodians.AliasingErrorHandler(LOG))
    if "SIGMA" in allowed:  # else a large entropy is of the theory, and its free energy and forces agree all the same
        chosen.append(custodians.LargeSigmaHandler())
    return chosen


def validators(program: VaspProgram) -> list[Any]:
    """Custodian's validators for a static label."""
    return [_ValidRun(program)]


def cause_of(cause: Cause, folder: Path) -> Cause:
    """`cause`, or that memory ran out, where the log has it from VASP, the kernel or the MPI launcher.

    Raises:
        InfrastructureError: a file system failed.
    """
    if cause not in {Cause.PROGRAM, Cause.OUTPUT}:
        return cause
    with (folder / LOG).open("rb") as log:
        log.seek(max(0, (folder / LOG).stat().st_size - _TAIL_BYTES))
        tail = log.read().decode(errors="replace")
    custody.blame_machine(cause, tail, folder / LOG)
    return Cause.MEMORY if cause is Cause.PROGRAM and _MEMORY.search(tail) else cause


class Deadline:
    """Asks a run to stop when it is told to, or shortly before its time is up, so that it leaves what it has.

    Attributes:
        told: it was told to.
        passed: it asks.
    """

    def __init__(self, seconds: float | None, halt: Any, grace_s: float) -> None:
        self._ends = None if seconds is None else time.monotonic() + max(0.0, seconds - grace_s)
        self._halt = halt
        self.told = self.passed = False

    def __call__(self) -> bool:
        self.told = self.told or self._halt()
        self.passed = self.told or (self._ends is not None and time.monotonic() > self._ends)
        return self.passed


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of custodian and pymatgen: what they find comes back as data."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
