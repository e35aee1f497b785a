"""``alflow plan``: campaigns run to their end in virtual time, side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from alflow import registry
from alflow.campaign.policy import Cycles, Plan, Policy, Rounds, Stream
from alflow.core.labels import Theory
from alflow.errors import InputError
from alflow.interfaces import Code, Labeler
from alflow.monitor.ledger import CAUSES, LaneBook, Ledger
from alflow.monitor.status import duration
from alflow.runtime import campaign_run, lanes, layout, rundir
from alflow.runtime.virtual_forecast import Forecast, forecast, measured, recorded
from alflow.runtime.virtual_profile import Profile, load_profile
from alflow.runtime.virtual_world import Recorded
from alflow.spec.plan import workers_per_node
from alflow.spec.site import DEFAULT, Site, load_site
from alflow.spec.workflow import POLICIES, Workflow, digest, load
from alflow.validation import suggestion

if TYPE_CHECKING:
    from alflow.campaign.model import Event

LOOPS: Final = 8
"""Loops of a `cycles` policy made of one that has none."""


@dataclass(frozen=True, slots=True)
class Case:
    """One column of the table: a workflow on a site.

    Attributes:
        name: what tells it from the others.
        workflow, site: what runs where.
        plans: the workflow's stages as policies see them, with this case's policy.
        recorded: tasks of a finished run that go as they did there.
    """

    name: str
    workflow: Workflow
    site: Site
    plans: Sequence[Plan]
    recorded: Mapping[str, Recorded]


@dataclass(frozen=True, slots=True)
class Outlook:
    """How a case went, and where its nodes' time went."""

    case: Case
    forecast: Forecast
    books: tuple[LaneBook, ...]

    @property
    def node_h(self) -> float:
        """Node-hours of all lanes."""
        return sum(b.node_h for b in self.books)

    def share(self, hours: Callable[[LaneBook], float]) -> float:
        """Part of the node-hours of all lanes."""
        return sum(map(hours, self.books)) / self.node_h if self.node_h else 0.0

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        f = self.forecast
        closed = f.state.closed
        return {
            "name": self.case.name,
            "workflow": self.case.workflow.name,
            "site": self.case.site.name,
            "ended": "" if closed is None else closed.reason,
            "failed": closed is not None and closed.failed,
            "makespan_s": f.makespan_s,
            "node_hours": self.node_h,
            "busy": self.share(lambda b: b.busy_h),
            "idle": {cause: self.share(lambda b, c=cause: b.idle_h[c]) for cause in CAUSES},  # type: ignore[misc]
            "queue_h": sum(b.queue_h for b in self.books),
            "lanes": {b.lane: asdict(b) for b in self.books},
            "labels": f.labels,
            "labels_failed": f.unbought,
            "models": f.models,
            "tasks": {str(verb): n for verb, n in f.tasks.items()},
            "failures": {str(kind): n for kind, n in f.failures.items()},
            "replayed": f.replayed,
        }


def plan(
    workflows: Sequence[str],
    sites: Sequence[str],
    *,
    model: Path | None,
    run: Path | None,
    policies: Sequence[str],
    seed: int,
    as_json: bool,
) -> None:
    """Run every workflow with every policy on every site in virtual time; print what it takes, side by side.

    Raises:
        InputError: a file, a run or an option cannot be used.
        CampaignError: a campaign cannot go on.
    """
    cases, profile = prepare(workflows, sites, model=model, run=run, policies=policies)
    outlooks = [outlook(case, profile, seed) for case in cases]
    if as_json:
        print(json.dumps([o.to_json() for o in outlooks], indent=1))  # noqa: T201  # rich would wrap it
        return
    from rich.console import Console

    console = Console(highlight=False)
    console.print(_table(outlooks))
    for o in outlooks:
        closed = o.forecast.state.closed
        if closed is not None and closed.failed:
            console.print(f"{o.case.name} failed: {closed.reason}", markup=False)
    done = {str(verb) for o in outlooks for verb in o.forecast.tasks}
    if run is not None and (unknown := sorted(done - {str(r.task.verb) for r in recorded(run).values()})):
        console.print(f"The run never ended a task of {', '.join(unknown)}: taken from elsewhere.", markup=False)
    source = f"measured in {run}" if run else f"from {model}" if model else "the usual ones of ANI-Al, see --model"
    for site in {case.site.name: case.site for case in cases}.values():
        console.print(_described(site), markup=False)
    if any(lane.scheduler != "local" for case in cases for lane in lanes.lanes_in_use(case.site).values()):
        wait = duration(profile.queue.base_s + profile.queue.unit(0.5))
        console.print(
            f"Blocks wait {wait} in a scheduler's queue, in the median; a --model says otherwise.", markup=False
        )
    console.print(f"Durations: {source}; seed {seed}. Nothing was started.", markup=False)


def outlook(case: Case, profile: Profile, seed: int) -> Outlook:
    """Run one case."""
    book = _Book()
    full = [getattr(stage.sampler, "length_ps", None) for stage in case.workflow.stages]
    found = forecast(case.plans, case.site, profile, seed=seed, full=full, recorded=case.recorded, watchers=[book])
    return Outlook(case, found, book.ledger.books())


@dataclass(slots=True)
class _Book:
    """A ledger that hears of decisions as they are taken."""

    ledger: Ledger = field(default_factory=Ledger)

    def on_events(self, t: float, events: Sequence[Event]) -> None:
        self.ledger.add(t, events)


# ---- what is asked for ---------------------------------------------------------------------------------------------


def prepare(
    workflows: Sequence[str], sites: Sequence[str], *, model: Path | None, run: Path | None, policies: Sequence[str]
) -> tuple[list[Case], Profile]:
    """The cases that are asked for, and the profile they share.

    Raises:
        InputError: a file, a run or an option cannot be used.
    """
    for kind in policies:
        if kind not in POLICIES:
            raise InputError("--policy", f"no policy is called {kind!r}", suggestion(kind, POLICIES))
    profile = Profile() if model is None else load_profile(model)
    done: dict[str, Recorded] = {}
    if run is not None:
        run = rundir.existing(run)
        done = recorded(run)
        profile = measured(profile, done, run)
        workflows = workflows or [str(run / layout.WORKFLOW)]
        sites = sites or [str(run / layout.SITE)]
    elif not workflows:
        raise InputError("WORKFLOW", "is required", "give a workflow file, or a finished run with --from")
    loaded = [load(w) for w in workflows]
    where = [load_site(s) for s in (sites or [DEFAULT])]
    ran = load(run / layout.WORKFLOW) if run is not None else None
    cases = [
        _case(w, s, kind, done if ran is not None and digest(w) == digest(ran) else {})
        for w in loaded
        for s in where
        for kind in (policies or [""])
    ]
    return _named(cases), profile


def _case(workflow: Workflow, site: Site, kind: str, done: Mapping[str, Recorded]) -> Case:
    stages = tuple(replace(s, labeler=cast("Labeler", _Blind(s.labeler))) for s in workflow.stages)
    plans = campaign_run.plans(replace(workflow, stages=stages), site)
    given = [p.policy for p in plans]
    if kind:
        plans = [replace(p, policy=as_kind(p.policy, kind)) for p in plans]
    same = [p.policy for p in plans] == given
    return Case(kind, workflow, site, plans, done if same else {})


def _named(cases: Sequence[Case]) -> list[Case]:
    """The cases, each named by what tells it from the others."""

    def several(values: Sequence[str]) -> bool:
        return len(set(values)) > 1

    words = [
        (
            case.workflow.name,
            case.site.name,
            case.name or _kind(case.plans[0].policy),
        )
        for case in cases
    ]
    telling = [i for i in range(3) if several([w[i] for w in words])] or [2]
    names = [" ".join(w[i] for i in telling) for w in words]
    return [
        replace(case, name=name if names.count(name) == 1 else f"{name} ({n})")
        for n, (case, name) in enumerate(zip(cases, names, strict=True), start=1)
    ]


def _kind(policy: Policy) -> str:
    return next(kind for kind, cls in POLICIES.items() if isinstance(policy, cls))


class _Blind:
    """A labeler whose program or pseudopotentials may be out of sight: then its settings stand for its theory."""

    def __init__(self, labeler: Labeler) -> None:
        self._labeler, self.code = labeler, labeler.code

    def __getattr__(self, name: str) -> Any:
        return getattr(self._labeler, name)

    def theory(self, code: Code | None) -> Theory:
        try:
            return self._labeler.theory(code)
        except InputError:
            return Theory(self.code, registry.dump("labelers", self._labeler))


def as_kind(policy: Policy, kind: str) -> Policy:
    """The policy of another kind that runs as many trajectories at a time, or in a round, as `policy`.

    A stream is refitted when as many labels are new as a round would bring, and pauses when twice as many wait.
    """
    if _kind(policy) == kind:
        return policy
    if isinstance(policy, Stream):
        width = policy.sampling * policy.batch
    else:
        width = policy.samples * (policy.loops if isinstance(policy, Cycles) else 1)
    shared = {f.name for f in fields(Rounds)} & {f.name for f in fields(Stream)}
    common: dict[str, Any] = {name: getattr(policy, name) for name in shared}
    if kind == "rounds":
        return Rounds(samples=width, **common)
    if kind == "cycles":
        samples = max(-(-width // LOOPS), 1)
        return Cycles(loops=LOOPS, samples=samples, **{**common, "batch": min(policy.batch, samples)})
    return Stream(sampling=-(-width // policy.batch), fit_at=width, max_waiting=2 * width, **common)


# ---- what is printed -----------------------------------------------------------------------------------------------


def _table(outlooks: Sequence[Outlook]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for o in outlooks:
        table.add_column(o.case.name, justify="right")
    for name, cell in _ROWS.items():
        table.add_row(name, *(Text(cell(o)) for o in outlooks))
    if any(o.forecast.replayed for o in outlooks):
        table.add_row("tries as in the run", *(Text(f"{o.forecast.replayed:,}") for o in outlooks))
    if any(len(o.books) > 1 for o in outlooks):
        for lane in dict.fromkeys(b.lane for o in outlooks for b in o.books):
            table.add_row(f"busy, lane {lane}", *(Text(_lane(o, lane)) for o in outlooks))
    return table


def _described(site: Site) -> str:
    """What a site's lanes hold at most."""
    held = []
    for name, lane in lanes.lanes_in_use(site).items():
        nodes = lane.nodes_per_block * lane.max_blocks
        workers = workers_per_node(lane) * nodes
        held.append(f"lane {name}: {nodes:,} node{'s' * (nodes > 1)}, {workers:,} task{'s' * (workers > 1)} at a time")
    return f"Site {site.name}: {'; '.join(held)}."


def _lane(o: Outlook, lane: str) -> str:
    book = next((b for b in o.books if b.lane == lane), None)
    return "–" if book is None or not book.node_h else f"{book.busy_h / book.node_h:.1%} of {_hours(book.node_h)} h"


def _hours(hours: float) -> str:
    return f"{hours:,.1f}" if hours >= 10 or not hours else f"{hours:.2g}"


def _cause(cause: str) -> Callable[[Outlook], str]:
    return lambda o: f"{o.share(lambda b: b.idle_h[cause]):.1%}"


_ROWS: Final[Mapping[str, Callable[[Outlook], str]]] = {
    "makespan": lambda o: duration(o.forecast.makespan_s),
    "node-hours": lambda o: _hours(o.node_h),
    "busy": lambda o: f"{o.share(lambda b: b.busy_h):.1%}",
    **{f"idle: {cause}": _cause(cause) for cause in CAUSES},
    "waited in the queue": lambda o: duration(3600 * sum(b.queue_h for b in o.books)),
    "labels": lambda o: f"{o.forecast.labels:,}",
    "labels that failed": lambda o: f"{o.forecast.unbought:,}",
    "model versions": lambda o: f"{o.forecast.models:,}",
    "tasks": lambda o: f"{sum(o.forecast.tasks.values()):,}",
    "tries that failed": lambda o: f"{sum(o.forecast.failures.values()):,}",
}
