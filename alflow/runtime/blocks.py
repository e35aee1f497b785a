"""Batch jobs that a coordinator asked for and could not give back: found in the scheduler's queue, cancelled.

Parsl writes a script for each block before it asks for it, and names the job after it. So the scripts in the run's
folder tell the run's jobs from all others, also those whose number nobody lived to write down.
"""

from __future__ import annotations

import getpass
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from alflow.errors import InfrastructureError

SCRIPTS: Final = "parsl/*/submit_scripts/parsl.*"
"""Scripts of a run's blocks, relative to the run directory."""

_SUFFIXES: Final = (".stdout", ".stderr", ".submit", ".sh")
_QUEUES: Final[Sequence[tuple[tuple[str, ...], tuple[str, ...]]]] = (
    (("squeue", "--noheader", "--format=%i %j", "--user"), ("scancel",)),
    (("bjobs", "-noheader", "-o", "jobid job_name", "-u"), ("bkill",)),
    (("flux", "jobs", "--no-header", "--format={id.f58plain} {name}", "--user"), ("flux", "cancel")),
)
"""What lists a user's jobs by id and name, and what cancels one."""
_TRIES: Final = 3
_ANSWER_S: Final = 30.0


def names(run_dir: Path) -> frozenset[str]:
    """Names of all batch jobs that were ever asked for in a run."""
    return frozenset(_without_suffix(path.name) for path in run_dir.glob(SCRIPTS))


def _without_suffix(name: str) -> str:
    return name.removesuffix(next((s for s in _SUFFIXES if name.endswith(s)), ""))


def cancel(jobs: frozenset[str]) -> list[str]:
    """Cancel the batch jobs of these names, of this user, as far as they are queued or running.

    Returns:
        Their ids.

    Raises:
        InfrastructureError: the scheduler does not answer, so some may be left; they end on their own soon after
            they have started, since nobody answers them either.
    """
    found: list[str] = []
    for ask, end in _QUEUES if jobs else ():
        if shutil.which(ask[0]) is not None:
            queue = (line.split(maxsplit=1) for line in _asked((*ask, getpass.getuser())).splitlines())
            mine = [entry[0] for entry in queue if len(entry) == 2 and entry[1].strip() in jobs]
            if mine:
                _asked((*end, *mine))
            found += mine
    return found


def _asked(words: Sequence[str]) -> str:
    """What a command of the scheduler prints."""
    problem = ""
    for n in range(_TRIES):
        time.sleep(2.0 * n)
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=_ANSWER_S, check=False)
        except subprocess.TimeoutExpired:
            problem = f"no answer within {_ANSWER_S:g} s"
            continue
        if done.returncode == 0:
            return done.stdout
        problem = done.stderr.strip()
    raise InfrastructureError(f"{words[0]}: {problem}")
