"""The workflow file: what is computed. Read, checked in full, and only then believed.

A workflow has a name, a seed and stages that run one after the other. ``defaults`` gives stage keys that every stage
inherits; a stage that gives a key itself replaces the default *whole* (nothing is merged inside a key). Relative paths
start from the folder of the file; only `Path` fields may use ``~`` and environment variables.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from alflow import registry
from alflow.campaign.policy import Cycles, Patience, Policy, Rounds, Stream, Until
from alflow.errors import CapabilityError, InputError, SpecError, UnknownPartError
from alflow.interfaces import (
    Builder,
    Capability,
    ChecksElements,
    Labeler,
    Potential,
    Sampler,
    Selector,
    Thresholds,
    Uncertainty,
)
from alflow.spec import shipped, yaml_file
from alflow.spec.groups import GROUP, NAMED, group_names
from alflow.validation import check_keys, each, joined, moved, raise_all, shown, suggestion, validate, with_paths

if TYPE_CHECKING:
    from alflow.science.evaluate import EvaluateSettings
    from alflow.science.gates import Gates
    from alflow.spec.site import Site

SCHEMA: Final = 1
PARTS: Final = {
    "builder": "builders",
    "sampler": "samplers",
    "potential": "potentials",
    "uncertainty": "uncertainty",
    "selector": "selectors",
    "labeler": "labelers",
}
"""Key of a stage -> role."""
POLICIES: Final[Mapping[str, type[Any]]] = {"rounds": Rounds, "stream": Stream, "cycles": Cycles}

_TOP_KEYS: Final = ("alflow", "name", "seed", "defaults", "stages")
_SETTINGS: Final = ("thresholds", "policy", "until", "gates", "patience", "same_theory", "evaluate")
_STAGE_KEYS: Final = (*PARTS, *_SETTINGS)
_MAY_BE_ZERO: Final = frozenset({"initial", "max_rounds"})
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{16}")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One loop of the campaign with one set of parts.

    Attributes:
        name: unique in its workflow.
        builder, sampler, potential, uncertainty, selector, labeler: the parts.
        thresholds: scores that select a frame and that stop a trajectory.
        policy: how work is scheduled.
        until: when the stage is done.
        gates: what a structure and its label must be.
        patience: how long a label may take.
        same_theory: fingerprints of other levels of theory whose labels may join this stage's dataset: those of an
            earlier stage, or of a correction that the labeler allows. `alflow check` prints them.
        evaluate: what the last model is measured on, or None for nothing.
    """

    name: str
    builder: Builder
    sampler: Sampler
    potential: Potential
    uncertainty: Uncertainty
    selector: Selector
    labeler: Labeler
    thresholds: Thresholds
    policy: Policy
    until: Until
    gates: Gates
    patience: Patience = field(default_factory=Patience)
    same_theory: tuple[str, ...] = ()
    evaluate: EvaluateSettings | None = None

    @property
    def from_stage(self) -> str:
        """Name of the earlier stage whose frames the builder draws from, or empty."""
        return source_of(self.builder)

    @property
    def needs_model(self) -> bool:
        """Nothing can be sampled, or nothing selected, before a first fit."""
        return self.sampler.needs_guide or bool(self.selector.requires)


@dataclass(frozen=True, kw_only=True)
class Workflow:
    """A checked workflow.

    Attributes:
        name: names the default run folder.
        seed: of all randomness.
        stages: in the order in which they run.
        content: the file as plain values: defaults spread over the stages, paths absolute; see `to_yaml`.
    """

    name: str
    seed: int
    stages: tuple[Stage, ...]
    content: Mapping[str, Any] = field(repr=False)


def load(path: str | Path, site: Site | None = None) -> Workflow:
    """Read and check a workflow file, with the programs of `site` if one is given.

    Raises:
        InputError: the file cannot be read.
        SpecError: with file, line and key path; a `validation.SpecErrors` if there are several mistakes.
    """
    document = yaml_file.read(shipped.find(path, "workflows"))
    reader = _Reader(document)
    try:
        workflow = reader.workflow()
        if site is not None:
            against(workflow, site)
    except InputError as exc:
        raise document.placed(exc) from None
    return workflow


def reread(content: Mapping[str, Any], path: Path) -> Workflow:
    """The workflow of a `Workflow.content` that was changed, checked in full; `path` is for relative paths.

    Raises:
        SpecError: with key path; a `validation.SpecErrors` if there are several mistakes.
    """
    return _Reader(yaml_file.Document(path, dict(content), {})).workflow()


def digest(workflow: Workflow) -> str:
    """Sixteen hexadecimal digits of the content; comments, the order of keys and inherited defaults do not matter."""
    text = json.dumps(_canonical(workflow.content), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def to_yaml(workflow: Workflow) -> str:
    """The workflow as a file that `load` reads from any folder to an equal workflow of the same digest."""
    return yaml.safe_dump(_plain(workflow.content), sort_keys=False, allow_unicode=True, width=120)


def source_of(builder: Builder) -> str:
    """Name of the stage that a builder draws from, or empty if it needs none."""
    return getattr(builder, "from_stage", None) or ""


def elements_of(workflow: Workflow, index: int) -> frozenset[str]:
    """Chemical symbols of what stage `index` builds; those of its source if the builder itself cannot know."""
    return _elements(workflow.stages, workflow.stages[index])


def against(workflow: Workflow, site: Site) -> tuple[str, ...]:
    """Check that `site` has the programs that the labelers run; return what could not be checked from here, in words.

    Programs and files of a machine that is reached through a scheduler may not be visible where this is called: then
    that is said instead of checked, and ``alflow doctor`` tests it on the machine.

    Raises:
        SpecError: with the key path at fault.
    """
    errors: list[InputError] = []
    notes: list[str] = []
    for i, stage in enumerate(workflow.stages):
        where = f"stages[{i}].labeler"
        try:
            notes.extend(_labeler_against(stage.labeler, elements_of(workflow, i), site, where))
        except InputError as exc:
            errors.extend(each(exc))
    raise_all(errors)
    return tuple(dict.fromkeys(notes))


def _labeler_against(labeler: Labeler, elements: frozenset[str], site: Site, where: str) -> Iterator[str]:
    from alflow.spec.site import code_of, invisible, lane_of

    kind = registry.kind_of("labelers", labeler)
    code = code_of(site, labeler.code)
    if labeler.code and code is None:
        hint = f"describe it under codes.{labeler.code} of the site file"
        raise SpecError(where, f"{kind!r} runs {labeler.code!r}, which the site {site.name!r} does not have", hint)
    lane = site.lanes[lane_of(site, "label")]
    if code is not None and lane.scheduler != "local" and (unseen := invisible(code)):
        yield (
            f"{kind}: {', '.join(unseen)} cannot be seen from this machine, so it was not checked; "
            f"run 'alflow doctor --site {site.name}' in a job on {site.name}"
        )
        return
    try:
        labeler.check(elements, code)
    except InputError as exc:
        if exc.where.startswith("codes."):  # at fault is the site file
            raise type(exc)(where, f"{exc.where} of site {site.name!r} {exc.problem}", exc.hint) from None
        raise moved(exc, where) from None


# ---- reading -------------------------------------------------------------------------------------------------------


class _Reader:
    """Reads one document, and goes on after a mistake so that all are found."""

    def __init__(self, document: yaml_file.Document) -> None:
        self._content = document.content
        self._folder = document.path.resolve().parent
        self._errors: dict[tuple[str, str], InputError] = {}
        self._met = 0
        """Mistakes met, those of defaults once for each stage."""

    def workflow(self) -> Workflow:
        content = self._content
        self._schema(content)
        self._keep(check_keys(content, _TOP_KEYS, ""))
        name = self._attempt(lambda: _name(content.get("name"), "name"))
        seed = self._attempt(lambda: _seed(content.get("seed")))
        pairs = self._stages(content)
        raise_all(list(self._errors.values()))
        assert name is not None
        assert seed is not None
        stages = tuple(stage for stage, _ in pairs)
        whole = {"alflow": SCHEMA, "name": name, "seed": seed, "stages": [c for _, c in pairs]}
        return Workflow(name=name, seed=seed, stages=stages, content=whole)

    @staticmethod
    def _schema(content: Mapping[str, Any]) -> None:
        found = content.get("alflow")
        if found is None:
            raise SpecError("alflow", "is required: the schema of this file", f"begin the file with 'alflow: {SCHEMA}'")
        if found != SCHEMA or isinstance(found, bool):
            hint = "upgrade alflow" if isinstance(found, int) and found > SCHEMA else f"write 'alflow: {SCHEMA}'"
            raise SpecError("alflow", f"this alflow reads workflow files of schema {SCHEMA}, got {shown(found)}", hint)

    def _stages(self, content: Mapping[str, Any]) -> list[tuple[Stage, dict[str, Any]]]:
        defaults = content.get("defaults") or {}
        given = content.get("stages")
        if not isinstance(defaults, Mapping):
            self._keep([SpecError("defaults", f"expected a mapping of stage keys, got {shown(defaults)}")])
            defaults = {}
        self._keep(check_keys(defaults, _STAGE_KEYS, "defaults"))
        if not isinstance(given, list) or not given:
            hint = "write 'stages:' and below it '- name: first' with the keys of the stage"
            self._keep([SpecError("stages", f"expected a list of at least one stage, got {shown(given)}", hint)])
            return []
        found: list[tuple[Stage, dict[str, Any], Mapping[str, str]]] = []
        for i, raw in enumerate(given):
            made = self._stage(raw, defaults, i, [stage for stage, *_ in found])
            if made is not None:
                found.append(made)
        stages = self._with_elements([(stage, place) for stage, _, place in found])
        return [(stage, plain) for stage, (_, plain, _) in zip(stages, found, strict=True)]

    def _with_elements(self, stages: Sequence[tuple[Stage, Mapping[str, str]]]) -> list[Stage]:
        """The stages, potentials that leave their elements open told all that the workflow builds; and their check.

        Those of the first training set may be fewer, by chance or because a later stage adds some: a model that does
        not know an element cannot follow it.
        """
        every, found = [stage for stage, _ in stages], list[Stage]()
        held = [self._held(every, stage) for stage in every]
        union = tuple(sorted(frozenset().union(*held))) if all(held) else ()
        for (stage, place), elements in zip(stages, held, strict=True):
            potential: Any = stage.potential
            if getattr(potential, "elements", None) == ():
                potential = replace(potential, elements=union)
            if isinstance(stage.sampler, ChecksElements):
                self._within(place["sampler"], partial(stage.sampler.check, elements))
            if elements:
                self._within(place["potential"], partial(potential.check, elements))
            self._within(place["potential"], partial(_groups_there, every[: len(found) + 1], potential))
            found.append(replace(stage, potential=potential))
        return found

    @staticmethod
    def _held(stages: Sequence[Stage], stage: Stage) -> frozenset[str]:
        """Elements of what a stage builds; none if its builder cannot work, which has been told."""
        try:
            return _elements(stages, stage)
        except InputError:
            return frozenset()

    def _stage(
        self, raw: Any, defaults: Mapping[str, Any], index: int, earlier: Sequence[Stage]
    ) -> tuple[Stage, dict[str, Any], Mapping[str, str]] | None:
        here = f"stages[{index}]"
        if not isinstance(raw, Mapping):
            self._keep([SpecError(here, f"expected a mapping of stage keys, got {shown(raw)}")])
            return None
        before = self._met
        self._keep(check_keys(raw, ("name", *_STAGE_KEYS), here))
        merged = {k: v for k, v in {**defaults, **raw}.items() if v is not None}
        place = {k: f"{here}.{k}" if k in raw or k not in defaults else f"defaults.{k}" for k in _STAGE_KEYS}
        name = self._attempt(lambda: _name(raw.get("name"), f"{here}.name"))
        if name in {s.name for s in earlier}:
            self._keep([SpecError(f"{here}.name", f"two stages are called {name!r}", "give each its own name")])
        plain: dict[str, Any] = {"name": name}
        made = {key: self._part(key, merged, place[key], plain) for key in PARTS}
        settings = {key: self._setting(key, merged, place[key], plain) for key in _SETTINGS}
        if self._met > before:
            return None
        stage = Stage(name=str(name), **made, **settings)
        self._checks(stage, place, here, earlier)
        return stage, plain, place

    def _part(self, key: str, merged: Mapping[str, Any], where: str, plain: dict[str, Any]) -> Any:
        if key not in merged:
            kinds = ", ".join(registry.names(PARTS[key]))
            self._keep([SpecError(where, "is required", f"kinds: {kinds}")])
            return None

        def build() -> Any:
            part = registry.make(PARTS[key], merged[key], where, self._folder)
            plain[key] = {
                "kind": merged[key]["kind"],
                **with_paths(type(part), _rest(merged[key]), where, self._folder),
            }
            return part

        return self._attempt(build)

    def _setting(self, key: str, merged: Mapping[str, Any], where: str, plain: dict[str, Any]) -> Any:
        makers: dict[str, Callable[[Any, str], Any]] = {
            "thresholds": _thresholds,
            "policy": _policy,
            "until": _until,
            "gates": _gates,
            "patience": _patience,
            "same_theory": _same_theory,
            "evaluate": _evaluate,
        }
        if key not in merged:
            if key in _UNLESS_SAID:
                return _UNLESS_SAID[key]()
            hint = f"kinds: {', '.join(POLICIES)}" if key == "policy" else _UNTIL_HINT
            self._keep([SpecError(where, "is required", hint)])
            return None
        plain[key] = merged[key]
        return self._attempt(lambda: makers[key](merged[key], where))

    def _checks(self, stage: Stage, place: Mapping[str, str], here: str, earlier: Sequence[Stage]) -> None:
        """What two keys of a stage mean for each other, and the parts' own checks."""
        self._keep(_capabilities(stage, here))
        self._keep(_fits_together(stage, here, first=not earlier))
        if stage.from_stage and stage.from_stage not in {s.name for s in earlier}:
            names = ", ".join(s.name for s in earlier)
            hint = f"earlier stages: {names}" if names else "the first stage has none before it"
            problem = f"names the stage {stage.from_stage!r}, which is not an earlier stage"
            self._keep([SpecError(f"{place['builder']}.from_stage", problem, hint)])
            return
        self._within(place["builder"], stage.builder.check)
        self._within(place["builder"], lambda: _elements([*earlier, stage], stage))

    def _within(self, where: str, check: Callable[[], Any]) -> None:
        try:
            check()
        except InputError as exc:
            self._keep(each(moved(exc, where)))

    def _attempt(self, make: Callable[[], Any]) -> Any:
        try:
            return make()
        except InputError as exc:
            self._keep(each(exc))
            return None

    def _keep(self, errors: Sequence[InputError]) -> None:
        self._met += len(errors)
        for error in errors:
            self._errors.setdefault((error.where, error.problem), error)  # a bad default is told once


# ---- single keys ---------------------------------------------------------------------------------------------------

_UNTIL_HINT: Final = "a stage ends by at least one of: " + ", ".join(f.name for f in fields(Until))


def _name(value: Any, where: str) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        hint = "use letters, digits, '-', '_' and '.'; it names folders"
        raise SpecError(where, "is required" if value is None else f"is not a usable name: {shown(value)}", hint)
    return value


def _seed(value: Any) -> int:
    if value is None:
        raise SpecError("seed", "is required", "any whole number: the same seed gives the same campaign")
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise SpecError("seed", f"should be a whole number from 0, got {shown(value)}")
    return value


def _thresholds(raw: Any, where: str) -> Thresholds:
    made = validate(Thresholds, raw, where)
    if math.isnan(made.select) or math.isnan(made.stop):
        raise SpecError(where, "NaN is no threshold", "use .inf for never")
    if made.stop < made.select:
        problem = f"stop ({made.stop:g}) is below select ({made.select:g})"
        raise SpecError(where, problem, "a trajectory must not end before its frames are worth keeping")
    return made


def _policy(raw: Any, where: str) -> Policy:
    kind, rest = registry.split_kind(raw, where, tuple(POLICIES))
    if kind not in POLICIES:
        raise UnknownPartError(joined(where, "kind"), f"no policy is called {kind!r}", suggestion(kind, POLICIES))
    policy: Policy = validate(POLICIES[kind], rest, where)
    errors = list(_ranges(policy, where))
    samples = policy.sampling * policy.batch if isinstance(policy, Stream) else policy.samples
    if not errors and policy.batch > samples:
        problem = f"{policy.batch} trajectories in one task, but only {samples} are run"
        errors.append(SpecError(joined(where, "batch"), problem, f"at most {samples}"))
    if isinstance(policy, Cycles) and policy.quorum > 1:
        errors.append(SpecError(joined(where, "quorum"), f"is a fraction of the loops, got {policy.quorum:g}"))
    raise_all(errors)
    return policy


def _until(raw: Any, where: str) -> Until:
    until = validate(Until, raw, where)
    raise_all(list(_ranges(until, where)))
    if all(getattr(until, f.name) is None or getattr(until, f.name) is False for f in fields(until)):
        raise SpecError(where, "never holds: the stage would not end", _UNTIL_HINT)
    return until


def _default_gates() -> Gates:
    from alflow.science.gates import Gates

    return Gates()


_UNLESS_SAID: Final[Mapping[str, Callable[[], Any]]] = {
    "evaluate": lambda: None,
    "thresholds": lambda: Thresholds(select=1.0, stop=1.0),
    "gates": _default_gates,
    "patience": Patience,
    "same_theory": tuple,
}


def _gates(raw: Any, where: str) -> Gates:
    from alflow.science.gates import Gates

    return validate(Gates, raw, where)


def _patience(raw: Any, where: str) -> Patience:
    patience = validate(Patience, raw, where)
    raise_all(list(_ranges(patience, where)))
    return patience


def _same_theory(raw: Any, where: str) -> tuple[str, ...]:
    good = isinstance(raw, list) and all(isinstance(f, str) and _FINGERPRINT.fullmatch(f) for f in raw)
    if not good:
        hint = "such as ['0123456789abcdef'], in quotes; `alflow check` prints the fingerprint of every stage"
        raise SpecError(where, f"expected a list of fingerprints of theories, got {shown(raw)}", hint)
    return tuple(raw)


def _evaluate(raw: Any, where: str) -> EvaluateSettings:
    from alflow.science.evaluate import EvaluateSettings

    return validate(EvaluateSettings, raw, where)


def _ranges(settings: Any, where: str) -> Iterator[SpecError]:
    """Counts are at least one (zero where that means none), other numbers positive."""
    for f in fields(settings):
        value = getattr(settings, f.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        least = 0 if f.name in _MAY_BE_ZERO else 1
        if isinstance(value, int) and value < least:
            yield SpecError(joined(where, f.name), f"should be at least {least}, got {value}")
        elif isinstance(value, float) and not value > 0:
            yield SpecError(joined(where, f.name), f"should be positive, got {value:g}")


def _rest(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in mapping.items() if k != "kind"}


# ---- what fits together --------------------------------------------------------------------------------------------


def _capabilities(stage: Stage, here: str) -> list[InputError]:
    errors: list[InputError] = []
    potential = registry.kind_of("potentials", stage.potential)
    for key in ("uncertainty", "selector"):
        part = getattr(stage, key)
        lacking = sorted(part.requires - stage.potential.provides)
        if lacking:
            needs = " and ".join(repr(str(c)) for c in lacking)
            kind = registry.kind_of(PARTS[key], part)
            problem = f"{kind!r} needs {needs}, which potential {potential!r} does not provide"
            errors.append(CapabilityError(f"{here}.{key}", problem, _who_provides(part.requires)))
    members = Capability.MEMBERS
    if members in stage.uncertainty.requires and members in stage.potential.provides and stage.potential.members < 2:
        kind = registry.kind_of("uncertainty", stage.uncertainty)
        problem = f"{kind!r} compares members, but potential {potential!r} has {stage.potential.members}"
        errors.append(CapabilityError(f"{here}.uncertainty", problem, f"set {here}.potential.members to 2 or more"))
    return errors


def _who_provides(wanted: frozenset[Capability]) -> str:
    able = []
    for kind in registry.names("potentials"):
        try:
            if wanted <= registry.part_class("potentials", kind).provides:
                able.append(kind)
        except SpecError:  # needs a package that is not installed
            continue
    return f"potentials that do: {', '.join(able)}" if able else ""


def _fits_together(stage: Stage, here: str, *, first: bool) -> list[InputError]:
    errors: list[InputError] = []
    sampler = registry.kind_of("samplers", stage.sampler)
    if stage.until.median_length_ps is not None and stage.sampler.length_unit != "ps":
        problem = f"sampler {sampler!r} measures its length in {stage.sampler.length_unit!r}, not in ps"
        errors.append(CapabilityError(f"{here}.until.median_length_ps", problem, _UNTIL_HINT))
    if stage.needs_model and first and stage.policy.initial == 0:
        selector = registry.kind_of("selectors", stage.selector)
        problem = f"selector {selector!r} asks a model, but nothing is labelled before its first choice"
        if stage.sampler.needs_guide:
            problem = f"sampler {sampler!r} follows a model, but nothing is labelled before its first run"
        errors.append(CapabilityError(f"{here}.policy.initial", problem, "set it to the size of a first training set"))
    if getattr(stage.sampler, "needs_scores", False) and not getattr(stage.uncertainty, "tells_apart", True):
        uncertainty = registry.kind_of("uncertainty", stage.uncertainty)
        problem = f"{sampler!r} keeps only what the model does not know, but uncertainty {uncertainty!r} scores nothing"
        errors.append(CapabilityError(f"{here}.sampler", problem, "keep all, or take an uncertainty that scores"))
    if not stage.sampler.needs_guide and isinstance(stage.policy, Cycles) and stage.policy.loops > 1:
        problem = f"loops differ by their models, which sampler {sampler!r} does not follow"
        errors.append(CapabilityError(f"{here}.policy", problem, "use 'rounds' or 'stream'"))
    return errors


def _groups_there(stages: Sequence[Stage], potential: Any) -> None:
    """Refuse groups and columns that the dataset of a campaign will not have; the last of `stages` is the one.

    Raises:
        InputError: with the field at fault.
    """
    weights = getattr(potential, "group_weights", {})
    for field_name in ("group_column", "split_group"):
        column = getattr(potential, field_name, "")
        if column and column not in NAMED and (field_name != "group_column" or weights):
            raise InputError(
                field_name, f"no dataset of a campaign has the column {column!r}", suggestion(column, NAMED)
            )
    if weights and potential.group_column == GROUP:
        groups = frozenset().union(*(group_names(stage) for stage in stages))
        for name in weights:
            if name not in groups:
                raise InputError(f"group_weights.{name}", "is no group of this campaign", suggestion(name, groups))


def _elements(stages: Sequence[Stage], stage: Stage) -> frozenset[str]:
    found = stage.builder.elements()
    source = next((s for s in stages if s.name == stage.from_stage and s is not stage), None)
    return found if found or source is None else _elements(stages, source)


# ---- canonical content ---------------------------------------------------------------------------------------------


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _canonical(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(v) for v in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _plain(value: Any) -> Any:
    """Without shared objects, which YAML would write as anchors."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
