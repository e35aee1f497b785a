"""Free the disk that a campaign does not need any more.

Kept: every shard, result and log of a task; everything of a task that is open; where a failure's log is; what a second
try of a label goes on from; members of models in the making; the dataset; the journal. Freed: what labelers, samplers
and fits leave in the folders of tasks that are over, and with ``models`` the versions that no task uses any more.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from alflow.campaign.model import (
    Broken,
    Event,
    Failed,
    Finished,
    Retried,
    State,
    Submitted,
    Task,
    Verb,
)
from alflow.runtime import layout, rundir
from alflow.runtime.journal import of_run, replay

_ALWAYS: Final = frozenset({layout.RESULT, layout.TASK_LOG, layout.FRAMES, "lock"})
_WHAT: Final[Mapping[str, str]] = {
    Verb.LABEL: "work files of labels",
    Verb.RELABEL: "work files of labels",
    Verb.FIT: "checkpoints and members of fits",
    Verb.SAMPLE: "work files of samplers",
}
_FAILED: Final = "what failed or was cancelled"
_MODELS: Final = "superseded model versions"


@dataclass(slots=True)
class Freed:
    """How much of one kind: files, and bytes that they take."""

    files: int = 0
    bytes: int = 0


@dataclass(slots=True)
class _Task:
    """A task: what it was, what it brought home, and what in its folder logs of failures are in."""

    task: Task
    result: Mapping[str, Any] | None = None
    logs: set[str] = field(default_factory=set)


def clean(run_dir: Path, *, models: bool = False, dry_run: bool = False) -> dict[str, Freed]:
    """Free what nothing needs any more, or with `dry_run` add up what that would be; by kind.

    Args:
        run_dir: a run that no coordinator is at work on.
        models: free superseded model versions too.
        dry_run: touch nothing.

    Raises:
        RunError: there is no such run, or it is being run.
        JournalError: its journal is damaged.
    """
    run_dir = rundir.existing(run_dir)
    freed: dict[str, Freed] = {}
    with rundir.locked(run_dir):
        tasks, journal = _Tasks(), of_run(run_dir)
        state = State() if journal is None else replay(journal, tasks.add)
        found = [*tasks.free(run_dir, state), *(tasks.models(run_dir, state) if models else ())]
        for kind, path in found:
            _add(freed.setdefault(kind, Freed()), path)
            if not dry_run:
                _remove(path)
    return freed


class _Tasks:
    """What has become of all tasks."""

    def __init__(self) -> None:
        self._tasks: dict[str, _Task] = {}
        self._products: dict[tuple[int, int], str] = {}
        """Stage and loop -> its last model; what was evaluated is that of loop 0."""

    def add(self, events: Sequence[Event]) -> None:
        for event in events:
            match event:
                case Submitted(task):
                    self._tasks[task.id] = _Task(task)
                case Finished(task_id, result):
                    known = self._tasks[task_id]
                    known.result = result
                    for failure in result.get("failures", ()):
                        self._keep_log(failure["log"])
                    if known.task.verb is Verb.CALIBRATE:
                        self._products[int(known.task.args["stage"]), known.task.loop] = str(result["path"])
                case Failed() | Retried() | Broken():
                    self._keep_log(event.log)

    def _keep_log(self, path: str) -> None:
        """Note which entry of which task's folder a log is in; of another task's, for a label tried again."""
        parts = Path(path).parts
        for name, entry in pairwise(parts):
            if name in self._tasks:
                self._tasks[name].logs.add(entry)

    def free(self, run_dir: Path, state: State) -> Iterator[tuple[str, Path]]:
        """What is free in the folders of tasks that are over."""
        again = {a.home for loop in state.loops for a in loop.again}
        needed = again | {str(t.args["home"]) for t in state.open.values() if "home" in t.args}
        for name, known in self._tasks.items():
            folder = run_dir / layout.task_dir(name)
            if name in state.open or name in needed or not folder.is_dir() or not _spent(known.task, state):
                continue
            keep = _ALWAYS | known.logs | {Path(path).name for path in _shards(known.result or {})}
            verb = known.task.verb
            kind = _FAILED if known.result is None else _WHAT.get(verb, f"work files of {verb} tasks")
            yield from ((kind, path) for path in sorted(folder.iterdir()) if path.name not in keep)

    def models(self, run_dir: Path, state: State) -> Iterator[tuple[str, Path]]:
        """Folders of models that are neither a loop's current one, nor a stage's last, nor used by an open task."""
        used = {loop.model for loop in state.loops} | {state.latest} | set(self._products.values())
        for task in state.open.values():
            used |= {task.args.get("model"), task.args.get("start")}
        folders = {str(Path(path).parent) for path in used if path}
        making = {
            layout.model_dir(state.stage, k, loop.making.number).as_posix()
            for k, loop in enumerate(state.loops)
            if loop.making is not None
        }
        for path in sorted((run_dir / "models").glob("*")):
            if path.is_dir() and path.relative_to(run_dir).as_posix() not in folders | making:
                yield _MODELS, path


def _spent(task: Task, state: State) -> bool:
    """Whether nobody will read the work files of a task that is over: of a fit, once its version is made or lost."""
    if task.verb is not Verb.FIT or int(task.args["stage"]) != state.stage:
        return True
    making = state.loops[task.loop].making
    return making is None or making.number != int(task.args["version"])


def _shards(result: Mapping[str, Any]) -> Iterator[str]:
    """Every shard that a result names."""
    for kept in (result, result.get("again") or {}, *result.get("aside", ())):
        if "path" in kept:
            yield str(kept["path"])


def _add(freed: Freed, path: Path) -> None:
    files = [p for p in path.rglob("*") if not p.is_dir() or p.is_symlink()] if _is_folder(path) else [path]
    freed.files += len(files)
    freed.bytes += sum(p.lstat().st_size for p in files)


def _remove(path: Path) -> None:
    if _is_folder(path):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
