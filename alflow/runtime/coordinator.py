"""The loop: decide, write it down, do it; hear back, write it down."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from alflow.campaign.model import (
    Cancelled,
    Closed,
    Event,
    FailureKind,
    Finished,
    Retried,
    State,
    Submitted,
    Task,
    apply,
    fold,
)
from alflow.campaign.policy import Plan, decide, respond
from alflow.runtime import layout
from alflow.runtime.runner import Report, Runner
from alflow.runtime.worker import finished
from alflow.store.files import write_text

logger = logging.getLogger(__name__)
POLL_S = 0.5


class Watcher(Protocol):
    """Hears of every decision after it was written down."""

    def on_events(self, t: float, events: Sequence[Event]) -> None: ...


class Memory(Protocol):
    """What a coordinator needs of a journal: what it holds, and a way to append."""

    @property
    def events(self) -> Sequence[Event]: ...

    def append(self, decision: Sequence[Event], t: float) -> None: ...


class Coordinator:
    """Runs a campaign from wherever its journal stands to its end.

    Args:
        plans: one a stage.
        journal: the campaign's memory.
        runner: where tasks run.
        root: the run directory; None where nothing is on disk, as in a forecast.
        watchers: told of every decision.
        clock: seconds since the epoch, for the journal's time stamps only.
    """

    def __init__(
        self,
        plans: Sequence[Plan],
        journal: Memory,
        runner: Runner,
        root: Path | None,
        watchers: Sequence[Watcher] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._plans, self._journal, self._runner, self._root = plans, journal, runner, root
        self._watchers, self._clock = watchers, clock
        self.state: State = fold(journal.events)

    def drive(self, stop: Callable[[], bool] = lambda: False) -> State:
        """Go on until the campaign is closed or `stop` says so; the state then reached."""
        self._resume()
        while self.state.closed is None and not stop():
            if self.state.stage >= len(self._plans):
                self._record([Closed("all stages are done")])
            elif events := decide(self._plans[self.state.stage], self.state):
                self._record(events)
            else:
                for report in self._runner.completed(POLL_S):
                    self._hear(report)
        return self.state

    def _resume(self) -> None:
        """Ask again for what was open when the last coordinator ended; take what was finished meanwhile as it is."""
        if self._root is None:
            return
        if self.state.quarantine:
            write_text(self._root / layout.QUARANTINE, "".join(map(_line, self.state.quarantine.items())))
        for task in list(self.state.open.values()):
            result = finished(self._root, task.id)
            if result is not None:
                self._record([Finished(task.id, result)])
            elif task.id in self.state.open:
                self._runner.submit(_plain(task))

    def _record(self, events: Sequence[Event]) -> None:
        """Write one decision down, fold it in, then act on it: in this order."""
        t = self._clock()
        self._journal.append(events, t)
        barred = len(self.state.quarantine)
        for event in events:
            apply(self.state, event)
            if self._root is not None and len(self.state.quarantine) > barred:
                # before any task that might meet them is given out
                with (self._root / layout.QUARANTINE).open("a") as f:
                    f.writelines(map(_line, islice(self.state.quarantine.items(), barred, None)))
                barred = len(self.state.quarantine)
            match event:
                case Submitted(task):
                    self._runner.submit(_plain(task))
                case Retried(task_id):
                    self._runner.submit(_plain(self.state.open[task_id]))
                case Cancelled(task_id) if self._root is not None:
                    halt = self._root / layout.task_dir(task_id) / layout.HALT
                    halt.parent.mkdir(parents=True, exist_ok=True)
                    halt.touch()
        for watcher in self._watchers:
            watcher.on_events(t, events)

    def _hear(self, report: Report) -> None:
        task = self.state.open.get(report.task_id)
        if task is None:  # cancelled meanwhile: what it brings is not wanted any more
            logger.info("%s ended after it was cancelled", report.task_id)
            return
        failure, detail, log = report.failure, report.detail, report.log
        result = report.result or {}
        if failure is None and "failure" in result:
            failure, detail, log = FailureKind(result["failure"]), result["detail"], result["log"]
        if failure is None:
            self._record([Finished(task.id, result)])
        else:
            self._record(respond(self.state, task, failure, detail, log))


def _line(entry: tuple[str, Mapping[str, Any]]) -> str:
    return json.dumps({"id": entry[0], **entry[1]}) + "\n"


def _plain(task: Task) -> dict[str, Any]:
    return {"id": task.id, "verb": str(task.verb), "args": dict(task.args)}
