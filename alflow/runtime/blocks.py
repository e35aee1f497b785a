"""Batch jobs that a coordinator asked for and could not give back: found in the scheduler's queue, cancelled.

Parsl writes a script for each block before it asks for it, and names the job after it. So the scripts in the run's
folder tell the run's jobs from all others, also those whose number nobody lived to write down.
"""

from __future__ import annotations

import getpass
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from alflow.errors import InfrastructureError

SCRIPTS: Final = "parsl/*/submit_scripts/parsl.*"
"""Scripts of a run's blocks, relative to the run directory."""

_SUFFIXES: Final = (".stdout", ".stderr", ".submit", ".sh")
_HEAD_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class _Scheduler:
    """One of those that scripts are for.

    Attributes:
        directive: how its lines in a script begin.
        ask: lists a user's jobs by id and name; LSF cuts columns off where no width is given.
        end: cancels jobs by id.
    """

    directive: bytes
    ask: tuple[str, ...]
    end: tuple[str, ...]


_SCHEDULERS: Final = (
    _Scheduler(b"#SBATCH", ("squeue", "--noheader", "--format=%i %j", "--user"), ("scancel",)),
    _Scheduler(b"#BSUB", ("bjobs", "-noheader", "-o", "jobid:20 job_name:250", "-u"), ("bkill",)),
    _Scheduler(
        b"#flux:", ("flux", "jobs", "--no-header", "--format={id.f58plain} {name}", "--user"), ("flux", "cancel")
    ),
)
_NO_JOBS: Final = re.compile(
    r"no (unfinished |matching )?jobs? found|> is not found|already finished|is inactive|jobid \S+ unknown",
    re.IGNORECASE,
)
"""What programs say, as if they had failed, of jobs that are over."""
_TRIES: Final = 3
_ANSWER_S: Final = 30.0


def names(run_dir: Path) -> dict[str, str]:
    """Names of all batch jobs that were ever asked for in a run, each with the program that knows them."""
    found = {}
    for path in run_dir.glob(SCRIPTS):
        with path.open("rb") as f:
            head = f.read(_HEAD_BYTES)
        for scheduler in _SCHEDULERS:
            if scheduler.directive in head and not path.name.endswith((".stdout", ".stderr")):
                found[_without_suffix(path.name)] = scheduler.ask[0]
    return found


def _without_suffix(name: str) -> str:
    return name.removesuffix(next((s for s in _SUFFIXES if name.endswith(s)), ""))


def cancel(jobs: Mapping[str, str]) -> list[str]:
    """Cancel the batch jobs of these names, of this user, as far as they are queued or running.

    Args:
        jobs: see `names`.

    Returns:
        Their ids.

    Raises:
        InfrastructureError: a scheduler does not answer, so some may be left; they end on their own soon after they
            have started, since nobody answers them either.
    """
    found: list[str] = []
    for scheduler in _SCHEDULERS:
        mine = {job for job, program in jobs.items() if program == scheduler.ask[0]}
        if mine and shutil.which(scheduler.ask[0]) is not None:
            queue = (line.split(maxsplit=1) for line in _asked((*scheduler.ask, getpass.getuser())).splitlines())
            ids = [entry[0] for entry in queue if len(entry) == 2 and entry[1].strip() in mine]
            if ids:
                _asked((*scheduler.end, *ids))
            found += ids
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
        said = done.stderr.strip().splitlines()
        if done.returncode == 0 or (said and all(map(_NO_JOBS.search, said))):
            return done.stdout
        problem = done.stderr.strip()
    raise InfrastructureError(f"{words[0]}: {problem}")
