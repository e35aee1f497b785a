"""Tasks that outlive many batch jobs: halted before each one's end, they go on in the next and lose nothing."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

from alflow.campaign.model import FailureKind, Retried
from alflow.runtime import campaign_run, lanes, layout
from alflow.runtime.journal import read_lines
from alflow.runtime.runner import InlineRunner
from alflow.runtime.worker import execute
from alflow.store.dataset import Dataset

SITE = """
site: here
lanes: {sample: {scheduler: local}}
shares: {label: sample, fit: sample}
monitoring: false
"""
WORKFLOW = """
alflow: 1
name: halt
seed: 3
defaults:
  builder: {{kind: random_cell, species: {{Al: 1.0}}, edge_A: [8.0, 9.0], density_g_cm3: [1.8, 2.0]}}
  sampler: {{kind: md, T_K: 300, length_ps: 0.4, timestep_fs: 1.0, queue_final: true, checkpoint_s: 1000}}
  potential: {{kind: toy, sleep_s: {fit_s}}}
  uncertainty: {{kind: spread, energy_meV: 1000.0}}
  selector: {{kind: everything}}
  labeler: {{kind: toy, sleep_s: {label_s}, ledger: {ledger}}}
stages:
  - name: melt
    policy: {{kind: rounds, samples: 4, batch: 4, initial: 6, label_batch: 6}}
    until: {{max_rounds: 1}}
"""


def campaign(folder: Path, fit_s: float, label_s: float, block_s: float | None, monkeypatch) -> Path:
    """A campaign each of whose tasks runs in a batch job of its own that halts it after `block_s`."""

    def in_a_block(task, root):
        if block_s is not None:
            monkeypatch.setenv(lanes.DEADLINE, str(time.time() + block_s))
        return execute(task, root)

    folder.mkdir()
    (folder / "site.yaml").write_text(SITE)
    text = WORKFLOW.format(fit_s=fit_s, label_s=label_s, ledger=folder / "ledger.txt")
    (folder / "workflow.yaml").write_text(text)
    run = campaign_run.prepare(folder / "workflow.yaml", folder / "site.yaml", folder / "run")
    state = campaign_run.resume(run, lambda _, root: InlineRunner(in_a_block, str(root)))
    assert not state.closed.failed, state.closed.reason
    monkeypatch.delenv(lanes.DEADLINE, raising=False)
    return run


def test_every_task_may_span_many_batch_jobs(tmp_path, monkeypatch):
    monkeypatch.setattr("alflow.runtime.worker.HALT_POLL_S", 0.0)
    whole = campaign(tmp_path / "whole", 0.0, 0.0, None, monkeypatch)
    run = campaign(tmp_path / "cut", 0.3, 0.3, 0.45, monkeypatch)

    retried = [e for _, events in read_lines(run / layout.JOURNAL) for e in events if isinstance(e, Retried)]
    assert {e.kind for e in retried} == {FailureKind.HALTED}
    times = Counter(e.task_id for e in retried)
    assert times["0-label-000000"] >= 5  # six labels, one a block
    assert times["0-fit-000000"] >= 3
    assert times["0-sample-000000"] >= 1
    assert set(Counter((tmp_path / "cut" / "ledger.txt").read_text().split()).values()) == {1}
    one, two = (Dataset.open(sorted((r / "dataset").glob("*.h5"))) for r in (whole, run))
    assert one.ids == two.ids
    assert one.labels.energy.tobytes() == two.labels.energy.tobytes()


def test_a_worker_outside_of_a_batch_job_has_no_deadline(monkeypatch):
    from alflow.runtime import worker

    monkeypatch.delenv(lanes.DEADLINE, raising=False)
    assert not worker._block_ends()
    monkeypatch.setenv(lanes.DEADLINE, str(time.time() + 60))
    assert not worker._block_ends()
    monkeypatch.setenv(lanes.DEADLINE, str(time.time() - 1))
    assert worker._block_ends()
