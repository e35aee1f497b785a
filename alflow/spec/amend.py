"""Changes to a campaign that was submitted: what may be changed, and the workflow that comes of it.

Thresholds, levels, gates, patience and goals say how much and how long; they may change while a campaign runs. Whatever
decides what a number means (species, labeler, potential, seed) may not: that is another campaign.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from alflow.campaign.policy import Patience, Until
from alflow.errors import InputError, SpecError
from alflow.interfaces import Thresholds
from alflow.spec import yaml_file
from alflow.spec.workflow import PARTS, Stage, Workflow, reread
from alflow.validation import raise_all, shown, suggestion

Amendment = Mapping[str, Any]
"""``{"stage": index, "changes": {"until.max_labels": "100"}}``: keys of one stage, values as YAML text."""

SECTIONS: Final = ("thresholds", "policy", "until", "gates", "patience")
_FIXED_POLICY: Final[Mapping[str, str]] = {
    "kind": "what is under way was given out by its rules",
    "loops": "each loop has data and models of its own",
    "initial": "it is built at the beginning",
}
_REASONS: Final[Mapping[str, str]] = {
    **dict.fromkeys(PARTS, "it decides what the numbers mean: data and models of the old and the new would not fit"),
    "seed": "all random numbers follow from it",
    "name": "the run is known by it",
    "alflow": "it is the schema of the file",
    "stages": "stages are fixed once a campaign is submitted",
    "defaults": "defaults have been spread over the stages; give the key itself",
    "same_theory": "it decides which labels are in one dataset",
    "evaluate": "it decides what the model is held against",
}
_ANOTHER: Final = "submit another campaign for that"


def parse(words: Sequence[str], workflow: Workflow, stage: int) -> list[Amendment]:
    """The amendments that ``key=value`` words ask for.

    Args:
        words: such as ``until.max_labels=100`` (for every stage from `stage` on) or ``melt.policy.sampling=8`` (for
            the stage called ``melt``).
        workflow: the campaign's, as amended so far.
        stage: index of the stage at work.

    Raises:
        InputError: a word is of another form; a key is unknown or may not be changed; a stage is over.
    """
    wanted: dict[int, dict[str, str]] = {}
    errors: list[InputError] = []
    for word in words:
        try:
            where, key, text = _split(word, workflow)
            for i in range(stage, len(workflow.stages)) if where is None else (where,):
                if i < stage:
                    raise SpecError(word, f"stage {workflow.stages[i].name!r} is over", "nothing of it can change")
                _check_key(workflow.stages[i], key, word)
                wanted.setdefault(i, {})[key] = text
        except InputError as exc:
            errors.append(exc)
    raise_all(errors)
    return [{"stage": i, "changes": changes} for i, changes in sorted(wanted.items())]


def amended(workflow: Workflow, amendments: Sequence[Amendment], path: Path = Path("workflow.yaml")) -> Workflow:
    """The workflow with all `amendments` made, in their order, and checked as a workflow file is.

    Raises:
        InputError: a value is not what its key takes, or what comes of it does not fit together.
    """
    return reread(changed(workflow.content, amendments), path) if amendments else workflow


def changed(content: Mapping[str, Any], amendments: Sequence[Amendment]) -> dict[str, Any]:
    """The plain values of a workflow with all `amendments` made, not checked.

    Raises:
        SpecError: a value is not YAML.
    """
    found = copy.deepcopy({**content, "stages": list(content["stages"])})
    for amendment in amendments:
        stage = found["stages"][amendment["stage"]]
        for key, text in amendment["changes"].items():
            section, _, name = key.partition(".")
            stage[section] = {**(stage.get(section) or {}), name: _value(key, text)}
    return found


def _split(word: str, workflow: Workflow) -> tuple[int | None, str, str]:
    """The stage that a word names, if it does, the key in a stage, and the value's text."""
    key, equals, text = word.partition("=")
    key = key.strip()
    if not equals or not key or not text.strip():
        raise SpecError(word, "is not of the form key=value", "such as until.max_labels=500")
    if key.partition(".")[0] in SECTIONS:
        return None, key, text.strip()
    for i, stage in enumerate(workflow.stages):
        if key.startswith(f"{stage.name}."):
            return i, key.removeprefix(f"{stage.name}."), text.strip()
    return None, key, text.strip()


def _check_key(stage: Stage, key: str, word: str) -> None:
    section, _, name = key.partition(".")
    if section in _REASONS:
        raise SpecError(word, f"{section} cannot be changed: {_REASONS[section]}", _ANOTHER)
    if section not in SECTIONS:
        raise SpecError(word, f"{key!r} is not a key that can be changed", suggestion(section, SECTIONS))
    if section == "policy" and name in _FIXED_POLICY:
        raise SpecError(word, f"policy.{name} cannot be changed: {_FIXED_POLICY[name]}", _ANOTHER)
    known = sorted(_names(stage, section))
    if name not in known:
        raise SpecError(word, f"{key!r} is not a key that can be changed", suggestion(name, known))


def _names(stage: Stage, section: str) -> Iterator[str]:
    made: Any = {"policy": stage.policy, "gates": stage.gates, "thresholds": Thresholds, "until": Until}.get(
        section, Patience
    )
    return (f.name for f in fields(made) if section != "policy" or f.name not in _FIXED_POLICY)


def _value(key: str, text: str) -> Any:
    """The value of a YAML text.

    Raises:
        SpecError: it is not YAML.
    """
    try:
        return yaml_file.parse(f"value: {text}\n", Path(key)).content["value"]
    except SpecError as exc:
        raise SpecError(key, f"the value {shown(text)} cannot be read: {exc.problem}") from exc
