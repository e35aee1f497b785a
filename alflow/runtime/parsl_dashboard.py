"""Parsl's dashboard of a run, on this machine only."""

from __future__ import annotations

import contextlib
import functools
import logging
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from alflow.errors import InputError, RunError
from alflow.runtime import layout

_TABLES: Final = frozenset({"workflow", "task", "try", "status", "node", "block", "resource"})


def open_dashboard(run_dir: Path, port: int, said: Callable[[str], object] | None = None) -> None:
    """Serve Parsl's dashboard of a run on this machine only, until interrupted.

    The database is opened for reading only, and not before Parsl has made all its tables: a dashboard that comes
    first would make its own, which Parsl's monitoring then cannot use (Parsl issue 2266).

    Args:
        run_dir: the run; it may be at work.
        port: port on 127.0.0.1.
        said: is told the address once the dashboard answers; printed if None.

    Raises:
        RunError: the run has no monitoring database yet.
        InputError: the port is taken.
    """
    path, out = run_dir.resolve() / layout.MONITORING, sys.stdout
    say = said or functools.partial(print, file=out, flush=True)
    _check_database(path)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as exc:
            raise InputError("--port", f"{port} cannot be used on 127.0.0.1: {exc.strerror}", "choose another") from exc
    address = f"http://127.0.0.1:{port}"
    threading.Thread(target=_say_when_up, args=(port, functools.partial(say, address)), daemon=True).start()
    words = ["parsl-visualize", f"sqlite:///file:{path}?mode=ro&uri=true", "--listen=127.0.0.1", f"--port={port}"]
    _serve(words, path.parent / "dashboard.log")


def _serve(words: list[str], log: Path) -> None:
    """Parsl's program in this process, so that it ends with it; what it says about each request goes to `log`."""
    from parsl.monitoring.visualization.app import cli_run

    requests, handler, before = logging.getLogger("werkzeug"), logging.FileHandler(log), sys.argv
    requests.setLevel(logging.INFO)
    requests.propagate = False
    requests.addHandler(handler)
    sys.argv = words
    try:
        with contextlib.redirect_stdout(handler.stream):
            cli_run()
    finally:
        sys.argv = before
        requests.removeHandler(handler)
        handler.close()


def _say_when_up(port: int, say: Callable[[], None]) -> None:
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
            say()
            return
        time.sleep(0.1)


def _check_database(path: Path) -> None:
    hint = "it appears soon after a run has begun, unless the site file says `monitoring: false`"
    if not path.is_file():
        raise RunError(str(path.parents[1]), "has no monitoring database (yet)", hint)
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        there = {name for (name,) in db.execute("select name from sqlite_master where type = 'table'")}
    if missing := _TABLES - there:
        raise RunError(str(path), f"has no tables {', '.join(sorted(missing))} (yet)", hint)
