"""The loop: hear what has ended, decide, write it down, do it."""

from __future__ import annotations

import heapq
import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final, Protocol

from alflow.campaign.model import (
    Amended,
    Awaited,
    Began,
    Cancelled,
    Closed,
    Event,
    FailureKind,
    Finished,
    Overdue,
    Resources,
    Retried,
    State,
    Submitted,
    Task,
    apply,
    fold,
)
from alflow.campaign.policy import Plan, decide, pause_s, respond, waits
from alflow.runtime import layout
from alflow.runtime.requests import NoRequests, Requests
from alflow.runtime.runner import Capacity, Report, Runner
from alflow.runtime.worker import finished
from alflow.store.files import write_text

logger = logging.getLogger(__name__)
POLL_S: Final = 0.5
LOOK_S: Final = 2.0
"""Seconds between two looks at what the runner holds."""
MOST_AT_ONCE: Final = 2_000
"""Most reports, and about the most events, that make one line of the journal."""


class Watcher(Protocol):
    """Hears of every decision after it was written down."""

    def on_events(self, t: float, events: Sequence[Event]) -> None: ...


class Memory(Protocol):
    """What a coordinator needs of a journal: what it holds, and a way to append."""

    @property
    def events(self) -> Iterable[Event]: ...

    def append(self, decision: Sequence[Event], t: float) -> None: ...


class Coordinator:
    """Runs a campaign from wherever its journal stands to its end.

    What has ended at the same time, and all that follows from it, is one line of the journal and one wait for the disk.
    Nothing is done before its line is there.

    Args:
        plans: one a stage; those of the workflow as it is amended.
        journal: the campaign's memory.
        runner: where tasks run.
        root: the run directory; None where nothing is on disk, as in a forecast.
        watchers: told of every decision.
        clock: seconds since the epoch: the journal's time stamps, and when a task is due that is held back.
        lanes: verb -> lane its tasks run in, for the ledger; empty where the runner has none.
        requests: what users ask of a campaign that runs.
        state: what the journal's events fold into, if that is known already.
        poll_s: longest wait for a report before everything else is looked at again.
    """

    def __init__(
        self,
        plans: Sequence[Plan],
        journal: Memory,
        runner: Runner,
        root: Path | None,
        watchers: Sequence[Watcher] = (),
        clock: Callable[[], float] = time.time,
        lanes: Mapping[str, str] | None = None,
        requests: Requests | None = None,
        state: State | None = None,
        poll_s: float = POLL_S,
    ) -> None:
        self._poll_s = poll_s
        self._plans, self._journal, self._runner, self._root = plans, journal, runner, root
        self._watchers, self._clock, self._lanes = watchers, clock, lanes or {}
        self._requests = requests or NoRequests()
        self.state: State = fold(journal.events) if state is None else state
        self._line: list[Event] = []
        """What has happened and is folded in, but neither written down nor done yet."""
        self._held_back: list[tuple[float, str]] = []
        """Tasks that failed, by when they are due again."""
        self._held: Mapping[str, Capacity] = {}
        self._looked = -LOOK_S
        self._barred = len(self.state.quarantine)
        """Entries of the quarantine that workers can read."""

    def drive(self, stop: Callable[[], bool] = lambda: False) -> State:
        """Go on until the campaign is closed or `stop` says so; the state then reached."""
        try:
            self._begin()
            while self.state.closed is None and not stop():
                self._decide()
                if self.state.closed is None:
                    self._hear_all(self._watch_the_time())
                    self._look()
                    self._amend()
        finally:
            self._give_back()
        return self.state

    # ---- one turn ----------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Ask again for what was open when the last coordinator ended; take what was finished meanwhile as it is."""
        self._note(Began(dict(self._lanes), [type(p.policy).__name__.lower() for p in self._plans]))
        if self._root is not None:
            self._restore(self._root)
        again = []
        for task in list(self.state.open.values()):
            result = None if self._root is None else finished(self._root, task.id)
            if result is None:
                again.append(task)
            else:
                self._note(Finished(task.id, result))
        self._commit()
        for task in again:
            self._runner.submit(_plain(task))

    def _restore(self, root: Path) -> None:
        """What workers read of the journal, as the journal has it."""
        for name, entries in (
            (layout.QUARANTINE, map(_line, self.state.quarantine.items())),
            (layout.AMENDMENTS, (json.dumps(entry) + "\n" for entry in self.state.amendments)),
        ):
            text = "".join(entries)
            if text or (root / name).exists():
                write_text(root / name, text)

    def _decide(self) -> None:
        """Decide until there is nothing to decide but to wait, and do it."""
        while self.state.closed is None:
            if self.state.stage >= len(self._plans):
                self._note(Closed("all stages are done"))
            elif events := decide(self._plans[self.state.stage], self.state):
                self._note(*events)
            else:
                break
            if len(self._line) >= MOST_AT_ONCE:
                self._commit()
        self._commit()

    def _watch_the_time(self) -> float:
        """Write down which waits have begun and which have lasted long enough; when the next one may."""
        now, due, state = self._clock(), math.inf, self.state
        plan = self._plans[state.stage]
        while new := [what for what in waits(plan, state) if what not in state.awaited]:
            self._note(*(Awaited(what, round(now, 3)) for what in new))
        for what, longest in waits(plan, state).items():
            if what not in state.overdue and now >= state.awaited[what] + longest:
                self._note(Overdue(what))
                due = now
            elif what not in state.overdue:
                due = min(due, state.awaited[what] + longest)
        self._commit()
        return due

    def _hear_all(self, due: float) -> None:
        """Take in what has ended, of what ends until `due` or something else is to be looked at."""
        now = self._clock()
        while self._held_back and self._held_back[0][0] <= now:
            _, task_id = heapq.heappop(self._held_back)
            if (task := self.state.open.get(task_id)) is not None:
                self._runner.submit(_plain(task))
        wait = max(min(self._poll_s, *(t - now for t, _ in self._held_back[:1]), due - now), 0.0)
        for report in islice(self._runner.completed(wait), MOST_AT_ONCE):
            self._hear(report)

    def _hear(self, report: Report) -> None:
        task = self.state.open.get(report.task_id)
        if task is None:  # cancelled meanwhile: what it brings is not wanted any more
            logger.info("%s ended after it was cancelled", report.task_id)
            return
        failure, detail, log, started = report.failure, report.detail, report.log, None
        result = report.result or {}
        if failure is None and "failure" in result:
            failure, detail, log = FailureKind(result["failure"]), result["detail"], result["log"]
            started = result.get("started")
        if failure is None:
            self._note(Finished(task.id, result))
        else:
            self._note(*respond(self.state, task, failure, detail, log, started))

    def _look(self) -> None:
        """Write down what the runner holds, when that has changed."""
        now = self._clock()
        if now - self._looked >= LOOK_S or now < self._looked:
            self._looked = now
            self._holds(self._runner.capacity())

    def _holds(self, held: Mapping[str, Capacity]) -> None:
        changed = {lane: c for lane, c in held.items() if c != self._held.get(lane, Capacity())}
        if changed:
            self._held = dict(held)
            self._note(Resources({lane: _figures(c) for lane, c in changed.items()}))

    def _give_back(self) -> None:
        """The runner is closed next: nothing is held any more."""
        try:
            self._holds(dict.fromkeys(self._held, Capacity()))
            self._commit()
        except OSError:  # the disk that ended it all; the next coordinator's first line says the same
            logger.warning("what was held could not be written down as given back")

    def _amend(self) -> None:
        """Do what users asked for meanwhile."""
        while (change := self._requests.take(self.state)) is not None:
            events, self._plans = change
            self._note(*events)
            self._commit()
            self._requests.done()

    # ---- writing down, then doing ------------------------------------------------------------------------------

    def _note(self, *events: Event) -> None:
        """Fold events in that are about to be written down."""
        for event in events:
            apply(self.state, event)
        self._line += events

    def _commit(self) -> None:
        """Write down what has been noted, as one line, then act on it: in this order."""
        if not self._line:
            return
        t, line, self._line = self._clock(), self._line, []
        self._journal.append(line, t)
        if self._root is not None:
            self._tell_workers(self._root, line)
        for event in line:
            self._act(event, t)
        for watcher in self._watchers:
            watcher.on_events(t, line)

    def _tell_workers(self, root: Path, line: Sequence[Event]) -> None:
        """What workers must be able to read before they are given any task that hangs on it."""
        if len(self.state.quarantine) > self._barred:
            with (root / layout.QUARANTINE).open("a") as f:
                f.writelines(map(_line, islice(self.state.quarantine.items(), self._barred, None)))
            self._barred = len(self.state.quarantine)
        if any(isinstance(event, Amended) for event in line):
            write_text(root / layout.AMENDMENTS, "".join(json.dumps(a) + "\n" for a in self.state.amendments))

    def _act(self, event: Event, t: float) -> None:
        match event:
            case Submitted(task):
                self._runner.submit(_plain(task))
            case Retried(task_id, kind) if task_id in self.state.open:
                pause = pause_s(kind, self.state.attempts[f"{task_id}/{kind}"])
                if pause:
                    heapq.heappush(self._held_back, (t + pause, task_id))
                else:
                    self._runner.submit(_plain(self.state.open[task_id]))
            case Cancelled(task_id) if self._root is not None:
                halt = self._root / layout.task_dir(task_id) / layout.HALT
                halt.parent.mkdir(parents=True, exist_ok=True)
                halt.touch()


def _figures(c: Capacity) -> dict[str, Any]:
    figures: dict[str, Any] = {"nodes": c.nodes, "workers": c.workers, "pending": c.pending_blocks}
    return figures | ({"trouble": c.trouble} if c.trouble else {})


def _line(entry: tuple[str, Mapping[str, Any]]) -> str:
    return json.dumps({"id": entry[0], **entry[1]}) + "\n"


def _plain(task: Task) -> dict[str, Any]:
    return {"id": task.id, "verb": str(task.verb), "args": dict(task.args)}
