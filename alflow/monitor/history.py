"""A run's journal as plain records and time series: the one reading of it that status, progress and report share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from alflow.campaign.model import (
    Amended,
    Broken,
    Cancelled,
    Closed,
    Ending,
    Event,
    Failed,
    FailureKind,
    Finished,
    Reopened,
    Resources,
    Retried,
    StageDone,
    Submitted,
    Task,
    Verb,
    comes_apart,
)
from alflow.errors import RunError
from alflow.interfaces import Stop
from alflow.runtime import layout
from alflow.runtime.journal import damaged, of_run, read_lines

_LABELS: Final = frozenset({Verb.LABEL, Verb.RELABEL})


@dataclass(slots=True)
class TaskRecord:
    """What became of one task.

    Attributes:
        id, verb, args: the task.
        submitted: when it was first given out, seconds since the epoch.
        ended: when it ended, or None while it is open.
        outcome: open, finished, failed or cancelled.
        result: what it brought home.
    """

    id: str
    verb: Verb
    args: Mapping[str, Any]
    submitted: float
    ended: float | None = None
    outcome: str = "open"
    result: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stage(self) -> int:
        """Index of its stage."""
        return int(self.args.get("stage", 0))

    @property
    def frames(self) -> int:
        """Frames a label task was given."""
        _, start, stop = self.args.get("frames", ("", 0, 0))
        return int(stop) - int(start)


@dataclass(frozen=True, slots=True)
class Failure:
    """A task that failed, for good or to be tried again."""

    t: float
    task_id: str
    verb: str
    kind: str
    detail: str
    log: str
    retried: bool


@dataclass(slots=True)
class Unlabelled:
    """Frames that no label could be bought of for one cause.

    Attributes:
        frames: how many.
        reason: of the first of them, in words.
        log: one that shows it, or empty.
        example: content id of the first of them, or the task that failed as a whole.
    """

    frames: int
    reason: str
    log: str
    example: str


@dataclass(frozen=True, slots=True)
class ModelPoint:
    """A model version when it was ready.

    Attributes:
        t: when, seconds since the epoch.
        stage, loop, version: which.
        path: its manifest, relative to the run directory.
        n: frames it was fitted to.
        members: members that arrived.
        errors: on held-out frames, named with their unit.
        gauge: figures of its uncertainty.
    """

    t: float
    stage: int
    loop: int
    version: int
    path: str
    n: int
    members: int
    errors: Mapping[str, float]
    gauge: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Wave:
    """What one sampling task brought home.

    Attributes:
        t: when it ended.
        stage, loop: whose.
        model: path of the model that guided it, or empty.
        lengths: how far its trajectories got, in `unit`.
        unit: of `lengths`.
        stops: trajectories by why they ended.
        n: candidates.
        median, highest: uncertainty of the candidates; None where there is none.
    """

    t: float
    stage: int
    loop: int
    model: str
    lengths: tuple[float, ...]
    unit: str
    stops: Mapping[str, int]
    n: int
    median: float | None
    highest: float | None


@dataclass(slots=True)
class History:
    """Everything a journal says, folded once; feed it decision by decision with `add`.

    Attributes:
        whole: keep tasks that are over; without, those of labels are dropped, which are nearly all.
        header: the journal's first line.
        started, last: times of its first and last line, seconds since the epoch; 0 before the first.
        tasks: by id, in the order of submission.
        failures: every failure, also of tries that were repeated.
        counts: tasks by verb and outcome.
        labels: time, labels bought and frames failed so far, at each label task's end.
        label_failures: why labels failed, by cause; every frame of `labels`' failures is in one of them.
        waiting: frames that ran out of time or memory and were not tried again yet.
        aside: labels kept apart since they are of another level of theory, by its fingerprint.
        corrected: labels that a correction helped to.
        models: every model version, in the order in which they were ready.
        waves: what every sampling task brought home, in the order in which they ended.
        evaluations: stage -> result of `science.evaluate`, for the stages that were judged.
        stages_done: stage -> (time, reason).
        ending: why the current stage is winding up, or empty.
        closed: the event that closed the campaign, or None.
        amendments: time, stage and changes of each amendment.
        first_label: when the first label task was given out, or None.
        repeated: tries that were repeated.
        trouble: lane -> why it gets no nodes, in the scheduler's words.
    """

    whole: bool = True
    header: Mapping[str, Any] = field(default_factory=dict)
    started: float = 0.0
    last: float = 0.0
    tasks: dict[str, TaskRecord] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    labels: list[tuple[float, int, int]] = field(default_factory=list)
    label_failures: dict[str, Unlabelled] = field(default_factory=dict)
    waiting: int = 0
    aside: Counter[str] = field(default_factory=Counter)
    corrected: int = 0
    models: list[ModelPoint] = field(default_factory=list)
    waves: list[Wave] = field(default_factory=list)
    evaluations: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    stages_done: dict[int, tuple[float, str]] = field(default_factory=dict)
    ending: str = ""
    closed: Closed | None = None
    amendments: list[tuple[float, int, Mapping[str, str]]] = field(default_factory=list)
    first_label: float | None = None
    repeated: int = 0
    trouble: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def read(
        run_dir: Path, *, whole: bool = True, also: Callable[[float, Sequence[Event]], None] | None = None
    ) -> History:
        """The history of a run, finished or not; see `whole` above. `also` is told every decision and its time.

        Raises:
            RunError: there is no run.
            JournalError: the journal is damaged.
        """
        if not (run_dir / layout.WORKFLOW).is_file() and not (run_dir / layout.JOURNAL).is_file():
            raise RunError(str(run_dir), "is no run directory of alflow", "`alflow submit WORKFLOW` makes one")
        history, path = History(whole=whole), of_run(run_dir)
        if path is None:
            return history
        history.header = read_header(run_dir)
        for n, (record, events) in enumerate(read_lines(path), start=1):
            t = float(record.get("t", history.last))  # the first line of a journal may have none
            try:
                history.add(t, events)
                if also is not None:
                    also(t, events)
            except (KeyError, TypeError, AttributeError, ValueError, IndexError) as exc:
                raise damaged(path, n, f"does not follow from what was before ({type(exc).__name__}: {exc})") from exc
        return history

    def add(self, t: float, events: Sequence[Event]) -> None:
        """Fold one decision."""
        self.started = self.started or t
        self.last = max(self.last, t)
        for event in events:
            self._fold(t, event)

    def _fold(self, t: float, event: Event) -> None:
        match event:
            case Submitted(task):
                self.tasks[task.id] = TaskRecord(task.id, task.verb, task.args, t)
                self.counts.setdefault(str(task.verb), Counter())["open"] += 1
                if task.verb is Verb.LABEL and self.first_label is None:
                    self.first_label = t
                if task.verb is Verb.RELABEL:
                    self.waiting -= self.tasks[task.id].frames
            case Finished(task_id, result):
                self._end(t, task_id, "finished", result)
            case Failed(task_id, kind, detail, log):
                self._fail(t, task_id, kind, detail, log, retried=False)
                self._end(t, task_id, "failed", {})
            case Retried(task_id, kind, detail, log):
                self._fail(t, task_id, kind, detail, log, retried=True)
                self.repeated += 1
            case Broken(task_id, kind, detail, log):
                verb = str(self.tasks[task_id].verb) if task_id in self.tasks else ""
                self.failures.append(Failure(t, task_id, verb, str(kind), detail, log, retried=False))
            case Reopened():
                self.closed = None
            case Amended(stage, changes):
                self.amendments.append((t, stage, changes))
            case Resources(lanes):
                for lane, held in lanes.items():
                    self.trouble[lane] = str(held.get("trouble", ""))
            case Cancelled(task_id):
                self._end(t, task_id, "cancelled", {})
            case Ending(reason):
                self.ending = reason
                self._give_up(t, self.waiting)
                self.waiting = 0
            case StageDone(stage, reason):
                self.stages_done[stage], self.ending = (t, reason), ""
            case Closed():
                self.closed = event

    def _end(self, t: float, task_id: str, outcome: str, result: Mapping[str, Any]) -> None:
        task = self.tasks.get(task_id)
        if task is None:
            return
        counts = self.counts[str(task.verb)]
        counts[task.outcome] -= 1
        counts[outcome] += 1
        task.ended, task.outcome, task.result = t, outcome, result
        if not self.whole and task.verb in _LABELS:
            del self.tasks[task_id]
        if outcome == "cancelled":
            self._give_up(t, task.frames if task.verb in _LABELS else 0)
            return
        if outcome == "finished" and task.verb in _LABELS:
            self._labelled(t, task)
        elif outcome == "finished" and task.verb is Verb.CALIBRATE:
            self.models.append(_model_point(t, task))
        elif outcome == "finished" and task.verb is Verb.SAMPLE:
            self.waves.append(_wave(t, task))
        elif outcome == "finished" and task.verb is Verb.EVALUATE:
            self.evaluations[task.stage] = result

    def _labelled(self, t: float, task: TaskRecord) -> None:
        r = task.result
        n, again = int(r.get("n", 0)), int((r.get("again") or {"n": 0})["n"])
        failures = list(r.get("failures", ()))
        self.corrected += int(r.get("corrected", 0))
        for other in r.get("aside", ()):
            self.aside[str(other["theory"])] += int(other["n"])
        self._count(t, n, len(failures))
        for f in failures:
            self._label_failed(str(f["cause"]), 1, str(f["reason"]), str(f["log"]), str(f["id"]))
        if self.ending:
            self._give_up(t, again)
        else:
            self.waiting += again

    def _give_up(self, t: float, frames: int) -> None:
        """At a stage's end nothing is tried once more, and the last labels of a stream are not waited for."""
        if frames:
            self._count(t, 0, frames)
            self._label_failed("time or memory", frames, "given up: the stage could do without", "", "")

    def _count(self, t: float, bought: int, failed: int) -> None:
        last, n, m = self.labels[-1] if self.labels else (-1.0, 0, 0)
        if last == t:
            self.labels.pop()
        self.labels.append((t, n + bought, m + failed))

    def _label_failed(self, cause: str, frames: int, reason: str, log: str, example: str) -> None:
        if cause in self.label_failures:
            self.label_failures[cause].frames += frames
        else:
            self.label_failures[cause] = Unlabelled(frames, reason, log, example)

    def _fail(self, t: float, task_id: str, kind: str, detail: str, log: str, *, retried: bool) -> None:
        task = self.tasks.get(task_id)
        verb = str(task.verb) if task is not None else ""
        self.failures.append(Failure(t, task_id, verb, str(kind), detail, log, retried))
        if task is None or task.verb not in _LABELS or retried:
            return
        if comes_apart(Task(task.id, task.verb, task.args), FailureKind(kind)) and not self.ending:
            self.waiting += task.frames
        else:
            self._count(t, 0, task.frames)
            self._label_failed(f"task failed ({kind})", task.frames, detail, log, task_id)

    @property
    def stage(self) -> int:
        """Index of the stage at work; the last one if all are done."""
        done = len(self.stages_done)
        return min(done, max(len(self.stage_names) - 1, 0)) if self.stage_names else done

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Names of all stages."""
        return tuple(str(s) for s in self.header.get("stages", ()))


def read_header(run_dir: Path) -> Mapping[str, Any]:
    """The first line of a run's journal, its time left out; empty if there is none yet.

    Raises:
        JournalError: the line is damaged.
    """
    if not (run_dir / layout.JOURNAL).is_file():
        return {}
    record, _ = next(read_lines(run_dir / layout.JOURNAL), ({}, []))
    return {k: v for k, v in record.items() if k != "t"}


def _model_point(t: float, task: TaskRecord) -> ModelPoint:
    r = task.result
    return ModelPoint(
        t=t,
        stage=task.stage,
        loop=int(task.args.get("loop", 0)),
        version=int(r.get("version", 0)),
        path=str(r.get("path", "")),
        n=int(r.get("n", 0)),
        members=int(r.get("members", 0)),
        errors=in_milli(r.get("errors", {})),
        gauge=_numbers(r.get("gauge", {})),
    )


def _wave(t: float, task: TaskRecord) -> Wave:
    r = task.result
    scores = _numbers(r.get("scores", {}))
    return Wave(
        t=t,
        stage=task.stage,
        loop=int(task.args.get("loop", 0)),
        model=str(r.get("model") or ""),
        lengths=tuple(float(x) for x in r.get("lengths", ()) if x is not None),
        unit=str(r.get("length_unit", "")),
        stops={str(k): int(v) for k, v in dict(r.get("stops", {})).items()},
        n=int(r.get("n", 0)),
        median=scores.get("median"),
        highest=scores.get("max"),
    )


def all_lost(task: TaskRecord) -> str:
    """Why a sampling task that ended in order brought nothing home: no trajectory stayed physical. Else empty."""
    stops = dict(task.result.get("stops", {}))
    count = sum(stops.values())
    if task.verb is not Verb.SAMPLE or not count or task.result.get("n") or stops.get(Stop.UNPHYSICAL) != count:
        return ""
    reasons = "; ".join(f"{n} x {why}" if n > 1 else why for why, n in task.result.get("reasons", {}).items())
    return f"brought nothing home, all {count} trajectories became unphysical" + (f": {reasons}" if reasons else "")


def in_milli(errors: Mapping[str, Any]) -> dict[str, float]:
    """Figures in eV/atom and eV/angstrom given in meV: ``force_rmse_eV_A`` becomes ``force_rmse_meV_A``."""
    found = {}
    for name, value in _numbers(errors).items():
        in_eV = "_eV_" in name
        found[name.replace("_eV_", "_meV_") if in_eV else name] = 1e3 * value if in_eV else value
    return found


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {str(k): float(v) for k, v in dict(values).items() if isinstance(v, int | float)}
