"""A campaign in which a fifth of the labels fail, in every way that the stand-in for VASP knows."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from alflow.monitor import why
from alflow.monitor.history import History
from alflow.monitor.status import status
from alflow.runtime import campaign_run
from alflow.runtime.journal import read_lines
from alflow.runtime.runner import InlineRunner
from alflow.runtime.worker import execute
from alflow.store.dataset import Dataset
from alflow.testing.fake_vasp import write_library

SITE = """
site: here
lanes:
  sample: {{scheduler: local, cores_per_node: 2}}
shares: {{label: sample, fit: sample}}
monitoring: false
codes:
  vasp:
    command: [{python}, -m, alflow.testing.vasp_std]
    env: {{FAKE_VASP: "fails:0.2,mends:0.2"}}
    potcars: {potcars}
    scratch: {scratch}
"""
WORKFLOW = """
alflow: 1
name: failing
seed: 4
stages:
  - name: melt
    builder: {kind: random_cell, species: {Al: 1.0}, edge_A: [6.0, 7.5], density_g_cm3: [1.8, 2.6], min_distance_A: 2.2}
    sampler: {kind: toy}
    potential: {kind: toy}
    uncertainty: {kind: spread, energy_meV: 5.0}
    selector: {kind: everything}
    labeler: {kind: vasp, potcar_symbols: {Al: Al}, encut_eV: 240, kpoints: gamma}
    thresholds: {select: 0.01, stop: 0.02}
    policy: {kind: rounds, samples: 12, batch: 6, initial: 40, label_batch: 10}
    until: {max_rounds: 2}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The campaign, finished."""
    folder = tmp_path_factory.mktemp("failing")
    write_library(folder / "potcars", {"Al": "Al"})
    site = SITE.format(python=sys.executable, potcars=folder / "potcars", scratch=folder / "scratch")
    (folder / "site.yaml").write_text(site)
    (folder / "workflow.yaml").write_text(WORKFLOW)
    run = campaign_run.prepare(folder / "workflow.yaml", folder / "site.yaml", folder / "run")
    state = campaign_run.resume(run, lambda site, root: InlineRunner(execute, str(root)))
    assert state.closed is not None
    assert not state.closed.failed, state.closed.reason
    return run


def structures(run: Path) -> set[str]:
    """Content ids of all structures that a label was asked of."""
    return {name for _, _, ids in why.asked(run, History.read(run)) for name in ids}


def test_every_structure_is_in_the_dataset_or_failed_with_a_reason(run):
    data = Dataset.open(sorted((run / "dataset").glob("*.h5")))
    told = [f for t in History.read(run).tasks.values() for f in t.result.get("failures", ())]
    assert set(data.ids) | {f["id"] for f in told} == structures(run)
    assert not set(data.ids) & {f["id"] for f in told}
    assert 0.1 < len(told) / len(structures(run)) < 0.35
    assert len({f["cause"] for f in told}) >= 4
    for f in told:
        assert f["reason"]
        assert Path(f["log"]).is_file(), f


def test_status_and_why_add_up(run):
    s = status(run)
    assert s.labels_bought + s.labels_failed == len(structures(run))
    assert sum(s.labels_failed_by.values()) == s.labels_failed
    assert s.labels_waiting == 0
    stories = why.failures(run)
    assert Counter(story.outcome for story in stories) == s.labels_failed_by
    for story in stories:
        words = why.text(why.why(run, story.subject))
        assert f"no label: {story.outcome}" in words
        assert "log: " in words


def test_what_was_killed_was_tried_again(run):
    tasks = History.read(run).tasks.values()
    killed = [f for t in tasks for f in t.result.get("failures", ()) if f["cause"] == "memory"]
    if killed:
        assert all(
            t.verb == "relabel"
            for t in tasks
            if {f["id"] for f in killed} & set(map(_id, t.result.get("failures", ())))
        )
    lines = [e for _, events in read_lines(run / "journal.jsonl") for e in events]
    assert bool(killed) == any(type(e).__name__ == "Submitted" and e.task.verb == "relabel" for e in lines)


def _id(failure):
    return failure["id"]


def test_corrections_are_stored_with_the_label_and_left_the_theory_alone(run):
    data = Dataset.open(sorted((run / "dataset").glob("*.h5")))
    corrected = [json.loads(text) for text in data.columns["corrections"] if text]
    assert len(corrected) == status(run).labels_corrected > 3
    assert all(c["handler"] and c["errors"] and c["changes"] for story in corrected for c in story)
    assert set(data.columns["theory"]) == {data.theory.fingerprint}


def test_no_potcar_stays_behind(run):
    assert not [p for p in run.parent.rglob("*POTCAR*") if "potcars" not in p.relative_to(run.parent).parts]
    assert not list((run.parent / "scratch").iterdir())
