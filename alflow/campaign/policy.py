"""When to do what: pure functions from a state to events."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import median
from typing import Any, Final

from alflow.campaign.model import (
    Arrived,
    Batch,
    Broken,
    Cancelled,
    Closed,
    Ending,
    Event,
    Failed,
    FailureKind,
    Retried,
    StageDone,
    State,
    Submitted,
    Synced,
    Task,
    Verb,
    VersionLost,
)
from alflow.errors import CampaignError


@dataclass(frozen=True, kw_only=True)
class Until:
    """When a stage is done; the first that holds ends it. None never holds.

    Attributes:
        max_rounds: sampling waves (`rounds`), model versions (`stream`), sync points (`cycles`).
        max_labels: labels bought in this stage.
        no_candidates: a sampling wave found nothing to select.
        median_length_ps: median trajectory length of the current model in ps (ANI-Al: 250).
    """

    max_rounds: int | None = None
    max_labels: int | None = None
    no_candidates: bool = False
    median_length_ps: float | None = None


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """One thing at a time: sample all, select, label all, fit; then again.

    Attributes:
        samples: trajectories a round.
        batch: trajectories that one sample task advances together.
        initial: structures built and labelled before the first fit.
        limit: most structures selected a round.
        label_batch: structures a label task buys.
    """

    samples: int
    batch: int = 1
    initial: int = 0
    limit: int = 1_000_000
    label_batch: int = 1


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Everything at once, each stage of the pipe held at a level.

    Attributes:
        sampling: sample tasks kept running.
        batch: trajectories that one sample task advances together.
        initial: structures built and labelled before the first fit.
        select_at: candidates that trigger a selection.
        fit_at: new labels that trigger a fit.
        limit: most structures selected at a time.
        label_batch: structures a label task buys.
        max_waiting: sampling pauses while so many structures wait for their label.
    """

    sampling: int
    batch: int = 1
    initial: int = 0
    select_at: int = 1
    fit_at: int = 1
    limit: int = 1_000_000
    label_batch: int = 1
    max_waiting: int = 1_000


@dataclass(frozen=True, kw_only=True)
class Cycles:
    """Independent active-learning loops that merge their data at sync points (ANI-Al, figure 9).

    Attributes:
        loops: loops run side by side, each with a model of its own.
        samples: trajectories of one loop between two of its fits.
        batch: trajectories that one sample task advances together.
        initial: structures built and labelled before the first fit; all loops share them.
        fits_per_sync: own fits a loop makes between two sync points.
        quorum: fraction of the loops that closes a sync point; late labels enter the next one.
        deadline_h: hours after which a sync point closes, from the first loop that is there, without a quorum too.
        limit: most structures selected at a time by a loop.
        label_batch: structures a label task buys.
    """

    loops: int
    samples: int
    batch: int = 1
    initial: int = 0
    fits_per_sync: int = 1
    quorum: float = 1.0
    deadline_h: float | None = None
    limit: int = 1_000_000
    label_batch: int = 1


Policy = Rounds | Stream | Cycles


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a label or a fit may take, judged by others of its kind, and how often a label is tried.

    The time of a label is compared with the median of the last ones, per squared number of atoms. One that takes much
    longer is ended and tried once more with four times the time, in the lane ``relabel`` if the site has one (with more
    ranks, on other nodes). Nothing waits for it: what comes of it enters the dataset later.

    A model is made of the members that are there, at least half of them, once no other has come for long; the missing
    ones are fitted again with the next. Not so in `rounds`, whose models never depend on what was fast.

    A `stream` whose budget of labels is spent but for second tries gives these up and buys others in their place. At
    its end, once 95 % of the labels that were out when its goal was reached have come, second tries are given up, and
    the other labels get as long again: a few that take ten times the usual would hold whole blocks.

    Attributes:
        factor: how many times the median a label may take.
        least_s: it may always take so long.
        after: labels bought before their times are a measure; until then the labeler's own limit holds.
        tries: how often a structure that ran out of time or memory is tried in all.
        fit_factor: how many times the median fit of a model another member may be waited for; ``.inf`` for all.
        end_factor: how many times as long the last 5 % of a stream's labels are waited for as the 95 % before them
            took; ``.inf`` for all, and for second tries too.
    """

    factor: float = 10.0
    least_s: float = 120.0
    after: int = 20
    tries: int = 2
    fit_factor: float = 3.0
    end_factor: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a policy must know of a stage besides the state.

    Attributes:
        policy: how work is scheduled.
        until: when the stage is done.
        guided: sampling waits for a first model.
        members: members of a model.
        members_per_task: members that one fit task trains.
        min_members: a model is usable once so many members are there and no fit is running.
        evaluate: hold the last model against the reference at the end.
        source: index of the earlier stage whose frames the builder draws from, or None.
        keep_data: the next stage goes on with this one's dataset (same theory).
        keep_model: the next stage starts with this one's model (same potential).
        patience: how long a label may take.
    """

    policy: Policy
    until: Until
    guided: bool = True
    members: int = 1
    members_per_task: int = 1
    min_members: int = 1
    evaluate: bool = False
    source: int | None = None
    keep_data: bool = False
    keep_model: bool = False
    patience: Patience = Patience()


BUILD_CHUNK: Final = 1000
"""Structures one build task makes at most."""
MOST_OPEN: Final = 10_000
"""Label tasks of a loop given out at most at a time; the rest waits in the queue, where it costs nothing."""
MERGE_MOST: Final = 1000
"""Finished label tasks that one merge task joins at most."""
BARREN: Final = 64
"""Trajectories in a row without a candidate after which sampling on is a waste (at least two waves of them)."""
MAX_RETRIES: Final[Mapping[FailureKind, int]] = {
    FailureKind.INFRASTRUCTURE: 5,
    FailureKind.RESOURCE: 3,
    FailureKind.HALTED: 100,  # batch jobs that one task may span
}
MAX_LOST_VERSIONS: Final = 3
PAUSES_S: Final[Mapping[FailureKind, tuple[float, ...]]] = {FailureKind.INFRASTRUCTURE: (1.0, 5.0, 25.0, 125.0, 625.0)}
"""How long a failed task is held back before its first, second ... retry: what ails a machine may pass."""
MORE_TIME: Final = 4
"""How many times longer each further try of a label may take."""
MAX_FAILED_LABELS: Final = 200
"""Frames in a row whose labels all failed after which buying on is a waste."""
FIRST_QUORUM: Final = 0.9
"""A stream's first fit starts when this part of the initial labels is there."""
LAST_QUORUM: Final = 0.95
"""Part of the labels that are out at the end of a stream after which the others are stragglers."""
_END: Final = "the end"
_REPLACED: Final = "nothing else is left to buy within the budget: other labels are bought in its place"


# ---- decisions -----------------------------------------------------------------------------------------------------


def decide(plan: Plan, s: State) -> list[Event]:
    """The next events; empty means wait for a task to end.

    Raises:
        CampaignError: nothing is open and nothing is decided, which would wait for ever.
    """
    if s.closed is not None:
        return []
    events = list(_decide(plan, s))
    if not events and not s.open:
        raise CampaignError(f"stage {s.stage}: nothing is running and nothing was decided (issued: {dict(s.issued)})")
    return events


def waits(plan: Plan, s: State) -> dict[str, float]:
    """What is being waited for, but not for ever: name -> longest wait in seconds.

    The coordinator writes down when each began (`Awaited`) and when it has lasted that long (`Overdue`); decisions hang
    on these events, not on a clock.
    """
    if s.closed is not None:
        return {}
    found: dict[str, float] = {}
    for k in range(len(s.loops)):
        name, longest = _fit_wait(plan, s, k)
        if name:
            found[name] = longest
    p = plan.policy
    if isinstance(p, Cycles) and p.deadline_h is not None and any(loop.waiting for loop in s.loops):
        found[_sync_wait(s)] = 3600 * p.deadline_h
    if s.ending and isinstance(p, Stream):
        found |= _end_waits(plan.patience, s)
    return found


def _sync_wait(s: State) -> str:
    return f"sync point {s.syncs + 1}"


def _fit_wait(plan: Plan, s: State, k: int) -> tuple[str, float]:
    """The wait for further members of a model that could do without them; counted anew after each that comes."""
    making = s.loops[k].making
    if isinstance(plan.policy, Rounds) or making is None or not making.running or making.arrived < plan.min_members:
        return "", math.inf
    took = [r["ended"] - r["started"] for r in making.groups.values() if r is not None and "ended" in r]
    longest = max(plan.patience.fit_factor * median(took), plan.patience.least_s) if took else math.inf
    return f"members of version {making.number}, loop {k}, after {making.arrived} ({s.begun})", longest


def _end_waits(patience: Patience, s: State) -> dict[str, float]:
    """The waits for the last labels of a stream."""
    found = {_END: math.inf}
    if s.open_frames <= (1 - LAST_QUORUM) * s.out_at_end and _END in s.awaited:
        names = _last_waits(s)
        took = s.awaited.get(names[Verb.LABEL], s.awaited[_END]) - s.awaited[_END]
        ever = math.isinf(patience.end_factor)
        found[names[Verb.LABEL]] = math.inf if ever else max(patience.end_factor * took, patience.least_s)
        found[names[Verb.RELABEL]] = math.inf if ever else patience.least_s
    return found


def _last_waits(s: State) -> dict[Verb, str]:
    return {Verb.LABEL: f"the last labels ({s.begun})", Verb.RELABEL: f"the last second tries ({s.begun})"}


def pause_s(kind: FailureKind, retry: int) -> float:
    """Seconds between a failure and the task's retry number `retry` (from 1)."""
    pauses = PAUSES_S.get(kind, ())
    return pauses[min(retry, len(pauses)) - 1] if pauses else 0.0


def respond(
    s: State, task: Task, kind: FailureKind, detail: str, log: str, started: float | None = None
) -> list[Event]:
    """What a failure of an open task leads to: another try, or its end, or the campaign's."""
    if kind in MAX_RETRIES and s.attempts[f"{task.id}/{kind}"] < MAX_RETRIES[kind]:
        return [Retried(task.id, kind, detail, log, started)]
    fatal = task.verb in {Verb.BUILD, Verb.SELECT, Verb.MERGE} or kind is FailureKind.DEFECT
    if fatal and task.verb is not Verb.EVALUATE:
        return [
            Broken(task.id, kind, detail, log, started),
            Closed(f"{task.id} failed ({kind}): {detail}", failed=True),
        ]
    return [Failed(task.id, kind, detail, log, started)]


def _decide(plan: Plan, s: State) -> Iterator[Event]:
    if reason := _lost(plan, s):
        yield Closed(reason, failed=True)
    elif s.ending:
        yield from _wind_up(plan, s)
    elif reason := _goal(plan, s):
        yield Ending(reason)
        wanted = {*Verb} - {Verb.SAMPLE, Verb.SELECT} - ({Verb.FIT} if _superseded(plan, s) else set())
        yield from (Cancelled(t.id, reason) for t in s.open.values() if t.verb not in wanted)
    elif isinstance(plan.policy, Stream):
        yield from _stream(plan, plan.policy, s)
    else:
        yield from _cycles(plan, _as_cycles(plan.policy), s)


def _superseded(plan: Plan, s: State) -> bool:
    """Whether nothing is there yet of the model that a stream is making, and the last one sees more."""
    loop = s.loops[0]
    return (
        isinstance(plan.policy, Stream)
        and bool(s.open_frames or loop.new)
        and not (loop.making and loop.making.arrived)
    )


def _as_cycles(policy: Rounds | Cycles) -> Cycles:
    """Rounds are one cycle that meets itself at every sync point."""
    if isinstance(policy, Cycles):
        return policy
    return Cycles(loops=1, **{f.name: getattr(policy, f.name) for f in fields(policy)})


def _stream(plan: Plan, p: Stream, s: State) -> Iterator[Event]:
    issue = _Issue(plan, s)
    loop = s.loops[0]
    if _needs_initial(p.initial, s):
        yield from issue.build(p.initial)
        return
    if _only_late(plan.until.max_labels, s):
        yield from (Cancelled(t.id, _REPLACED) for t in s.open.values() if t.verb is Verb.RELABEL)
        return
    yield from issue.relabels(0)
    yield from issue.labels(0, p.label_batch)
    yield from issue.version(0)
    new = loop.new
    waiting = loop.queued + s.open_frames
    enough = new >= p.fit_at
    if loop.model is None:
        enough = not s.active(Verb.BUILD) and new >= FIRST_QUORUM * (new + waiting)
    if new and enough and loop.making is None and not s.active(Verb.MERGE):
        yield from issue.merges(0)
    if loop.pooled >= min(p.select_at, p.max_waiting) and not s.active(Verb.SELECT):
        yield issue.select(0, p.limit)
    if (loop.model is not None or not plan.guided) and waiting + loop.pooled + loop.selecting < p.max_waiting:
        yield from (issue.sample(0, p.batch, loop.wave + 1) for _ in range(p.sampling - s.active(Verb.SAMPLE)))


def _only_late(cap: int | None, s: State) -> bool:
    """Whether second tries alone stand between a stream and its budget of labels, which it may not pass."""
    return cap is not None and bool(s.late_frames) and not s.open_frames and s.bought + s.late_frames >= cap


def _cycles(plan: Plan, p: Cycles, s: State) -> Iterator[Event]:
    issue = _Issue(plan, s)
    for k in range(len(s.loops)):
        yield from issue.relabels(k)
    if _needs_initial(p.initial, s):
        yield from issue.build(p.initial)
    elif plan.guided and s.loops[0].model is None:
        yield from _first_model(issue, p, s)  # one common model, from what all loops share
    else:
        for k in range(p.loops):
            yield from _wave(issue, p, s, k)
        at_sync = sum(loop.waiting for loop in s.loops)
        merging = any(s.active(Verb.MERGE, loop=k) for k in range(len(s.loops)))
        enough = at_sync >= p.quorum * p.loops or _sync_wait(s) in s.overdue
        if at_sync and enough and not merging:
            yield Synced(s.syncs + 1)


def _first_model(issue: _Issue, p: Cycles, s: State) -> Iterator[Event]:
    loop = s.loops[0]
    yield from issue.labels(0, p.label_batch)
    if loop.queue or s.active(Verb.BUILD, Verb.LABEL, Verb.MERGE):
        return
    if loop.labelled:
        yield from issue.merges(0)
    else:
        yield from issue.version(0)


def _wave(issue: _Issue, p: Cycles, s: State, k: int) -> Iterator[Event]:
    """One loop: sample all, select, label all, then fit or wait at the sync point."""
    if k >= len(s.loops):  # a loop that has not begun
        yield from issue.wave(k, 1, p)
        return
    loop = s.loops[k]
    if loop.waiting:
        return
    if loop.making is not None or loop.due:
        yield from issue.version(k)
    elif loop.queue:
        yield from issue.labels(k, p.label_batch)
    elif s.active(Verb.BUILD, Verb.SAMPLE, Verb.SELECT, Verb.LABEL, Verb.MERGE, loop=k):
        return
    elif loop.pool:
        yield issue.select(k, p.limit)
    elif loop.labelled:
        yield from issue.merges(k)
    elif loop.wave - loop.synced_wave >= p.fits_per_sync:
        yield Arrived(k)
    elif loop.wave > loop.synced_wave and s.frames_visible(k) > loop.seen:
        yield from issue.version(k)
    else:
        yield from issue.wave(k, loop.wave + 1, p)


def _wind_up(plan: Plan, s: State) -> Iterator[Event]:
    """The goal is reached: wait for labels that are being bought, fit to all, hold the model to the reference."""
    issue = _Issue(plan, s)
    if s.active_anywhere(Verb.LABEL, Verb.RELABEL):
        yield from _stragglers(s)
        return
    for k, loop in enumerate(s.loops):
        if loop.making is not None:
            yield from issue.version(k)
        elif loop.labelled and not s.active(Verb.MERGE, loop=k):
            yield from issue.merges(k)
    if issue.any or s.open or any(loop.making is not None for loop in s.loops):
        return
    first = s.loops[0]
    if len(s.loops) > 1 and any(loop.shards for loop in s.loops[1:]):
        yield Synced(s.syncs + 1)
    elif s.frames_visible(0) > first.seen:
        yield from issue.version(0)
    elif plan.evaluate and first.model is not None and not s.evaluated:
        yield issue.task(Verb.EVALUATE, model=first.model)
    else:
        yield StageDone(s.stage, s.ending, plan.keep_data, plan.keep_model)


def _stragglers(s: State) -> Iterator[Cancelled]:
    """The labels at the end of a stream that were waited for as long as it may."""
    late = {verb: name for verb, name in _last_waits(s).items() if name in s.overdue}
    for task in s.open.values() if late else ():
        if task.verb in late:
            yield Cancelled(task.id, "nearly all labels are there, and the stage ends")


def _needs_initial(initial: int, s: State) -> bool:
    return bool(initial) and not s.issued[Verb.BUILD] and s.loops[0].model is None and not s.visible(0)


def _lost(plan: Plan, s: State) -> str:
    """Why the campaign cannot go on, or nothing."""
    for loop in s.loops:
        if loop.lost_versions >= MAX_LOST_VERSIONS:
            return f"{loop.lost_versions} models in a row could not be fitted; see the logs of the last fit tasks"
    if s.failed_in_a_row >= MAX_FAILED_LABELS:
        return f"the labels of the last {s.failed_in_a_row} frames all failed; see the logs of the label tasks"
    first = s.loops[0]
    if s.open or first.model is not None or not plan.guided or s.visible(0):
        return ""
    if not plan.policy.initial:
        return "no model to sample with: give the policy `initial` structures, or an earlier stage of the same theory"
    if s.issued[Verb.BUILD] and not (first.labelled or first.queue or first.again):
        return f"none of the {s.unbought} initial structures could be labelled; see the logs of the label tasks"
    return ""


def _goal(plan: Plan, s: State) -> str:
    """Why the stage is done, or nothing."""
    until, p = plan.until, plan.policy
    rounds = s.models if isinstance(p, Stream) else s.syncs
    begun = not p.initial or s.loops[0].model is not None or bool(s.visible(0))
    if until.max_rounds is not None and begun and rounds >= until.max_rounds:
        return f"max_rounds: {rounds} rounds"
    if until.max_labels is not None and s.bought >= until.max_labels:
        return f"max_labels: {s.bought} labels bought"
    wave = p.sampling * p.batch if isinstance(p, Stream) else p.samples
    idle = not s.active_anywhere(Verb.SELECT, Verb.LABEL)
    barren = min(loop.barren for loop in s.loops)
    if idle and ((until.no_candidates and barren >= wave) or barren >= max(BARREN, 2 * wave)):
        return f"no candidates: {barren} trajectories in a row found nothing the model does not know"
    if until.median_length_ps is not None and all(len(loop.lengths) >= min(8, wave) for loop in s.loops):
        typical = min(_middle(loop.lengths) for loop in s.loops)
        if typical >= until.median_length_ps:
            return f"median_length_ps: trajectories reach {typical:g} ps"
    return ""


def _middle(ordered: Sequence[float]) -> float:
    """The median of what is in order already: of many trajectories, after each one."""
    n = len(ordered)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2


class _Issue:
    """Gives out tasks of one decision, numbered on from those of the state."""

    def __init__(self, plan: Plan, s: State) -> None:
        self.plan, self.s = plan, s
        self.issued = Counter(s.issued)
        self.buying = 0

    @property
    def any(self) -> bool:
        """Whether this decision has given out a task."""
        return self.issued != self.s.issued

    def task(self, verb: Verb, loop: int = 0, **args: Any) -> Submitted:
        n = self.issued[verb]
        self.issued[verb] += 1
        if self.s.amendments:
            args["amended"] = len(self.s.amendments)
        return Submitted(Task(f"{self.s.stage}-{verb}-{n:06d}", verb, {"stage": self.s.stage, "loop": loop, **args}))

    def build(self, count: int) -> Iterator[Submitted]:
        for done in range(0, count, BUILD_CHUNK):
            yield self.task(Verb.BUILD, count=min(BUILD_CHUNK, count - done), source=self._source())

    def wave(self, loop: int, wave: int, p: Cycles) -> Iterator[Submitted]:
        for done in range(0, p.samples, p.batch):
            yield self.sample(loop, min(p.batch, p.samples - done), wave)

    def sample(self, loop: int, count: int, wave: int) -> Submitted:
        model = (
            self.s.loops[min(loop, len(self.s.loops) - 1)].model if loop < len(self.s.loops) else self.s.loops[0].model
        )
        return self.task(Verb.SAMPLE, loop, count=count, wave=wave, model=model, source=self._source())

    def select(self, k: int, limit: int) -> Submitted:
        loop = self.s.loops[k]
        pool = sorted((b.json() for b in loop.pool), key=str)
        known = [b.json() for b in self.s.visible(k)]
        return self.task(Verb.SELECT, k, pool=pool, n=loop.pooled, known=known, model=loop.model, limit=limit)

    def labels(self, k: int, size: int) -> Iterator[Submitted]:
        """Label tasks for what is queued, as far as the stage's budget of labels and `MOST_OPEN` go."""
        cap, pace = self.plan.until.max_labels, self._pace(0)
        free = MOST_OPEN - self.s.active(Verb.LABEL, loop=k)
        for batch in self.s.loops[k].queue:
            for start in range(batch.start, batch.stop, size):
                stop = min(start + size, batch.stop)
                if cap is not None:
                    taken = self.s.bought + self.s.open_frames + self.s.late_frames + self.buying
                    stop = min(stop, start + cap - taken)
                if stop <= start or free <= 0:
                    return
                self.buying += stop - start
                free -= 1
                yield self.task(Verb.LABEL, k, frames=Batch(batch.path, start, stop).json(), pace=pace)

    def relabels(self, k: int) -> Iterator[Submitted]:
        """A task for each frame that ran out of time or memory: with more, and nobody waits for it."""
        for again in self.s.loops[k].again:
            self.buying += again.frames.n
            for start in range(again.frames.start, again.frames.stop):
                frames = Batch(again.frames.path, start, start + 1).json()
                pace = self._pace(again.level)
                yield self.task(Verb.RELABEL, k, frames=frames, home=again.home, level=again.level, pace=pace)

    def _pace(self, level: int) -> list[float] | None:
        """Most seconds per squared number of atoms, and least seconds, that a label gets; None before it is known."""
        patience, paces = self.plan.patience, self.s.paces
        if len(paces) < patience.after:
            return None
        more = MORE_TIME**level
        return [float(f"{patience.factor * median(paces) * more:.3g}"), patience.least_s * more]

    def merges(self, k: int) -> Iterator[Submitted]:
        """Merge tasks for all that is labelled."""
        labelled = sorted((b.json() for b in self.s.loops[k].labelled.values()), key=str)
        for first in range(0, len(labelled), MERGE_MOST):
            yield self.task(Verb.MERGE, k, labelled=labelled[first : first + MERGE_MOST])

    def version(self, k: int) -> Iterator[Event]:
        """Take the making of a model one step further: fits, then calibration."""
        loop, plan = self.s.loops[k], self.plan
        if loop.making is None:
            if self.s.frames_visible(k) > loop.seen:
                yield from self._fits(k)
        elif _fit_wait(plan, self.s, k)[0] in self.s.overdue:
            for task in loop.making.groups:
                if task in self.s.open:
                    yield Cancelled(task, "the model does without: it took much longer than its other members")
        elif not loop.making.running and not self.s.active(Verb.CALIBRATE, loop=k):
            if loop.making.arrived < plan.min_members:
                yield VersionLost(k, f"{loop.making.arrived} of {plan.members} members, {plan.min_members} needed")
            else:
                groups = [[task, r["files"]] for task, r in sorted(loop.making.groups.items()) if r is not None]
                yield self.task(Verb.CALIBRATE, k, version=loop.making.number, groups=groups, shards=loop.making.shards)

    def _fits(self, k: int) -> Iterator[Submitted]:
        loop, n, size = self.s.loops[k], self.plan.members, self.plan.members_per_task
        args = {"version": loop.versions + 1, "n_frames": self.s.frames_visible(k), "start": loop.model}
        for first in range(0, n, size):
            yield self.task(Verb.FIT, k, members=[first, min(first + size, n)], shards=self._shards(k), **args)

    def _shards(self, k: int) -> list[list[Any]]:
        return [b.json() for b in self.s.visible(k)]

    def _source(self) -> list[list[Any]] | None:
        source = self.plan.source
        return None if source is None else [b.json() for b in self.s.archive[source]]
