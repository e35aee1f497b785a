"""Runs one program and ends all of it when the pipe to whoever asked for it closes; see `alflow.engines.processes`.

Needs the standard library only: it is started by its path, without site packages, for every calculation.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Final

NOT_STARTED: Final = 253
_GRACE_S: Final = 5.0
_PR_SET_CHILD_SUBREAPER: Final = 36


def main() -> int:
    """``_guard.py FD[,FD...] WORD...``: the exit status of the program, 128 + n if signal n ended it.

    The first descriptor is the pipe; the program inherits the others.
    """
    (pipe, *passed), words = [int(fd) for fd in sys.argv[1].split(",")], sys.argv[2:]
    _adopt_orphans()
    try:
        program = subprocess.Popen(words, process_group=0, pass_fds=passed)
    except OSError as exc:
        sys.stdout.write(f"{words[0]}: {exc}\n")
        return NOT_STARTED
    for fd in passed:
        os.close(fd)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: _end(program))
    threading.Thread(target=_end_when_closed, args=(pipe, program), daemon=True).start()
    status = program.wait()
    _kill_rest()
    return 128 - status if status < 0 else status


def _end_when_closed(pipe: int, program: subprocess.Popen[bytes]) -> None:
    os.read(pipe, 1)
    _end(program)


def _end(program: subprocess.Popen[bytes]) -> None:
    """Ask the program to end, so that a launcher can end its ranks; after a while, force it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(program.pid, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE_S
    while time.monotonic() < deadline:
        if not _alive(program.pid):
            return
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(program.pid, signal.SIGKILL)
    _kill_rest()


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _kill_rest() -> None:
    """Kill whatever descends from us: launchers put ranks into groups, and daemons into sessions, of their own."""
    while rest := _descendants():
        for pid in rest:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.01)


def _descendants() -> list[int]:
    """Living processes below us; empty where there is no /proc: then the program's group has to do."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = stat.read_text(errors="replace").rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(stat.parent.name)] = int(parent)
    found = [os.getpid()]
    for pid in found:  # grows as we go
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]


def _adopt_orphans() -> None:
    """Become the parent of descendants whose parent ends, so that none gets out of reach (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main())
