"""A run directory: private, of one workflow, with one coordinator at a time."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TextIO

import yaml

from alflow.errors import InfrastructureError, InputError, JournalError, RunError
from alflow.runtime import layout
from alflow.store.files import write_text

_PLAIN: Final = re.compile(r"[\w@%+=:,./-]+")


def next_free(name: str, parent: Path = Path("runs")) -> Path:
    """``runs/<name>-NN`` with the first number not taken."""
    n = 1
    while (parent / f"{name}-{n:02d}").exists():
        n += 1
    return parent / f"{name}-{n:02d}"


def create(run_dir: Path, workflow: str, submitted: Path, site: Path) -> None:
    """Make a run directory that only its owner can read, with copies of what was submitted.

    Args:
        run_dir: the directory; missing or empty.
        workflow: the text of the checked workflow, its paths absolute: what the run goes by.
        submitted: the workflow file as the user wrote it: kept for the reader.
        site: the site file.

    Raises:
        RunError: it is there already, or cannot be made.
    """
    check_path(run_dir)
    if (run_dir / layout.WORKFLOW).exists():
        hint = f"go on with `alflow resume {run_dir}`, or choose another --run"
        raise RunError(str(run_dir), f"is a run already, of workflow {_name(run_dir)!r}", hint)
    if run_dir.exists() and (not run_dir.is_dir() or any(run_dir.iterdir())):
        raise RunError(str(run_dir), "is not an empty folder and is no run of alflow", "choose another --run")
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        run_dir.chmod(0o700)
        shutil.copyfile(site, run_dir / layout.SITE)
        shutil.copyfile(submitted, run_dir / layout.SUBMITTED)
        (run_dir / layout.LOCK).touch()
        write_text(run_dir / layout.WORKFLOW, workflow)
    except OSError as exc:
        raise RunError(str(run_dir), f"cannot be made: {exc}", "choose another --run") from exc


def _name(run_dir: Path) -> str:
    try:
        return str(yaml.safe_load((run_dir / layout.WORKFLOW).read_text())["name"])
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return "unreadable"


def check_path(run_dir: Path) -> None:
    """Refuse a path that the shell lines of schedulers' scripts would break on.

    Raises:
        RunError: it has blanks, quotes or the like.
    """
    path = str(run_dir.resolve())
    if not _PLAIN.fullmatch(path):
        raise RunError(
            path, "has blanks, quotes or the like, on which schedulers' scripts break", "choose another --run"
        )


def existing(run_dir: Path) -> Path:
    """`run_dir`, resolved, if it is a run.

    Raises:
        RunError: there is no run, or a file of it is gone.
    """
    if (run_dir / layout.JOURNAL).is_file():
        for name in (layout.WORKFLOW, layout.SITE):
            if not (run_dir / name).is_file():
                hint = f"restore it from a backup; {layout.SUBMITTED} is the workflow as it was submitted"
                raise RunError(
                    str(run_dir / name), "is gone", hint if name == layout.WORKFLOW else "put a site file there"
                )
    if not (run_dir / layout.WORKFLOW).is_file():
        raise RunError(str(run_dir), "is no run directory of alflow", "`alflow submit WORKFLOW` makes one")
    return run_dir.resolve()


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Be the run's one coordinator. The kernel frees the lock when a coordinator dies, however it does.

    What the lock says of who held it last is put back where the block refuses to do anything.

    Raises:
        RunError: another one is at work.
        InfrastructureError: the run directory cannot be written.
    """
    with _lock_file(run_dir) as f:
        try:
            _take(f.fileno())
        except BlockingIOError as exc:
            raise _taken(run_dir) from exc
        f.seek(0)
        before, me = f.read(), {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
        with _written(run_dir):
            _say(f.fileno(), json.dumps(me))
        try:
            yield
        except (InputError, JournalError):
            with suppress(OSError):
                _say(f.fileno(), before)
            raise


def check_free(run_dir: Path) -> None:
    """Refuse a run that is at work.

    Raises:
        RunError: a coordinator is at work on it.
    """
    if is_locked(run_dir):
        raise _taken(run_dir)


def _taken(run_dir: Path) -> RunError:
    who = holder(run_dir)
    return RunError(
        str(run_dir),
        f"is being run by process {who.get('pid', '?')} on {who.get('host', '?')}",
        f"watch it with `alflow status {run_dir}`, or end it with `alflow stop {run_dir}`",
    )


def _say(lock: int, text: str) -> None:
    os.ftruncate(lock, 0)
    os.write(lock, text.encode())  # past Python's buffer, which would try again at the end


def _lock_file(run_dir: Path) -> TextIO:
    with _written(run_dir):
        return (run_dir / layout.LOCK).open("a+")


@contextmanager
def _written(run_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise InfrastructureError(f"{run_dir}: cannot be written: {exc}; nothing was started") from exc


def _take(file: int, tries: int = 10) -> None:
    """Lock the file; a status that looks at the lock holds it for an instant, so one refusal is none."""
    for left in reversed(range(tries)):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not left:
                raise
            time.sleep(0.02)
        except OSError as exc:
            raise RunError(
                "the file system", f"does not support locks ({exc})", "put the run on one that does"
            ) from exc
        else:
            return


def holder(run_dir: Path) -> Mapping[str, Any]:
    """Who wrote the lock last: pid, host, since. It may be long dead; see `is_locked`."""
    try:
        content = json.loads((run_dir / layout.LOCK).read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def is_locked(run_dir: Path) -> bool:
    """Whether a coordinator is at work on the run now."""
    try:
        with (run_dir / layout.LOCK).open("r") as f:
            fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no lock file, or no locks on this file system: then no coordinator can have started
        return False
    return False
