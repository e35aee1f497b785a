from __future__ import annotations

import math
from pathlib import Path

import pytest

from alflow.errors import InputError, SpecError
from alflow.spec.yaml_file import parse, read
from alflow.validation import SpecErrors

FILE = Path("f.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("On", "On"),
        ("y", "y"),
        ("true", True),
        ("FALSE", False),
        ("04:00:00", "04:00:00"),
        ("1:30", "1:30"),
        ("1-12:00:00", "1-12:00:00"),
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("-2.5e+3", -2500.0),
        ("5.", 5.0),
        (".5", 0.5),
        ("010", 10),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        ("2024-01-01", "2024-01-01"),
        ("~", None),
        ("", None),
        ("null", None),
        (".inf", math.inf),
        ("-.Inf", -math.inf),
        ("'8'", "8"),
        ('"true"', "true"),
        ("!!str 8", "8"),
        ("[1, a, {b: c}]", [1, "a", {"b": "c"}]),
        ("|\n  two\n  lines\n", "two\nlines\n"),
    ],
)
def test_plain_words_mean_what_they_look_like(text, value):
    found = parse(f"a: {text}", FILE).content["a"]
    assert found == value
    assert type(found) is type(value)


def test_nan():
    assert math.isnan(parse("a: .nan", FILE).content["a"])


def test_every_key_knows_its_line():
    text = "alflow: 1\n\n# comment\nstages:\n  - name: a\n    builder:\n      kind: file\n"
    text += "  - {name: b,\n     x: [1,\n      2]}\n"
    lines = parse(text, FILE).lines
    expected = {"alflow": 1, "stages": 4, "stages[0]": 5, "stages[0].name": 5, "stages[0].builder": 6}
    expected |= {"stages[0].builder.kind": 7, "stages[1].name": 8, "stages[1].x": 9, "stages[1].x[1]": 10}
    assert expected.items() <= lines.items()


def test_a_place_without_a_line_takes_that_of_what_is_above():
    document = parse("a:\n  b:\n    c: 1\n", FILE)
    assert document.place("a.b.missing") == "f.yaml:2: a.b.missing"
    assert document.place("a.b[3].x") == "f.yaml:2: a.b[3].x"
    assert document.place("z") == "f.yaml: z"
    assert document.place("") == "f.yaml"
    several = document.placed(SpecErrors([SpecError("a.b", "x"), InputError("z", "y")]))
    assert str(several) == "f.yaml:2: a.b: x\nf.yaml: z: y"


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3: a", "is given twice, first in line 1"),
        ("x:\n  k: 1\n  k: 1\n", "f.yaml:3: x.k", "is given twice, first in line 2"),
        ("a:\n\tb: 1\n", "f.yaml:2:1", "no tabs"),
        ("a: b: c\n", "f.yaml:1:5", "quotes"),
        ("a: [1, 2\nb: 3\n", "f.yaml:2:2", "is not YAML"),
        ("a: {b: [", "f.yaml:1:9", "is not YAML"),
        ("a: 'open\n", "f.yaml:2:1", "is not YAML"),
        ("a: \x01\n", "f.yaml", "is not YAML"),
        ("", "f.yaml", "is empty"),
        ("# only a comment\n", "f.yaml", "is empty"),
        ("- 1\n- 2\n", "f.yaml:1", "expected keys and values"),
        ("word\n", "f.yaml:1", "expected keys and values"),
        ("a: !!python/object/apply:os.system [ls]\n", "f.yaml:1: a", "is not allowed"),
        ("a: !mine 3\n", "f.yaml:1: a", "is not allowed"),
        ("a: !!float x\n", "f.yaml:1: a", "is not allowed"),
        ("a: !!set {b}\n", "f.yaml:1: a", "is not allowed"),
        ("a: &x [*x]\n", "f.yaml:1", "refers to itself"),
        ("b: &b {c: 1}\na:\n  <<: *b\n", "f.yaml:3: a.<<", "merge keys are not supported"),
        ("? [1, 2]\n: 3\n", "f.yaml:1", "a key must be a word"),
        ("a: 1\n---\nb: 2\n", "f.yaml:2:1", "is not YAML"),
        ("a: *nowhere\n", "f.yaml:1:4", "undefined alias"),
    ],
)
def test_what_is_wrong_is_said_with_line_and_column(text, place, words):
    with pytest.raises(SpecError) as caught:
        parse(text, FILE)
    assert caught.value.where == place
    assert words in str(caught.value)


def test_an_anchor_may_be_used_again():
    assert parse("a: &x {c: [1]}\nb: *x\n", FILE).content == {"a": {"c": [1]}, "b": {"c": [1]}}


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "latin.yaml").write_bytes("name: Å\n".encode("latin-1"))
    with pytest.raises(SpecError, match="byte 6: is not UTF-8"):
        read(tmp_path / "latin.yaml")
    for path in (tmp_path, tmp_path / "none.yaml"):
        with pytest.raises(InputError, match="cannot be read"):
            read(path)


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbfname: x\n")
    assert read(tmp_path / "bom.yaml").content == {"name": "x"}
