"""What became of one structure or one task: from the journal and the shards, in words."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from alflow.campaign.model import Verb
from alflow.core.labels import Cause
from alflow.errors import DataError, InputError
from alflow.monitor.history import History, TaskRecord, all_lost
from alflow.monitor.status import duration
from alflow.runtime import layout
from alflow.spec.amend import amended
from alflow.spec.workflow import load
from alflow.store.shards import Shard, read_shard
from alflow.validation import suggestion

_LEAST_DIGITS: Final = 6
_LABELS: Final = (Verb.LABEL, Verb.RELABEL)
_MAKERS: Final = (Verb.BUILD, Verb.SAMPLE, Verb.SELECT, *_LABELS)
_BEFORE: Final = ("min_contact", "min_height_A", "max_aspect", "max_atoms")
"""Gates that a structure passes before a label is bought of it; the others are for the label."""
_GATED: Final = {Cause.CONTACT, Cause.STRUCTURE, Cause.QUARANTINED}
"""Causes that may be a gate's, or come before any."""


@dataclass(frozen=True, slots=True)
class Line:
    """One fact of a story: when it happened (seconds since the epoch, or None), and what, in words."""

    t: float | None
    words: str


@dataclass(slots=True)
class Story:
    """What became of something.

    Attributes:
        subject: the content id of a structure, or a task's id.
        outcome: how it ended, in a few words.
        lines: what happened, in its order.
    """

    subject: str
    outcome: str
    lines: list[Line] = field(default_factory=list)


def failures(run_dir: Path) -> list[Story]:
    """Every structure of a run that no label could be bought of, every task that failed, and sampling without a yield.

    Raises:
        RunError: there is no run.
        JournalError: its journal is damaged.
    """
    history = History.read(run_dir)
    stories = [
        Story(f["id"], f["cause"], [Line(task.ended, f"{task.id}: {f['reason']}"), *_log(f["log"])])
        for task in history.tasks.values()
        for f in task.result.get("failures", ())
    ]
    stories += [
        Story(task.id, "nothing came of it", [Line(task.ended, words)])
        for task in history.tasks.values()
        if (words := all_lost(task))
    ]
    lost = (f for f in history.failures if not f.retried)
    return stories + [Story(f.task_id, f"task failed ({f.kind})", [Line(f.t, f.detail), *_log(f.log)]) for f in lost]


def why(run_dir: Path, name: str) -> Story:
    """The story of a structure (its content id, or the first digits of it; or ``TASK/NUMBER``) or of a task.

    Raises:
        RunError: there is no run.
        JournalError: its journal is damaged.
        InputError: nothing in it has this name, or several have.
    """
    history = History.read(run_dir)
    if name in history.tasks:
        return _of_task(run_dir, history, history.tasks[name])
    return _of_structure(run_dir, history, _found(run_dir, history, name))


# ---- a task --------------------------------------------------------------------------------------------------------


def _of_task(run_dir: Path, history: History, task: TaskRecord) -> Story:
    story = Story(task.id, task.outcome, [Line(task.submitted, f"given out: {task.verb} {_brief(task.args)}")])
    for f in history.failures:
        if f.task_id == task.id:
            what = "failed and was given out again" if f.retried else "failed"
            story.lines += [Line(f.t, f"{what} ({f.kind}): {f.detail}"), *_log(f.log)]
    if task.outcome == "finished":
        took = _took(task)
        story.lines.append(Line(task.ended, f"brought home{took}: {_brief(task.result)}"))
        for failure in task.result.get("failures", ()):
            story.lines.append(Line(task.ended, f"no label of {failure['id']}: {failure['reason']}"))
    elif task.outcome == "cancelled":
        story.lines.append(Line(task.ended, "cancelled: it was not wanted any more"))
    folder = run_dir / layout.task_dir(task.id)
    story.lines += _log(str(folder / layout.TASK_LOG) if folder.is_dir() else "")
    return story


def _took(task: TaskRecord) -> str:
    began, ended = task.result.get("started"), task.result.get("ended")
    return f" after {duration(ended - began)} of work" if began and ended else ""


def _brief(values: Mapping[str, Any]) -> str:
    """What is short among a task's args or its result."""
    words = []
    for key, value in values.items():
        if isinstance(value, str | int | float) and key not in {"stage", "started", "ended"}:
            words.append(f"{key} {value}")
        elif isinstance(value, list) and 0 < len(value) <= 3 and not any(isinstance(v, list | dict) for v in value):
            words.append(f"{key} {' '.join(map(str, value))}")
    return ", ".join(words)


def _log(path: str) -> list[Line]:
    return [Line(None, f"log: {path}")] if path else []


# ---- a structure ---------------------------------------------------------------------------------------------------


def _found(run_dir: Path, history: History, name: str) -> str:
    """The whole content id that `name` stands for."""
    task, _, number = name.rpartition("/")
    if task in history.tasks and number.isdigit():
        return _numbered(run_dir, history.tasks[task], int(number))
    if len(name) < _LEAST_DIGITS or not all(c in "0123456789abcdef" for c in name):
        raise InputError(name, "names no task of this run, and is no structure's id", _meant(history, task or name))
    seen = {i for place in asked(run_dir, history) for i in place[2] if i.startswith(name)}
    if len(seen) != 1:
        some = ", ".join(sorted(seen)[:5])
        problem = f"stands for {len(seen)} structures: {some}" if seen else "no structure of this run has such an id"
        raise InputError(name, problem, "give more digits" if seen else f"`alflow why {run_dir}` lists what failed")
    return seen.pop()


def _meant(history: History, name: str) -> str:
    """What may have been meant by a name that no task has."""
    last: dict[str, str] = {}
    for task in history.tasks:
        last[task.rpartition("-")[0]] = task
    family = name.rpartition("-")[0]
    if family in last:
        return f"tasks of this kind go up to {last[family]}"
    close = f"; {suggestion(family or name, last)}" if last else ""
    return f"give a task such as 0-label-000001, or {_LEAST_DIGITS} digits of a structure's id at least{close}"


def _numbered(run_dir: Path, task: TaskRecord, number: int) -> str:
    path = str(task.result.get("path", "")) if task.verb in _MAKERS else ""
    if task.verb in _LABELS:
        path, start, *_ = task.args["frames"]
        number += int(start)
    if not path:
        why_not = "this task brought none home" if task.verb in _MAKERS else f"a {task.verb} task makes none"
        raise InputError(f"{task.id}/{number}", f"there is no such structure: {why_not}")
    try:
        return read_shard(run_dir / path, number, number + 1).frames.ids()[0]
    except (DataError, IndexError) as exc:
        raise InputError(f"{task.id}/{number}", f"there is no such structure: {exc}") from exc


def asked(run_dir: Path, history: History) -> Iterator[tuple[TaskRecord, Shard, tuple[str, ...]]]:
    """Every label task with what it was asked, and the ids."""
    for task in history.tasks.values():
        if task.verb in _LABELS:
            path, start, stop, *_ = task.args["frames"]
            try:
                shard = read_shard(run_dir / path, start, stop)
            except DataError:
                continue
            yield task, shard, shard.frames.ids()


def _of_structure(run_dir: Path, history: History, name: str) -> Story:
    story = Story(name, "")
    for task, shard, ids in asked(run_dir, history):
        if name not in ids:
            continue
        i = ids.index(name)
        if not story.lines:
            story.lines += [*_proposed(history, shard, i), *_selected(history, task)]
        story.lines.append(
            Line(task.submitted, f"{'asked once more' if task.verb is Verb.RELABEL else 'asked'}: {task.id}")
        )
        story.outcome, lines = _answer(run_dir, history, task, name)
        story.lines += lines
    if not story.outcome:
        raise InputError(name, "no label was ever asked of it")
    return story


def _proposed(history: History, shard: Shard, i: int) -> Iterator[Line]:
    """Who proposed it, and at what uncertainty."""
    columns = {k: v[i] for k, v in shard.columns.items()}
    origin = str(columns.pop("origin", ""))
    maker = history.tasks.get(origin.rpartition("/")[0])
    model, score = str(columns.pop("model", "")), float(columns.pop("score", np.nan))
    words = f"{shard.frames[i].n_atoms} atoms, proposed by {origin or 'nobody known'}"
    words += f", guided by {model}" if model else ""
    words += f", at an uncertainty of {score:.3g} (thresholds are 1)" if np.isfinite(score) else ""
    more = ", ".join(f"{k} {v:.4g}" for k, v in columns.items() if isinstance(v, np.floating) and np.isfinite(v))
    yield Line(maker.submitted if maker else None, words + (f"; {more}" if more else ""))


def _selected(history: History, task: TaskRecord) -> Iterator[Line]:
    """Who picked it, and out of how many."""
    picker = history.tasks.get(Path(str(task.args["frames"][0])).parent.name)
    if picker is not None and picker.verb is Verb.SELECT:
        words = f"selected by {picker.id}: {picker.result.get('n', '?')} of {picker.result.get('offered', '?')} offered"
        yield Line(picker.ended, words)


def _gates(run_dir: Path, history: History, task: TaskRecord) -> Mapping[str, Any]:
    """The gates as they were when the task was given out; none if the workflow cannot be read."""
    made = [{"stage": i, "changes": changes} for _, i, changes in history.amendments]
    try:
        workflow = amended(load(run_dir / layout.WORKFLOW), made[: int(task.args.get("amended", 0))])
        return {k: v for k, v in asdict(workflow.stages[task.stage].gates).items() if v is not None}
    except (InputError, IndexError):
        return {}


def _passed(run_dir: Path, history: History, task: TaskRecord, *, label: bool) -> Iterator[Line]:
    """Which gates a structure passed, and with `label` which ones its label did."""
    gates = _gates(run_dir, history, task)
    before = [f"{k} {gates[k]}" for k in gates if k in _BEFORE]
    after = [f"{k} {v}" for k, v in gates.items() if k not in _BEFORE]
    if before:
        yield Line(None, f"passed the gates before a label: {', '.join(before)}")
    if label:
        yield Line(None, f"its label passed the gates: {', '.join(['finite', *after])}")


def _answer(run_dir: Path, history: History, task: TaskRecord, name: str) -> tuple[str, list[Line]]:
    """How a label task answered for one structure."""
    if task.outcome != "finished":
        return f"no label yet ({task.outcome})", []
    for f in task.result.get("failures", ()):
        if f["id"] == name:
            passed = [] if f["cause"] in _GATED else list(_passed(run_dir, history, task, label=False))
            told = Line(task.ended, f"no label ({f['cause']}): {f['reason']}")
            return f"no label: {f['cause']}", [*passed, told, *_log(f["log"])]
    for kept in (task.result, *task.result.get("aside", ())):
        row = _row(run_dir, kept, name)
        if row is not None:
            words = f"label bought: {row['energy']:.6f} eV, theory {row['theory']}"
            lines = [Line(task.ended, words), *(Line(None, c) for c in _corrections(row["corrections"]))]
            lines += _passed(run_dir, history, task, label=True)
            if kept is not task.result:
                return "label kept apart: of another level of theory", [*lines, Line(None, f"in {kept['path']}")]
            return "in the dataset", [*lines, *_used(history, task)]
    again = task.result.get("again") or {"n": 0}
    if again["n"] and _row(run_dir, again, name) is not None:
        return "no label: time or memory", [Line(task.ended, "ran out of time or memory")]
    return "no label", []


def _row(run_dir: Path, kept: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    if not kept.get("n"):
        return None
    try:
        shard = read_shard(run_dir / str(kept["path"]))
    except DataError:
        return None
    ids = shard.frames.ids()
    if name not in ids:
        return None
    i = ids.index(name)
    energy = np.nan if shard.labels is None else float(shard.labels.energy[i])
    return {"energy": energy, **{k: str(shard.columns.get(k, [""] * len(ids))[i]) for k in ("theory", "corrections")}}


def _corrections(text: str) -> Iterator[str]:
    for c in json.loads(text) if text else ():
        changes = ", ".join(
            f"{k} from {a} to {b}" for k, (a, b) in dict(c.get("changes", {})).items() if len(f"{a}{b}") < 80
        )
        yield f"corrected by {c.get('handler')}: {', '.join(c.get('errors', ()))}{'; ' if changes else ''}{changes}"


def _used(history: History, task: TaskRecord) -> Iterator[Line]:
    """Which shard it went to, and which models were fitted to that."""
    path = task.result["path"]
    for merge in history.tasks.values():
        if merge.verb is not Verb.MERGE or path not in {b[0] for b in merge.args.get("labelled", ())}:
            continue
        shard = str(merge.result.get("path", ""))
        yield Line(merge.ended, f"merged into {shard or 'a shard that is not finished'} by {merge.id}")
        models = [
            str(t.result.get("path", t.id))
            for t in history.tasks.values()
            if t.verb is Verb.CALIBRATE and shard in {s[0] for s in t.args.get("shards", ())}
        ]
        if models:
            yield Line(
                None, f"seen by {len(models)} models: {', '.join(models[:4])}{' ...' if len(models) > 4 else ''}"
            )


# ---- for people ----------------------------------------------------------------------------------------------------


def text(story: Story) -> str:
    """A story as lines for the terminal."""
    rows = [f"{story.subject}  {story.outcome}"]
    for line in story.lines:
        at = time.strftime("%m-%d %H:%M:%S", time.localtime(line.t)) if line.t else " " * 14
        rows.append(f"  {at}  {line.words}")
    return "\n".join(rows)
