"""Any ASE calculator in a child process under a guard: what it does to itself harms no one else.

The child makes the calculator once and computes one frame after the other, each in a folder of its own. A crash, a kill
or an endless loop is put down to the frame it happened at; the next one gets a new child.
"""

from __future__ import annotations

import errno
import json
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import numpy as np

from alflow.core.frames import Floats, Frames
from alflow.core.labels import Cause
from alflow.engines import _ase_child
from alflow.engines.mpi import child_environment
from alflow.engines.processes import FROM_OUTSIDE, Running
from alflow.errors import InfrastructureError, ResourceError

LOG: Final = "calculator.log"
"""What a calculator and its program print, in the folder of the frame."""
_POLL_S: Final = 0.5
_START_S: Final = 600.0
"""Longest that imports and the first making of a calculator may take: file systems can be slow, networks large."""
_MACHINE: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.EROFS}
)
_NOT_FOUND: Final = ("error code 126", "error code 127")
"""How ase says that the shell found no program."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What the child is told once.

    Attributes:
        calculator: dotted name of a class, or one of ase's short names.
        settings: its keyword arguments.
        reuse: keep one calculator for all frames.
        magmoms: initial magnetic moment of each element in Bohr magnetons.
        energy: ``free_energy`` where the calculator knows it, or ``energy``.
    """

    calculator: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    reuse: bool = False
    magmoms: Mapping[str, float] = field(default_factory=dict)
    energy: str = "free_energy"


@dataclass(frozen=True, slots=True)
class Introduction:
    """What a calculator turned out to be.

    Attributes:
        properties: names of what it can compute.
        problem: ``name``, ``import``, ``keyword``, ``settings`` or ``start``: where it failed; empty if it did not.
        said: the name or keyword at fault, or the error in words.
        known: names or keywords that would do.
    """

    properties: tuple[str, ...] = ()
    problem: str = ""
    said: str = ""
    known: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What the calculator made of one frame.

    Attributes:
        energy: eV.
        forces: eV/angstrom, (n_atoms, 3).
        stress: tension positive, eV/angstrom^3, (3, 3), or None if it was not asked for.
        cause: why there are none of these, or None.
        reason: the same in words.
    """

    energy: float = float("nan")
    forces: Floats | None = None
    stress: Floats | None = None
    cause: Cause | None = None
    reason: str = ""


class AseProcess:
    """One calculator in a child that is started when it is needed. Call `close` in any case.

    Args:
        setup: what to compute with.
        folder: where the child starts, and its log.
        python: the Python that has the calculator, with its arguments.
        env: additions to the environment.
    """

    def __init__(
        self,
        setup: Setup,
        folder: Path,
        python: Sequence[str] = (sys.executable,),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._setup, self._folder, self._python, self._env = setup, folder, tuple(python), dict(env or {})
        self._child: Running | None = None
        self._pipe: Connection | None = None

    @property
    def log(self) -> Path:
        """What the child said while it started."""
        return self._folder / "start.log"

    def close(self) -> int:
        """End the child and all it started; its exit status, or 0 if there is none."""
        pipe, self._pipe = self._pipe, None
        child, self._child = self._child, None
        if pipe is not None:
            pipe.close()
        return child.end() if child is not None else 0

    def introduction(self, halt: Callable[[], bool] = lambda: False) -> Introduction:
        """Start a new child and hear what it is.

        Raises:
            InfrastructureError: it could not be started.
            ResourceError: halted.
        """
        self.close()
        self._spawn()
        self._send(asdict(self._setup))
        heard = self._heard(_START_S, halt)
        if isinstance(heard, Answer):
            return Introduction(problem="start", said=f"{heard.reason}{_last_line(self.log)}")
        known = tuple(heard.get("known", ()))
        return Introduction(tuple(heard.get("properties", ())), heard.get("problem", ""), heard.get("said", ""), known)

    def answer(
        self, frame: Frames, folder: Path, *, stress: bool, seconds: float | None, halt: Callable[[], bool]
    ) -> Answer:
        """The label of one frame, computed in `folder`; its output is in `LOG` there.

        Raises:
            InfrastructureError: the machine failed, somebody ended the calculator, or it cannot be made any more.
            ResourceError: halted.
        """
        if self._pipe is None and (told := self.introduction(halt)).problem:
            raise InfrastructureError(f"{self._setup.calculator} does not start: {told.said}, see {self.log}")
        request = {
            "numbers": frame.numbers.tolist(),
            "positions": frame.positions.tolist(),
            "cell": frame.cell[0].tolist(),
            "pbc": frame.pbc[0].tolist(),
            "stress": stress,
            "folder": str(folder.absolute()),
            "log": LOG,
        }
        self._send(request)
        heard = self._heard(seconds, halt)
        if isinstance(heard, Answer):
            return heard
        if "said" in heard:  # the same failure reads the same in every folder
            heard["said"] = heard["said"].replace(f"{folder.absolute()}", "its folder")
        return _read(heard, frame.n_atoms, folder / LOG)

    def _spawn(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            words = [*self._python, "-u", _ase_child.__file__, str(theirs.fileno())]
            env = child_environment(self._env)
            self._child = Running(words, self._folder, self.log, env, [theirs.fileno()])
        self._pipe = Connection(ours.detach())

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._pipe is not None
        try:
            self._pipe.send_bytes(json.dumps(message).encode())
        except OSError:  # a child that just died is noticed when its answer is awaited
            return

    def _heard(self, seconds: float | None, halt: Callable[[], bool]) -> dict[str, Any] | Answer:
        """The next message, or how the child ended instead."""
        assert self._pipe is not None
        began = time.monotonic()
        try:
            while not self._pipe.poll(_wait(seconds, time.monotonic() - began)):
                if halt():
                    self.close()
                    raise ResourceError(f"halted after {time.monotonic() - began:.0f} s")
                if seconds is not None and time.monotonic() - began >= seconds:
                    self.close()
                    return Answer(cause=Cause.TIME, reason=f"ran out of time after {seconds:.3g} s")
            message: dict[str, Any] = json.loads(self._pipe.recv_bytes())
        except (EOFError, OSError):
            return _crash(self.close())
        return message


def _wait(seconds: float | None, spent: float) -> float:
    return _POLL_S if seconds is None else max(0.0, min(_POLL_S, seconds - spent))


def _crash(status: int) -> Answer:
    if -status in FROM_OUTSIDE:
        raise InfrastructureError(f"the calculator was ended from outside by signal {-status}")
    if status == -signal.SIGKILL:
        return Answer(cause=Cause.MEMORY, reason="was killed, most often for want of memory")
    if status < 0:
        return Answer(cause=Cause.PROGRAM, reason=f"crashed: ended by signal {-status}")
    return Answer(cause=Cause.PROGRAM, reason=f"ended the process it runs in, with status {status}")


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n") if log.is_file() else []
    said = [line.strip() for line in lines if line.strip()]
    return f" ({said[-1]})" if said else ""


# ---- what the child says -------------------------------------------------------------------------------------------


def _read(message: Mapping[str, Any], n_atoms: int, log: Path) -> Answer:
    """A label, or the kind of its failure.

    Raises:
        InfrastructureError: the machine failed.
    """
    if "error" in message:
        return _failed(message, log)
    forces, six = np.array(message["forces"], float), np.array(message.get("stress", ()), float)
    energy = np.array(message["energy"], float)
    if energy.size != 1 or forces.shape != (n_atoms, 3) or six.shape not in {(0,), (6,), (3, 3)}:
        shapes = f"energy {energy.shape}, forces {forces.shape}, stress {six.shape}"
        return Answer(cause=Cause.OUTPUT, reason=f"the calculator gave {shapes} for {n_atoms} atoms")
    stress = six[[[0, 5, 4], [5, 1, 3], [4, 3, 2]]] if six.shape == (6,) else six if six.size else None
    if not (np.isfinite(energy).all() and np.isfinite(forces).all() and np.isfinite(six).all()):
        return Answer(cause=Cause.VALUE, reason="the calculator gave NaN or infinity")
    return Answer(float(energy.item()), forces, stress)


def _failed(message: Mapping[str, Any], log: Path) -> Answer:
    said, kinds = str(message["said"]), message["error"]
    missing = "CalculationFailed" in kinds and any(w in said for w in _NOT_FOUND)
    full = "OSError" in kinds and message["errno"] in _MACHINE
    if missing or full or message["starting"] or "EnvironmentError" in kinds:
        raise InfrastructureError(f"the calculator cannot work on this machine: {said}, see {log}")
    return Answer(cause=_cause(kinds), reason=said)


def _cause(kinds: Sequence[str]) -> Cause:
    """What kind of failure an exception is, by the names of its classes: packages have their own of the same name."""
    if "SCFError" in kinds or any("converge" in k.lower() for k in kinds):
        return Cause.UNCONVERGED
    if "MemoryError" in kinds:
        return Cause.MEMORY
    if {"PropertyNotImplementedError", "PropertyNotPresent", "ReadError"} & set(kinds):
        return Cause.OUTPUT
    if {"NotImplementedError", "CalculatorSetupError"} & set(kinds):
        return Cause.STRUCTURE
    return Cause.PROGRAM
