"""The report of a run: one HTML file that needs nothing else, for the screen, a phone and paper."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

from alflow.monitor.accounts import sections as sections_of_ledger
from alflow.monitor.history import History
from alflow.monitor.ledger import Ledger
from alflow.monitor.plots import Plot, all_plots
from alflow.monitor.status import Status, duration, errors_text, stages_of, summary
from alflow.monitor.table import Section, sections
from alflow.runtime import layout, rundir
from alflow.store.files import write_text

NAME: Final = "report.html"
_SHOWN_FAILURES: Final = 50


def write_report(run_dir: Path) -> Path:
    """Write the report of a run, finished or not, into its directory; the path of the file.

    Raises:
        RunError: there is no run.
        JournalError: its journal is damaged.
    """
    ledger, running = Ledger(), rundir.is_locked(run_dir)
    history, now = History.read(run_dir, whole=False, also=ledger.add), time.time()
    stand = summary(history, run_dir, running=running, now=now)
    path = run_dir / NAME
    accounts = sections_of_ledger(ledger, history, now if running else None)
    write_text(path, page(history, stand, run_dir, accounts))
    return path


def page(history: History, stand: Status, run_dir: Path, accounts: list[Section]) -> str:
    """The whole HTML text."""
    plots = all_plots(history, thresholds(run_dir, history))
    over_time, judged = plots[:6], plots[6:]
    parts = [
        _head(history, stand),
        _tiles(history, stand),
        _judged(sections(history)[1:]),  # the tiles say what the campaign bought
        figures("Model against reference", judged),
        figures("The campaign", over_time),
        tables(accounts),
        _failures(history),
        _workflow(run_dir),
        _amendments(history),
        _versions(history),
    ]
    return document(stand.name, parts)


def document(title: str, parts: Sequence[str]) -> str:
    """A whole HTML text of parts that are HTML; empty ones are left out."""
    return _PAGE.format(title=escape(title), style=_STYLE, body="\n".join(p for p in parts if p))


def thresholds(run_dir: Path, history: History) -> dict[int, tuple[float, float]]:
    """Stage -> (select, stop) of the run's workflow as it is amended, as far as they can be read."""
    found = {}
    for i, stage in enumerate(stages_of(run_dir, history)):
        with contextlib.suppress(KeyError, TypeError, ValueError):
            found[i] = (float(stage["thresholds"]["select"]), float(stage["thresholds"]["stop"]))
    return found


# ---- parts -----------------------------------------------------------------------------------------------------------


def _head(history: History, stand: Status) -> str:
    began = time.strftime("%Y-%m-%d %H:%M", time.localtime(history.started)) if history.started else "not started"
    facts = [f"begun {began}", f"{duration(stand.elapsed_s)}", f"stage {stand.stage}", stand.run]
    why = f"<p class=why>{escape(stand.why)}</p>" if stand.why else ""
    return (
        f"<header><h1>{escape(stand.name)} <span class='chip {stand.state}'>{stand.state}</span></h1>"
        f"<p class=facts>{' · '.join(escape(f) for f in facts)}</p>{why}</header>"
    )


def _tiles(history: History, stand: Status) -> str:
    failed = f" ({stand.labels_failed} failed)" if stand.labels_failed else ""
    tiles = [(f"{stand.labels_bought}{failed}", "labels bought"), (str(stand.models), "model versions")]
    if stand.errors:
        tiles.append((errors_text(stand.errors), "errors on held-out frames"))
    for result in history.evaluations.values():
        tiles += _judged_tiles(result)
    if stand.median_length is not None:
        tiles.append((f"{stand.median_length:.3g} {stand.length_unit}", "median trajectory"))
    cells = "".join(f"<div><b>{_phrases(value)}</b><span>{escape(name)}</span></div>" for value, name in tiles)
    return f"<section class=tiles>{cells}</section>"


def _phrases(text: str) -> str:
    """Text that breaks at its commas only."""
    return " ".join(f"<i>{escape(phrase)}</i>" for phrase in text.replace(", ", ",\n").split("\n"))


def _judged_tiles(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    tiles = []
    fresh = result.get("fresh", {})
    if fresh.get("energy_rmse_meV_atom") is not None:
        tiles.append((errors_text(fresh), "errors on fresh disorder"))
    for symbol, element in dict(result.get("elements", {})).items():
        order = dict(element.get("order", {}))
        if order.get("model"):
            tiles.append((order["model"][0], f"lowest crystal of {symbol} (reference {_first(order)})"))
    return tiles


def _first(order: Mapping[str, Any]) -> str:
    return str(order["reference"][0]) if order.get("reference") else "none"


def _judged(parts: Sequence[Section]) -> str:
    if not parts:
        return "<p class=note>The potential has not been held against its reference (yet).</p>"
    return tables(parts)


def tables(parts: Sequence[Section]) -> str:
    """Tables side by side, as HTML."""
    return "<section class=tables>" + "".join(_table(part) for part in parts) + "</section>"


def _table(part: Section) -> str:
    head = "<tr>" + "".join(f"<th>{_lines(c)}</th>" for c in part.columns) + "</tr>"
    rows = "".join("<tr>" + "".join(_cell(c) for c in row) + "</tr>" for row in part.rows)
    note = f"<p class=note>{escape(part.note)}</p>" if part.note else ""
    return (
        f"<div class=table><h2>{escape(part.title)}</h2>"
        f"<div class=scroll><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>{note}</div>"
    )


def _cell(text: str) -> str:
    inset = " class=inset" if text.startswith("  ") else ""
    return f"<td{inset}>{escape(text.strip())}</td>"


def _lines(text: str) -> str:
    return "<br>".join(escape(line) for line in text.split("\n"))


def figures(title: str, plots: Sequence[Plot]) -> str:
    """Pictures under a title, as HTML; nothing if there are none."""
    if not plots:
        return ""
    found = "".join(_figure(plot) for plot in plots)
    return f"<section><h2>{escape(title)}</h2><div class=figures>{found}</div></section>"


def _figure(plot: Plot) -> str:
    picture = plot.svg or "<p class=empty>nothing to show</p>"
    label = f"role=img aria-label='{escape(plot.title, quote=True)}'"
    return (
        f"<figure><h3>{escape(plot.title)}</h3><div {label}>{picture}</div>"
        f"<figcaption>{escape(plot.caption)}</figcaption></figure>"
    )


def _failures(history: History) -> str:
    labels = history.label_failures
    if not labels and not history.failures:
        return "<section><h2>Failures</h2><p>None.</p></section>"
    out = ["<section><h2>Failures</h2>"]
    if labels:
        rows = "".join(
            f"<tr><td>{escape(cause)}</td><td>{f.frames}</td><td>{escape(f.reason[-600:])}</td>"
            f"<td class=path>{escape(f.log)}</td></tr>"
            for cause, f in sorted(labels.items(), key=lambda item: -item[1].frames)
        )
        head = "<tr><th>no label since</th><th>frames</th><th>the first of them</th><th>its log</th></tr>"
        out.append(f"<div class=scroll><table class=words>{head}{rows}</table></div>")
    if history.failures:
        out.append(_task_failures(history))
    return "".join([*out, "</section>"])


def _task_failures(history: History) -> str:
    last = history.failures[-_SHOWN_FAILURES:]
    rows = "".join(
        f"<tr><td>{escape(f.task_id)}</td><td>{escape(f.kind)}</td>"
        f"<td>{'tried again' if f.retried else 'given up'}</td>"
        f"<td>{escape(f.detail[-600:])}</td><td class=path>{escape(f.log)}</td></tr>"
        for f in last
    )
    more = len(history.failures) - len(last)
    note = f"<p class=note>The last {len(last)}; {more} more are in the journal.</p>" if more else ""
    head = "<tr><th>task</th><th>kind</th><th></th><th>what happened</th><th>log</th></tr>"
    return f"<div class=scroll><table class=words>{head}{rows}</table></div>{note}"


def _workflow(run_dir: Path) -> str:
    for name in (layout.SUBMITTED, layout.WORKFLOW):
        try:
            text = (run_dir / name).read_text()
        except (OSError, UnicodeDecodeError):
            continue
        return f"<section><h2>Workflow</h2><pre>{escape(text)}</pre></section>"
    return "<section><h2>Workflow</h2><p>The workflow file cannot be read.</p></section>"


def _amendments(history: History) -> str:
    rows = [
        (time.strftime("%Y-%m-%d %H:%M", time.localtime(t)), f"stage {stage}: {key} = {value}")
        for t, stage, changes in history.amendments
        for key, value in changes.items()
    ]
    items = "".join(f"<dt>{when}</dt><dd>{escape(what)}</dd>" for when, what in rows)
    return f"<section><h2>Changed meanwhile</h2><dl>{items}</dl></section>" if rows else ""


def _versions(history: History) -> str:
    known: list[tuple[str, str]] = []
    for key, value in history.header.items():
        if isinstance(value, Mapping):
            known += [(str(k), str(v)) for k, v in value.items()]
        elif key in {"seed", "workflow", "schema"}:
            known.append(({"workflow": "workflow digest", "schema": "journal schema"}.get(key, key), str(value)))
    if not known:
        return ""
    items = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in known)
    return f"<section><h2>Versions</h2><dl>{items}</dl></section>"


_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{title} · alflow</title><style>{style}</style></head>
<body><main>
{body}
<footer>written by alflow</footer>
</main></body></html>
"""

_STYLE: Final = """
:root { --ink: #222; --muted: #6b6b6b; --line: #e4e4e4; --blue: #0072B2; color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 2rem 1.25rem 3rem; }
h1 { font-size: 1.7rem; font-weight: 600; margin: 0; letter-spacing: -.01em; }
h2 { font-size: 1.12rem; font-weight: 600; margin: 2.2rem 0 .7rem; }
h3 { font-size: .95rem; font-weight: 600; margin: 0 0 .3rem; }
.facts, .why, .note, figcaption, footer { color: var(--muted); font-size: .85rem; }
.facts, .why { margin: .3rem 0 0; overflow-wrap: anywhere; }
.chip { font-size: .75rem; font-weight: 600; vertical-align: .25em; padding: .15em .6em; border-radius: 1em;
  border: 1px solid currentColor; margin-left: .3em; white-space: nowrap; }
.chip.finished { color: #00785a; } .chip.running { color: var(--blue); }
.chip.stopped { color: #8a5a00; } .chip.failed { color: #b34700; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 0 1.5rem; margin: 1.6rem 0 0;
  border-top: 1px solid var(--line); }
.tiles div { padding: .8rem 0; border-bottom: 1px solid var(--line); }
.tiles b { display: block; font-size: 1.05rem; font-weight: 600; }
.tiles i { font-style: normal; white-space: nowrap; }
.tiles span { color: var(--muted); font-size: .82rem; }
.tables { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); gap: 0 2.5rem;
  align-items: start; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; width: 100%; }
th { font-weight: 500; color: var(--muted); font-size: .8rem; line-height: 1.25; vertical-align: bottom; }
th, td { padding: .28rem .5rem .28rem 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
td.inset { padding-left: 1.1em; color: var(--muted); }
table.words th, table.words td { text-align: left; white-space: normal; vertical-align: top; padding-right: 1rem; }
table.words { margin-bottom: 1rem; }
.path { font: .8rem ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
.note { margin: .5rem 0 0; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 430px), 1fr)); gap: 1.8rem 2.5rem; }
figure { margin: 0; break-inside: avoid; min-width: 0; }
figure svg { display: block; width: 100%; height: auto; }
figcaption { margin-top: .2rem; }
.empty { color: var(--muted); border: 1px dashed var(--line); border-radius: 4px; padding: 3rem 1rem; margin: 0;
  text-align: center; }
pre { font: .8rem/1.5 ui-monospace, "DejaVu Sans Mono", monospace; background: #f7f7f7; border-radius: 4px;
  padding: 1rem; overflow-x: auto; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1.5rem; font-size: .88rem; margin: 0; }
dt { color: var(--muted); } dd { margin: 0; overflow-wrap: anywhere; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: .6rem; }
@media print {
  main { max-width: none; padding: 0; } body { font-size: 11px; }
  .figures { grid-template-columns: 1fr 1fr; gap: 1rem 1.5rem; } pre { white-space: pre-wrap; }
  h2 { break-after: avoid; } .table, tr { break-inside: avoid; } .scroll { overflow: visible; }
}
"""
