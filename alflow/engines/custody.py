"""An outside program in custodian's care: errors are found and mended, but a correction never changes the label.

Custodian's handlers were written to bring a calculation to its end. Some do so by changing *which number* comes out:
another smearing, cutoff or k-point mesh gives a label of another level of theory, which must not slip into a dataset.
Here every correction is compared with what it did to the input files. If it touched only the *numerical path* (the
algorithm, mixing, number of cycles, restarts), it stands. If it is *label-changing*, the inputs are put back and the
calculation ends, unless the workflow allows that setting to change; the label then belongs to another theory.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import Any, Final

from custodian.custodian import (
    Custodian,
    CustodianError,
    ErrorHandler,
    Job,
    MaxCorrectionsError,
    MaxCorrectionsPerHandlerError,
    MaxCorrectionsPerJobError,
    NonRecoverableError,
    ReturnCodeError,
    ValidationError,
    Validator,
)

from alflow.core.labels import AGAIN, Cause
from alflow.engines.processes import FROM_OUTSIDE, Running
from alflow.errors import InfrastructureError

MAX_CORRECTIONS: Final = 8
"""Corrections of one calculation after which it is given up."""
_POLL_S: Final = 0.05
_LOOK_EVERY: Final = 20
"""Polls between two looks at the time limit."""
_MONITOR_S: Final = 30.0
"""Seconds between two looks of a program's own handlers at its output while it runs: they read whole files."""
_GRACE_S: Final = 30.0
"""Seconds that a program which was asked to stop by itself may take to leave what it needs to go on later."""
_MACHINE: Final = re.compile(
    r"no space left on device|disk quota exceeded|input/output error|stale (?:nfs )?file handle|read-only file system",
    re.IGNORECASE,
)
_DAMAGED: Final = (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError)
"""What reading a damaged output ends in."""

Settings = Mapping[str, Any]
"""Everything that decides a calculation, flat: ``INCAR.ALGO``, ``electrons.mixing_beta``, ``POSCAR``."""

logging.getLogger("custodian").setLevel(logging.CRITICAL)  # what it found comes back as data


@dataclass(frozen=True, slots=True)
class Rules:
    """Which settings a correction may change.

    Attributes:
        read: the settings in a folder's input files.
        files: names of the input files, which are put back when a correction is refused.
        on_path: whether a change of a setting, from a value to another (None: not set), changes only how the label is
            computed.
        allowed: settings that may change although they change the label, as the workflow says.
    """

    read: Callable[[Path], Settings]
    files: tuple[str, ...]
    on_path: Callable[[str, Any, Any], bool]
    allowed: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Attended:
    """How a calculation ended.

    Attributes:
        cause: what kind of thing kept it from ending well; None if it did.
        reason: in words; empty if it ended well.
        corrections: as in `Verdict.corrections`, those refused included (``refused: true``).
        changed: label-changing settings that were changed as allowed, with their new values.
        status: exit status of the program's last run, minus the signal's number where one ended it.
        seconds: wall time of all runs.
        runs: how often the program was started.
        halted: ended because the caller was told to stop.
    """

    cause: Cause | None
    reason: str
    corrections: tuple[Mapping[str, Any], ...]
    changed: Mapping[str, Any]
    status: int
    seconds: float
    runs: int
    halted: bool = False


class Program(Job):  # type: ignore[misc]  # custodian's classes are untyped here
    """One run of a program after another, each under the guard of `processes.Running`.

    A program that can be told to stop where it is and to leave what it needs to go on says so in `ask_to_stop`.

    Args:
        words: command line.
        env: environment.
        output: name of the log in the calculation's folder, written anew by every run.
    """

    def __init__(self, words: Sequence[str], env: Mapping[str, str], output: str) -> None:
        self.words, self.env, self.output = tuple(words), dict(env), output
        self.runs = self.status = 0
        self._running: Running | None = None

    def setup(self, directory: str = "./") -> None:
        """Nothing: the inputs are there."""

    def run(self, directory: str = "./") -> Popen[bytes]:
        self.end()
        folder = Path(directory)
        self.runs += 1
        running = self._running = Running(self.words, folder, folder / self.output, self.env)
        return running.guard

    def terminate(self, directory: str = "./") -> None:  # noqa: ARG002  custodian's signature
        self.end()

    def postprocess(self, directory: str = "./") -> None:
        """Nothing: the label is read by the labeler."""

    def ask_to_stop(self, folder: Path) -> bool:  # noqa: ARG002  for those who can
        """Ask what runs to stop by itself; whether it can be asked."""
        return False

    def end(self) -> None:
        """End what runs and keep its status."""
        running, self._running = self._running, None
        if running is not None:
            self.status = running.end()

    @property
    def at_work(self) -> bool:
        """Whether the program runs now."""
        return self._running is not None and self._running.guard.poll() is None

    @property
    def succeeded(self) -> bool:
        """Whether the last run ended with status 0."""
        return self.status == 0 if self._running is None else self._running.guard.poll() == 0

    def as_dict(self) -> dict[str, Any]:
        """For custodian.json; the environment may hold secrets and stays out."""
        return {"@module": type(self).__module__, "@class": type(self).__name__, "words": list(self.words)}


class _Clock(ErrorHandler):  # type: ignore[misc]
    """Ends a program whose time is up, or whose caller is told to stop; asks it first in the second case."""

    is_monitor = True

    def __init__(self, program: Program, seconds: float | None, halt: Callable[[], bool]) -> None:
        self._program, self._halt = program, halt
        self._began, self._limit = time.monotonic(), seconds
        self._patience = 0.0
        self.timed_out = self.halted = False

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def check(self, directory: str = "./") -> bool:
        if not self._program.at_work:
            return self.timed_out or (self.halted and not self._program.succeeded)
        asked = self.halted
        self.expired()
        if self.halted and not asked:
            self._patience = self.seconds + _GRACE_S if self._program.ask_to_stop(Path(directory)) else 0.0
        return self.timed_out or (self.halted and self.seconds > self._patience)

    def expired(self) -> bool:
        """Whether no other run may begin."""
        self.timed_out = self._limit is not None and self.seconds > self._limit
        self.halted = self.halted or (not self.timed_out and self._halt())
        return self.timed_out or self.halted

    def correct(self, directory: str = "./") -> dict[str, Any]:  # noqa: ARG002
        return {"errors": ["time" if self.timed_out else "halted"], "actions": None}

    def as_dict(self) -> dict[str, Any]:
        return {"@module": type(self).__module__, "@class": "Clock"}


class _LabelSafe(ErrorHandler):  # type: ignore[misc]
    """A handler whose corrections are held against the rules.

    A handler may have an attribute ``cause``, the `Cause` of a calculation that it finds no correction for.

    Attributes:
        story: its corrections, as in `Verdict.corrections`.
        changed: label-changing settings it changed as allowed.
    """

    raises_runtime_error = True

    def __init__(self, handler: ErrorHandler, rules: Rules, program: Program, log: _Log, clock: _Clock) -> None:
        self._handler, self._rules, self._program, self._log, self._clock = handler, rules, program, log, clock
        self.is_monitor, self.is_terminating = handler.is_monitor, handler.is_terminating
        self.max_num_corrections, self.raise_on_max = handler.max_num_corrections, handler.raise_on_max
        self.cause: Cause = getattr(handler, "cause", Cause.PROGRAM)
        self._looked = time.monotonic()
        self._blind = ""

    def check(self, directory: str = "./") -> bool:
        if self._program.at_work:
            if time.monotonic() - self._looked < _MONITOR_S:
                return False
            self._looked = time.monotonic()
        self._blind = ""
        try:
            return bool(self._handler.check(directory=directory))
        except _DAMAGED as exc:
            self._blind = f"{type(self._handler).__name__} cannot read the output: {type(exc).__name__}: {exc}"
            # what is being written may be read later; of a failed run its status says more
            return not self._program.at_work and self._program.succeeded

    def correct(self, directory: str = "./") -> dict[str, Any]:
        if self._clock.expired():  # what it would correct is not run again
            return {"errors": [type(self._handler).__name__], "actions": None}
        if self._blind:
            self.cause = Cause.OUTPUT
            self._log.entries.append({"handler": type(self._handler).__name__, "errors": [self._blind], "changes": {}})
            return {"errors": [self._blind], "actions": None}
        folder, rules = Path(directory), self._rules
        files = {n: (folder / n).read_bytes() for n in rules.files if (folder / n).is_file()}
        before = rules.read(folder)
        try:
            told = self._handler.correct(directory=directory)
        except _DAMAGED as exc:  # handlers read outputs that a failed run may not have written
            failed = f"{type(self._handler).__name__} failed: {type(exc).__name__}: {exc}"
            told = {"errors": [*getattr(self._handler, "errors", ()), failed], "actions": None}
        errors = sorted(str(e) for e in told.get("errors") or ())
        changes = _changes(before, rules.read(folder)) if told.get("actions") else {}
        new = [k for k, (old, now) in changes.items() if not rules.on_path(k, old, now)]
        refused = [k for k in new if k not in rules.allowed]
        entry = {"handler": type(self._handler).__name__, "errors": errors, "changes": changes}
        self._log.entries.append(entry | ({"refused": refused} if refused else {}))
        if refused:
            for name, content in files.items():
                (folder / name).write_bytes(content)
            return {"errors": errors, "actions": None}
        self._log.changed.update({k: changes[k][1] for k in new})
        return {"errors": errors, "actions": told.get("actions")}

    def as_dict(self) -> dict[str, Any]:
        return {"@module": type(self).__module__, "@class": type(self._handler).__name__}


@dataclass(slots=True)
class _Log:
    entries: list[dict[str, Any]] = field(default_factory=list)
    changed: dict[str, Any] = field(default_factory=dict)


def attend(
    program: Program,
    folder: Path,
    handlers: Iterable[ErrorHandler],
    validators: Iterable[Validator],
    rules: Rules,
    *,
    seconds: float | None = None,
    halt: Callable[[], bool] = lambda: False,
    max_corrections: int = MAX_CORRECTIONS,
) -> Attended:
    """Run `program` in `folder` until it ends well, or no safe correction is left, or its time is up.

    A validator may have an attribute ``reason``: why it refused, in words.

    Raises:
        InfrastructureError: the program could not be started, or was ended by a signal from outside.
    """
    log, clock = _Log(), _Clock(program, seconds, halt)
    safe = [_LabelSafe(h, rules, program, log, clock) for h in handlers]
    keeper = Custodian(
        [clock, *safe],
        [program],
        list(validators),
        max_errors=max_corrections + 1,
        polling_time_step=_POLL_S,
        monitor_freq=_LOOK_EVERY,
        directory=str(folder),
    )
    error: CustodianError | None = None
    try:
        keeper.run()
    except CustodianError as exc:
        error = exc
    finally:
        program.end()
    unrecovered = error is None and bool(keeper.run_log) and keeper.run_log[-1].get("handler") is not None
    cause, reason = _verdict(error, clock, log, program, unrecovered=unrecovered)
    halted = clock.halted and cause is not None
    return Attended(cause, reason, tuple(log.entries), log.changed, program.status, clock.seconds, program.runs, halted)


def _verdict(
    error: CustodianError | None, clock: _Clock, log: _Log, program: Program, *, unrecovered: bool
) -> tuple[Cause | None, str]:
    if error is None and not unrecovered:
        return None, ""
    if clock.timed_out or clock.halted:
        return Cause.TIME, f"{'ran out of time' if clock.timed_out else 'halted'} after {clock.seconds:.0f} s"
    last: dict[str, Any] = log.entries[-1] if log.entries else {"handler": "", "errors": [], "changes": {}}
    said = ", ".join(last["errors"]) or last["handler"]
    if last.get("refused") and (unrecovered or isinstance(error, NonRecoverableError)):
        wanted = ", ".join(f"{k} {shown(last['changes'][k])}" for k in last["refused"])
        return Cause.LABEL_CHANGING, f"{said}: mending it would change the label ({wanted})"
    if isinstance(error, MaxCorrectionsError | MaxCorrectionsPerJobError | MaxCorrectionsPerHandlerError):
        return Cause.UNCONVERGED, f"{said}: {len(log.entries)} corrections did not help"
    if isinstance(error, ReturnCodeError):
        return _ended(program)
    if isinstance(error, ValidationError):
        reason = getattr(error.validator, "reason", "")
        return Cause.OUTPUT, reason or f"its output is not valid ({type(error.validator).__name__})"
    cause = getattr(getattr(error, "handler", None), "cause", Cause.PROGRAM)
    if cause in AGAIN:
        return cause, said
    tried = sum(bool(e["changes"]) for e in log.entries)
    return cause, f"{said}: {f'{tried} corrections did not help' if tried else 'no correction is known'}"


def _ended(program: Program) -> tuple[Cause, str]:
    status = program.status
    if -status in FROM_OUTSIDE:
        raise InfrastructureError(f"{program.words[0]}: ended from outside by signal {-status}")
    if status == -9:
        return Cause.MEMORY, "was killed, most often for want of memory"
    if status < 0:
        return Cause.PROGRAM, f"ended by signal {-status}"
    return Cause.PROGRAM, f"ended with status {status}"


def blame_machine(cause: Cause | None, text: str, log: Path) -> None:
    """See that a failure is not of a file system that a program complains of in its output, `text`.

    Raises:
        InfrastructureError: it is.
    """
    if cause in {Cause.PROGRAM, Cause.OUTPUT} and (said := _MACHINE.search(text)):
        raise InfrastructureError(f"the machine failed: {said[0]}, see {log}")


def shown(change: Sequence[Any]) -> str:
    """``from 0.2 to 0.05`` of a change, long values (whole files) left out."""
    old, new = ("unset" if v is None else str(v) for v in change)
    return "" if max(len(old), len(new)) > 40 else f"from {old} to {new}"


def _changes(before: Settings, after: Settings) -> dict[str, list[Any]]:
    """Setting -> [before, after], None where it was not set."""
    keys = dict.fromkeys([*before, *after])
    return {k: [before.get(k), after.get(k)] for k in keys if before.get(k) != after.get(k)}
