"""One calculation of ``pw.x`` in its folder: scratch of its own, corrections, and going on where time ran out."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from alflow.core.labels import AGAIN, Cause
from alflow.engines.custody import Attended, attend, blame_machine
from alflow.engines.espresso import LOG, PREFIX, Asked, PwResult, sound_density, started
from alflow.engines.espresso_care import (
    CRASH,
    PwProgram,
    SoundOutput,
    Trouble,
    bad_words,
    diagnose,
    handlers,
    output,
    stopped_cleanly,
)
from alflow.engines.espresso_input import INPUT, change, read_settings, rules
from alflow.errors import InfrastructureError, InputError
from alflow.store.files import write_text

_HOME: Final = "scratch"
"""Where scratch lies that has no node-local disk, and where restart data waits for the next call."""
_WORDS: Final = "pw.words"
"""The command line of a call that ended in order and left something to go on from; a call that was killed has none."""
_MD5: Final = re.compile(r"MD5 check sum:\s*([0-9a-f]{32})")
_BULKY: Final = ("*wfc*", "*.mix*", "*.igk*")
_OF_THE_START: Final = frozenset(
    {"control.restart_mode", "control.max_seconds", "control.outdir", "electrons.startingpot", "electrons.startingwfc"}
)


@dataclass(frozen=True, slots=True)
class Job:
    """A calculation to do.

    Attributes:
        folder: its own, kept; holds input and output.
        text: the input.
        asked: what the output is held against.
        md5: of the pseudopotentials that it is to be computed with.
        words: command line.
        env: environment.
        fast: folder on a node-local disk for scratch, or None for `folder`.
        allow: label-changing corrections that are allowed, words of `espresso_input.ALLOWED`.
        inhomogeneous: the cell holds much vacuum.
    """

    folder: Path
    text: str
    asked: Asked
    md5: frozenset[str]
    words: tuple[str, ...]
    env: Mapping[str, str]
    fast: Path | None
    allow: tuple[str, ...]
    inhomogeneous: bool


@dataclass(frozen=True, slots=True)
class Done:
    """How it ended.

    Attributes:
        result: the label, or None.
        attended: how it ended, the corrections of earlier calls included.
        place: folder with what it left behind, or empty.
    """

    result: PwResult | None
    attended: Attended
    place: str


def outdir_of(folder: Path, fast: Path | None) -> Path:
    """The scratch folder of a calculation: the same whenever it is done again."""
    if fast is None:
        return folder / _HOME
    return fast.absolute() / f"alflow-{hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:16]}"


def outdir_word(folder: Path, fast: Path | None) -> str:
    """The same as ``pw.x`` is told, which runs in `folder`: it keeps 256 characters only."""
    return _HOME if fast is None else str(outdir_of(folder, fast))


def calculate(job: Job, seconds: float | None, halt: Callable[[], bool]) -> Done:
    """Do it, or go on with it where an earlier call ran out of time in the same folder.

    Raises:
        InfrastructureError: ``pw.x`` did not start, or did not read the pseudopotentials that it was given.
        InputError: ``pw.x`` refuses words of the namelists.
    """
    _private(job.folder)
    outdir = outdir_of(job.folder, job.fast)
    resumed = _begin(job, outdir)
    program = PwProgram(job.words, job.env, outdir, seconds)
    sound = SoundOutput(program, outdir, job.asked)
    care = handlers(outdir, inhomogeneous=job.inhomogeneous)
    try:
        attended = attend(program, job.folder, care, [sound], rules(job.allow), seconds=seconds, halt=halt)
        text = output(job.folder)
        _blame_others(attended, text, job)
    except BaseException:  # whoever ends us: nobody would ever look into this scratch
        shutil.rmtree(outdir, ignore_errors=True)
        raise
    finally:
        for name in ("custodian.json", CRASH, "input_tmp.in"):
            (job.folder / name).unlink(missing_ok=True)
    place = _leave(job, outdir, attended.cause, clean=stopped_cleanly(text))
    return Done(sound.result if attended.cause is None else None, _with(attended, resumed, job.allow), place)


def _blame_others(attended: Attended, text: str, job: Job) -> None:
    """See that a failure is not the machine's, nor of settings that ``pw.x`` takes for no structure."""
    log = job.folder / LOG
    if attended.cause is not Cause.TIME and not started(text):
        raise InfrastructureError(f"pw.x did not start (exit status {attended.status}), see {log}")
    blame_machine(attended.cause, text, log)
    found = diagnose(text)
    if attended.cause is not None and found is not None and found[0] is Trouble.PSEUDO:
        raise InfrastructureError(f"{found[1]}: it could be read when the calculation was prepared, see {log}")
    as_written = not any(c["changes"] for c in attended.corrections)
    if attended.cause is not None and found is not None and as_written and bad_words(text):
        raise InputError("namelists", found[1], f"see {log}")
    used = frozenset(_MD5.findall(text))
    if used and used != job.md5:  # some builds look elsewhere for a file of that name
        raise InfrastructureError(f"pw.x did not read the pseudopotentials that it was given, see {log}")


# ---- before --------------------------------------------------------------------------------------------------------


def _begin(job: Job, outdir: Path) -> dict[str, list[Any]]:
    """Write the input, with what an earlier call has left if that can be used; what it changes."""
    left, said, words = _left_settings(job.folder), _read(job.folder / LOG), _read(job.folder / _WORDS)
    same_words = words == "\n".join(job.words)  # as many ranks: a restart needs that, a density does not
    write_text(job.folder / INPUT, job.text)
    (job.folder / _WORDS).unlink(missing_ok=True)
    home, fresh = job.folder / _HOME, read_settings(job.folder)
    changes = {k: [fresh.get(k), left.get(k)] for k in {**fresh, **left} if fresh.get(k) != left.get(k)}
    changes = {k: v for k, v in changes.items() if k not in _OF_THE_START}
    rule = rules(job.allow)
    usable = bool(left and words) and all(k in rule.allowed or rule.on_path(k, *v) for k, v in changes.items())
    if home != outdir:
        shutil.rmtree(outdir, ignore_errors=True)
        if usable and home.is_dir():
            outdir.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(home, outdir)
    start = _start(outdir, clean=stopped_cleanly(said) and same_words) if usable else {}
    if not start:
        for old in (home, outdir):
            shutil.rmtree(old, ignore_errors=True)
        _private(outdir)
        return {}
    _private(outdir)
    change(job.folder, {k: new for k, (_, new) in changes.items()} | start)
    return changes | {k: [fresh.get(k), new] for k, new in start.items()}


def _start(outdir: Path, *, clean: bool) -> dict[str, str]:
    """The words by which a calculation goes on from what lies in `outdir`; none if nothing there is of use."""
    if clean and any(outdir.glob(f"{PREFIX}.restart_*")):
        return {"control.restart_mode": "restart"}
    for path in outdir.glob(f"{PREFIX}.restart_*"):
        path.unlink()
    return {"electrons.startingpot": "file"} if sound_density(outdir) else {}


def _left_settings(folder: Path) -> dict[str, Any]:
    try:
        return dict(read_settings(folder))
    except (OSError, ValueError, AttributeError):  # none, or cut off
        return {}


def _private(folder: Path) -> None:
    """Make sure of a folder that only its owner can enter.

    Raises:
        InfrastructureError: another's, or not a folder.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            raise InfrastructureError(f"{folder}: is not ours")
        folder.chmod(0o700)
    except OSError as exc:
        raise InfrastructureError(f"{folder}: cannot be made: {exc}") from exc


# ---- after ---------------------------------------------------------------------------------------------------------


def _leave(job: Job, outdir: Path, cause: Cause | None, *, clean: bool) -> str:
    """Keep what is worth keeping of a calculation's scratch; where, or empty."""
    if cause is None:
        shutil.rmtree(outdir, ignore_errors=True)
        return ""
    if not (clean and cause in AGAIN):
        for pattern in _BULKY:
            for path in outdir.rglob(pattern):
                path.unlink(missing_ok=True)
    if not any(p.is_file() for p in outdir.rglob("*")):
        shutil.rmtree(outdir, ignore_errors=True)
        return ""
    if cause not in AGAIN:
        return str(outdir)
    home = job.folder / _HOME
    if outdir != home:
        shutil.rmtree(home, ignore_errors=True)
        shutil.move(outdir, home)
    write_text(job.folder / _WORDS, "\n".join(job.words))
    return str(home)


def _with(attended: Attended, resumed: Mapping[str, list[Any]], allow: tuple[str, ...]) -> Attended:
    """The corrections of earlier calls before those of this one."""
    own = tuple(c for c in attended.corrections if c["changes"])
    if not resumed:
        return replace(attended, corrections=own)
    earlier = {"handler": "Restart", "errors": ["an earlier call ended before its end"], "changes": dict(resumed)}
    kept = {k: new for k, (_, new) in resumed.items() if k in rules(allow).allowed}
    return replace(attended, corrections=(earlier, *own), changed={**kept, **attended.changed})


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
