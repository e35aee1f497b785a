"""The table at the end of a run: what was bought, and what the potential is worth against its reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alflow.monitor.history import History
from alflow.monitor.status import duration, short

if TYPE_CHECKING:
    from rich.console import RenderableType

_DASH = "–"


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the final table.

    Attributes:
        title: what it is about.
        columns: heads of the columns; the first is that of the row names.
        rows: cells, as many a row as there are columns.
        note: what a reader must know, or empty.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def sections(history: History) -> list[Section]:
    """The final table as text, part by part."""
    found = [_campaign(history)]
    several = len(history.evaluations) > 1
    for stage, result in sorted(history.evaluations.items()):
        names = history.stage_names
        of = f" (stage {names[stage] if stage < len(names) else stage})" if several else ""
        found += [_errors(result, of)]
        for symbol, element in dict(result.get("elements", {})).items():
            found += [_crystals(symbol, element, of), *_elastic(symbol, element, of)]
    return found


def final_table(run_dir: Path) -> RenderableType:
    """The final table for the terminal.

    Raises:
        RunError: there is no run.
        JournalError: its journal is damaged.
    """
    return drawn(sections(History.read(run_dir, whole=False)))


def drawn(parts: Sequence[Section]) -> RenderableType:
    """Tables for the terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    tables: list[RenderableType] = []
    for section in parts:
        table = Table(title=section.title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
        for i, column in enumerate(section.columns):
            table.add_column(column, justify="right" if i else "left", header_style="dim")
        for row in section.rows:
            table.add_row(*(Text(cell) for cell in row))
        tables += [table, Text(section.note, "dim") if section.note else Text("")]
    return Group(*tables)


# ---- parts -----------------------------------------------------------------------------------------------------------


def _campaign(history: History) -> Section:
    labels, models = history.labels, history.models
    bought, failed = labels[-1][1:] if labels else (0, 0)
    rows = [
        ("labels bought", f"{bought}" + (f" ({failed} more failed)" if failed else "")),
        ("model versions", f"{len(models)}"),
        ("wall time", duration(history.last - history.started)),
    ]
    if models:
        rows.append(("frames the last model was fitted to", f"{models[-1].n}"))
    note = "" if history.evaluations else "The potential has not been held against its reference (yet)."
    return Section("Campaign", ("", ""), tuple(rows), note)


_ERROR_KEYS = ("energy_rmse_meV_atom", "energy_shifted_rmse_meV_atom", "force_rmse_meV_A", "force_norm_meV_A")
_ERROR_COLUMNS = (
    "",
    "frames",
    "energy\nmeV/atom",
    "shift\nremoved\nmeV/atom",
    "force\nmeV/Å",
    "force\nscale\nmeV/Å",
)


def _errors(result: Mapping[str, Any], of: str) -> Section:
    sets = {"fresh disorder": result.get("fresh", {}), "crystals never sampled": result.get("rattled", {})}
    sets |= {f"  {name}": errors for name, errors in dict(result.get("rattled_by_crystal", {})).items()}
    rows, notes = [], []
    for name, errors in sets.items():
        if "problem" in errors:
            notes.append(f"{name}: {errors['problem']}.")
            continue
        rows.append(
            (
                name,
                str(errors.get("n_frames", _DASH)),
                *(short(errors.get(key)) if errors.get(key) is not None else _DASH for key in _ERROR_KEYS),
            )
        )
        if errors.get("n_no_prediction"):
            notes.append(f"{name}: the model gave NaN for {errors['n_no_prediction']} frames.")
    if result.get("reference_failed"):
        failed, asked = result["reference_failed"], result.get("reference_frames")
        notes.append(f"The reference failed on {failed} of {asked} frames; they are left out.")
    return Section(f"Root mean square errors against the reference{of}", _ERROR_COLUMNS, tuple(rows), " ".join(notes))


def _crystals(symbol: str, element: Mapping[str, Any], of: str) -> Section:
    base = str(element.get("relative_to", ""))
    heads = ("a0 / Å", "B / GPa", f"E − E({base})\nmeV/atom")
    columns = (symbol, *(f"{head}\n{side}" for head in heads for side in ("model", "reference")))
    rows: list[tuple[str, ...]] = []
    notes = [f"{symbol}: {element['problem']}."] if "problem" in element else []
    for name, curve in dict(element.get("curves", {})).items():
        ours, theirs = curve.get("model", {}), curve.get("reference", {})
        cells = [_number(side.get(key), digits) for key, digits in _MINIMUM for side in (ours, theirs)]
        rows.append((name, *cells))
        notes += [f"{name}, {who}: {s['problem']}." for who, s in _sides(ours, theirs) if "problem" in s]
    if order := element.get("order"):
        lowest = {side: " < ".join(names) or "none" for side, names in order.items()}
        same = lowest.get("model") == lowest.get("reference")
        words = (
            f"both {lowest.get('model')}" if same else f"model {lowest.get('model')}, reference {lowest['reference']}"
        )
        notes.insert(0, f"Order of the minima: {words}.")
    return Section(f"Crystals of {symbol}{of}", columns, tuple(rows), " ".join(notes))


_MINIMUM = (("a0_A", 3), ("B_GPa", 1), ("above_meV_atom", 1))


def _sides(ours: Any, theirs: Any) -> tuple[tuple[str, Any], ...]:
    return (("model", ours), ("reference", theirs))


def _elastic(symbol: str, element: Mapping[str, Any], of: str) -> list[Section]:
    constants = dict(element.get("elastic", {}))
    if constants.get("problem") == "not asked for" or not constants:
        return []
    title = f"Elastic constants of {constants.get('crystal', '')} {symbol}{of}"
    if "problem" in constants:
        return [Section(title.replace("  ", " "), ("GPa", "model", "reference"), (), constants["problem"])]
    ours, theirs = constants.get("model", {}), constants.get("reference", {})
    rows = tuple(
        (
            key.removesuffix("_GPa"),
            _number(ours.get(key), 1),
            _number(theirs.get(key), 1),
            _percent(ours.get(key), theirs.get(key)),
        )
        for key in ("C11_GPa", "C12_GPa", "C44_GPa", "B_GPa")
    )
    notes = " ".join(f"{who}: {s['problem']}." for who, s in _sides(ours, theirs) if "problem" in s)
    return [Section(title, ("GPa", "model", "reference", "difference"), rows, notes)]


def _number(value: float | None, digits: int) -> str:
    if value is None:
        return _DASH
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def _percent(ours: float | None, theirs: float | None) -> str:
    if ours is None or not theirs:
        return _DASH
    return f"{100 * (ours / theirs - 1):+.1f} %".replace("-", "−")
