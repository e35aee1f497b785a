"""Outside programs that never outlive us: own session, time limit, log.

A program runs under a small guard (`_guard.py`) that holds one end of a pipe. When the pipe closes, because we were
told to stop, ran out of time, or were killed by whatever signal, the guard ends every process of its session: first
politely, so that an MPI launcher can end its ranks, then by force.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from alflow.engines import _guard
from alflow.errors import InfrastructureError

FROM_OUTSIDE: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGXCPU})
"""Signals that somebody sends (a scheduler, an operator): no program raises them over a structure."""
_POLL_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended.

    Attributes:
        status: its exit status; minus the signal's number where a signal ended it.
        seconds: wall time it ran.
        timed_out: it was ended because its time was up.
        halted: it was ended because the caller was told to stop.
    """

    status: int
    seconds: float
    timed_out: bool = False
    halted: bool = False


class Running:
    """A program at work. Nothing of it outlives this object: call `end` in any case."""

    def __init__(
        self, words: Sequence[str], folder: Path, log: Path, env: Mapping[str, str], pass_fds: Sequence[int] = ()
    ) -> None:
        """Start it in `folder`, its output in `log`, its input closed; it inherits `pass_fds`, under their numbers.

        Raises:
            InfrastructureError: it could not be started.
        """
        self.name, self.log, self._began = words[0], log, time.monotonic()
        guard, pipe = _start(words, folder, log, env, pass_fds)
        self.guard: subprocess.Popen[bytes] = guard
        self._pipe: int | None = pipe

    @property
    def seconds(self) -> float:
        """Wall time since it was started."""
        return time.monotonic() - self._began

    def end(self) -> int:
        """End whatever still runs of it; its exit status, minus the signal's number where a signal ended it.

        Raises:
            InfrastructureError: it had not started.
        """
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None
        status = self.guard.wait()
        if status == _guard.NOT_STARTED:
            raise InfrastructureError(f"{self.name}: cannot be started, see {self.log}")
        return 128 - status if 128 < status < 128 + signal.NSIG else status


def run(
    words: Sequence[str],
    folder: Path,
    log: Path,
    env: Mapping[str, str],
    max_seconds: float | None = None,
    halt: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Run a program to its end.

    Raises:
        InfrastructureError: it could not be started.
    """
    program = Running(words, folder, log, env)
    timed_out = halted = False
    try:
        while program.guard.poll() is None and not (timed_out or halted):
            left = _POLL_S if max_seconds is None else max_seconds - program.seconds
            with contextlib.suppress(subprocess.TimeoutExpired):
                program.guard.wait(max(0.0, min(_POLL_S, left)))
            if program.guard.returncode is None:
                timed_out, halted = left <= 0, halt()
    finally:
        status = program.end()
    return Outcome(status, program.seconds, timed_out, halted)


def _start(
    words: Sequence[str], folder: Path, log: Path, env: Mapping[str, str], pass_fds: Sequence[int]
) -> tuple[subprocess.Popen[bytes], int]:
    """The running guard and our end of its pipe."""
    theirs, ours = os.pipe()
    try:
        with log.open("wb") as out:
            guard = subprocess.Popen(
                [sys.executable, "-I", "-S", _guard.__file__, ",".join(map(str, (theirs, *pass_fds))), *words],
                cwd=folder,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(theirs, *pass_fds),
            )
    except OSError as exc:
        os.close(ours)
        raise InfrastructureError(f"{words[0]}: cannot be started: {exc}") from exc
    finally:
        os.close(theirs)
    return guard, ours
