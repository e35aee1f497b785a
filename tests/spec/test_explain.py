from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from alflow import registry
from alflow.campaign.model import FailureKind
from alflow.errors import UnknownPartError
from alflow.interfaces import part
from alflow.spec.explain import Key, manual, summaries, topics, type_words


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int, "whole number"),
        (float | None, "number | null"),
        (Path, "path"),
        (Literal["nvt", "npt"], "nvt | npt"),
        (tuple[float, float], "[number, number]"),
        (tuple[Path, ...], "list of path"),
        (frozenset[str], "list of text"),
        (Mapping[str, float | tuple[float, float]], "mapping of text to number | [number, number]"),
        (Annotated[float, Field(gt=0, le=0.5)], "number (> 0, <= 0.5)"),
        (Annotated[int, Field(ge=1)] | None, "whole number (>= 1) | null"),
        (Literal["auto"] | bool, "auto | true | false"),
        (FailureKind, "infrastructure | resource | halted | unphysical | defect"),
    ],
)
def test_types_are_said_in_the_words_of_yaml(hint, words):
    assert type_words(hint) == words


def test_a_manual_is_read_off_the_class(monkeypatch):
    @part
    class Example:
        """First line.

        More about it: with a colon,
        and a second line.

            an example
            of two lines

        Attributes:
            a_A: a length,
                told on two lines.
            b, c: two of a kind.

        A closing remark.
        """

        a_A: float
        b: int = 3
        c: tuple[str, ...] = ()
        d: Mapping[str, int] = Field(default_factory=dict)
        needs_guide = False
        length_unit = "ps"

    monkeypatch.setattr(registry, "part_class", lambda *_: Example)
    found = manual("sampler", "example")
    paragraphs = ("First line.", "More about it: with a colon, and a second line.", "    an example\n    of two lines")
    assert found.text == "\n\n".join([*paragraphs, "A closing remark."])
    assert found.keys == (
        Key("a_A", "number", "required", "a length, told on two lines."),
        Key("b", "whole number", "3", "two of a kind."),
        Key("c", "list of text", "[]", "two of a kind."),
        Key("d", "mapping of text to whole number", "{}", ""),
    )
    assert found.facts["follows a model"] == "no"


def test_every_key_of_every_shipped_part_is_explained():
    missing = []
    for topic, kinds in topics().items():
        for kind in kinds or ("",):
            if kind in {"toy", *(k for k in kinds if k.endswith("_")), "basis", "climb", "cells", "any", "dft"}:
                continue
            found = manual(topic, kind)
            if topic == "thresholds":  # its text explains both keys at once
                continue
            assert found.text, found.title
            missing += [f"{found.title}.{key.name}" for key in found.keys if not key.words]
    assert not missing


def test_every_field_is_a_key():
    for role in registry.ROLES:
        for kind in registry.names(role):
            cls = registry.part_class(role, kind)
            expected = [f.name for f in dataclasses.fields(cls) if f.init]
            assert [k.name for k in manual(role, kind).keys] == expected


def test_lists():
    assert set(summaries("policy")) == {"rounds", "stream", "cycles"}
    assert "random_cell" in summaries("builders")
    assert summaries("builder") == summaries("builders")


@pytest.mark.parametrize(
    ("topic", "kind", "words"),
    [
        ("samplr", "", "did you mean 'sampler'?"),
        ("entropi", "", "did you mean 'entropy'?"),
        ("sampler", "toyy", "did you mean 'toy'?"),
        ("policy", "round", "did you mean 'rounds'?"),
        ("until", "x", "until has no kinds"),
    ],
)
def test_what_cannot_be_explained(topic, kind, words):
    with pytest.raises(UnknownPartError) as caught:
        manual(topic, kind)
    assert words in str(caught.value)
