import json

import numpy as np
import pytest

from alflow.cli.app import run
from alflow.core.frames import Frames
from alflow.core.labels import Theory
from alflow.store.convert import write_file
from alflow.store.shards import Shard, write_shard
from alflow.testing.toy_data import toy_frames
from alflow.testing.toy_physics import morse

FEW = ("--twojmax", "4", "--cutoff", "4")


def shard(frames, **columns):
    return Shard(frames, columns, morse(frames), Theory("toy"))


@pytest.fixture
def sets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    wild = toy_frames(20, 1, rattle_A=0.7)
    write_shard(tmp_path / "run" / "dataset" / "0-000000.h5", shard(toy_frames(20, 0, rattle_A=0.15)))
    write_file(tmp_path / "wild.extxyz", shard(wild, group=np.repeat(["melt", "g<as>"], 10)))
    return tmp_path


def test_it_prints_tables_and_writes_a_page_and_json(sets, capsys):
    assert run(["compare", "wild.extxyz", "run", *FEW, "--out", "report"]) == 0
    out = capsys.readouterr().out
    for words in ("Breadth in descriptor space", "at least 5x in variance", "Groups of A", "melt", "(no group)"):
        assert words in out
    found = json.loads((sets / "report" / "compare.json").read_text())
    assert found["elements"]["Al"]["A_in_B"]["axes"]["broader"] > 10
    page = (sets / "report" / "compare.html").read_text()
    assert page.count("<svg") == 6  # energies, two of breadth, two of principal components, one of all histograms
    assert "g&lt;as&gt;" in page
    assert "g<as>" not in page
    assert "ZCA" in page


def test_a_set_of_one_value_a_component_is_a_line_without_density(sets):
    lone = Frames.single([13], [[0.0, 0.0, 0.0]], np.eye(3) * 12)
    write_file(sets / "lone.extxyz", shard(lone))
    assert run(["compare", "run", "lone.extxyz", *FEW]) == 0


def test_an_alloy_and_an_element(sets, capsys):
    alloy = toy_frames(20, 2, rattle_A=0.4)
    alloy.numbers[::4] = 29
    write_file(sets / "alloy.extxyz", shard(alloy))
    for pair in (("alloy.extxyz", "run"), ("run", "alloy.extxyz")):
        assert run(["compare", *pair, *FEW]) == 0
        out = " ".join(capsys.readouterr().out.split())
        assert "of Cu" in out
        assert "the other set has no atoms of Cu" in out
        page = (sets / "compare.html").read_text()
        assert "nothing to show" in page


def test_it_says_of_how_many_frames_energies_are(sets, capsys):
    half = shard(toy_frames(20, 3), group=np.repeat(["with", "without"], [14, 6]))
    half.labels.energy[12:] = np.nan
    write_shard(sets / "half.h5", half)
    assert run(["compare", "half.h5", "run", *FEW]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "frames that have one 12 of 20 20 of 20" in out
    assert "12 of 14" in out
    assert "0 of 6" in out
    assert run(["compare", "wild.extxyz", "run", *FEW]) == 0
    assert "have one" not in capsys.readouterr().out


def test_json_is_all_that_is_printed(sets, capsys):
    assert run(["compare", "wild.extxyz", "run", *FEW, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((sets / "compare.json").read_text())
    assert found["descriptor"] == {"kind": "bispectrum", "twojmax": 4, "cutoff_A": 4.0}
    assert found["sets"]["A"]["name"] == "wild.extxyz"


def test_sets_without_energies_or_breadth_have_a_page_too(sets):
    write_shard(sets / "bare.h5", Shard(toy_frames(1, n_atoms=1)))
    assert run(["compare", "bare.h5", "run", *FEW]) == 0
    page = (sets / "compare.html").read_text()
    assert "no frame to compare in" in page
    assert "nothing to show" in page


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nowhere", "run"), "nowhere: no such file or folder"),
        (("wild.extxyz", "empty"), "holds no shards"),
        (("wild.extxyz", "copper.extxyz"), "no element in common: Al and Cu"),
        (("wild.extxyz", "run", "--cutoff", "nan"), "rcutfac_A and radii must be positive"),
        (("wild.extxyz", "run", "--cutoff", "0"), "rcutfac_A and radii must be positive"),
        (("wild.extxyz", "run", "--twojmax", "-1"), "--twojmax"),
        (("wild.extxyz", "run", "--out", "wild.extxyz"), "wild.extxyz is a file, expected a folder"),
        (("wild.extxyz", "run", "--out", "wild.extxyz/sub/x"), "wild.extxyz is a file, expected a folder"),
        (("wild.extxyz", "run", "--out", "new/" + "x" * 300), "cannot be written: File name too long"),
        (("wild.extxyz", "run", "--out", "/proc/x"), "--out /proc/x: cannot be written: No such file or directory"),
        (("wild.extxyz", "empty", "--out", "new/folder"), "holds no shards"),
    ],
)
def test_bad_input_is_one_message_and_changes_nothing(sets, capsys, monkeypatch, words, said):
    (sets / "empty").mkdir()
    copper = toy_frames(3)
    copper.numbers[:] = 29
    write_file(sets / "copper.extxyz", shard(copper))
    before = sorted(sets.rglob("*"))
    monkeypatch.setattr("alflow.monitor.comparison.page", None)  # it is refused before anything is computed
    assert run(["compare", *words]) == 2
    told = capsys.readouterr()
    assert said in told.err
    assert told.out == ""
    assert sorted(sets.rglob("*")) == before
