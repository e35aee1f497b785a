"""No orphans: every process a coordinator starts, near or far down, carries a mark by which it is found and ended.

The mark is a pair of environment variables that children inherit: the run directory, and the coordinator as
``pid:start time``. A process without the mark is never touched, whatever its pid. A *reaper*, a small process in a
session of its own, holds the reading end of a pipe whose writing end only the coordinator has; the pipe closes when
the coordinator ends in any way, SIGKILL included, and the reaper then ends what the coordinator left behind, batch
jobs too.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from pathlib import Path
from types import FrameType
from typing import Any, Final

import psutil

from alflow.runtime import blocks, rundir

RUN: Final = "ALFLOW_RUN"
"""Environment variable with the run directory a process works for."""
COORDINATOR: Final = "ALFLOW_COORDINATOR"
"""Environment variable with the coordinator, ``pid:start time``, a process works for."""
GRACE_S: Final = 3.0
"""Seconds between asking a process to end and ending it."""

_KEEP: Final = "SPT_NOENV"  # tells setproctitle, which Parsl uses, not to overwrite what others read the mark from
_POLL_S: Final = 1.0
_IN_ORDER: Final = b"closed"

Handler = Callable[[int, FrameType | None], Any] | signal.Handlers


def coordinator_token(pid: int | None = None) -> str:
    """What tells this process (or that of `pid`) from every other, also from later ones with the same pid."""
    process = psutil.Process(pid)
    return f"{process.pid}:{process.create_time():.2f}"


def end_leftovers(run_dir: Path) -> list[str]:
    """End, on this machine, what an earlier coordinator of this run left behind; call it holding the run's lock.

    Processes of a coordinator that still lives are left alone.

    Returns:
        What was ended, one line a process.
    """
    return _end([p for p, token in _marked(run_dir) if not _alive(token)])


def end_own(run_dir: Path, token: str | None = None) -> list[str]:
    """End, on this machine, all that works for the coordinator `token` (this process) in `run_dir`."""
    mine = token or coordinator_token()
    return _end([p for p, other in _marked(run_dir) if other == mine])


class Reaper:
    """Marks this process's children as those of a run and ends them should it die; `close` ends them now.

    Attributes:
        run_dir: the run.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir.resolve()
        self._before = {name: os.environ.get(name) for name in (RUN, COORDINATOR, _KEEP)}
        token = coordinator_token()
        words = [sys.executable, "-m", __name__, str(self.run_dir), token]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True)
        os.environ |= {RUN: str(self.run_dir), COORDINATOR: token, _KEEP: "1"}

    def close(self) -> list[str]:
        """End every marked process, and the reaper; say what had to be ended."""
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        ended = end_own(self.run_dir)
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.write(_IN_ORDER)
                self._process.stdin.close()
        try:
            self._process.wait(2 * GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        return ended


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM and SIGHUP interrupt the main thread as Ctrl-C does, so that whatever holds processes can close."""

    def interrupt(number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    with _handling(interrupt, signal.SIGTERM, signal.SIGHUP):
        yield


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Put off Ctrl-C, SIGTERM and SIGHUP to the end of the block, where the first of them is then delivered."""
    held: list[int] = []
    try:
        with _handling(lambda number, _frame: held.append(number), signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            yield
    finally:
        if held:
            signal.raise_signal(held[0])


@contextmanager
def deaf_children() -> Iterator[None]:
    """Processes started in the block, also by threads that begin in it, never hear Ctrl-C; this one does at its end.

    A terminal sends it to all of its processes; those that the coordinator closes in order have to outlive it. A signal
    that is blocked waits, for ever in them, where one that is ignored would be lost here too.
    """
    resource_tracker.ensure_running()  # else multiprocessing starts it in the block, and unblocks the signal after that
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _handling(handler: Handler, *numbers: signal.Signals) -> Iterator[None]:
    """Handle signals so for a block; only the main thread can, and only it is ever interrupted."""
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handler) for number in numbers} if main else {}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


_tether: list[threading.Thread] = []


def tether_to_parent() -> None:
    """End this process, and all it started, as soon as its parent ends: for workers, whose pool may be killed."""
    if _tether:
        return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_S)
        _end(psutil.Process().children(recursive=True))
        os._exit(1)

    _tether.append(threading.Thread(target=watch, name="alflow-tether", daemon=True))
    _tether[0].start()


def _marked(run_dir: Path) -> list[tuple[psutil.Process, str]]:
    """Processes of this user that carry the mark of the run, with their coordinator; not this one or its ancestors."""
    spared = {os.getpid(), *(p.pid for p in psutil.Process().parents())}
    run, found = str(run_dir.resolve()), []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid in spared or process.environ().get(RUN) != run:
                continue
            if not any("multiprocessing.resource_tracker" in word for word in process.cmdline()):  # ends with its users
                found.append((process, process.environ().get(COORDINATOR, "")))
    return found


def _alive(token: str) -> bool:
    pid = token.partition(":")[0]
    with suppress(psutil.Error, ValueError):
        return psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE and coordinator_token(int(pid)) == token
    return False


def _end(processes: list[psutil.Process]) -> list[str]:
    """Ask all to end, wait, end those that did not; processes are told by pid and start time, so none is mistaken."""
    lines = []
    for process in processes:
        with suppress(psutil.Error):
            lines.append(f"{process.pid} {' '.join(process.cmdline())[:120] or process.name()}")
            process.terminate()
    for process in psutil.wait_procs(processes, GRACE_S)[1]:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, GRACE_S)
    return lines


def _reap(run_dir: str, token: str) -> None:
    """The reaper: wait until the pipe on standard input closes, then end what is left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    said = sys.stdin.buffer.read()
    for _ in range(3):  # a process may be starting another while we look
        if not end_own(Path(run_dir), token):
            break
    left = blocks.names(Path(run_dir))  # before looking at the lock: so none is of a coordinator that comes next
    if said != _IN_ORDER and not rundir.is_locked(Path(run_dir)):
        blocks.cancel(left)


if __name__ == "__main__":
    _reap(*sys.argv[1:])
