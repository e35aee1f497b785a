"""A cluster in virtual time: the same coordinator and policies on thousands of nodes, in seconds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from alflow.campaign.model import Cancelled, Event, FailureKind, Task, Verb
from alflow.errors import CampaignError
from alflow.runtime import lanes, runner
from alflow.runtime.runner import Capacity, Report
from alflow.runtime.virtual_lane import Clock, Job, VirtualLane
from alflow.runtime.virtual_world import World
from alflow.spec.site import Site, lane_of

NOTICE_S: Final = 2.0
"""Seconds after which the coordinator looks at what the lanes hold, as `coordinator.LOOK_S`."""


class VirtualRunner:
    """Runs tasks in virtual time; see `alflow.runtime.runner.Runner`. Also a watcher: it hears what is cancelled.

    Args:
        site: the described cluster.
        world: how tasks go.

    Attributes:
        clock: virtual time; ``clock.now`` is for the coordinator's.
    """

    def __init__(self, site: Site, world: World) -> None:
        self.clock, self._world = Clock(), world
        self._ended: list[Report] = []
        self._woken, self._wake_at = False, -math.inf
        self.lanes = {
            name: VirtualLane(name, lane, world, self.clock, self._ended.append, self._changed)
            for name, lane in lanes.lanes_in_use(site).items()
        }
        self._of = {verb: self.lanes[lane_of(site, verb)] for verb in Verb}
        self._jobs: dict[str, Job] = {}
        self._halted: dict[str, Job] = {}
        """Tasks that the end of their block halted."""
        self._failed: dict[str, int] = {}
        """Tries of open tasks that failed."""

    def submit(self, task: runner.Task) -> None:
        job = self._halted.pop(task["id"], None)
        if job is None:
            made = Task(task["id"], Verb(task["verb"]), task["args"])
            job = Job(made, self._failed.get(made.id, 0), self._of[made.verb])
        job.over = False
        self._jobs[job.task.id] = job
        job.lane.submit(job)

    def completed(self, timeout_s: float) -> Iterator[Report]:
        """See `Runner`; returns without a report also soon after what the lanes hold has changed."""
        clock, until, self._woken = self.clock, self.clock.now + timeout_s, False
        while clock.next <= until and clock.next < math.inf and not self._woken:
            clock.step()
            if self._ended:
                until = min(until, clock.now + self._world.profile.reaction_s)
        if not self._woken:
            if until == math.inf:
                raise CampaignError("nothing is left to happen in virtual time, but tasks are open")
            clock.now = until
        return self._reports()

    def _changed(self) -> None:
        """What a lane holds has changed: the coordinator is to see it."""
        if self._wake_at < self.clock.now + NOTICE_S:
            self._wake_at = self.clock.now + NOTICE_S
            self.clock.at(self._wake_at, self._wake, None)

    def _wake(self, _: None) -> None:
        self._woken = True

    def _reports(self) -> Iterator[Report]:
        ended, self._ended[:] = list(self._ended), []
        for report in ended:
            job = self._jobs.pop(report.task_id, None)
            kind = report.failure if report.result is None else report.result.get("failure")
            if kind is FailureKind.HALTED and job is not None:
                self._halted[report.task_id] = job
            elif kind is not None:
                self._failed[report.task_id] = self._failed.get(report.task_id, 0) + 1
            else:
                self._failed.pop(report.task_id, None)
            yield report

    def capacity(self) -> Mapping[str, Capacity]:
        return {name: lane.capacity for name, lane in self.lanes.items()}

    def on_events(self, t: float, events: Sequence[Event]) -> None:  # noqa: ARG002  it has a clock of its own
        for event in events:
            if isinstance(event, Cancelled) and (job := self._jobs.pop(event.task_id, None)) is not None:
                job.lane.cancel(job)

    def close(self, *, now: bool = False) -> None:  # noqa: ARG002  nothing runs in the background
        for lane in self.lanes.values():
            lane.close()
