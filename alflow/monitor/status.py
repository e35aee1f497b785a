"""How a run stands, from its journal alone."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import yaml

from alflow.campaign.model import Verb
from alflow.errors import SpecError
from alflow.monitor.history import History, ModelPoint
from alflow.monitor.ledger import LaneBook, Ledger
from alflow.runtime import layout, rundir
from alflow.spec.amend import changed

if TYPE_CHECKING:
    from rich.console import RenderableType

_RATE_WINDOW_S = 3600.0


@dataclass(frozen=True, slots=True)
class Status:
    """How a run stands.

    Attributes:
        run: the run directory.
        name: of the workflow.
        state: running, stopped (can be resumed), finished or failed.
        why: of a closed or ending campaign, in words.
        stage, stages: name of the stage at work, and how many there are.
        tasks: verb -> outcome (open, finished, failed, cancelled) -> count.
        retries: tries that were repeated.
        labels_bought, labels_failed: over all stages.
        labels_target: of all stages that have one, or None.
        labels_failed_by: cause -> frames; they add up to `labels_failed`.
        labels_waiting: frames that ran out of time or memory and will be tried again.
        labels_aside: labels kept apart, of another level of theory.
        labels_corrected: bought with the help of a correction that leaves the level of theory alone.
        labels_per_hour: in the last hour of the run, or None before the first label.
        models: model versions that were ready.
        model: path of the newest, relative to the run directory.
        model_frames: frames it was fitted to.
        errors: its errors on held-out frames, named with their unit.
        median_length: median length of the trajectories it guided; None before the first.
        length_unit: of `median_length`.
        elapsed_s: from the first to the last line of the journal, or until now if it runs.
        amended: ``STAGE.KEY`` -> value of what was changed since the campaign was submitted.
        trouble: lane -> why it gets no nodes, in the scheduler's words.
        ledger: the account of each lane; empty where the runner does not tell what it holds.
    """

    run: str
    name: str
    state: str
    why: str
    stage: str
    stages: int
    tasks: Mapping[str, Mapping[str, int]]
    retries: int
    labels_bought: int
    labels_failed: int
    labels_target: int | None
    labels_failed_by: Mapping[str, int]
    labels_waiting: int
    labels_aside: int
    labels_corrected: int
    labels_per_hour: float | None
    models: int
    model: str
    model_frames: int
    errors: Mapping[str, float]
    median_length: float | None
    length_unit: str
    elapsed_s: float
    amended: Mapping[str, str] = field(default_factory=dict)
    trouble: Mapping[str, str] = field(default_factory=dict)
    ledger: tuple[LaneBook, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def status(run_dir: Path) -> Status:
    """How the run in `run_dir` stands now.

    Raises:
        RunError: there is no run.
        JournalError: its journal is damaged.
    """
    ledger, running = Ledger(), rundir.is_locked(run_dir)
    history, now = History.read(run_dir, whole=False, also=ledger.add), time.time()
    books = ledger.books(now if running else None) if ledger.known else ()
    return summary(history, run_dir, running=running, now=now, ledger=books)


def summary(history: History, run_dir: Path, *, running: bool, now: float, ledger: tuple[LaneBook, ...] = ()) -> Status:
    """How a run with this history stands at time `now`."""
    models, series = history.models, history.labels
    newest = models[-1] if models else None
    length, unit = median_length(history, newest)
    names = history.stage_names
    end = now if running and history.started and history.closed is None else history.last
    return Status(
        run=str(run_dir),
        name=str(history.header.get("name", run_dir.name)),
        state=_state(history, running),
        why=history.closed.reason if history.closed else history.ending,
        stage=names[history.stage] if names else str(history.stage),
        stages=max(len(names), 1),
        tasks={verb: {k: n for k, n in counts.items() if n} for verb, counts in history.counts.items()},
        retries=history.repeated,
        labels_bought=series[-1][1] if series else 0,
        labels_failed=series[-1][2] if series else 0,
        labels_target=label_target(run_dir, history),
        labels_failed_by={cause: f.frames for cause, f in history.label_failures.items()},
        labels_waiting=history.waiting,
        labels_aside=history.aside.total(),
        labels_corrected=history.corrected,
        labels_per_hour=_rate(history, end),
        models=len(models),
        model=newest.path if newest else "",
        model_frames=newest.n if newest else 0,
        errors=newest.errors if newest else {},
        median_length=length,
        length_unit=unit,
        elapsed_s=max(end - history.started, 0.0),
        amended={f"{_stage_name(names, i)}.{k}": v for _, i, changes in history.amendments for k, v in changes.items()},
        trouble={lane: words for lane, words in history.trouble.items() if words and running},
        ledger=ledger,
    )


def _stage_name(names: tuple[str, ...], index: int) -> str:
    return names[index] if index < len(names) else str(index)


def stages_of(run_dir: Path, history: History) -> list[Mapping[str, Any]]:
    """The stages of the run's workflow as it is amended, in plain values; none if they cannot be read."""
    try:
        content = yaml.safe_load((run_dir / layout.WORKFLOW).read_text())
        made = [{"stage": i, "changes": changes} for _, i, changes in history.amendments]
        return list(changed(content, made)["stages"])
    except (OSError, yaml.YAMLError, SpecError, KeyError, IndexError, TypeError, AttributeError):
        return []


def label_target(run_dir: Path, history: History) -> int | None:
    """Labels all stages of the run's workflow may buy; None if a stage has no such limit."""
    try:
        targets = [stage["until"].get("max_labels") for stage in stages_of(run_dir, history)]
    except (KeyError, TypeError, AttributeError):
        return None
    return sum(targets) if targets and all(isinstance(n, int) for n in targets) else None


def median_length(history: History, model: ModelPoint | None) -> tuple[float | None, str]:
    """Median length of the trajectories that `model` guided (of the newest that guided any), and its unit."""
    last = next((w for w in reversed(history.waves) if w.lengths), None)
    if last is None:
        return None, ""
    wanted = {w.model for w in history.waves if w.lengths and model is not None and w.model == model.path}
    path = next(iter(wanted), last.model)
    return median(x for w in history.waves if w.model == path for x in w.lengths), last.unit


def _state(history: History, running: bool) -> str:
    if history.closed is not None:
        return "failed" if history.closed.failed else "finished"
    return "running" if running else "stopped"


def _rate(history: History, end: float) -> float | None:
    """Labels an hour in the last hour before `end`, or since the first label task if that is later."""
    if history.first_label is None or not history.labels:
        return None
    begin = max(end - _RATE_WINDOW_S, history.first_label)
    after = bisect_right(history.labels, begin, key=lambda row: row[0])
    before = history.labels[after - 1][1] if after else 0
    bought = history.labels[-1][1] - before
    return bought * 3600 / (end - begin) if end > begin else None


# ---- for people ------------------------------------------------------------------------------------------------------

_COLOUR = {"running": "green", "finished": "bold green", "stopped": "yellow", "failed": "bold red"}


def render(s: Status) -> RenderableType:
    """A status for the terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    head = Text.assemble((s.name, "bold"), "  ", (s.state, _COLOUR[s.state]), f"  {duration(s.elapsed_s)}")
    if s.why:
        head.append(f"\n{s.why}")
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column()
    for name, value in _facts(s):
        facts.add_row(name, Text(value))
    tasks = Table(box=None, padding=(0, 2), header_style="dim")
    tasks.add_column("tasks")
    for outcome in _OUTCOMES:
        tasks.add_column(outcome, justify="right")
    for verb in Verb:
        if counts := s.tasks.get(verb):
            tasks.add_row(str(verb), *(str(counts.get(o, 0) or "·") for o in _OUTCOMES))
    return Group(head, facts, "", tasks, *_ledger(s))


def _ledger(s: Status) -> list[RenderableType]:
    from rich.table import Table
    from rich.text import Text

    from alflow.monitor import accounts

    if not s.ledger:
        return []
    section = accounts.lanes(s.ledger)
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for i, column in enumerate(section.columns):
        table.add_column(column, justify="right" if i else "left")
    for row in section.rows:
        table.add_row(*row)
    return ["", table, Text(section.note, "dim")]


_OUTCOMES = ("open", "finished", "failed", "cancelled")


def _facts(s: Status) -> list[tuple[str, str]]:
    target = f" of at most {s.labels_target}" if s.labels_target else ""
    rate = f", {s.labels_per_hour:.0f} an hour" if s.labels_per_hour is not None else ""
    rows = [("run", s.run), ("stage", s.stage), ("labels", f"{s.labels_bought}{target}{rate}")]
    if s.labels_failed:
        causes = ", ".join(f"{n} {cause}" for cause, n in s.labels_failed_by.items())
        rows.append(("labels failed", f"{s.labels_failed}: {causes}; `alflow why {s.run}` names each"))
    if s.labels_waiting:
        rows.append(("labels to try again", f"{s.labels_waiting}: ran out of time or memory"))
    if s.labels_aside:
        rows.append(("labels kept apart", f"{s.labels_aside}: of another level of theory"))
    if s.labels_corrected:
        rows.append(("labels corrected", f"{s.labels_corrected}: the way to the label, never its level of theory"))
    if s.models:
        rows.append(("models", f"{s.models}; the newest from {s.model_frames} frames: {s.model}"))
    if s.errors:
        rows.append(("held-out errors", errors_text(s.errors)))
    if s.median_length is not None:
        rows.append(("median trajectory", f"{s.median_length:.3g} {s.length_unit}"))
    if s.amended:
        rows.append(("changed meanwhile", ", ".join(f"{key} = {value}" for key, value in s.amended.items())))
    rows += [("no nodes for", f"{lane}: {words}") for lane, words in s.trouble.items()]
    if s.retries:
        rows.append(("tries repeated", str(s.retries)))
    return rows


def errors_text(errors: Mapping[str, float]) -> str:
    """Held-out errors in a few words."""
    words = []
    if (energy := errors.get("energy_rmse_meV_atom")) is not None:
        words.append(f"{short(energy)} meV/atom")
    if (force := errors.get("force_rmse_meV_A")) is not None:
        words.append(f"{short(force)} meV/Å")
    return ", ".join(words) if words else "none known"


def short(value: float) -> str:
    """A figure with three digits at most that count: ``1730``, ``24.9``, ``0.05``."""
    if abs(value) >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"


def duration(seconds: float) -> str:
    """Seconds as ``1 h 02 min`` or ``3 min 07 s``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
