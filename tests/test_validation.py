from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from alflow.errors import InputError, SpecError
from alflow.interfaces import part
from alflow.validation import SpecErrors, check_keys, each, expand, moved, plain, suggestion, validate


@part
class Thing:
    n: int
    T_K: float | tuple[float, float] = 300.0
    mode: Literal["nvt", "npt"] = "nvt"
    grid: Literal["gamma"] | tuple[int, int, int] = "gamma"
    path: Path | None = None
    files: tuple[Path, ...] = ()
    library: Mapping[str, Path] | None = None
    species: Mapping[str, float] | None = None
    on: bool = False

    def __post_init__(self) -> None:
        if self.n < 1:
            raise InputError("n", f"should be positive, got {self.n}", "count from one")


@dataclass(frozen=True)
class Ordinary:
    size: int = 1


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 1},
        {"n": 2, "T_K": 900, "mode": "npt", "grid": [3, 3, 3]},
        {"n": 3, "T_K": [300, 900.5], "species": {"Al": 1, "No": 0.5}, "on": True},
        {"n": 4, "T_K": float("inf"), "path": "/a/b", "files": ["/c"], "library": {"x": "/d"}},
    ],
)
def test_what_is_written_comes_back(fields):
    thing = validate(Thing, fields, "x")
    assert validate(Thing, plain(thing), "x") == thing


@pytest.mark.parametrize(
    ("fields", "where", "problem"),
    [
        ({}, "x.n", "is required"),
        ({"n": "8"}, "x.n", 'should be a whole number, got "8"'),
        ({"n": True}, "x.n", "should be a whole number, got true"),
        ({"n": 1.5}, "x.n", "should be a whole number"),
        ({"n": None}, "x.n", "should be a whole number, got null"),
        ({"n": 1, "T_K": "hot"}, "x.T_K", 'should be a number or should be a list, got "hot"'),
        ({"n": 1, "T_K": [1, True]}, "x.T_K", "number"),
        ({"n": 1, "mode": "nve"}, "x.mode", "should be 'nvt' or 'npt', got \"nve\""),
        ({"n": 1, "species": ["Al"]}, "x.species", "should be a mapping"),
        ({"n": 1, "species": {"Al": "much"}}, "x.species.Al", "should be a number"),
        ({"n": 1, "on": 1}, "x.on", "should be true or false, got 1"),
        ({"n": 1, "files": ["/a", 3]}, "x.files[1]", "should be text"),
        ({"n": 0}, "x.n", "should be positive, got 0"),
        ([1], "x", "expected a mapping of keys, got [1]"),
    ],
)
def test_a_mistake_is_named_with_its_place(fields, where, problem):
    with pytest.raises(InputError) as caught:
        validate(Thing, fields, "x")
    found = each(caught.value)[0]
    assert found.where.startswith(where)
    assert problem in found.problem


def test_an_unknown_key_is_refused_with_the_closest_one():
    for cls, wrong, right in [(Thing, "T_k", "T_K"), (Thing, "MODE", "mode"), (Ordinary, "siz", "size")]:
        with pytest.raises(SpecError) as caught:
            validate(cls, {"n": 1, wrong: 3} if cls is Thing else {wrong: 3}, "a.b")
        assert caught.value.where == f"a.b.{wrong}"
        assert caught.value.hint == f"did you mean {right!r}?"


def test_all_mistakes_are_told_at_once():
    with pytest.raises(SpecErrors) as caught:
        validate(Thing, {"n": "x", "mod": "nvt", "on": 2}, "s")
    assert [e.where for e in caught.value.errors] == ["s.mod", "s.n", "s.on"]
    assert len(str(caught.value).splitlines()) == 4  # three mistakes, one with a hint


def test_paths_start_from_the_folder_and_take_variables(tmp_path, monkeypatch):
    monkeypatch.setenv("ALFLOW_TEST_PLACE", "/data")
    fields = {
        "n": 1,
        "path": "sub/a",
        "files": ["~/b", "${ALFLOW_TEST_PLACE}/c"],
        "library": {"k": "$ALFLOW_TEST_PLACE"},
    }
    thing = validate(Thing, fields, "x", tmp_path)
    assert thing.path == tmp_path / "sub/a"
    assert thing.files == (Path.home() / "b", Path("/data/c"))
    assert thing.library == {"k": Path("/data")}


def test_variables_stay_as_they_are_outside_of_paths():
    @part
    class Words:
        text: str

    assert validate(Words, {"text": "$HOME/~"}, "x").text == "$HOME/~"


def test_an_unset_variable_is_named(monkeypatch):
    monkeypatch.delenv("ALFLOW_NOT_SET", raising=False)
    with pytest.raises(SpecError, match="ALFLOW_NOT_SET is not set") as caught:
        validate(Thing, {"n": 1, "files": ["a", "${ALFLOW_NOT_SET}/b"]}, "x")
    assert caught.value.where == "x.files[1]"
    assert "export ALFLOW_NOT_SET=" in caught.value.hint


def test_expand_leaves_a_plain_path_alone():
    assert expand("/a b/c", "x") == "/a b/c"


def test_moved_keeps_kind_and_every_error():
    inner = SpecErrors([SpecError("n", "bad"), SpecError("[0].m", "worse", "hint")])
    assert [e.where for e in each(moved(inner, "top"))] == ["top.n", "top[0].m"]
    assert type(moved(InputError("a", "b"), "c")) is InputError


def test_suggestions():
    assert suggestion("mdd", ["md", "relax"]) == "did you mean 'md'?"
    assert suggestion("zzz", ["md", "relax"]) == "known: md, relax"
    assert suggestion("zzz", []) == ""
    assert not check_keys({"a": 1}, ["a", "b"], "x")
