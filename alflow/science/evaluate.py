"""What a fitted potential is worth: held against its reference on structures that it never saw."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import Field

from alflow.core.frames import Floats, Frames
from alflow.core.labels import Labels
from alflow.errors import InputError, UnphysicalError
from alflow.interfaces import Builder, Model, part
from alflow.science.cold_curve import ColdCurve, Evaluator, curve_frames, curves_of, order, volume_grid
from alflow.science.crystals import BRAVAIS, CUBIC, STRUCTURES, crystal_atoms, crystals, rattled
from alflow.science.elastic import CubicElastic, elastic, elastic_cost, elastic_frames, elastic_of
from alflow.science.errors import compare, complete, plain

SCHEMA: Final = 1
_PARITY_POINTS: Final = 1_000
_BATCH_ATOMS: Final = 4_000
_RATTLED_VOLUME: Final = 0.15
_DEFAULT_WINDOW: Final = 0.25

Crystal = Literal["fcc", "hcp", "bcc", "sc", "diamond"]
Count = Annotated[int, Field(ge=0)]
NotNegative = Annotated[float, Field(ge=0)]


@part
class EvaluateSettings:
    """What is measured when a stage is done; `cost` says how many reference calculations that takes.

    Attributes:
        fresh: disordered cells that the stage's builder makes anew.
        crystals: structures that are held against the reference; energies are compared with the first of them.
        volumes_A3_per_atom: range of the cold curves; by default that of the fresh cells, at least ±25 %.
        points: volumes of each cold curve.
        elastic: elastic constants of the lowest cubic crystal, of model and reference each at its own equilibrium.
        strain: size of a strain in the elastic constants.
        rattled: displaced and strained crystals of each structure, around its equilibrium volume.
        rattle_A: standard deviation of the displacements of the most rattled crystal.
        rattle_strain: largest strain component of the most rattled crystal.
        rattled_min_atoms: atoms in a rattled crystal, at least.
        min_atoms: atoms in every crystal cell, at least: for a reference that samples Gamma only.
        elements: chemical symbols of the crystals; by default all of the stage's builder.
    """

    fresh: Count = 100
    crystals: tuple[Crystal, ...] = STRUCTURES
    volumes_A3_per_atom: tuple[float, float] | None = None
    points: Annotated[int, Field(ge=7)] = 25
    elastic: bool = True
    strain: Annotated[float, Field(gt=0, le=0.05)] = 0.005
    rattled: Count = 6
    rattle_A: NotNegative = 0.25
    rattle_strain: Annotated[float, Field(ge=0, lt=0.3)] = 0.04
    rattled_min_atoms: Annotated[int, Field(ge=1)] = 32
    min_atoms: Annotated[int, Field(ge=1)] = 1
    elements: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        window = self.volumes_A3_per_atom
        if window is not None and not 0 < window[0] < window[1]:
            raise InputError("volumes_A3_per_atom", f"expected a low and a high volume, got {list(window)}")
        if window is None and self.crystals and not self.fresh:
            raise InputError("volumes_A3_per_atom", "needed where there are no fresh cells to take it from")
        if len(set(self.crystals)) < len(self.crystals):
            raise InputError("crystals", f"one is given twice: {', '.join(self.crystals)}")
        for symbol in self.elements:
            _atomic_number(symbol)

    def cost(self, n_elements: int = 1) -> int:
        """Reference calculations that `evaluate` asks for: exactly, or at most where crystals include diamond."""
        constants = 0
        if self.elastic:
            constants = max((self._elastic_cost(c) for c in self.crystals if c in CUBIC), default=0)
        each = len(self.crystals) * (self.points + self.rattled) + constants
        return self.fresh + (len(self.elements) or n_elements) * each

    def _elastic_cost(self, crystal: str) -> int:
        return elastic_cost(crystal_atoms(crystal, self.min_atoms), internal=crystal not in BRAVAIS)


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What both sides say about the same frames."""

    frames: Frames
    model: Labels
    reference: Labels

    @staticmethod
    def concat(parts: Sequence[Answers]) -> Answers:
        """Lay several end to end."""
        return Answers(
            Frames.concat([p.frames for p in parts]),
            Labels.concat([p.model for p in parts]),
            Labels.concat([p.reference for p in parts]),
        )

    def errors(self) -> dict[str, Any]:
        """Errors of the model, see `errors.Errors`."""
        return compare(self.frames, self.model, self.reference).to_json()

    def parity(self) -> dict[str, Any]:
        """Pairs (reference, model) of energies per atom and force components, evenly subsampled."""
        both = complete(self.frames, self.model) & complete(self.frames, self.reference)
        energy = np.stack([self.reference.energy, self.model.energy], axis=1)[both] / self.frames.sizes[both, None]
        atoms = both[self.frames.frame_of_atom]
        forces = np.stack([self.reference.forces[atoms].ravel(), self.model.forces[atoms].ravel()], axis=1)
        return {"energy_eV_atom": _thinned(energy), "force_eV_A": _thinned(forces)}


@dataclass(slots=True, eq=False)
class _Both:
    """Asks model and reference, and counts what the reference was asked."""

    model: Model
    reference: Evaluator
    asked: int = 0
    failed: int = 0

    def __call__(self, frames: Frames) -> Answers:
        return Answers(frames, self.predict(frames), self.label(frames))

    def label(self, frames: Frames) -> Labels:
        labels = self.reference(frames)
        self.asked += len(frames)
        self.failed += int((~complete(frames, labels)).sum())
        return labels

    def predict(self, frames: Frames) -> Labels:
        return in_batches(self.model.predict, frames, _BATCH_ATOMS)


def evaluate(
    model: Model,
    reference: Evaluator,
    builder: Builder,
    settings: EvaluateSettings,
    rng: np.random.Generator,
    elements: Sequence[str],
    source: Frames | None = None,
) -> dict[str, Any]:
    """Errors on fresh disorder and on crystals, cold curves and elastic constants of model and reference.

    The reference is asked once for the fresh cells, and once for the cold curves and once for elastic constants and
    rattled crystals of each element, always for a whole batch; the batches depend on the arguments only. A frame it
    cannot label (NaN) is counted and left out.

    Args:
        model: the potential to be judged.
        reference: gives the labels it is judged by.
        builder: the stage's builder of disordered cells.
        settings: what to measure.
        rng: makes the fresh and the rattled cells.
        elements: chemical symbols of the stage.
        source: frames for a builder that starts from another stage.

    Returns:
        JSON values, None where there is no number: ``reference_frames`` and ``reference_failed``; ``fresh``,
        ``rattled`` (all `errors.Errors`, or ``problem``) and ``rattled_by_crystal``; ``parity`` of both sets;
        ``elements``: per symbol ``relative_to``, ``curves``, ``order`` and ``elastic``.
    """
    ask = _Both(model, reference)
    fresh, problem = _fresh(builder, settings.fresh, rng, source)
    answers = {"fresh": ask(fresh)} if len(fresh) else {}
    volumes = _volumes(settings, fresh)
    shaken: dict[str, list[Answers]] = {name: [] for name in settings.crystals}
    per_element = {
        symbol: _element(ask, settings, symbol, volumes, rng, shaken)
        for symbol in settings.elements or tuple(sorted(elements))
    }
    by_crystal = {name: Answers.concat(parts) for name, parts in shaken.items() if parts}
    if by_crystal:
        answers["rattled"] = Answers.concat(list(by_crystal.values()))
    missing = {"problem": "not asked for"}
    return {
        "schema": SCHEMA,
        "reference_frames": ask.asked,
        "reference_failed": ask.failed,
        "fresh": answers["fresh"].errors() if "fresh" in answers else {"problem": problem},
        "rattled": answers["rattled"].errors() if "rattled" in answers else missing,
        "rattled_by_crystal": {name: a.errors() for name, a in by_crystal.items()},
        "parity": {name: a.parity() for name, a in answers.items()},
        "elements": per_element,
    }


def in_batches(evaluate: Callable[[Frames], Labels], frames: Frames, max_atoms: int) -> Labels:
    """Labels of all frames, asked for in batches of at most `max_atoms` atoms (one frame at least)."""
    parts, start = [], 0
    while start < len(frames):
        atoms = frames.offsets[start + 1 :] - frames.offsets[start]
        n = max(1, int(np.searchsorted(atoms, max_atoms, side="right")))
        parts.append(evaluate(frames.take(range(start, start + n))))
        start += n
    return Labels.concat(parts)


def _fresh(builder: Builder, count: int, rng: np.random.Generator, source: Frames | None) -> tuple[Frames, str]:
    if not count:
        return Frames.empty(), "not asked for"
    try:
        return builder.build(count, rng, source), ""
    except UnphysicalError as exc:
        return Frames.empty(), f"the builder could not: {exc}"


def _volumes(settings: EvaluateSettings, fresh: Frames) -> Floats:
    """The volumes per atom of the cold curves."""
    if settings.volumes_A3_per_atom is not None:
        low, high = settings.volumes_A3_per_atom
        return volume_grid(low, high, settings.points)
    per_atom = (fresh.volumes / fresh.sizes)[fresh.pbc.all(axis=1)]
    if not len(per_atom) or not settings.crystals:
        return np.zeros(0)
    middle = (per_atom.min() + per_atom.max()) / 2
    low = min(per_atom.min(), (1 - _DEFAULT_WINDOW) * middle)
    return volume_grid(low, max(per_atom.max(), (1 + _DEFAULT_WINDOW) * middle), settings.points)


def _element(
    ask: _Both,
    settings: EvaluateSettings,
    symbol: str,
    volumes: Floats,
    rng: np.random.Generator,
    shaken: Mapping[str, list[Answers]],
) -> dict[str, Any]:
    """Cold curves and elastic constants of one element; its rattled crystals go into `shaken`."""
    names = settings.crystals
    if not names or not len(volumes):
        return {"problem": "no crystals asked for" if not names else "no range of volumes: no periodic fresh cells"}
    number = _atomic_number(symbol)
    curves = ask(curve_frames(names, number, volumes, settings.min_atoms))
    model = curves_of(names, volumes, curves.frames, curves.model.energy)
    known = curves_of(names, volumes, curves.frames, curves.reference.energy)
    cubic = next((name for name in order(known) if name in CUBIC), "") if settings.elastic else ""
    stiff = _stretchable(settings, cubic, number, known)
    near = {name: _equilibrium(known[name], model[name]) for name in names}
    rattle = [_rattled(settings, name, number, near[name], rng) for name in names] if settings.rattled else []
    labels = ask.label(frames) if len(frames := Frames.concat([stiff, *rattle])) else Labels.missing(frames)
    for i, (name, part_) in enumerate(zip(names, rattle, strict=False)):
        rows = len(stiff) + i * settings.rattled + np.arange(settings.rattled)
        shaken[name].append(Answers(part_, ask.predict(part_), labels.take(frames, rows)))
    return {
        "relative_to": names[0],
        "curves": _curves_json(names, volumes, known, model),
        "order": {"reference": list(order(known)), "model": list(order(model))},
        "elastic": _elastic_json(ask, settings, cubic, number, known, model, labels.take(frames, range(len(stiff)))),
    }


def _rattled(settings: EvaluateSettings, name: str, number: int, volume: float, rng: np.random.Generator) -> Frames:
    perfect = crystals(name, number, volume, min_atoms=max(settings.min_atoms, settings.rattled_min_atoms))
    return rattled(
        perfect,
        settings.rattled,
        rng,
        volume=_RATTLED_VOLUME,
        displacement_A=settings.rattle_A,
        strain=settings.rattle_strain,
    )


def _equilibrium(known: ColdCurve, model: ColdCurve) -> float:
    """Equilibrium volume by the reference, else by the model, else the middle of the range."""
    for curve in (known, model):
        if curve.minimum is not None:
            return curve.minimum.V0_A3
    return float(known.volumes[len(known.volumes) // 2])


def _at_rest(settings: EvaluateSettings, name: str, number: int, curve: ColdCurve) -> Frames | None:
    if curve.minimum is None:
        return None
    return crystals(name, number, curve.minimum.V0_A3, min_atoms=settings.min_atoms)


def _stretchable(settings: EvaluateSettings, cubic: str, number: int, known: Mapping[str, ColdCurve]) -> Frames:
    """Frames the elastic constants of the reference need."""
    crystal = _at_rest(settings, cubic, number, known[cubic]) if cubic else None
    if crystal is None:
        return Frames.empty()
    return elastic_frames(crystal, strain=settings.strain, internal=cubic not in BRAVAIS)


def _elastic_json(
    ask: _Both,
    settings: EvaluateSettings,
    cubic: str,
    number: int,
    known: Mapping[str, ColdCurve],
    model: Mapping[str, ColdCurve],
    labels: Labels,
) -> dict[str, Any]:
    if not settings.elastic:
        return {"problem": "not asked for"}
    if not cubic:
        return {"problem": "no cubic crystal has a minimum in the range of the reference's cold curves"}
    strain, internal = settings.strain, cubic not in BRAVAIS
    at_rest = _at_rest(settings, cubic, number, known[cubic])
    assert at_rest is not None  # it is in order(known)
    found = _constants(elastic_of(at_rest, labels, strain=strain, internal=internal))
    own = _at_rest(settings, cubic, number, model[cubic])
    if own is None:
        return {"crystal": cubic, "reference": found, "model": {"problem": model[cubic].problem}}
    mine = _constants(elastic(ask.predict, own, strain=strain, internal=internal))
    return {"crystal": cubic, "reference": found, "model": mine}


def _constants(found: CubicElastic) -> dict[str, Any]:
    values = {key: plain(getattr(found, key)) for key in ("C11_GPa", "C12_GPa", "C44_GPa", "B_GPa")}
    return {"problem": "the strained crystals have no stress"} if None in values.values() else values


def _curves_json(
    names: Sequence[str], volumes: Floats, known: Mapping[str, ColdCurve], model: Mapping[str, ColdCurve]
) -> dict[str, Any]:
    return {
        name: {
            "volume_A3_atom": [plain(v) for v in volumes],
            "reference_eV_atom": [plain(e) for e in known[name].energies],
            "model_eV_atom": [plain(e) for e in model[name].energies],
            "reference": _minimum_json(known[name], known[names[0]]),
            "model": _minimum_json(model[name], model[names[0]]),
        }
        for name in names
    }


def _minimum_json(curve: ColdCurve, base: ColdCurve) -> dict[str, Any]:
    at, zero = curve.minimum, base.minimum
    if at is None:
        return {"problem": curve.problem}
    above = None if zero is None else 1e3 * (at.E0_eV_atom - zero.E0_eV_atom)
    return {
        "V0_A3_atom": at.V0_A3,
        "a0_A": at.a0_A,
        "E0_eV_atom": at.E0_eV_atom,
        "B_GPa": at.B_GPa,
        "above_meV_atom": above,
    }


def _thinned(pairs: Floats) -> list[list[float]]:
    """At most `_PARITY_POINTS` rows, evenly spread, to six digits."""
    step = max(1, -(-len(pairs) // _PARITY_POINTS))
    return [[float(f"{x:.6g}") for x in row] for row in pairs[::step].tolist()]


def _atomic_number(symbol: str) -> int:
    from ase.data import atomic_numbers

    try:
        return int(atomic_numbers[symbol])
    except KeyError:
        raise InputError("elements", f"no element {symbol!r}") from None
