"""Tries the programs of a site for real: a tiny calculation with each, and what is wrong in words."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import numpy as np

from alflow import registry
from alflow.core.frames import Frames
from alflow.core.labels import Cause
from alflow.errors import AlflowError, InputError
from alflow.interfaces import Code, HasTrial, Labeler, Limits
from alflow.spec import workflow as workflows
from alflow.spec.site import Site, code_of, lane_of
from alflow.validation import validate


class Mark(StrEnum):
    """How a trial went."""

    OK = "ok"
    NOTE = "note"
    SKIPPED = "skipped"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried.

    Attributes:
        what: what was tried.
        mark: how it went.
        words: what was found, or what to do.
    """

    what: str
    mark: Mark
    words: str


@dataclass(frozen=True, slots=True)
class Case:
    """A labeler to try, or why it cannot be.

    Attributes:
        kind: of the labeler.
        labeler: with its settings, or None.
        elements: what it must know; empty if it may choose.
        why: why there is none.
        mark: of a case without labeler.
    """

    kind: str
    labeler: Labeler | None
    elements: frozenset[str] = frozenset()
    why: str = ""
    mark: Mark = Mark.SKIPPED


_INSIDE_JOB: Final = {"slurm": "SLURM_JOB_ID", "lsf": "LSB_JOBID", "flux": "FLUX_JOB_ID"}
_ELEMENTS: Final = ("Al", "Cu", "Si", "Fe", "W", "Ni", "Au")
"""Tried in this order where neither workflow nor site says what to calculate."""
_NET_FORCE_eV_A: Final = 0.05
_TRIAL_S: Final = 300.0
"""Longest that a tiny calculation may take."""
_LEAST_SCRATCH_GB: Final = 1.0
_NETWORK: Final = frozenset(
    {
        *("nfs", "nfs4", "lustre", "gpfs", "beegfs", "cifs", "smb3", "ceph", "glusterfs", "pvfs2", "panfs", "afs"),
        *("wekafs", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph"),
    }
)
"""File systems that nodes share."""
_RANKS: Final = (
    re.compile(r"Parallel version \(MPI.*\), running on\s+(\d+) process"),  # pw.x; its lines for threads come below
    re.compile(r"Number of MPI processes:\s+(\d+)"),
    re.compile(r"^ *running on\s+(\d+) total cores", re.MULTILINE),  # VASP 5 and 6.1
    re.compile(r"^ *running\s+(\d+) mpi-ranks", re.MULTILINE),  # VASP 6.3
)
_BANNERS: Final = (re.compile(r"Program PWSCF v"), re.compile(r"^ *vasp\.\d", re.MULTILINE))
"""What each process that thinks it is the first says once."""
_KNOWN: Final = (
    (
        r"error while loading shared libraries: ([^:\s]+)",
        "the library {0} is missing: load its module in the lane's worker_init, or set LD_LIBRARY_PATH in its env",
    ),
    (r"version `([^']+)' not found", "it was built for a newer system ({0} is missing here): build it on this machine"),
    (r"Exec format error|cannot execute binary file", "it was built for another kind of machine"),
    (
        r"attempt to run as root",
        "its launcher refuses to run as root: be another user, or add --allow-run-as-root to the launcher",
    ),
    (
        r"There are not enough slots available",
        "the launcher sees too few cores for its ranks: lower ranks_per_task of the lane, or tell it of more",
    ),
    (r"srun: error: (.+)", "srun says: {0}"),
    (r"jsrun: (?:error|fatal): (.+)", "jsrun says: {0}"),
)
"""What is found in a program's output -> what to do."""
_SHIM: Final = """#!/bin/sh
# Keeps what a program says, whatever becomes of its folder.
log="$1/run.$$"
shift
"$@" >"$log" 2>&1
status=$?
cat "$log"
exit $status
"""


# ---- what to try ---------------------------------------------------------------------------------------------------


def cases(workflow: str, site: Site) -> list[Case]:
    """The labelers of the workflow, and those that the site's other programs suffice for; without one, all that can be.

    Raises:
        InputError: the workflow file is wrong.
    """
    if workflow:
        loaded = workflows.load(workflow)
        own = [
            Case(f"{s.name}: {registry.kind_of('labelers', s.labeler)}", s.labeler, workflows.elements_of(loaded, i))
            for i, s in enumerate(loaded.stages)
        ]
        others = set(site.codes) - {s.labeler.code for s in loaded.stages}
        return own + [_case(kind, site) for kind in registry.names("labelers") if kind in others]
    return [_case(kind, site) for kind in registry.names("labelers") if kind != "toy"]


def _case(kind: str, site: Site) -> Case:
    try:
        cls = registry.part_class("labelers", kind)
    except InputError as exc:
        return Case(kind, None, why=_one_line(exc), mark=Mark.WRONG)
    code = code_of(site, cls.code) if cls.code else None
    if cls.code and code is None:
        return Case(kind, None, why=f"the site file has no codes.{cls.code}")
    try:
        if code is not None and issubclass(cls, HasTrial):
            labeler, element = cls.trial(code)
            return Case(kind, labeler, frozenset({element}))
    except AlflowError as exc:
        return Case(kind, None, why=_one_line(exc), mark=Mark.WRONG)
    try:
        return Case(kind, validate(cls, {}, kind))
    except InputError:
        return Case(kind, None, why="has no settings of its own to be tried with; give --workflow")


# ---- trials --------------------------------------------------------------------------------------------------------


def labels(trials: Sequence[Case], site: Site, run: Path) -> Iterator[Finding]:
    """A tiny calculation with each labeler: the forces on a displaced crystal must add up to nothing."""
    tried = set()
    for case in trials:
        if case.labeler is None:
            yield Finding(case.kind, case.mark, case.why)
            tried.add(case.kind)
            continue
        name = case.labeler.code
        code = code_of(site, name)
        tried.add(name)
        if name and code is None:
            yield Finding(case.kind, Mark.SKIPPED, f"the site file has no codes.{name}")
        elif code is not None and (outside := _outside_job(site)):
            yield Finding(case.kind, Mark.SKIPPED, outside)
        else:
            yield from () if code is None else scratch(code)
            yield _try(case, case.labeler, code, site, run)
    for name in site.codes:
        if name not in tried:
            yield Finding(name, Mark.SKIPPED, "no labeler that runs it was tried; give --workflow")


def scratch(code: Code, mounts: Path = Path("/proc/self/mounts")) -> Iterator[Finding]:
    """Whether the program's scratch folder can be used, and is on the node itself."""
    if code.scratch is None:
        return
    what, place = f"{code.name}: scratch", code.scratch
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=place, prefix=".alflow-doctor-") as f:
            f.write(b"x" * 4096)
            f.flush()
    except OSError as exc:
        yield Finding(what, Mark.WRONG, f"cannot be written: {exc}; change codes.{code.name}.scratch")
        return
    free, kind = shutil.disk_usage(place).free / 2**30, _file_system(place, mounts)
    if free < _LEAST_SCRATCH_GB:
        yield Finding(what, Mark.WRONG, f"{place} has {free:.1f} GB free, want {_LEAST_SCRATCH_GB:g}")
    elif kind in _NETWORK:
        words = f"{place} is on a file system that nodes share ({kind}): a folder on the node itself is faster"
        yield Finding(what, Mark.NOTE, words)
    else:
        yield Finding(what, Mark.OK, f"{place}, {free:.1f} GB free{f', {kind}' if kind else ''}")


def _file_system(place: Path, mounts: Path) -> str:
    """The type of the file system that holds `place`, or empty where the machine does not tell."""
    try:
        rows = [line.split() for line in mounts.read_text().splitlines()]
    except OSError:
        return ""
    there = place.resolve()
    holding = [
        (len(r[1]), i, r[2]) for i, r in enumerate(rows) if len(r) > 2 and there.is_relative_to(_unescaped(r[1]))
    ]
    return max(holding)[2] if holding else ""


def _unescaped(word: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), word)


def _outside_job(site: Site) -> str:
    scheduler = site.lanes[lane_of(site, "label")].scheduler
    variable = _INSIDE_JOB.get(scheduler)
    if variable is None or variable in os.environ:
        return ""
    return f"programs run on the nodes of {site.name}: repeat this inside a {scheduler} job"


def _try(case: Case, labeler: Labeler, code: Code | None, site: Site, run: Path) -> Finding:
    """One calculation. Nothing of it is left behind."""
    with ExitStack() as stack:
        try:
            here = _temporary(stack, existing_parent(run))
            given = None if code is None else _recorded(code, here, stack)
        except OSError as exc:
            return Finding(case.kind, Mark.WRONG, f"has no place to run in: {exc}")
        began = time.monotonic()
        try:
            element = _choose(labeler, case.elements, code)
            frame = _displaced(element)
            found, (verdict,) = labeler.label(frame, given, here / "work", Limits(seconds=_TRIAL_S))
        except AlflowError as exc:
            runs = _runs(here)
            return Finding(case.kind, Mark.WRONG, _alone(code, runs) or _explained(_one_line(exc), "".join(runs[-1:])))
        seconds, runs = time.monotonic() - began, _runs(here)
        said = runs[-1] if runs else _text(verdict.log)
    if wrong := _alone(code, runs):
        return Finding(case.kind, Mark.WRONG, wrong)
    if not verdict.ok:
        hang = (
            "; a program of another MPI than its launcher's may hang like this" if verdict.cause is Cause.TIME else ""
        )
        return Finding(case.kind, Mark.WRONG, _explained(verdict.reason + hang, said))
    if wrong := _other_ranks(code, site, runs):
        return Finding(case.kind, Mark.WRONG, wrong)
    net = float(np.linalg.norm(found.forces.sum(axis=0)))
    ranks = f", {_counted(n)}" if (n := _ranks("".join(runs[:1]))) else ""
    told = f"{found.energy[0]:.4f} eV, net force {net:.1e} eV/Å, {seconds:.1f} s{ranks}"
    words = f"{element}, {frame.n_atoms} displaced atoms: {told}"
    right = np.isfinite(found.energy[0]) and net < _NET_FORCE_eV_A
    return Finding(case.kind, Mark.OK if right else Mark.WRONG, words)


def existing_parent(path: Path) -> Path:
    """`path`, or its closest parent that exists."""
    place = path.resolve()
    while not place.exists():
        place = place.parent
    return place


def _temporary(stack: ExitStack, place: Path) -> Path:
    return Path(stack.enter_context(tempfile.TemporaryDirectory(dir=place, prefix=".alflow-doctor-")))


def _recorded(code: Code, folder: Path, stack: ExitStack) -> Code:
    """The same program, with what it says kept in `folder`, and scratch that is removed."""
    shim, logs = folder / "recorded", folder / "said"
    logs.mkdir()
    shim.write_text(_SHIM)
    shim.chmod(0o700)
    place = None if code.scratch is None else _temporary(stack, code.scratch)
    return replace(code, launcher=(str(shim), str(logs), *code.launcher), scratch=place)


def _runs(folder: Path) -> list[str]:
    """What each run of the program said, in order."""
    logs = sorted((folder / "said").glob("run.*"), key=lambda p: p.stat().st_mtime_ns)
    return [_text(str(log)) for log in logs]


def _text(log: str) -> str:
    try:
        return Path(log).read_text(errors="replace") if log else ""
    except OSError:
        return ""


# ---- what is wrong -------------------------------------------------------------------------------------------------


def _alone(code: Code | None, runs: Sequence[str]) -> str:
    """What is wrong if ranks do not know of each other, or empty."""
    copies = max((len(b.findall(said)) for said in runs[:1] for b in _BANNERS), default=0)
    if code is None or copies < 2:
        return ""
    launcher = " ".join(code.launcher) or "none"
    return (
        f"{copies} processes were started that each think they are alone: codes.{code.name}.launcher ({launcher}) is "
        f"of another MPI than {code.command[0]}; give that MPI's own launcher by absolute path"
    )


def _other_ranks(code: Code | None, site: Site, runs: Sequence[str]) -> str:
    """What is wrong if the program runs on other ranks than the lane says, or empty."""
    name, ranks = lane_of(site, "label"), _ranks("".join(runs[:1]))
    wanted = site.lanes[name].ranks_per_task
    if code is None or not ranks or ranks == wanted:
        return ""
    remedy = "write {ranks} where the launcher has their number" if code.launcher else "it has no launcher"
    return f"runs on {_counted(ranks)}, lanes.{name}.ranks_per_task is {wanted}: {remedy}"


def _counted(ranks: int) -> str:
    return f"{ranks} MPI rank{'s' * (ranks != 1)}"


def _ranks(said: str) -> int:
    """On how many MPI ranks the program says it runs, or 0."""
    for pattern in reversed(_RANKS):
        if found := pattern.search(said):
            return int(found[1])
    return 0


def _explained(reason: str, said: str, lines: int = 8) -> str:
    """What to do if the output tells, else the reason and the output's end."""
    for pattern, words in _KNOWN:
        if found := re.search(pattern, said):
            return words.format(*found.groups())
    text = said.strip().splitlines()
    return reason + "".join(f"\n  | {line}" for line in text[-lines:])


def _one_line(exc: AlflowError) -> str:
    return str(exc).replace("\n  hint:", ";")


def _choose(labeler: Labeler, elements: frozenset[str], code: Code | None) -> str:
    """An element that the labeler accepts.

    Raises:
        InputError: it accepts none; the reason of the first.
    """
    if elements:
        labeler.check(elements, code)
        return min(elements)
    first: InputError | None = None
    for element in _ELEMENTS:
        try:
            labeler.check(frozenset({element}), code)
        except InputError as exc:
            first = first or exc
        else:
            return element
    assert first is not None
    raise first


def _displaced(element: str) -> Frames:
    """A few atoms in the element's own crystal, or as a molecule, each moved by a few hundredths of an angstrom."""
    from ase import Atoms
    from ase.build import bulk
    from ase.data import atomic_numbers, covalent_radii, reference_states

    number = atomic_numbers[element]
    state = reference_states[number] or {}
    atoms: Any
    if state.get("symmetry") in {"fcc", "bcc", "diamond"}:
        atoms = bulk(element, cubic=True)
    elif state.get("symmetry") == "hcp":
        atoms = bulk(element)
    elif state.get("symmetry") == "diatom":
        atoms = Atoms([element] * 2, [[0, 0, 0], [state["d"], 0, 0]], cell=[6, 5, 5], pbc=True)
    else:
        atoms = bulk(element, "fcc", a=3.3 * covalent_radii[number], cubic=True)
    moves = np.random.default_rng(0).normal(scale=0.03, size=(len(atoms), 3))
    return Frames.single(atoms.numbers, atoms.positions + moves, atoms.cell.array)
