"""Tasks, events and the state they fold into. Pure: no clock, no disk, no randomness.

An event says what has happened; `apply` folds it into the `State`; the journal is the list of all events. The state is
changed in place, so that a fold is linear in the events however many tasks are open.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from alflow.errors import JournalError

PACES: Final = 200
"""Labels whose pace is remembered."""


class Verb(StrEnum):
    """What a task does."""

    BUILD = "build"
    SAMPLE = "sample"
    SELECT = "select"
    LABEL = "label"
    RELABEL = "relabel"
    """Label once more, with more time and in a lane of its own if there is one, what ran out of time or memory."""
    MERGE = "merge"
    """Join finished labels into one sealed shard of the dataset."""
    FIT = "fit"
    CALIBRATE = "calibrate"
    """Join the members that arrived into a model, calibrate its gauge, measure it on held-out frames."""
    EVALUATE = "evaluate"
    """Hold the stage's last model against the reference on structures it never saw."""


class FailureKind(StrEnum):
    """Whose fault a failure was, which decides what happens next."""

    INFRASTRUCTURE = "infrastructure"
    """The machine's: the same again, at no cost, up to a cap."""
    RESOURCE = "resource"
    """Too little memory or time: again, with more."""
    HALTED = "halted"
    """Nobody's: the batch job it ran in ended. It goes on in the next one from what it left, at no cost."""
    UNPHYSICAL = "unphysical"
    """The structure's: dropped and counted."""
    DEFECT = "defect"
    """Ours: stop, loudly."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Frames start:stop of a shard file, by its path relative to the run directory.

    Attributes:
        digest: of the whole file, see `store.files.digest`; empty where it is not to be checked.
    """

    path: str
    start: int
    stop: int
    digest: str = ""

    @property
    def n(self) -> int:
        """How many frames."""
        return self.stop - self.start

    def json(self) -> list[Any]:
        """As it stands in a task's args."""
        return [self.path, self.start, self.stop, *([self.digest] if self.digest else [])]


@dataclass(frozen=True, slots=True)
class Task:
    """Everything a worker needs, as plain JSON values. The id fixes the task's folder and its random numbers."""

    id: str
    verb: Verb
    args: Mapping[str, Any]

    @property
    def loop(self) -> int:
        """Which loop of the campaign it belongs to."""
        return int(self.args.get("loop", 0))


# ---- events: what has happened, in the past tense ------------------------------------------------------------------
# `started` of a failure is when the try began, seconds since the epoch by the worker's clock, if a worker could tell.


@dataclass(frozen=True, slots=True)
class Submitted:
    """A task was given out."""

    task: Task


@dataclass(frozen=True, slots=True)
class Finished:
    """A task ended with a result."""

    task_id: str
    result: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Failed:
    """A task ended for good without a result."""

    task_id: str
    kind: FailureKind
    detail: str
    log: str = ""
    started: float | None = None


@dataclass(frozen=True, slots=True)
class Retried:
    """A task failed and was given out again."""

    task_id: str
    kind: FailureKind
    detail: str
    log: str = ""
    started: float | None = None


@dataclass(frozen=True, slots=True)
class Broken:
    """A task failed in a way that ends the campaign. It stays open: a campaign that is reopened does it again."""

    task_id: str
    kind: FailureKind
    detail: str
    log: str = ""
    started: float | None = None


@dataclass(frozen=True, slots=True)
class Reopened:
    """A campaign that had failed was resumed: what broke it is tried afresh."""


@dataclass(frozen=True, slots=True)
class Amended:
    """A stage's settings were changed by the user; tasks given out from now on go by them.

    Attributes:
        stage: index of the stage.
        changes: key such as ``until.max_labels`` -> value, as YAML text.
    """

    stage: int
    changes: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Began:
    """A coordinator took the campaign up. Whatever an earlier one held is gone; what is open is given out again.

    Attributes:
        lanes: verb -> lane its tasks run in; empty where the runner has no lanes.
        policies: kind of each stage's policy.
    """

    lanes: Mapping[str, str] = field(default_factory=dict)
    policies: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Resources:
    """What the campaign holds from now on.

    Attributes:
        lanes: lane -> ``nodes`` held, ``workers`` connected, ``pending`` blocks asked for and not granted yet.
    """

    lanes: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Cancelled:
    """A task is no longer wanted; what it may still bring is ignored."""

    task_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Arrived:
    """A loop has done its part and waits at the sync point."""

    loop: int


@dataclass(frozen=True, slots=True)
class VersionLost:
    """Too few members of a model arrived for it to be usable."""

    loop: int
    reason: str


@dataclass(frozen=True, slots=True)
class Synced:
    """The loops' data were merged: from here on every loop sees all of it."""

    number: int


@dataclass(frozen=True, slots=True)
class Ending:
    """The stage's goal is reached: nothing new is sampled, what was bought is still used."""

    reason: str


@dataclass(frozen=True, slots=True)
class Awaited:
    """A wait has begun that is not to last for ever, see `policy.waits`.

    Attributes:
        what: its name.
        since: seconds since the epoch by the coordinator's clock.
    """

    what: str
    since: float


@dataclass(frozen=True, slots=True)
class Overdue:
    """A wait has lasted as long as it may."""

    what: str


@dataclass(frozen=True, slots=True)
class StageDone:
    """A stage is over; the next one keeps the data or the model, or neither."""

    stage: int
    reason: str
    keep_data: bool = False
    keep_model: bool = False


@dataclass(frozen=True, slots=True)
class Closed:
    """The campaign is over."""

    reason: str
    failed: bool = False


Event = (
    Submitted
    | Finished
    | Failed
    | Retried
    | Broken
    | Cancelled
    | Arrived
    | VersionLost
    | Synced
    | Ending
    | Awaited
    | Overdue
    | StageDone
    | Closed
    | Reopened
    | Amended
    | Began
    | Resources
)


# ---- the state -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Version:
    """A model in the making: its fit tasks and what came back from them."""

    number: int
    seen: int
    shards: list[list[Any]]
    """What the fits were given; more may have become visible since."""
    groups: dict[str, Mapping[str, Any] | None] = field(default_factory=dict)
    """Fit task -> its result; None while it runs. A failed one is removed."""

    @property
    def arrived(self) -> int:
        """Members that are there."""
        return sum(len(r["members"]) for r in self.groups.values() if r is not None)

    @property
    def running(self) -> bool:
        """Whether a fit is still out."""
        return any(r is None for r in self.groups.values())


@dataclass(frozen=True, slots=True)
class Again:
    """Frames to be labelled once more.

    Attributes:
        frames: which.
        home: the task that tried first; what it left behind is in its folder.
        level: how often they were tried.
    """

    frames: Batch
    home: str
    level: int


@dataclass(slots=True)
class Loop:
    """One active-learning loop: `rounds` and `stream` have one, `cycles` has several."""

    pool: list[Batch] = field(default_factory=list)
    """Sampled, not yet selected."""
    pooled: int = 0
    """Frames in `pool`."""
    selecting: int = 0
    """Frames that open select tasks choose from."""
    queue: list[Batch] = field(default_factory=list)
    """Selected, no label task yet."""
    queued: int = 0
    """Frames in `queue`."""
    again: list[Again] = field(default_factory=list)
    """Ran out of time or memory, no further label task yet."""
    labelled: dict[str, Batch] = field(default_factory=dict)
    """Bought, not yet in a shard, by path."""
    new: int = 0
    """Frames in `labelled`."""
    shards: list[Batch] = field(default_factory=list)
    """Sealed shards that only this loop sees, until the next sync point."""
    model: str | None = None
    """Path of the current model's manifest."""
    seen: int = 0
    """Frames the current model was fitted to."""
    versions: int = 0
    making: Version | None = None
    lengths: list[float] = field(default_factory=list)
    """Trajectory lengths under the current model, from short to long."""
    barren: int = 0
    """Trajectories in a row, over all models, that ended without a candidate."""
    wave: int = 0
    """Sampling waves begun."""
    synced_wave: int = 0
    """What `wave` was at the last sync point."""
    waiting: bool = False
    """At the sync point."""
    due: bool = False
    """A fit is due whatever the number of new labels (after a sync point)."""
    lost_versions: int = 0
    """Versions in a row that failed."""


@dataclass(slots=True)
class State:
    """All that a policy may look at. What is not said to be of the campaign restarts with each stage."""

    stage: int = 0
    issued: Counter[Verb] = field(default_factory=Counter)
    open: dict[str, Task] = field(default_factory=dict)
    running: Counter[tuple[int, Verb]] = field(default_factory=Counter)
    """Open tasks by loop and verb."""
    open_frames: int = 0
    """Frames in open label tasks."""
    late_frames: int = 0
    """Frames in open relabel tasks, which nobody waits for."""
    paces: list[float] = field(default_factory=list)
    """Of the stage's last labels: seconds per squared number of atoms."""
    quarantine: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """Of the campaign: content id of each structure that no label could be bought of, and why."""
    attempts: Counter[str] = field(default_factory=Counter)
    """Retries of open tasks, by task and kind: ``id/kind``."""
    base: list[Batch] = field(default_factory=list)
    """Shards that every loop sees."""
    loops: list[Loop] = field(default_factory=lambda: [Loop()])
    syncs: int = 0
    models: int = 0
    """Models finished in this stage, of all loops."""
    bought: int = 0
    """Labels bought in this stage."""
    unbought: int = 0
    """Frames of this stage whose label failed."""
    aside: int = 0
    """Labels of this stage that were bought under another level of theory and kept out of the dataset."""
    failed_in_a_row: int = 0
    """Frames since the last label that was bought, all of whose labels failed."""
    evaluated: int = 0
    """Evaluations that ended, well or not."""
    ending: str = ""
    out_at_end: int = 0
    """Frames in open label tasks when the stage's goal was reached."""
    awaited: dict[str, float] = field(default_factory=dict)
    """Waits of this stage -> when each began, seconds since the epoch."""
    overdue: set[str] = field(default_factory=set)
    """Those of them that lasted as long as they may."""
    begun: int = 0
    """Of the campaign: how often a coordinator took it up."""
    failures: Counter[FailureKind] = field(default_factory=Counter)
    """Of the campaign."""
    archive: list[tuple[Batch, ...]] = field(default_factory=list)
    """Of the campaign: the shards each finished stage left."""
    amendments: list[Mapping[str, Any]] = field(default_factory=list)
    """Of the campaign: ``{"stage": index, "changes": {key: YAML text}}``, in their order."""
    latest: str | None = None
    """Of the campaign: the newest model of the first loop, which the last fit of a stage belongs to."""
    closed: Closed | None = None

    def active(self, *verbs: Verb, loop: int = 0) -> int:
        """How many tasks of these verbs this loop has open."""
        return sum(self.running[loop, v] for v in verbs)

    def active_anywhere(self, *verbs: Verb) -> int:
        """How many tasks of these verbs all loops have open."""
        return sum(self.active(*verbs, loop=k) for k in range(len(self.loops)))

    def visible(self, loop: int) -> list[Batch]:
        """The sealed shards that a loop's fits see."""
        return self.base + self.loops[loop].shards

    def frames_visible(self, loop: int) -> int:
        """Labelled frames that a loop's fits see."""
        return sum(b.n for b in self.visible(loop))


def fold(events: Iterable[Event], state: State | None = None) -> State:
    """The state after all events, from the beginning or from `state`."""
    state = State() if state is None else state
    for event in events:
        try:
            apply(state, event)
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as exc:
            what = f"{type(exc).__name__}: {exc}"
            raise JournalError(f"{type(event).__name__} does not follow from what was before ({what})") from exc
    return state


def apply(state: State, event: Event) -> None:
    """Fold one more event into `state`.

    Raises:
        JournalError: the event cannot follow from the state, such as the end of a task that is not open.
    """
    match event:
        case Submitted(task):
            _submitted(state, task)
        case Finished(task_id, result):
            task = _close(state, task_id)
            _FINISHED[task.verb](state, state.loops[task.loop], task, result)
        case Failed(task_id, kind):
            task = _close(state, task_id)
            state.failures[kind] += 1
            _failed(state, state.loops[task.loop], task, kind)
        case Retried(task_id, kind):
            if task_id not in state.open:
                raise JournalError(f"task {task_id!r} was retried but is not open")
            state.attempts[f"{task_id}/{kind}"] += 1
        case Broken(task_id, kind):
            if task_id not in state.open:
                raise JournalError(f"task {task_id!r} broke but is not open")
            state.failures[kind] += 1
        case Cancelled(task_id):
            _cancelled(state, _close(state, task_id))
        case Arrived(k):
            state.loops[k].waiting = True
        case VersionLost(k):
            loop = state.loops[k]
            loop.making, loop.lost_versions = None, loop.lost_versions + 1
        case Synced(number):
            state.syncs = number
            _sync(state)
        case Ending(reason):
            state.ending, state.out_at_end = reason, state.open_frames
            for loop in state.loops:  # see `_labelled`
                state.unbought += sum(again.frames.n for again in loop.again)
                loop.again = []
        case Awaited(what, since):
            state.awaited[what] = since
        case Overdue(what):
            state.overdue.add(what)
        case StageDone():
            _next_stage(state, event)
        case Closed():
            state.closed = event
        case Reopened():
            state.closed, state.failed_in_a_row = None, 0
            state.attempts.clear()
            for loop in state.loops:
                loop.lost_versions = 0
        case Amended(stage, changes):
            state.amendments.append({"stage": stage, "changes": dict(changes)})
        case Began():
            state.begun += 1
        case Resources():
            pass  # for the ledger: no decision hangs on it


def _submitted(state: State, task: Task) -> None:
    if task.id in state.open:
        raise JournalError(f"task {task.id!r} was submitted twice")
    while len(state.loops) <= task.loop:
        state.loops.append(_newcomer(state))
    loop = state.loops[task.loop]
    state.issued[task.verb] += 1
    state.open[task.id] = task
    state.running[task.loop, task.verb] += 1
    match task.verb:
        case Verb.SAMPLE:
            loop.wave = max(loop.wave, task.args.get("wave", 0))
        case Verb.SELECT:
            loop.pool, loop.pooled = [], 0
            loop.selecting += task.args["n"]
        case Verb.LABEL:
            batch = Batch(*task.args["frames"])
            state.open_frames += batch.n
            _take_from_queue(loop, batch)
        case Verb.RELABEL:
            batch = Batch(*task.args["frames"])
            state.late_frames += batch.n
            _take_again(loop, batch)
        case Verb.MERGE:
            for path, *_ in task.args["labelled"]:
                loop.new -= loop.labelled.pop(path).n
        case Verb.FIT:
            if loop.making is None:
                loop.versions += 1
                loop.making = Version(loop.versions, task.args["n_frames"], task.args["shards"])
            loop.making.groups[task.id] = None
            loop.due = False


def _newcomer(state: State) -> Loop:
    first = state.loops[0]
    return Loop(model=first.model, seen=first.seen, versions=first.versions, due=first.due)


def _take_from_queue(loop: Loop, taken: Batch) -> None:
    for i, batch in enumerate(loop.queue):
        if batch.path == taken.path and batch.start == taken.start:
            rest = Batch(batch.path, taken.stop, batch.stop)
            loop.queue[i : i + 1] = [rest] if rest.n else []
            loop.queued -= taken.n
            return
    raise JournalError(f"a label task took {taken}, which is not queued")


def _take_again(loop: Loop, taken: Batch) -> None:
    for i, again in enumerate(loop.again):
        batch = again.frames
        if batch.path == taken.path and batch.start == taken.start:
            rest = Batch(batch.path, taken.stop, batch.stop)
            loop.again[i : i + 1] = [replace(again, frames=rest)] if rest.n else []
            return
    raise JournalError(f"a relabel task took {taken}, which does not wait for another try")


def _close(state: State, task_id: str) -> Task:
    task = state.open.pop(task_id, None)
    if task is None:
        raise JournalError(f"task {task_id!r} ended but is not open")
    state.running[task.loop, task.verb] -= 1
    for kind in FailureKind:
        state.attempts.pop(f"{task_id}/{kind}", None)
    if task.verb is Verb.LABEL:
        state.open_frames -= Batch(*task.args["frames"]).n
    elif task.verb is Verb.RELABEL:
        state.late_frames -= Batch(*task.args["frames"]).n
    elif task.verb is Verb.SELECT:
        state.loops[task.loop].selecting -= task.args["n"]
    return task


def _some(result: Mapping[str, Any]) -> list[Batch]:
    return [Batch(result["path"], 0, result["n"])] if result["n"] else []


def _sealed(result: Mapping[str, Any]) -> list[Batch]:
    """The same of labels, which must not change any more."""
    return [Batch(result["path"], 0, result["n"], result.get("digest", ""))] if result["n"] else []


def _built(_: State, loop: Loop, __: Task, result: Mapping[str, Any]) -> None:
    loop.queue += _some(result)
    loop.queued += result["n"]


def _sampled(_: State, loop: Loop, task: Task, result: Mapping[str, Any]) -> None:
    loop.pool += _some(result)
    loop.pooled += result["n"]
    loop.barren = 0 if result["n"] else loop.barren + len(result["lengths"])
    if task.args.get("model") == loop.model:
        for length in result["lengths"]:
            insort(loop.lengths, length)


def _selected(_: State, loop: Loop, __: Task, result: Mapping[str, Any]) -> None:
    loop.queue += _some(result)
    loop.queued += result["n"]


def _labelled(state: State, loop: Loop, task: Task, result: Mapping[str, Any]) -> None:
    for batch in _sealed(result):
        loop.labelled[batch.path] = batch
        loop.new += batch.n
    state.bought += result["n"]
    again = result.get("again") or {"n": 0}
    if again["n"] and not state.ending:  # at the end, another, longer try is not worth keeping everything waiting
        home, level = task.args.get("home", task.id), task.args.get("level", 0) + 1
        loop.again.append(Again(Batch(again["path"], 0, again["n"]), home, level))
    aside = sum(a["n"] for a in result.get("aside", ()))
    lost = Batch(*task.args["frames"]).n - result["n"] - aside - (0 if state.ending else again["n"])
    state.aside += aside
    state.unbought += lost
    state.failed_in_a_row = 0 if result["n"] else state.failed_in_a_row + lost
    state.paces = [*state.paces, *result.get("paces", ())][-PACES:]
    for failure in result.get("failures", ()):
        state.quarantine.setdefault(failure["id"], {**failure, "theory": result["theory"], "task": task.id})


def _merged(_: State, loop: Loop, __: Task, result: Mapping[str, Any]) -> None:
    loop.shards += _sealed(result)


def _fitted(_: State, loop: Loop, task: Task, result: Mapping[str, Any]) -> None:
    if loop.making is not None:
        loop.making.groups[task.id] = result


def _calibrated(state: State, loop: Loop, task: Task, result: Mapping[str, Any]) -> None:
    state.models += 1
    state.latest = result["path"] if task.loop == 0 else state.latest
    if loop.making is not None:
        loop.model, loop.seen = result["path"], loop.making.seen
    loop.making, loop.lengths, loop.lost_versions = None, [], 0
    loop.due = loop.due and state.frames_visible(task.loop) > loop.seen


def _evaluated(state: State, _: Loop, __: Task, ___: Mapping[str, Any]) -> None:
    state.evaluated += 1


_FINISHED = {
    Verb.BUILD: _built,
    Verb.SAMPLE: _sampled,
    Verb.SELECT: _selected,
    Verb.LABEL: _labelled,
    Verb.RELABEL: _labelled,
    Verb.MERGE: _merged,
    Verb.FIT: _fitted,
    Verb.CALIBRATE: _calibrated,
    Verb.EVALUATE: _evaluated,
}


def comes_apart(task: Task, kind: FailureKind) -> bool:
    """Whether the frames of a label task that failed are tried one by one.

    Some of them may have been bought before it failed, in its folder, and one may be what ends every worker.
    """
    return task.verb is Verb.LABEL and Batch(*task.args["frames"]).n > 1 and kind in _MACHINES


_MACHINES: Final = frozenset({FailureKind.INFRASTRUCTURE, FailureKind.RESOURCE, FailureKind.HALTED})


def _cancelled(state: State, task: Task) -> None:
    """A label that was given up was not bought; a model does without members that are not waited for."""
    loop = state.loops[task.loop]
    if task.verb in {Verb.LABEL, Verb.RELABEL}:
        state.unbought += Batch(*task.args["frames"]).n
    elif task.verb is Verb.FIT and loop.making is not None:
        loop.making.groups.pop(task.id, None)
        loop.making = loop.making if loop.making.groups else None


def _failed(state: State, loop: Loop, task: Task, kind: FailureKind) -> None:
    match task.verb:
        case Verb.LABEL if comes_apart(task, kind) and not state.ending:
            loop.again.append(Again(Batch(*task.args["frames"]), task.id, 0))
        case Verb.LABEL | Verb.RELABEL:
            n = Batch(*task.args["frames"]).n
            state.unbought += n
            state.failed_in_a_row += n
        case Verb.FIT if loop.making is not None:
            loop.making.groups.pop(task.id, None)
        case Verb.CALIBRATE:
            loop.making, loop.lost_versions = None, loop.lost_versions + 1
        case Verb.SAMPLE:
            loop.barren += int(task.args["count"])
        case Verb.EVALUATE:
            state.evaluated += 1


def _sync(state: State) -> None:
    for loop in state.loops:
        state.base += loop.shards
        loop.shards = []
        if loop.waiting:
            loop.waiting, loop.synced_wave = False, loop.wave
    for k, loop in enumerate(state.loops):
        loop.due = loop.due or (loop.synced_wave == loop.wave and state.frames_visible(k) > loop.seen)


def _next_stage(state: State, done: StageDone) -> None:
    shards = tuple(state.base + [s for loop in state.loops for s in loop.shards])
    first = state.loops[0]
    state.archive.append(shards)
    state.stage = done.stage + 1
    state.issued, state.running = Counter(), Counter()
    state.base = list(shards) if done.keep_data else []
    fresh = Loop(due=done.keep_data and bool(shards))
    if done.keep_data and done.keep_model and first.model is not None:
        fresh = Loop(model=first.model, seen=first.seen, versions=first.versions)
    state.loops = [fresh]
    state.syncs = state.models = state.bought = state.unbought = state.failed_in_a_row = state.evaluated = 0
    state.aside, state.paces = 0, []
    state.ending, state.out_at_end = "", 0
    state.awaited, state.overdue = {}, set()
