"""The pictures of a report: small vector graphics in one style, readable on a phone and in print.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; what matters also differs by its marker.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from alflow.core.frames import Floats
from alflow.monitor.history import History, ModelPoint, Wave
from alflow.monitor.status import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE: Final = "#0072B2"
VERMILION: Final = "#D55E00"
GREEN: Final = "#009E73"
ORANGE: Final = "#E69F00"
PURPLE: Final = "#AA4499"
SKY: Final = "#56B4E9"
INK: Final = "#222222"
MUTED: Final = "#777777"

CRYSTALS: Final = {
    "fcc": (BLUE, "o"),
    "hcp": (ORANGE, "^"),
    "bcc": (GREEN, "s"),
    "sc": (PURPLE, "D"),
    "diamond": (VERMILION, "v"),
}
_WIDTH, _HEIGHT = 4.8, 3.3
_MANY: Final = 400
"""More points than this are drawn as pixels, which keeps the file small."""
_RC: Final = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.xmargin": 0.03,
    "axes.ymargin": 0.08,
    "axes.titlesize": 9,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.borderpad": 0,
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
    "svg.fonttype": "path",
    "savefig.transparent": True,
}


@dataclass(frozen=True, slots=True)
class Plot:
    """One picture with its words.

    Attributes:
        title: what it shows.
        svg: the picture, or empty if there is nothing to show yet.
        caption: how to read it; or why there is none.
    """

    title: str
    svg: str
    caption: str


Draw = Callable[["Axes"], str]
"""Draws into axes; returns the caption."""


class NothingToShowError(Exception):
    """There are no data for a picture; says why."""


def all_plots(history: History, thresholds: Mapping[int, tuple[float, float]]) -> list[Plot]:
    """Every picture of a report.

    Args:
        history: the run.
        thresholds: stage -> (select, stop) scores, for those that are known.
    """
    plots = [
        plot("Labels bought", lambda ax: _labels(ax, history)),
        plot("Energy error on held-out frames", lambda ax: _errors(ax, history, "energy_rmse_meV_atom")),
        plot("Force error on held-out frames", lambda ax: _errors(ax, history, "force_rmse_meV_A")),
        plot("Uncertainty of candidates", lambda ax: _uncertainty(ax, history, thresholds)),
        plot("Trajectory lengths", lambda ax: _lengths(ax, history)),
        plot("Why trajectories ended", lambda ax: _stops(ax, history)),
    ]
    for stage, result in sorted(history.evaluations.items()):
        names = history.stage_names
        of = f", stage {names[stage] if stage < len(names) else stage}" if len(history.evaluations) > 1 else ""
        plots += _evaluation_plots(result, of)
    return plots


def _evaluation_plots(result: Mapping[str, Any], of: str) -> Iterator[Plot]:
    parity = dict(result.get("parity", {}))
    yield plot(f"Energies, model against reference{of}", lambda ax: _parity(ax, parity, "energy_eV_atom", "eV/atom"))
    yield plot(f"Forces, model against reference{of}", lambda ax: _parity(ax, parity, "force_eV_A", "eV/Å"))
    for symbol, element in dict(result.get("elements", {})).items():
        curves = dict(element.get("curves", {}))
        base = str(element.get("relative_to", ""))
        yield plot(f"Cold curves of {symbol}{of}", partial(_cold_curves, curves=curves, base=base))
        yield plot(f"Cold curves of {symbol}, near the minima{of}", partial(_minima, curves=curves, base=base))


def plot(title: str, draw: Draw) -> Plot:
    """One picture that has one pair of axes."""
    with _figure() as figure:
        axes = figure.subplots()
        try:
            caption = draw(axes)
        except NothingToShowError as exc:
            return Plot(title, "", str(exc))
        return Plot(title, _svg(figure, title), caption)


def panels(title: str, count: int, draw: Callable[[Axes, int], None], caption: str, columns: int = 5) -> Plot:
    """One wide picture of many small ones, drawn by number."""
    rows = -(-count // columns)
    with _figure(2 * _WIDTH, 1.2 * rows + 0.3) as figure:
        for k in range(count):
            draw(figure.add_subplot(rows, columns, k + 1), k)
        return Plot(title, _svg(figure, title), caption)


@contextmanager
def _figure(width: float = _WIDTH, height: float = _HEIGHT) -> Iterator[Figure]:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_RC):
        yield Figure(figsize=(width, height), layout="constrained")


def _svg(figure: Figure, title: str) -> str:
    """The figure as an ``<svg>`` element: same input, same text."""
    import matplotlib as mpl

    out = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": title}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None}, dpi=200)
    text = out.getvalue()
    return text[text.index("<svg") :]


# ---- over time -------------------------------------------------------------------------------------------------------


def _clock(history: History) -> tuple[float, str]:
    """Seconds in the unit of the time axis, and its label."""
    span = history.last - history.started
    if span > 2 * 86400:
        return 86400.0, "time / d"
    if span > 2 * 3600:
        return 3600.0, "time / h"
    return (60.0, "time / min") if span > 120 else (1.0, "time / s")


def _labels(ax: Axes, history: History) -> str:
    series = history.labels
    if not series:
        raise NothingToShowError("No label task has ended yet.")
    unit, name = _clock(history)
    t = [0.0, *((row[0] - history.started) / unit for row in series)]
    ax.step(t, [0, *(row[1] for row in series)], where="post", color=BLUE, label="bought")
    failed = [0, *(row[2] for row in series)]
    if failed[-1]:
        ax.step(t, failed, where="post", color=VERMILION, label="failed", linestyle="--")
        _legend_above(ax)
    ax.set(xlabel=name, ylabel="labels", ylim=(0, None))
    ends = [(t - history.started) / unit for t, _ in history.stages_done.values()]
    for end in ends[:-1]:
        ax.axvline(end, color=MUTED, linewidth=0.8, linestyle=":")
    return f"{series[-1][1]} labels bought" + (f", {failed[-1]} frames failed." if failed[-1] else ".")


def _errors(ax: Axes, history: History, key: str) -> str:
    points = [m for m in history.models if key in m.errors]
    if not points:
        raise NothingToShowError("No model has told its errors on held-out frames yet.")
    for i, mine in enumerate(_by_loop(points)):
        x = [m.n for m in mine]
        ax.plot(x, [m.errors[key] for m in mine], "o-", color=(BLUE, SKY)[min(i, 1)], label=f"loop {mine[0].loop}")
    unit = "meV/atom" if "atom" in key else "meV/Å"
    quantity = "energy" if "energy" in key else "force"
    ax.set(xlabel="frames the model was fitted to", ylabel=f"{quantity} RMSE / {unit}")
    values = [m.errors[key] for m in points]
    ax.set(**_upright(max(values) > 8 * min(values) > 0))
    _whole_numbers(ax)
    return f"Each point is a model version; the last one has {short(points[-1].errors[key])} {unit}."


def _upright(wide: bool) -> dict[str, Any]:
    """The upright axis: from zero on, or logarithmic, which has no zero, where values span a wide range."""
    return {"yscale": "log"} if wide else {"ylim": (0, None)}


def _by_loop(points: Sequence[ModelPoint]) -> list[list[ModelPoint]]:
    loops: dict[tuple[int, int], list[ModelPoint]] = {}
    for m in points:
        loops.setdefault((m.stage, m.loop), []).append(m)
    return [loops[k] for k in sorted(loops)]


def _uncertainty(ax: Axes, history: History, thresholds: Mapping[int, tuple[float, float]]) -> str:
    found = [(w, w.median, w.highest) for w in history.waves]
    known = [(w, mid, top) for w, mid, top in found if mid is not None and top is not None]
    if not known:
        raise NothingToShowError("No candidate with a score has been found yet.")
    unit, name = _clock(history)
    t = [(w.t - history.started) / unit for w, _, _ in known]
    style: dict[str, Any] = {"markeredgewidth": 0, "rasterized": len(known) > _MANY, "linestyle": "none"}
    faint = _opacity(len(known))
    ax.plot(t, [top for _, _, top in known], marker="^", color=SKY, label="highest", alpha=0.9 * faint, **style)
    ax.plot(t, [mid for _, mid, _ in known], marker="o", color=BLUE, label="median", alpha=faint, **style)
    select, stop = thresholds.get(known[-1][0].stage, (np.nan, np.nan))
    if np.isfinite(select):
        ax.axhline(select, color=GREEN, linewidth=1, linestyle="--", label=f"select, {select:g}")
    if np.isfinite(stop) and stop != select:
        ax.axhline(stop, color=VERMILION, linewidth=1, linestyle="-.", label=f"stop, {stop:g}")
    scores = [x for _, mid, top in known for x in (mid, top) if x > 0]
    ax.set(xlabel=name, ylabel="score of candidates", **_upright(bool(scores) and max(scores) > 30 * min(scores)))
    _legend_above(ax)
    return "Each sampling task's candidates: how far outside the model's knowledge they lie."


def _lengths(ax: Axes, history: History) -> str:
    groups = _by_version(history)
    if not any(w.lengths for ws in groups.values() for w in ws):
        raise NothingToShowError("No trajectory has ended yet.")
    rng = np.random.default_rng(0)  # only spreads the points sideways
    middles = []
    unit = ""
    for version, waves in groups.items():
        lengths = [x for w in waves for x in w.lengths]
        unit = next((w.unit for w in waves if w.unit), unit)
        if lengths:
            x = version + rng.uniform(-0.18, 0.18, len(lengths))
            ax.plot(
                x,
                lengths,
                "o",
                color=SKY,
                alpha=_opacity(8 * len(lengths)),
                markeredgewidth=0,
                rasterized=len(lengths) > _MANY,
            )
            middles.append((version, median(lengths)))
    ax.plot([], [], "o", color=SKY, label="a trajectory")
    ax.plot(*np.array(middles).T, "o-", color=BLUE, label="median")
    ax.set(xlabel="model version", ylabel=f"trajectory length / {unit or '?'}", ylim=(0, None))
    _whole_numbers(ax)
    _legend_above(ax)
    return f"How far trajectories get before the model is unsure; the last median is {middles[-1][1]:.3g} {unit}."


def _by_version(history: History) -> dict[int, list[Wave]]:
    """Waves by the running number of the model that guided them: 0 for none, then in the order of models."""
    numbers = {m.path: i + 1 for i, m in enumerate(history.models)}
    groups: dict[int, list[Wave]] = {}
    for wave in history.waves:
        groups.setdefault(numbers.get(wave.model, 0), []).append(wave)
    return dict(sorted(groups.items()))


_STOPS: Final = {
    "completed": (GREEN, "reached full length"),
    "extrapolated": (ORANGE, "model unsure"),
    "unphysical": (VERMILION, "unphysical"),
    "halted": ("#BBBBBB", "told to stop"),
}


def _stops(ax: Axes, history: History) -> str:
    groups = {v: ws for v, ws in _by_version(history).items() if any(w.stops for w in ws)}
    if not groups:
        raise NothingToShowError("No trajectory has ended yet.")
    versions = list(groups)
    below = np.zeros(len(versions))
    for stop, (colour, name) in _STOPS.items():
        counts = np.array([sum(w.stops.get(stop, 0) for w in ws) for ws in groups.values()], float)
        if counts.any():
            ax.bar(
                versions, counts, bottom=below, color=colour, label=name, width=0.7, edgecolor="white", linewidth=0.4
            )
            below += counts
    ax.set(xlabel="model version", ylabel="trajectories")
    ax.grid(axis="x", visible=False)
    _whole_numbers(ax)
    _legend_above(ax)
    return f"{int(below.sum())} trajectories, by the model that guided them."


def _opacity(points: int) -> float:
    """So that many points show their density."""
    return float(np.clip(_MANY / max(points, 1), 0.08, 0.8))


def _whole_numbers(ax: Axes) -> None:
    """Ticks of the x axis at whole numbers only, and room for one of them at least."""
    from matplotlib.ticker import MaxNLocator

    low, high = ax.get_xlim()
    if high - low < 2:
        ax.set_xlim((low + high) / 2 - 1, (low + high) / 2 + 1)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _legend_above(ax: Axes) -> None:
    """A legend outside the axes, where it covers no data."""
    handles, _ = ax.get_legend_handles_labels()
    legend = ax.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=min(len(handles), 5),
        columnspacing=1.0,
        handletextpad=0.3,
        handlelength=1.2,
    )
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1)  # faint points are many, one in the legend is not


# ---- model against reference -----------------------------------------------------------------------------------------

_CLOSE_meV: Final = 150.0
"""Crystals whose minima lie so near to that of the first are shown enlarged."""
_SETS: Final = {"rattled": (ORANGE, "^", "crystals"), "fresh": (BLUE, "o", "fresh disorder")}


def _parity(ax: Axes, parity: Mapping[str, Any], key: str, unit: str) -> str:
    found = {name: np.array(parity.get(name, {}).get(key, []), float).reshape(-1, 2) for name in _SETS}
    both = np.concatenate(list(found.values()))
    if not len(both):
        raise NothingToShowError("Neither fresh cells nor crystals were compared.")
    low, high = float(both.min()), float(both.max())
    pad = 0.04 * (high - low) or 1.0
    ends = (low - pad, high + pad)
    ax.plot(ends, ends, color=MUTED, linewidth=0.8, zorder=1)
    for name, pairs in found.items():
        colour, marker, words = _SETS[name]
        if len(pairs):
            style: dict[str, Any] = {"markersize": 3 if len(pairs) > 200 else 4, "rasterized": len(pairs) > _MANY}
            ax.plot(*pairs.T, marker, color=colour, alpha=0.5, markeredgewidth=0, label=words, **style)
    quantity = "energy" if "energy" in key else "force component"
    ax.set(xlim=ends, ylim=ends, xlabel=f"reference {quantity} / {unit}", ylabel=f"model {quantity} / {unit}")
    ax.set_aspect("equal")
    _legend_above(ax)
    milli = {"eV/atom": "meV/atom", "eV/Å": "meV/Å"}[unit]
    said = [
        f"{_SETS[n][2]} {short(1e3 * float(np.sqrt(np.mean((p[:, 1] - p[:, 0]) ** 2))))} {milli}"
        for n, p in found.items()
        if len(p)
    ]
    return "Root mean square error of the points shown: " + ", ".join(reversed(said)) + "."


def _shifted(curves: Mapping[str, Any], base: str, side: str) -> dict[str, tuple[Floats, Floats]]:
    """Volume and energy in eV/atom above the minimum of `base` (else above the lowest point) of each curve."""
    raw = {
        name: (np.array(curve["volume_A3_atom"], float), np.array(curve[f"{side}_eV_atom"], float))
        for name, curve in curves.items()
    }
    zero = curves.get(base, {}).get(side, {}).get("E0_eV_atom")
    if zero is None:
        finite = [e[np.isfinite(e)].min() for _, e in raw.values() if np.isfinite(e).any()]
        zero = min(finite) if finite else 0.0
    return {name: (v, e - zero) for name, (v, e) in raw.items()}


def _cold_curves(ax: Axes, curves: Mapping[str, Any], base: str) -> str:
    ours, theirs = _both_sides(curves, base)
    _draw_curves(ax, ours, theirs)
    lowest = [float(np.nanmin(e)) for _, e in (*ours.values(), *theirs.values()) if np.isfinite(e).any()]
    if lowest:  # twice as high as the highest minimum: the repulsive wall would hide everything else
        top = max(2 * max(lowest), 0.5)
        ax.set_ylim(min(0.0, *lowest) - 0.06 * top, top)
    ax.set(xlabel="volume / Å³/atom", ylabel=f"E − E({base}) / eV/atom")
    _legend_above(ax)
    return f"Lines are the model, open symbols the reference; each relative to the minimum of its own {base}."


def _minima(ax: Axes, curves: Mapping[str, Any], base: str) -> str:
    ours, theirs = _both_sides(curves, base)
    minima = [
        (name, c[side]["V0_A3_atom"], c[side].get("above_meV_atom") or 0.0)
        for name, c in curves.items()
        for side in ("model", "reference")
        if "V0_A3_atom" in c.get(side, {})
    ]
    close = [m for m in minima if abs(m[2]) < _CLOSE_meV] or minima
    if not close:
        raise NothingToShowError("No crystal has a minimum in the range.")
    near = [name for name in curves if name in {m[0] for m in close}]
    _draw_curves(ax, *({n: (side[n][0], 1e3 * side[n][1]) for n in near} for side in (ours, theirs)))
    _, volumes, energies = zip(*close, strict=True)
    height = max(60.0, 1.6 * (max(energies) - min(0.0, *energies)))
    ax.set(xlim=(0.88 * min(volumes), 1.12 * max(volumes)), ylim=(min(0.0, *energies) - 0.12 * height, height))
    ax.set(xlabel="volume / Å³/atom", ylabel=f"E − E({base}) / meV/atom")
    _legend_above(ax)
    return "The same, enlarged: which crystal is lowest, and by how much."


def _both_sides(curves: Mapping[str, Any], base: str) -> tuple[Any, Any]:
    if not curves:
        raise NothingToShowError("No crystals were computed.")
    return _shifted(curves, base, "model"), _shifted(curves, base, "reference")


def _draw_curves(ax: Axes, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    for name, (v, e) in ours.items():
        colour, marker = CRYSTALS.get(name, (INK, "x"))
        ax.plot(*_smooth(v, e), color=colour, zorder=2)
        ax.plot(*theirs[name], marker, color=colour, markerfacecolor="white", markeredgewidth=1, zorder=3, label=name)


def _smooth(v: Floats, e: Floats) -> tuple[Floats, Floats]:
    """A smooth line through the finite points."""
    from scipy.interpolate import CubicSpline

    good = np.isfinite(e)
    if good.sum() < 4:
        return v[good], e[good]
    fine = np.linspace(v[good][0], v[good][-1], 300)
    return fine, np.asarray(CubicSpline(v[good], e[good])(fine), np.float64)
