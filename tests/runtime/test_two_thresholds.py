"""A campaign of active sets: grades stop trajectories, D-optimality selects, every new model calibrates anew."""

import pytest

from alflow.monitor.history import History
from alflow.numerics.maxvol import TOLERANCE
from alflow.registry import load_model
from alflow.runtime import campaign_run
from alflow.runtime.runner import InlineRunner
from alflow.runtime.worker import execute
from alflow.store.sources import read_set
from alflow.uncertainty.grade import Part

SITE = """
site: here
lanes:
  sample: {scheduler: local, cores_per_node: 2}
shares: {label: sample, fit: sample}
monitoring: false
"""
WORKFLOW = """
alflow: 1
name: two-thresholds
seed: 3
stages:
  - name: melt
    builder: {{kind: random_cell, species: {{Al: 1.0}}, edge_A: [6.0, 8.0], density_g_cm3: [1.8, 2.6]}}
    sampler: {{kind: toy, steps: 20, T_K: 3000.0}}
    potential: {{kind: snap, twojmax: 4, cutoff_A: 4.7, ridge: 1.0e-8}}
    uncertainty: {{kind: grade, per: {per}}}
    selector: {{kind: maxvol, per: {per}}}
    labeler: {{kind: toy}}
    thresholds: {{select: 1.1, stop: 1.5}}
    policy: {{kind: rounds, samples: 4, batch: 2, initial: 4, limit: 6, label_batch: 4}}
    until: {{max_rounds: 3}}
"""


@pytest.mark.parametrize("per", ["atom", "frame"])
def test_grades_of_candidates_are_above_the_threshold_and_fall_as_rounds_go_on(tmp_path, per):
    (tmp_path / "site.yaml").write_text(SITE)
    (tmp_path / "workflow.yaml").write_text(WORKFLOW.format(per=per))
    run = campaign_run.prepare(tmp_path / "workflow.yaml", tmp_path / "site.yaml", tmp_path / "run")
    state = campaign_run.resume(run, lambda _site, root: InlineRunner(execute, str(root)))
    assert state.closed is not None
    assert not state.closed.failed
    history = History.read(run)
    assert len(history.models) > 1
    assert all(m.gauge["dominant"] == 1 for m in history.models)
    filled = [m.gauge["active_filled"] for m in history.models]
    assert filled == sorted(filled)
    assert filled[-1] == 15  # the constant and 14 components
    assert all(w.median > 1.5 for w in history.waves if w.median is not None)  # candidates passed `stop`
    folder = (run / history.models[-1].path).parent
    model, data = load_model(folder), read_set(run)
    gauge = Part(per=per).load(model, folder)
    grades = gauge.evaluate(data.frames)[1].per_frame
    assert len(grades) >= history.models[-1].n > history.models[0].n
    assert grades[: history.models[-1].n].max() <= 1 + TOLERANCE + 1e-6
