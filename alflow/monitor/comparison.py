"""The comparison of two datasets for readers: tables, and one HTML file with pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from alflow.core.frames import Floats
from alflow.monitor.plots import BLUE, INK, MUTED, VERMILION, NothingToShowError, Plot, panels, plot
from alflow.monitor.report import document, figures, tables
from alflow.monitor.table import Section
from alflow.science.compare import Cloud, Comparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DASH: Final = "–"
_COLOURS: Final = (BLUE, VERMILION)
_SIDES: Final = ("A", "B")
_BREADTH_NOTE: Final = (
    "In the frame where the other set has mean 0 and unit covariance by the ZCA transformation: along the set's own "
    "principal axes there, and along the axes of the frame, one for each component. Five times in variance and "
    "in deviation: the paper that counts so does not say which."
)


def sections(found: Mapping[str, Any]) -> list[Section]:
    """The comparison as tables, from its `summary`."""
    out = [_sets(found)]
    for symbol, element in found["elements"].items():
        out.append(_breadths(symbol, element, len(found["elements"]) > 1))
    return [*out, *(_groups(side, found["sets"][side]) for side in _SIDES)]


def page(comparison: Comparison, found: Mapping[str, Any]) -> str:
    """The whole HTML text."""
    names = {side: str(found["sets"][side]["name"]) for side in _SIDES}
    kind = found["descriptor"]
    facts = [f"A: {names['A']}", f"B: {names['B']}", f"twojmax {kind['twojmax']}", f"cutoff {kind['cutoff_A']:g} Å"]
    head = f"<header><h1>Two datasets compared</h1><p class=facts>{' · '.join(escape(f) for f in facts)}</p></header>"
    parts = [head, tables(sections(found)), figures("Energies and breadth", _overview(comparison, found))]
    for z, symbol in zip(comparison.a.clouds, found["elements"], strict=True):
        clouds = (comparison.a.clouds[z], comparison.b.clouds[z])
        parts += [
            figures(f"Principal components, {symbol}", [_principal(clouds, k, symbol) for k in range(2)]),
            _wide(_components(clouds, symbol)),
        ]
    return document("Two datasets compared", parts)


# ---- tables --------------------------------------------------------------------------------------------------------


def _sets(found: Mapping[str, Any]) -> Section:
    a, b = (found["sets"][side] for side in _SIDES)
    rows = [
        ("frames", *(f"{s['frames']}" for s in (a, b))),
        ("atoms", *(f"{s['atoms']}" for s in (a, b))),
        *_atoms_of_each(found["elements"]),
        ("frames without descriptors", *(f"{s['frames_without_descriptors']}" for s in (a, b))),
    ]
    for key, name in (("mean", "energy, mean"), ("std", "  standard deviation"), ("p0", "  least"), ("p100", "  most")):
        rows.append((f"{name} / eV/atom", *(_number((s["energy_eV_atom"] or {}).get(key)) for s in (a, b))))
    if any(_some_lack(s) for s in (a, b)):
        rows.append(("  frames that have one", *(_with_energy(s) for s in (a, b))))
    note = f"A is {a['name']}; B is {b['name']}."
    return Section("Sets", ("", *_SIDES), tuple(rows), note)


def _atoms_of_each(elements: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Only of several elements, and only those that have descriptors."""
    if len(elements) == 1:
        return []
    return [(f"  of {x}", *(f"{e['components'][side]['atoms']}" for side in _SIDES)) for x, e in elements.items()]


def _breadths(symbol: str, element: Mapping[str, Any], several: bool) -> Section:
    title = "Breadth in descriptor space" + (f", atoms of {symbol}" if several else "")
    a, b = element["A_in_B"], element["B_in_A"]
    problems = [f"{name}: {s['problem']}." for name, s in (("A in B", a), ("B in A", b)) if "problem" in s]
    columns = ("", "A in B", "B in A")
    if len(problems) == len(_SIDES):
        return Section(title, columns, (("none", a["problem"], b["problem"]),), "")
    rows = [
        ("dimensions of the frame", *(_cell(s, "dimensions") for s in (a, b))),
        ("  linearly independent", *(_cell(s, "rank") for s in (a, b))),
        ("  directions of no width there, but here", *(_cell(s, "dimensions_only_here") for s in (a, b))),
    ]
    for key, where in (("principal_axes", "principal axes"), ("axes", "axes of the frame")):
        counts = [s.get(key) or {} for s in (a, b)]
        rows += [
            (f"{where}: broader", *(_whole(c.get("broader")) for c in counts)),
            ("  at least 5x in variance", *(_whole(c.get("broader_5x_variance")) for c in counts)),
            ("  at least 5x in deviation", *(_whole(c.get("broader_5x_deviation")) for c in counts)),
            ("  narrower", *(_whole(c.get("narrower")) for c in counts)),
            ("  least variance", *(_number(c.get("least_variance")) for c in counts)),
            ("  greatest variance", *(_number(c.get("greatest_variance")) for c in counts)),
        ]
    rows.append(
        ("distance from it, rms per dimension", *(_number(s.get("rms_distance_per_dimension")) for s in (a, b)))
    )
    return Section(title, columns, tuple(rows), " ".join([_BREADTH_NOTE, *problems]))


def _with_energy(some: Mapping[str, Any]) -> str:
    """How many frames of a set or group have an energy."""
    return f"{(some['energy_eV_atom'] or {}).get('frames', 0)} of {some['frames']}"


def _some_lack(some: Mapping[str, Any]) -> bool:
    """Whether figures of energies are of a part of the frames."""
    energy = some["energy_eV_atom"]
    return energy is not None and energy["frames"] < some["frames"]


def _groups(side: str, found: Mapping[str, Any]) -> Section:
    other = "B" if side == "A" else "A"
    rows, some_lack = [], any(_some_lack(g) for g in found["groups"])
    for group in found["groups"]:
        energy = group["energy_eV_atom"] or {}
        rows.append(
            (
                str(group["group"]),
                f"{group['frames']}",
                f"{group['atoms']}",
                *([_with_energy(group)] if some_lack else []),
                *(_number(energy.get(key)) for key in ("mean", "p0", "p100")),
                _number(group["rms_distance_per_dimension"]),
            )
        )
    energies = (*(["with\nenergy"] if some_lack else []), "mean energy\neV/atom", "least", "most")
    columns = ("", "frames", "atoms", *energies, f"distance\nfrom {other}")
    note = f"Distances are root mean squares per dimension in the frame of {other}: 1 is that of {other} itself."
    return Section(f"Groups of {side}", columns, tuple(rows), note)


def _cell(side: Mapping[str, Any], key: str) -> str:
    return _whole(side.get(key))


def _whole(value: int | None) -> str:
    return _DASH if value is None else f"{value}"


def _number(value: float | None) -> str:
    return _DASH if value is None else f"{value:.4g}"


# ---- pictures ------------------------------------------------------------------------------------------------------


def _overview(comparison: Comparison, found: Mapping[str, Any]) -> list[Plot]:
    out = [plot("Energies", lambda ax: _energies(ax, comparison))]
    for symbol, element in found["elements"].items():
        for key, title in (("A_in_B", "A in the frame of B"), ("B_in_A", "B in the frame of A")):
            out.append(plot(f"{title}, {symbol}", partial(_variances, side=element[key])))
    return out


def _energies(ax: Axes, comparison: Comparison) -> str:
    known = [p.energy[np.isfinite(p.energy)] for p in (comparison.a, comparison.b)]
    if not any(len(k) for k in known):
        raise NothingToShowError("Neither set has energies.")
    every = np.concatenate(known)
    edges = np.linspace(every.min(), every.max() + 1e-9, 81)
    for values, colour, name in zip(known, _COLOURS, _SIDES, strict=True):
        if len(values):
            ax.stairs(np.histogram(values, edges, density=True)[0], edges, color=colour, label=name)
    ax.set(xlabel="energy / eV/atom", ylabel="probability density / atom/eV", yscale="log")
    ax.legend()
    return "Energy per atom of the frames of each set."


def _variances(ax: Axes, side: Mapping[str, Any]) -> str:
    if "problem" in side:
        raise NothingToShowError(side["problem"])
    for key, colour, marker, name in (
        ("variance_along_principal_axes", BLUE, "o", "principal axes"),
        ("variance_along_axes", MUTED, "x", "axes of the frame"),
    ):
        values = np.sort(np.array(side[key]))[::-1]
        ax.plot(np.arange(1, len(values) + 1), np.maximum(values, 1e-12), marker, color=colour, label=name)
    ax.axhline(1, color=INK, linewidth=0.8)
    ax.axhline(5, color=INK, linewidth=0.8, linestyle=":")
    ax.set(xlabel="dimension, the broadest first", ylabel="variance, the other set's is 1", yscale="log")
    ax.legend()
    counts = side["principal_axes"]
    return (
        f"Broader along {counts['broader']} of {side['rank']} principal axes, at least 5 times in variance along "
        f"{counts['broader_5x_variance']}, narrower along {counts['narrower']}."
    )


def _principal(clouds: Sequence[Cloud], of: int, symbol: str) -> Plot:
    """Both sets in the first two principal components of one."""
    return plot(f"In those of {_SIDES[of]}, {symbol}", partial(_scatter, clouds=clouds, of=of))


def _scatter(ax: Axes, clouds: Sequence[Cloud], of: int) -> str:
    whole = clouds[of].whole
    std = whole.std
    varies = std > 1e-11 * max(float(std.max(initial=0.0)), 1e-300)
    if varies.sum() < 2 or whole.count < 3:
        raise NothingToShowError("The set has fewer than two components that vary.")
    scale: Floats = np.where(varies, std, 1.0)
    _, width, axes = np.linalg.svd(np.where(varies, whole.factor / scale, 0.0) / np.sqrt(whole.count))
    for k in (1 - of, of):  # the set whose components they are on top
        x = np.where(varies, (clouds[k].sample - whole.mean) / scale, 0.0) @ axes[:2].T
        style: dict[str, Any] = {"markersize": 1.6, "markeredgewidth": 0, "alpha": 0.35, "rasterized": len(x) > 400}
        ax.plot(*x.T, "o", color=_COLOURS[k], **style)
        ax.plot([], [], "o", color=_COLOURS[k], label=_SIDES[k])
    share = 100 * width[:2] ** 2 / (width**2).sum()
    ax.set(xlabel=f"first component ({share[0]:.0f} %)", ylabel=f"second ({share[1]:.0f} %)")
    ax.legend()
    counts = " and ".join(str(len(c.sample)) for c in clouds)
    return f"A sample of {counts} atoms; components divided by the deviation of {_SIDES[of]}."


def _components(clouds: Sequence[Cloud], symbol: str) -> Plot:
    def draw(ax: Axes, k: int) -> None:
        for cloud, colour in zip(clouds, _COLOURS, strict=True):
            edges, density = cloud.histograms[k].density()
            if len(density) == 1:  # a single value, whose density is no figure
                ax.axvline(edges[0], color=colour, linewidth=0.9)
            elif len(density):
                ax.stairs(np.where(density > 0, density, np.nan), edges, color=colour, linewidth=0.9)
        ax.set(yscale="log")
        ax.set_title(f"B{k + 1}", fontsize=7, pad=2)
        ax.tick_params(labelsize=5, length=2, pad=1)
        ax.minorticks_off()
        ax.grid(visible=False)

    caption = "Probability densities over all atoms, on a logarithmic scale; A blue, B orange."
    return panels(f"Bispectrum components, {symbol}", len(clouds[0].histograms), draw, caption)


def _wide(picture: Plot) -> str:
    label = f"role=img aria-label='{escape(picture.title, quote=True)}'"
    return (
        f"<section><h2>{escape(picture.title)}</h2><figure><div {label}>{picture.svg}</div>"
        f"<figcaption>{escape(picture.caption)}</figcaption></figure></section>"
    )
