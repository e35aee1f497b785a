"""The site file: where work runs, never what is computed."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from alflow.campaign.model import Verb
from alflow.errors import InputError, SpecError
from alflow.interfaces import Code
from alflow.spec import shipped, yaml_file
from alflow.validation import check_keys, each, expand, joined, raise_all, shown, suggestion, validate

DEFAULT: Final = "laptop"
"""The site of those who name none."""

Scheduler = Literal["local", "slurm", "lsf", "flux"]
Launcher = Literal["none", "srun", "jsrun", "flux"]


@dataclass(frozen=True, kw_only=True)
class Lane:
    """Where the tasks of one costly verb run: blocks of nodes with workers on them.

    Attributes:
        scheduler: who grants the nodes; ``local`` uses this machine.
        launcher: what starts the worker pool on every node of a block. ``none``: one pool, for a lane whose programs
            are spread over the nodes by a launcher of their own (``codes: ... launcher``); the two must not nest.
        nodes_per_block: nodes the scheduler grants at a time.
        min_blocks: blocks held even when idle.
        max_blocks: most blocks at a time.
        walltime: length of a block, ``HH:MM:SS``; hours may pass 24. A site file may say ``D-HH:MM:SS``.
            Schedulers count whole minutes.
        task_minutes: what a task needs to be worth starting: a block takes no task when less of its walltime is left.
            0 keeps the last tenth, at most 15 minutes. Tasks that a block's end halts go on in the next one.
        workers_per_node: tasks a node runs at a time; 0 derives it from GPUs or cores.
        cores_per_node: physical cores of a node.
        cores_per_task: cores (threads) a task may use.
        gpus_per_node: GPUs of a node.
        gpus_per_task: GPUs bound to a task; 0 for none.
        ranks_per_task: MPI ranks of an outside code in this lane, each on `cores_per_task` cores.
        account, partition, qos: as the scheduler wants them; empty where it does not.
        options: further lines for the head of the batch script, such as ``#SBATCH --exclusive``.
        worker_init: shell lines run before the workers start (modules, virtual environment); the site's own, trusted.
        address: how workers reach the coordinator: an interface such as ``ib0`` or an address; empty finds out.
    """

    scheduler: Scheduler = "local"
    launcher: Launcher = "none"
    nodes_per_block: int = 1
    min_blocks: int = 0
    max_blocks: int = 1
    walltime: str = "01:00:00"
    task_minutes: float = 0.0
    workers_per_node: int = 0
    cores_per_node: int = 1
    cores_per_task: int = 1
    gpus_per_node: int = 0
    gpus_per_task: int = 0
    ranks_per_task: int = 1
    account: str = ""
    partition: str = ""
    qos: str = ""
    options: tuple[str, ...] = ()
    worker_init: str = ""
    address: str = ""


@dataclass(frozen=True, kw_only=True)
class Site:
    """A machine as alflow sees it.

    Attributes:
        name: what users call it.
        lanes: by name; ``sample``, ``label`` and ``fit`` always resolve, see `lane_of`.
        shares: verb -> lane for verbs that run in another verb's lane, such as ``{"fit": "sample"}``.
        codes: outside programs by name, as the file has them; see `code_of`.
        monitoring: keep Parsl's monitoring database in the run directory.
    """

    name: str
    lanes: Mapping[str, Lane]
    shares: Mapping[str, str] = field(default_factory=dict)
    codes: Mapping[str, Code] = field(default_factory=dict)
    monitoring: bool = True


_TOP_KEYS: Final = ("site", "lanes", "shares", "codes", "monitoring")
_CODE_KEYS: Final = ("command", "launcher", "env", "scratch")
_VERBS: Final = tuple(str(v) for v in Verb)
_COMPANY: Final[Mapping[str, str]] = {
    Verb.BUILD: "sample",
    Verb.SELECT: "sample",
    Verb.MERGE: "sample",
    Verb.CALIBRATE: "fit",
    Verb.EVALUATE: "label",
    Verb.RELABEL: "label",
}
"""Where a verb runs that has neither a lane of its own nor a share: evaluation needs the labeler's program."""
_ESSENTIAL: Final = (str(Verb.SAMPLE), str(Verb.LABEL), str(Verb.FIT))
_LAUNCHERS: Final[Mapping[str, tuple[str, ...]]] = {
    "local": ("none",),
    "slurm": ("srun", "none"),
    "lsf": ("jsrun", "none"),
    "flux": ("flux", "none"),
}
_UNAMBIGUOUS: Final = frozenset({"srun", "jsrun", "lrun", "flux", "aprun", "ibrun"})
"""Launchers that a Python environment does not shadow, unlike ``mpirun``."""
_WALLTIME: Final = re.compile(r"(?:(\d+)-(?=\d{1,2}:))?(\d+):([0-5]\d):([0-5]\d)")


def load_site(given: str | Path = DEFAULT) -> Site:
    """Read and check a site file, by its path or by the bare name of one that comes with alflow.

    Raises:
        InputError: there is no such file.
        SpecError: with file, line and key path; a `validation.SpecErrors` if there are several mistakes.
    """
    document = yaml_file.read(shipped.find(given, "configs"))
    try:
        return _site(document.content)
    except InputError as exc:
        raise document.placed(exc) from None


def lane_of(site: Site, verb: str) -> str:
    """Name of the lane that the tasks of `verb` run in."""
    if verb in site.shares:
        return site.shares[verb]
    if verb in site.lanes:
        return str(verb)
    return lane_of(site, _COMPANY[verb])


def code_of(site: Site, name: str, verb: str = Verb.LABEL) -> Code | None:
    """The program `name` as the tasks of `verb` run it: ``{ranks}`` and ``{threads}`` are those of the verb's lane."""
    code = site.codes.get(name)
    if code is None:
        return None
    lane = site.lanes[lane_of(site, verb)]
    values = {"{ranks}": str(lane.ranks_per_task), "{threads}": str(lane.cores_per_task)}

    def filled(words: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(functools.reduce(lambda w, k: w.replace(k, values[k]), values, word) for word in words)

    env = dict(zip(code.env, filled(tuple(code.env.values())), strict=True))
    return replace(code, command=filled(code.command), launcher=filled(code.launcher), env=env)


def walltime_s(text: str) -> int:
    """Seconds of ``HH:MM:SS`` or ``D-HH:MM:SS``; hours may pass 24 where no days are given.

    Raises:
        SpecError: of another form, or zero.
    """
    match = _WALLTIME.fullmatch(text)
    hint = "HH:MM:SS such as 36:00:00, or D-HH:MM:SS such as 1-12:00:00"
    if not match:
        raise SpecError("walltime", f"is not a time: {shown(text)}", hint)
    days, hours, minutes, seconds = (int(g or 0) for g in match.groups())
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if not total or (match[1] and hours > 23):
        raise SpecError("walltime", f"is not a time: {shown(text)}", hint)
    return total


def _hours(seconds: int) -> str:
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def invisible(code: Code) -> tuple[str, ...]:
    """Absolute paths that `code` names and that do not exist where this is called; its bare command if not on PATH."""
    import shutil

    named = [*code.command[:1], *code.launcher[:1]]
    unseen = [word for word in named if shutil.which(word) is None]
    unseen += [v for v in code.settings.values() if isinstance(v, str) and v.startswith("/") and not Path(v).exists()]
    return tuple(unseen)


# ---- reading -------------------------------------------------------------------------------------------------------


def _site(content: Mapping[str, Any]) -> Site:
    errors = check_keys(content, _TOP_KEYS, "")
    name, monitoring = content.get("site"), content.get("monitoring", True)
    if not isinstance(name, str) or not name:
        errors.append(SpecError("site", "is required: a name for this machine" if name is None else "should be a word"))
    if not isinstance(monitoring, bool):
        errors.append(SpecError("monitoring", f"should be true or false, got {shown(monitoring)}"))
    lanes = _lanes(_section(content, "lanes", errors), errors)
    shares = _shares(_section(content, "shares", errors), lanes, errors)
    site = Site(name=str(name), lanes=lanes, shares=shares, monitoring=monitoring is True)
    if not errors:
        errors += _reach(site)
    codes: dict[str, Code] = {}
    for key, raw in _section(content, "codes", errors).items():
        try:
            codes[key] = _code(key, raw)
        except InputError as exc:
            errors.extend(each(exc))
    raise_all(errors)
    return Site(name=site.name, lanes=lanes, shares=shares, codes=codes, monitoring=site.monitoring)


def _section(content: Mapping[str, Any], key: str, errors: list[InputError]) -> Mapping[str, Any]:
    found = content.get(key) or {}
    if isinstance(found, Mapping):
        return found
    errors.append(SpecError(key, f"expected a mapping, got {shown(found)}"))
    return {}


def _lanes(raw: Mapping[str, Any], errors: list[InputError]) -> dict[str, Lane]:
    lanes = {}
    for key, fields in raw.items():
        where = f"lanes.{key}"
        try:
            lanes[key] = validate(Lane, fields, where)
            raise_all(list(_faults(lanes[key], where)))
            lanes[key] = replace(lanes[key], walltime=_hours(walltime_s(lanes[key].walltime)))
        except InputError as exc:
            errors.extend(each(exc))
            lanes.setdefault(key, Lane())  # so that what refers to it is not called a mistake too
    if not raw and not errors:
        errors.append(SpecError("lanes", "is required: where sample, label and fit run"))
    return lanes


def _shares(raw: Mapping[str, Any], lanes: Mapping[str, Lane], errors: list[InputError]) -> dict[str, str]:
    errors += check_keys(raw, _VERBS, "shares")
    for verb, lane in raw.items():
        if lane not in lanes:
            errors.append(SpecError(f"shares.{verb}", f"no lane is called {shown(lane)}", suggestion(str(lane), lanes)))
        elif verb in lanes and lane != verb:
            errors.append(SpecError(f"shares.{verb}", f"{verb} has a lane of its own: lanes.{verb}", "keep one"))
    for lane in lanes:
        if lane not in _VERBS and lane not in raw.values():
            hint = f"name it after a verb, or say 'shares: {{sample: {lane}}}'; {suggestion(lane, _VERBS)}"
            errors.append(SpecError(f"lanes.{lane}", "is no verb, and no verb shares it", hint))
    return {str(k): str(v) for k, v in raw.items()}


def _reach(site: Site) -> list[InputError]:
    """Every costly verb has a lane, and those that compute inside alflow have a launcher."""
    hint = f"add it under lanes, or say in shares whose lane it uses: {', '.join(site.lanes)}"
    absent = [v for v in _ESSENTIAL if v not in site.lanes and v not in site.shares]
    errors: list[InputError] = [SpecError(f"lanes.{verb}", f"{verb} has no lane", hint) for verb in absent]
    for verb in (Verb.SAMPLE, Verb.FIT):
        name = "" if verb in absent else lane_of(site, verb)
        if name and site.lanes[name].launcher == "none" and site.lanes[name].nodes_per_block > 1:
            problem = f"without one, only the first of {site.lanes[name].nodes_per_block} nodes would {verb}"
            errors.append(SpecError(f"lanes.{name}.launcher", problem, "only a lane of label alone can do without"))
    return errors


def _faults(lane: Lane, where: str) -> Iterator[SpecError]:
    """What cannot be in one lane."""
    for key, least in _LEAST.items():
        value = getattr(lane, key)
        if value < least:
            yield SpecError(f"{where}.{key}", f"should be at least {least}, got {value}")
    yield from _time_faults(lane, where)
    if lane.launcher not in _LAUNCHERS[lane.scheduler]:
        fitting = " or ".join(_LAUNCHERS[lane.scheduler])
        yield SpecError(
            f"{where}.launcher", f"{lane.launcher!r} is not for scheduler {lane.scheduler!r}", f"use {fitting}"
        )
    if lane.scheduler == "local" and lane.nodes_per_block > 1:
        yield SpecError(f"{where}.nodes_per_block", f"this machine is one node, got {lane.nodes_per_block}")
    if lane.min_blocks > lane.max_blocks:
        yield SpecError(f"{where}.min_blocks", f"{lane.min_blocks} is more than max_blocks, {lane.max_blocks}")
    if lane.gpus_per_task > lane.gpus_per_node:
        problem = f"a task wants {lane.gpus_per_task} GPUs, a node has {lane.gpus_per_node}"
        yield SpecError(f"{where}.gpus_per_task", problem, "set gpus_per_node")
    elif lane.workers_per_node * lane.gpus_per_task > lane.gpus_per_node:
        problem = f"{lane.workers_per_node} tasks of {lane.gpus_per_task} GPUs, a node has {lane.gpus_per_node}"
        yield SpecError(f"{where}.workers_per_node", problem, "leave it out: it follows from the GPUs")
    cores = lane.cores_per_task * lane.ranks_per_task
    if cores > lane.cores_per_node:
        problem = f"a task wants {cores} cores (cores_per_task x ranks_per_task), a node has {lane.cores_per_node}"
        yield SpecError(f"{where}.cores_per_node", problem, "a task runs on one node; set cores_per_node")


def _time_faults(lane: Lane, where: str) -> Iterator[SpecError]:
    """What cannot be in the times of a lane."""
    try:
        minutes = walltime_s(lane.walltime) // 60
    except SpecError as exc:
        yield SpecError(joined(where, exc.where), exc.problem, exc.hint)
        return
    if lane.scheduler == "local":
        return
    if minutes < 1:
        yield SpecError(f"{where}.walltime", f"should be a minute at least, got {lane.walltime}")
    elif lane.task_minutes > _FILLED * minutes:
        problem = f"a task needs {lane.task_minutes:g} minutes, a block lives {minutes}: it would never take one"
        yield SpecError(f"{where}.task_minutes", problem, f"at most {_FILLED * minutes:g}, or a longer walltime")


_FILLED: Final = 0.8
"""Share of its walltime that one task may need: a block also starts its workers and halts them in time."""

_LEAST: Final[Mapping[str, int]] = {
    "nodes_per_block": 1,
    "min_blocks": 0,
    "max_blocks": 1,
    "task_minutes": 0,
    "workers_per_node": 0,
    "cores_per_node": 1,
    "cores_per_task": 1,
    "gpus_per_node": 0,
    "gpus_per_task": 0,
    "ranks_per_task": 1,
}


# ---- programs ------------------------------------------------------------------------------------------------------


def _code(name: str, raw: Any) -> Code:
    where = f"codes.{name}"
    if not isinstance(raw, Mapping):
        raise SpecError(where, f"expected a mapping such as {{command: ...}}, got {shown(raw)}")
    launcher = _words(raw.get("launcher"), f"{where}.launcher")
    if launcher and not launcher[0].startswith("/") and launcher[0] not in _UNAMBIGUOUS:
        problem = f"{launcher[0]!r} is not an absolute path: another MPI's may come first on PATH"
        raise SpecError(f"{where}.launcher", problem, f"write the output of 'which {launcher[0]}' outside of any venv")
    env = raw.get("env") or {}
    if not isinstance(env, Mapping) or any(isinstance(v, list | dict) for v in env.values()):
        raise SpecError(f"{where}.env", f"expected names and values such as {{OMP_NUM_THREADS: 1}}, got {shown(env)}")
    scratch = raw.get("scratch")
    if scratch is not None and not (isinstance(scratch, str) and scratch.startswith(("/", "~", "$"))):
        raise SpecError(f"{where}.scratch", f"expected an absolute path, got {shown(scratch)}")
    return Code(
        name=name,
        command=_words(raw.get("command"), f"{where}.command"),
        launcher=launcher,
        env={str(k): _env_text(v) for k, v in env.items()},
        settings={k: _setting(v, joined(where, k)) for k, v in raw.items() if k not in _CODE_KEYS},
        scratch=None if scratch is None else Path(expand(scratch, f"{where}.scratch")),
    )


def _words(raw: Any, where: str) -> tuple[str, ...]:
    """A command line as words."""
    words: Sequence[Any]
    try:
        words = shlex.split(raw) if isinstance(raw, str) else raw or ()
    except ValueError as exc:
        raise SpecError(where, f"is not a command line: {exc}", "write it as a list of words") from exc
    if not isinstance(words, list | tuple) or not all(isinstance(w, str | int | float) for w in words):
        raise SpecError(where, f"expected a command line or a list of words, got {shown(raw)}")
    return tuple(str(w) for w in words)


def _env_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def _setting(value: Any, where: str) -> Any:
    """Settings are the labeler's business; only what looks like a path is expanded."""
    return expand(value, where) if isinstance(value, str) and value.startswith(("~", "/", "$")) else value
