"""Runs one program and ends all of it when the pipe to whoever asked for it closes; see `alflow.engines.processes`.

Needs the standard library only: it is started by its path, without site packages, for every calculation.
"""

from __future__ import annotations

import contextlib
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


def main() -> int:
    """``_guard.py FD WORD...``: the exit status of the program, 128 + n if signal n ended it."""
    pipe, words = int(sys.argv[1]), sys.argv[2:]
    try:
        program = subprocess.Popen(words, process_group=0)
    except OSError as exc:
        sys.stdout.write(f"{words[0]}: {exc}\n")
        return NOT_STARTED
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: _end(program))
    threading.Thread(target=_end_when_closed, args=(pipe, program), daemon=True).start()
    status = program.wait()
    _kill_session()  # ranks that a launcher left behind
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
    _kill_session()


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _kill_session() -> None:
    """Kill whatever else runs in our session: launchers put ranks into process groups of their own."""
    for entry in Path("/proc").glob("[0-9]*"):  # empty where there is no /proc: then the group has to do
        pid = int(entry.name)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if pid != os.getpid() and os.getsid(pid) == os.getsid(0):
                os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
