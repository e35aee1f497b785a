"""What a campaign held and what became of it: node-hours by lane and by cause, from the journal alone.

Held is what the runner said it holds (`Resources`), from the moment it is in the journal to the next such moment. What
a coordinator that was killed held counts up to the last line it wrote. Within a node, time is shared out evenly among
its workers. At every moment each worker of a lane is in exactly one of these, so that they add up to what was held:

busy
    It works on a task that brings home a result, that is halted by the end of its block and goes on in another, that is
    cancelled, or that is still out.
failure
    It works on a try that fails or is lost; or it is free, nothing waits for it, and a failed task is held back before
    its next try.
start-up
    It is not connected yet (a node that is held has room for as many workers as such a node ever had), or it is free
    although a task of the lane waits: pools come up, tasks travel.
straggler
    It is free, nothing waits for it, and it did work since the lane was last given a task: it waits for those of the
    wave that are still at work. In detail: of the free workers, as many as the most that worked at once since then
    exceed those that work now.
barrier
    It is free and nothing can be given out since something is awaited that runs: a fit, a selection, a merge, another
    lane, the sync point of another loop.
no work
    It is free and the campaign has nothing for it: a wave of build, sample or label tasks that is smaller than the
    lane, a level that a stream holds below the lane's size, or a campaign with nothing open at all.

In a ``stream`` nothing waits for a round, so once it samples and until it winds up, idle that is neither start-up nor
failure is *no work*; before its first model and at its end the rules of straggler and barrier hold.

Not charged, so kept apart: ``queue``, the time in which tasks of a lane waited while a block was asked for and pending.

What is known of a try is when it was given out, when its end was heard of, and, if a worker told, when it began and
ended (by the worker's clock, so kept within the former two). A try of which no worker told (its worker died, it was
cancelled, it is still out) is taken to have begun as soon as a worker was free.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from alflow.campaign.model import (
    Began,
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
    Submitted,
    Task,
    Verb,
)
from alflow.campaign.policy import pause_s
from alflow.core.frames import Bools, Floats, Ints
from alflow.runtime import layout
from alflow.runtime.journal import read_lines

CAUSES: Final = ("no work", "barrier", "straggler", "failure", "start-up")
"""Why held nodes were idle or wasted, see above."""
_WAVES: Final = frozenset({Verb.BUILD, Verb.SAMPLE, Verb.LABEL, Verb.RELABEL})
_LABELS: Final = frozenset({Verb.LABEL, Verb.RELABEL})
_KINDS: Final = ("run", "failed", "lost", "cancelled", "out", "waiting", "back", "wave", "serial")
"""What a span of time was of a task: the first two were told of by a worker, the next three were not; `waiting` and
`back` lie before its work; `wave` or `serial`, by its verb, is the whole time it was out."""
_HOUR: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneBook:
    """One lane's account.

    Attributes:
        lane: its name.
        node_h: node-hours held; `busy_h` and all of `idle_h` add up to them.
        busy_h: node-hours in which workers worked on what was of use.
        idle_h: node-hours by cause.
        worker_h: worker-hours that worked on what was of use.
        queue_h: hours in which tasks waited and a block was pending; not charged.
    """

    lane: str
    node_h: float
    busy_h: float
    idle_h: Mapping[str, float]
    worker_h: float
    queue_h: float


@dataclass(frozen=True, slots=True)
class VersionCost:
    """What was spent between the model version before and this one.

    Attributes:
        stage, version: which; of several loops all that share the number.
        t: when it was ready, seconds since the epoch.
        node_h: node-hours held in that time, of all lanes.
        labels: labels bought in that time.
    """

    stage: int
    version: int
    t: float
    node_h: float
    labels: int


@dataclass(slots=True)
class _Out:
    """A task that is out: since when, how often it was tried again, and when earlier coordinators had it out."""

    task: Task
    given: float
    retries: Counter[FailureKind] = field(default_factory=Counter)
    before: list[tuple[float, float]] = field(default_factory=list)


class _Lane:
    """What is known of a lane: spans of time by kind, when it was given tasks, and what it held."""

    def __init__(self) -> None:
        self.spans = {kind: (array("d"), array("d")) for kind in _KINDS}
        self.given = array("d")
        self.held: list[tuple[float, float, float, float]] = []
        """Time, nodes, workers, pending blocks."""

    def span(self, kind: str, start: float, stop: float) -> None:
        if stop > start:
            self.spans[kind][0].append(start)
            self.spans[kind][1].append(stop)


class Ledger:
    """Adds up a journal; feed it decision by decision with `add`.

    Attributes:
        last: time of the last decision, seconds since the epoch.
    """

    def __init__(self) -> None:
        self.last = 0.0
        self._lanes: dict[str, _Lane] = {}
        self._of: Mapping[str, str] = {}
        self._policies: Sequence[str] = ()
        self._out: dict[str, _Out] = {}
        self._waits: list[tuple[float, bool]] = []
        """From when on whether the campaign waits for rounds and the like."""
        self._models: dict[tuple[int, int], float] = {}
        self._labels: list[tuple[float, int]] = [(0.0, 0)]
        self._closed = False

    @staticmethod
    def read(run_dir: Path) -> Ledger:
        """The ledger of a run; an empty one if there is no journal yet.

        Raises:
            JournalError: the journal is damaged.
        """
        ledger = Ledger()
        path = run_dir / layout.JOURNAL
        for record, events in read_lines(path) if path.is_file() else ():
            ledger.add(float(record.get("t", ledger.last)), events)
        return ledger

    @property
    def known(self) -> bool:
        """Whether the runner ever held anything that it told of."""
        return any(any(any(h[1:]) for h in lane.held) for lane in self._lanes.values())

    def add(self, t: float, events: Sequence[Event]) -> None:
        """Take in one decision."""
        t = max(t, self.last)  # a clock that was set back must not make time negative
        for event in events:
            self._take_in(t, event)
        self.last = t

    def books(self, now: float | None = None) -> tuple[LaneBook, ...]:
        """The account of every lane up to the journal's last line, or up to `now` of a run at work."""
        until = self.last if now is None or self._closed else max(now, self.last)
        return tuple(_book(name, self._steps(lane, until)) for name, lane in self._lanes.items() if lane.held)

    def versions(self) -> tuple[VersionCost, ...]:
        """The price of every model version, in the order in which they were ready."""
        found, since = [], 0.0
        for (stage, version), t in sorted(self._models.items(), key=lambda item: item[1]):
            labels = self._bought(t) - self._bought(since)
            found.append(VersionCost(stage, version, t, self._node_h(since, t), labels))
            since = t
        return tuple(found)

    # ---- taking in ---------------------------------------------------------------------------------------------

    def _take_in(self, t: float, event: Event) -> None:
        match event:
            case Began(lanes, policies):
                self._begin(t, lanes, policies)
            case Resources(lanes):
                for name, now in lanes.items():
                    held = (t, float(now["nodes"]), float(now["workers"]), float(now["pending"]))
                    self._lanes.setdefault(name, _Lane()).held.append(held)
            case Submitted(task):
                self._out[task.id] = _Out(task, t)
                self._lane(task).given.append(t)
                stage = int(task.args.get("stage", 0))
                stream = stage < len(self._policies) and self._policies[stage] == "stream"
                if task.verb is Verb.SAMPLE and stream:
                    self._wait(t, waits=False)
            case Finished(task_id, result) if (out := self._close(t, task_id)) is not None:
                self._finished(t, out, result)
            case Failed(task_id) | Retried(task_id) | Broken(task_id):
                self._failed(t, task_id, event)
            case Cancelled(task_id) if (out := self._close(t, task_id)) is not None:
                self._lost_before(out)
                self._lane(out.task).span("cancelled", out.given, t)
            case Ending():
                self._wait(t, waits=True)
            case Closed():
                self._closed = True
            case Reopened():
                self._closed = False
                for out in self._out.values():
                    out.retries.clear()

    def _begin(self, t: float, lanes: Mapping[str, str], policies: Sequence[str]) -> None:
        self._of, self._policies = lanes, policies
        for lane in self._lanes.values():
            if lane.held and any(lane.held[-1][1:]):  # it was killed before it could say what it gave back
                lane.held.append((self.last, 0.0, 0.0, 0.0))
        for out in self._out.values():
            out.before.append((out.given, max(out.given, self.last)))
            out.given = t

    def _wait(self, t: float, *, waits: bool) -> None:
        if (self._waits[-1][1] if self._waits else True) is not waits:
            self._waits.append((t, waits))

    def _lane(self, task: Task) -> _Lane:
        name = self._of.get(task.verb, "")
        if name not in self._lanes:
            self._lanes[name] = _Lane()
        return self._lanes[name]

    def _close(self, t: float, task_id: str) -> _Out | None:
        out = self._out.pop(task_id, None)
        if out is not None:
            self._lane(out.task).span("wave" if out.task.verb in _WAVES else "serial", out.given, t)
        return out

    def _finished(self, t: float, out: _Out, result: Mapping[str, object]) -> None:
        lane, task = self._lane(out.task), out.task
        started, ended = result.get("started"), result.get("ended")
        if isinstance(started, int | float) and isinstance(ended, int | float):
            if out.before and started < out.given:  # a worker of an earlier coordinator's did it
                out.given, out.before = out.before[-1][0], out.before[:-1]
            began = min(max(started, out.given), t)
            lane.span("waiting", out.given, began)
            lane.span("run", began, min(max(ended, began), t))
        else:
            lane.span("out", out.given, t)
        self._lost_before(out)
        if task.verb is Verb.CALIBRATE:
            self._models[int(task.args.get("stage", 0)), int(task.args.get("version", 0))] = t
        elif task.verb in _LABELS and result.get("n"):
            self._labels.append((t, self._labels[-1][1] + int(str(result["n"]))))

    def _failed(self, t: float, task_id: str, event: Failed | Retried | Broken) -> None:
        out = self._close(t, task_id) if isinstance(event, Failed) else self._out.get(task_id)
        if out is None:
            return
        lane = self._lane(out.task)
        if event.started is None:
            lane.span("lost", out.given, t)
        else:
            began = min(max(event.started, out.given), t)
            lane.span("waiting", out.given, began)
            lane.span("run" if event.kind is FailureKind.HALTED else "failed", began, t)
        out.given = t
        if isinstance(event, Retried):
            out.retries[event.kind] += 1
            out.given = t + pause_s(event.kind, out.retries[event.kind])
            lane.span("back", t, out.given)
        elif isinstance(event, Failed):
            self._lost_before(out)

    def _lost_before(self, out: _Out) -> None:
        for start, stop in out.before:
            self._lane(out.task).span("lost", start, stop)

    # ---- adding up ---------------------------------------------------------------------------------------------

    def _steps(self, lane: _Lane, until: float) -> _Steps:
        """What the lane was at every moment from which on something is different."""
        spans = {kind: tuple(np.asarray(a, np.float64) for a in lane.spans[kind]) for kind in _KINDS}
        out = [o for o in self._out.values() if self._lane(o.task) is lane]
        for kind, tasks in (("out", out), ("wave", [o for o in out if o.task.verb in _WAVES])):
            given = np.array([o.given for o in tasks if o.given < until])
            spans[kind] = (np.append(spans[kind][0], given), np.append(spans[kind][1], np.full(len(given), until)))
        lost = np.array([b for o in out for b in o.before]).reshape(-1, 2)
        spans["lost"] = (np.append(spans["lost"][0], lost[:, 0]), np.append(spans["lost"][1], lost[:, 1]))
        everything = self._everything(until)
        held = np.array(lane.held)
        waits = np.array([(0.0, 1.0), *((t, float(w)) for t, w in self._waits)])
        given = np.asarray(lane.given, np.float64)
        edges = [held[:, 0], waits[:, 0], given, *everything, *(a for pair in spans.values() for a in pair)]
        t: Floats = np.unique(np.append(np.concatenate(edges), until))
        t = t[(t >= held[0, 0]) & (t <= until)]
        now = np.searchsorted(held[:, 0], t, side="right") - 1
        return _Steps(
            seconds=np.diff(np.append(t, max(until, t[-1]))),
            nodes=held[now, 1],
            workers=held[now, 2],
            pending=held[now, 3],
            count={kind: _open_at(t, *pair) for kind, pair in spans.items()},
            all_open=_open_at(t, *everything),
            waits=waits[np.searchsorted(waits[:, 0], t, side="right") - 1, 1] > 0,
            wave=np.searchsorted(given, t, side="right"),
        )

    def _everything(self, until: float) -> tuple[Floats, Floats]:
        """When each task of the campaign was given out and when its end was heard of."""
        pairs = [lane.spans[kind] for lane in self._lanes.values() for kind in ("wave", "serial")]
        out = [o.given for o in self._out.values() if o.given < until]
        starts = [*(np.asarray(a, np.float64) for a, _ in pairs), np.array(out)]
        stops = [*(np.asarray(b, np.float64) for _, b in pairs), np.full(len(out), until)]
        return np.concatenate(starts), np.concatenate(stops)

    def _bought(self, t: float) -> int:
        return self._labels[max(bisect_right(self._labels, t, key=lambda row: row[0]) - 1, 0)][1]

    def _node_h(self, since: float, until: float) -> float:
        total = 0.0
        for lane in self._lanes.values():
            ends = [h[0] for h in lane.held[1:]] + [max(self.last, until)]
            for (start, nodes, *_), end in zip(lane.held, ends, strict=False):
                total += nodes * max(0.0, min(end, until) - max(start, since))
        return total / _HOUR


@dataclass(frozen=True, slots=True, eq=False)
class _Steps:
    """A lane as steps in time, each array (n_steps,).

    Attributes:
        seconds: length of each step.
        nodes, workers, pending: held, connected; blocks asked for.
        count: spans of each kind that are open.
        all_open: open tasks of the whole campaign.
        waits: whether the campaign waits for rounds and the like.
        wave: changes whenever the lane is given a task.
    """

    seconds: Floats
    nodes: Floats
    workers: Floats
    pending: Floats
    count: Mapping[str, Floats]
    all_open: Floats
    waits: Bools
    wave: Ints


def _open_at(t: Floats, starts: Floats, stops: Floats) -> Floats:
    """How many of the spans are open from each time of `t` on."""
    opened = np.searchsorted(np.sort(starts), t, side="right")
    return np.asarray(opened - np.searchsorted(np.sort(stops), t, side="right"), np.float64)


def _book(name: str, s: _Steps) -> LaneBook:
    """Share every worker of every step out, in the order of this module's docstring."""
    n, free = s.count, s.workers
    used: dict[str, Floats] = {}
    for kind in ("run", "failed", "lost", "cancelled", "out"):
        used[kind] = np.minimum(n[kind], free)
        free = free - used[kind]
    at_work = s.workers - free
    waiting = n["waiting"] + sum(n[kind] - used[kind] for kind in ("lost", "cancelled", "out"))
    room = _room(s)
    starting, back = np.minimum(free, waiting), np.minimum(np.maximum(free - waiting, 0.0), n["back"])
    free = free - starting - back
    more = np.maximum(_peak(at_work, s.wave) - at_work, 0.0)
    straggler = np.where(s.waits & (at_work > 0), np.minimum(free, more), 0.0)
    free = free - straggler
    barrier = np.where(s.waits & (s.all_open > n["wave"]), free, 0.0)
    idle = {
        "no work": free - barrier,
        "barrier": barrier,
        "straggler": straggler,
        "failure": used["failed"] + used["lost"] + back,
        "start-up": starting + room - s.workers,
    }
    busy = used["run"] + used["cancelled"] + used["out"]
    hours = s.seconds / _HOUR
    node_hours = hours * np.divide(s.nodes, room, out=np.zeros_like(room), where=room > 0)
    return LaneBook(
        lane=name,
        node_h=float(s.nodes @ hours),
        busy_h=float(busy @ node_hours),
        idle_h={cause: float(idle[cause] @ node_hours) for cause in CAUSES},
        worker_h=float(busy @ hours),
        queue_h=float(hours[(s.pending > 0) & (waiting > 0)].sum()),
    )


def _room(s: _Steps) -> Floats:
    """Workers that the nodes held have room for: as many a node as any node ever had."""
    there = (s.nodes > 0) & (s.workers > 0)
    a_node = float((s.workers[there] / s.nodes[there]).max()) if there.any() else 1.0
    return np.maximum(s.workers, s.nodes * a_node)


def _peak(at_work: Floats, wave: Ints) -> Floats:
    """The most that worked at once since the lane was last given a task."""
    lift = np.asarray(wave, np.float64) * (float(at_work.max(initial=0.0)) + 1.0)
    return np.asarray(np.maximum.accumulate(at_work + lift) - lift, np.float64)
