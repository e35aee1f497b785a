from __future__ import annotations

import pytest

from alflow.cli.app import run


@pytest.fixture
def said(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")

    def _said(*words):
        assert run(["explain", *words]) == 0
        return capsys.readouterr().out

    return _said


def test_without_a_word_it_lists_everything(said):
    out = said()
    for word in ("builder", "random_cell", "policy", "cycles", "until", "lane"):
        assert word in out


def test_a_role_lists_its_kinds(said):
    assert said("builders") == said("builder")
    assert "Cells filled at random" in said("builder")
    assert "Independent active-learning loops" in said("policy")


def test_a_part_has_a_manual(said):
    out = said("builder.random_cell")
    assert "edge_A" in out
    assert "[number, number]" in out
    assert "[10.5, 17]" in out
    assert "follows a model: yes" in said("sampler.md")
    assert "codes.vasp of the site file" in said("labeler.vasp")


def test_mappings_have_a_manual(said):
    assert "median_length_ps" in said("until")
    assert "walltime" in said("lane")


def test_a_kind_alone_is_enough_where_one_role_has_it(said, capsys):
    assert said("grade") == said("uncertainty.grade")
    assert said("cycles") == said("policy.cycles")
    assert run(["explain", "toy"]) == 2
    assert "potential.toy or labeler.toy" in capsys.readouterr().err
    assert run(["explain", ".md"]) == 2
    assert ".md: is nothing" in capsys.readouterr().err
