"""A real run, driven by the coordinator with toy parts in this process."""

from __future__ import annotations

import pytest

from alflow.runtime import campaign_run
from alflow.runtime.runner import InlineRunner
from alflow.runtime.worker import execute

WORKFLOW = """\
alflow: 1
name: toy-disorder
seed: 3
stages:
  - name: main
    builder: {kind: random_cell, species: {Al: 1}, edge_A: [6.5, 7.5], density_g_cm3: [1.9, 2.9], min_distance_A: 2.2}
    sampler: {kind: toy, steps: 60}
    potential: {kind: toy}
    uncertainty: {kind: spread}
    selector: {kind: everything}
    labeler: {kind: toy, fail_every: 19}
    thresholds: {select: 0.1, stop: 0.25}
    policy: {kind: rounds, samples: 6, batch: 3, initial: 8, label_batch: 4}
    until: {max_rounds: 4, max_labels: 60}
    evaluate:
      {fresh: 8, points: 11, rattled: 2, rattled_min_atoms: 4, volumes_A3_per_atom: [12, 26]}
"""
SITE = """\
site: here
lanes:
  sample: {}
  label: {}
  fit: {}
"""


class Recorder:
    """A watcher that keeps what it hears."""

    def __init__(self):
        self.heard = []

    def on_events(self, t, events):
        self.heard.append((t, list(events)))


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """A finished toy campaign, and the decisions a watcher heard."""
    folder = tmp_path_factory.mktemp("toy")
    (folder / "w.yaml").write_text(WORKFLOW)
    (folder / "s.yaml").write_text(SITE)
    run = campaign_run.prepare(folder / "w.yaml", folder / "s.yaml", folder / "run")
    recorder = Recorder()
    campaign_run.resume(run, lambda site, root: InlineRunner(execute, str(root)), [recorder])
    return run, recorder.heard
