"""The verbs `amend` and `clean`: what they print, and their exit status."""

from __future__ import annotations

from pathlib import Path

import pytest

from alflow.cli.app import BAD_INPUT, run
from alflow.runtime import campaign_run, layout, rundir
from alflow.runtime.runner import InlineRunner
from alflow.runtime.worker import execute

SITE = "site: here\nlanes:\n  cpu: {scheduler: local}\nshares: {sample: cpu, label: cpu, fit: cpu}\nmonitoring: false\n"
WORKFLOW = """
alflow: 1
name: toy
seed: 1
stages:
  - name: melt
    builder: {kind: random_cell, species: {Al: 1.0}, edge_A: [6.0, 7.0], density_g_cm3: [1.8, 2.6]}
    sampler: {kind: toy}
    potential: {kind: toy}
    uncertainty: {kind: spread, energy_meV: 1.0}
    selector: {kind: everything}
    labeler: {kind: toy}
    policy: {kind: rounds, samples: 2, batch: 2, initial: 4, label_batch: 2}
    until: {max_rounds: 1}
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "site.yaml").write_text(SITE)
    (tmp_path / "workflow.yaml").write_text(WORKFLOW)
    return campaign_run.prepare(tmp_path / "workflow.yaml", tmp_path / "site.yaml", tmp_path / "run")


def finish(folder):
    campaign_run.resume(folder, lambda _site, root: InlineRunner(execute, str(root)))


def test_amend_says_what_is_now(folder, capsys):
    assert run(["amend", str(folder), "until.max_rounds=2", "melt.policy.samples=4"]) == 0
    out = capsys.readouterr().out
    assert "melt: until.max_rounds is now 2" in out
    assert "melt: policy.samples is now 4" in out
    run(["status", str(folder)])
    assert "melt.until.max_rounds = 2" in " ".join(capsys.readouterr().out.split())


def test_amend_refuses_with_the_reason_and_status_2(folder, capsys):
    assert run(["amend", str(folder), "seed=7"]) == BAD_INPUT
    err = capsys.readouterr().err
    assert "seed cannot be changed: all random numbers follow from it" in err
    assert "submit another campaign" in err
    finish(folder)
    assert run(["amend", str(folder), "until.max_rounds=3"]) == BAD_INPUT
    assert "is over" in capsys.readouterr().err
    assert run(["amend", str(folder / "tasks"), "until.max_rounds=3"]) == BAD_INPUT
    assert "no run directory" in capsys.readouterr().err


def test_clean_says_what_it_would_free_and_what_it_freed(folder, capsys):
    finish(folder)
    label = next((folder / "tasks").glob("0-label/*/*"))
    work = list(label.glob("label-*.json"))
    assert work
    assert run(["clean", str(folder), "--dry-run"]) == 0
    planned = capsys.readouterr().out
    assert "would be freed; nothing was touched" in planned
    assert "work files of labels" in planned
    assert all(path.exists() for path in work)
    assert run(["clean", str(folder)]) == 0
    assert capsys.readouterr().out.replace("freed", "") == planned.replace("would be freed; nothing was touched", "")
    assert not any(path.exists() for path in work)
    assert (label / layout.FRAMES).exists()
    assert run(["clean", str(folder)]) == 0
    assert "nothing to free" in capsys.readouterr().out


def test_clean_leaves_a_run_at_work_alone(folder: Path, capsys):
    finish(folder)
    with rundir.locked(folder):
        assert run(["clean", str(folder)]) == BAD_INPUT
    assert "is being run by process" in capsys.readouterr().err
