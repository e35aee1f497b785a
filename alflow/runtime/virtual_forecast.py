"""Drive a campaign to its end in virtual time; measure a run that is over to drive it again, elsewhere."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Final, Literal

from alflow.campaign.model import Cancelled, Event, Failed, FailureKind, Finished, Retried, State, Submitted, Task, Verb
from alflow.campaign.policy import Plan
from alflow.errors import RunError
from alflow.runtime import layout
from alflow.runtime.coordinator import Coordinator, Watcher
from alflow.runtime.journal import read_lines
from alflow.runtime.virtual_lane import Account
from alflow.runtime.virtual_profile import Duration, Failures, Learning, Profile
from alflow.runtime.virtual_runner import VirtualRunner
from alflow.runtime.virtual_world import Recorded, World, frames_of
from alflow.spec.site import Site, lane_of

MOST_VALUES: Final = 10_000
"""Measured seconds that are kept of a verb."""


@dataclass(slots=True)
class Oblivion:
    """A journal that forgets: a forecast is over before it could be resumed."""

    events: tuple[Event, ...] = ()

    def append(self, decision: Sequence[Event], t: float) -> None:
        """Nothing is kept."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """How a campaign went in virtual time.

    Attributes:
        state: the campaign's state at its end.
        makespan_s: seconds from its beginning to its end.
        accounts: what each lane cost.
        labels: labels bought, of all stages.
        unbought: frames whose label failed or was given up at the end, of all stages.
        models: model versions, of all stages and loops.
        tasks: tasks that ended well, by verb.
        failures: tries that failed, by kind.
        replayed: tries that ended as they did in the measured run.
    """

    state: State
    makespan_s: float
    accounts: Mapping[str, Account]
    labels: int
    unbought: int
    models: int
    tasks: Mapping[Verb, int]
    failures: Mapping[FailureKind, int]
    replayed: int


@dataclass(slots=True)
class _Tally:
    """Counts what happens over all stages."""

    labels: int = 0
    unbought: int = 0
    open: dict[str, Task] = field(default_factory=dict)
    tasks: Counter[Verb] = field(default_factory=Counter)
    failures: Counter[FailureKind] = field(default_factory=Counter)

    def on_events(self, t: float, events: Sequence[Event]) -> None:  # noqa: ARG002  only how often, not when
        for event in events:
            match event:
                case Submitted(task):
                    self.open[task.id] = task
                case Finished(task_id, result):
                    verb = self.open.pop(task_id).verb
                    self.tasks[verb] += 1
                    if verb in {Verb.LABEL, Verb.RELABEL}:
                        self.labels += result["n"]
                        self.unbought += len(result.get("failures", ()))
                case Cancelled(task_id):
                    task = self.open.pop(task_id)
                    self.unbought += frames_of(task) if task.verb in {Verb.LABEL, Verb.RELABEL} else 0
                case Failed(_, kind) | Retried(_, kind) if kind is not FailureKind.HALTED:
                    self.failures[kind] += 1


def forecast(
    plans: Sequence[Plan],
    site: Site,
    profile: Profile,
    *,
    seed: int = 0,
    full: Sequence[float | None] = (),
    recorded: Mapping[str, Recorded] | None = None,
    watchers: Sequence[Watcher] = (),
) -> Forecast:
    """Run a campaign to its end on a described cluster, in virtual time.

    Args:
        plans: one a stage.
        site: the cluster.
        profile: how long things take, how often they fail, how the potential learns.
        seed: of all chance; the same for two layouts or policies means the same draws for a task of the same name.
        full: full length of a trajectory, one a stage, None where the sampler has none; may be left out.
        recorded: tasks of a run, by id, that go as they did there.
        watchers: told of every decision, at virtual times from 0.

    Raises:
        CampaignError: the campaign cannot go on.
    """
    lengths = full or [None] * len(plans)
    world = World(profile, seed, lengths, [plan.patience.tries for plan in plans], recorded)
    runner, tally = VirtualRunner(site, world), _Tally()
    lanes = {str(verb): lane_of(site, verb) for verb in Verb}
    watching: list[Watcher] = [runner, tally, *watchers]
    coordinator = Coordinator(
        plans, Oblivion(), runner, None, watching, lambda: runner.clock.now, lanes, poll_s=math.inf
    )
    state = coordinator.drive()
    makespan = runner.clock.now
    runner.close()
    return Forecast(
        state=state,
        makespan_s=makespan,
        accounts={name: lane.account for name, lane in runner.lanes.items()},
        labels=tally.labels,
        unbought=tally.unbought,
        models=tally.tasks[Verb.CALIBRATE],
        tasks=dict(tally.tasks),
        failures=dict(tally.failures),
        replayed=world.replayed,
    )


# ---- a run that is over ----------------------------------------------------------------------------------------------


def recorded(run_dir: Path) -> dict[str, Recorded]:
    """The tasks of a run that ended well, by id.

    Raises:
        RunError: no run there, or it has no such task.
        JournalError: its journal is damaged.
    """
    path = run_dir / layout.JOURNAL
    if not path.is_file():
        raise RunError(str(run_dir), "is no run directory of alflow with a journal", "give the folder of a run")
    tasks: dict[str, Task] = {}
    found: dict[str, Recorded] = {}
    for record, events in read_lines(path):
        for event in events:
            match event:
                case Submitted(task):
                    tasks[task.id] = task
                case Finished(task_id, result) if "started" in result and "ended" in result:
                    seconds = max(float(result["ended"]) - float(result["started"]), 0.0)
                    late = max(float(record["t"]) - float(result["ended"]), 0.0)
                    found[task_id] = Recorded(tasks[task_id], result, seconds, late)
    if not found:
        raise RunError(str(run_dir), "has no task that has ended: nothing can be measured", "give a run that is over")
    return found


def measured(profile: Profile, run: Mapping[str, Recorded], run_dir: Path) -> Profile:
    """`profile` with the durations, the failures and the progress of a run; what it did not do stays as it is."""
    seconds: dict[Verb, list[float]] = {}
    atoms: list[float] = []
    for done in run.values():
        work = _work(done)
        seconds.setdefault(done.task.verb, []).append(done.seconds / work)
        if (paces := done.result.get("paces")) and min(paces) > 0:
            atoms.append(math.sqrt(done.seconds / work / median(paces)))
    tasks = {
        str(verb): Duration(values_s=tuple(values[:MOST_VALUES]), per=_UNITS.get(verb, "frame"))
        for verb, values in seconds.items()
    }
    learning = _learning(profile.learning, run)
    return replace(
        profile,
        tasks={**profile.tasks, **tasks},
        failures=_failures(run_dir, run),
        learning=replace(learning, atoms=median(atoms)) if atoms else learning,
        reaction_s=median(done.late_s for done in run.values()),
    )


_UNITS: Final[Mapping[Verb, Literal["task", "length"]]] = {
    Verb.SAMPLE: "length",
    Verb.SELECT: "task",
    Verb.EVALUATE: "task",
}
"""Unit of work of a verb; a frame for the others."""


def _work(done: Recorded) -> float:
    unit = _UNITS.get(done.task.verb, "frame")
    if unit == "length":
        return float(sum(done.result["lengths"])) or 1.0
    return 1.0 if unit == "task" else float(max(frames_of(done.task), 1))


def _learning(usual: Learning, run: Mapping[str, Recorded]) -> Learning:
    """How trajectories grew from the run's first model to its last."""
    fitted = {r.result["path"]: frames_of(r.task) for r in run.values() if r.task.verb is Verb.CALIBRATE}
    lengths: dict[int, list[float]] = {}
    for done in run.values():
        if done.task.verb is Verb.SAMPLE and done.task.args["model"] in fitted:
            lengths.setdefault(fitted[done.task.args["model"]], []).extend(done.result["lengths"])
    typical = {n: median(found) for n, found in lengths.items() if found and median(found) > 0}
    if not typical:
        return usual
    first, last = min(typical), max(typical)
    full = max(max(found) for found in lengths.values() if found)
    return replace(usual, labels=(first, max(last, first + 1)), length=(typical[first], typical[last]), full=full)


def _failures(run_dir: Path, run: Mapping[str, Recorded]) -> Failures:
    tries: Counter[FailureKind] = Counter()
    for _, events in read_lines(run_dir / layout.JOURNAL):
        tries.update(e.kind for e in events if isinstance(e, Failed | Retried) and e.kind is not FailureKind.HALTED)
    total = len(run) + tries.total()
    labels = [r for r in run.values() if r.task.verb in {Verb.LABEL, Verb.RELABEL}]
    frames = sum(frames_of(r.task) for r in labels)
    return Failures(
        infrastructure=tries[FailureKind.INFRASTRUCTURE] / total,
        resource=tries[FailureKind.RESOURCE] / total,
        unphysical=sum(len(r.result.get("failures", ())) for r in labels) / max(frames, 1),
    )
