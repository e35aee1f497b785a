"""The ledger as tables: where the node-hours went, and what every model version cost."""

from __future__ import annotations

from collections.abc import Sequence

from alflow.monitor.history import History
from alflow.monitor.ledger import CAUSES, LaneBook, Ledger
from alflow.monitor.status import errors_text, short
from alflow.monitor.table import Section

UNKNOWN = "The runner does not tell what it holds, so there are no node-hours to account for."
_DASH = "–"


def sections(ledger: Ledger, history: History, now: float | None = None) -> list[Section]:
    """Where the node-hours went up to `now`, and the price of each model version."""
    return [lanes(ledger.books(now), known=ledger.known), *_versions(ledger, history)]


def lanes(books: Sequence[LaneBook], *, known: bool = True) -> Section:
    """A row a lane, and their sum where there are several."""
    columns = ("lane", "node-\nhours", "busy", *CAUSES, "queue")
    if not known:
        return Section("Node-hours", columns, (), UNKNOWN)
    rows = [_row(book) for book in books]
    if len(books) > 1:
        rows.append(_row(_sum(books)))
    note = "Shares of the node-hours held. Queue: time in which tasks waited for blocks that were pending; not charged."
    return Section("Node-hours", columns, tuple(rows), note)


def _row(book: LaneBook) -> tuple[str, ...]:
    shares = [_share(h, book.node_h) for h in (book.busy_h, *(book.idle_h[cause] for cause in CAUSES))]
    return (book.lane, _hours(book.node_h), *shares, f"{_hours(book.queue_h)} h" if book.queue_h else _DASH)


def _sum(books: Sequence[LaneBook]) -> LaneBook:
    return LaneBook(
        lane="all",
        node_h=sum(b.node_h for b in books),
        busy_h=sum(b.busy_h for b in books),
        idle_h={cause: sum(b.idle_h[cause] for b in books) for cause in CAUSES},
        worker_h=sum(b.worker_h for b in books),
        queue_h=sum(b.queue_h for b in books),
    )


def _versions(ledger: Ledger, history: History) -> list[Section]:
    rows = []
    for cost in ledger.versions():
        made = [m for m in history.models if (m.stage, m.version) == (cost.stage, cost.version)]
        names = history.stage_names
        stage = names[cost.stage] if cost.stage < len(names) else str(cost.stage)
        price = _hours(cost.node_h) if ledger.known else _DASH
        frames = str(max(m.n for m in made)) if made else _DASH
        errors = errors_text(made[-1].errors) if made else _DASH
        rows.append((f"{stage} {cost.version}", price, str(cost.labels), frames, errors))
    columns = ("model version", "node-\nhours", "labels\nbought", "frames\nfitted to", "errors on held-out frames")
    note = "What was spent since the version before."
    return [Section("What each model version cost", columns, tuple(rows), note)] if rows else []


def _share(part: float, whole: float) -> str:
    if not whole or part < 5e-4 * whole:
        return _DASH
    return f"{100 * part / whole:.0f} %" if part >= 0.0995 * whole else f"{100 * part / whole:.1f} %"


def _hours(hours: float) -> str:
    return short(hours) if hours >= 0.01 or not hours else f"{hours:.2g}"
