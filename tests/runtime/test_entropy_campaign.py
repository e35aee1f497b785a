"""Entropy as a one-shot set, and as the sampler of an active-learning loop."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from alflow.engines.lammps import LammpsProcess
from alflow.registry import load_model
from alflow.runtime import campaign_run
from alflow.runtime.runner import InlineRunner
from alflow.runtime.worker import execute
from alflow.store.dataset import Dataset

SITE = """
site: here
lanes:
  sample: {scheduler: local, cores_per_node: 2}
shares: {label: sample, fit: sample}
monitoring: false
"""
WORKFLOW = """
alflow: 1
name: diverse
seed: 1
stages:
  - name: set
    builder:
      {{kind: random_cell, species: {{Al: 1.0}}, edge_A: [5.0, 7.0], density_g_cm3: [1.8, 2.6], min_distance_A: 2.2}}
    sampler: {{kind: entropy, cutoff_A: 4.5, method: minimize, max_steps: 10, keep: unknown}}
    potential: {potential}
    uncertainty: {uncertainty}
    selector: {{kind: everything}}
    labeler: {{kind: toy}}
    policy: {{kind: rounds, samples: 6, batch: 3, label_batch: 6}}
    until: {{max_rounds: {rounds}}}
"""


def ran(folder: Path, uncertainty: str, rounds: int, potential: str = "{kind: toy}") -> Dataset:
    (folder / "site.yaml").write_text(SITE)
    (folder / "workflow.yaml").write_text(WORKFLOW.format(uncertainty=uncertainty, rounds=rounds, potential=potential))
    run = campaign_run.prepare(folder / "workflow.yaml", folder / "site.yaml", folder / "run")
    campaign_run.resume(run, lambda _, root: InlineRunner(execute, str(root)))
    return Dataset.open(sorted((run / "dataset").glob("*.h5")))


def test_one_shot(tmp_path):
    data = ran(tmp_path, "{kind: none}", 1)
    assert len(data) == 6
    assert np.isnan(data.columns["score"]).all()
    assert (data.columns["K_eV"] > 0).sum() in {2, 3, 4}
    assert set(data.columns["model"]) == {""}


@pytest.mark.parametrize(("energy_meV", "more"), [(1e-6, True), (1e9, False)])
def test_in_a_loop_the_model_of_the_round_before_judges(tmp_path, energy_meV, more):
    data = ran(tmp_path, f"{{kind: spread, energy_meV: {energy_meV}}}", 2)
    later = data.columns["model"] != ""
    assert (later.sum() > 0) == more
    assert np.isnan(data.columns["score"][~later]).all()
    assert (data.columns["score"][later] > 1).all()


def test_lammps_runs_the_potential_that_comes_out(tmp_path):
    snap = "{kind: snap, elements: [Al], twojmax: 4, cutoff_A: 4.5, members: 3, members_per_task: 1}"
    data = ran(tmp_path, "{kind: none}", 1, snap)
    model = load_model(tmp_path / "run" / "potential")
    copy = shutil.copytree(tmp_path / "run" / "potential" / "lammps", tmp_path / "copy")
    process = LammpsProcess([f"shell cd {copy}", "include in.potential"], 1)
    answers = list(process.answers(data.frames, np.ones(data.frames.n_atoms, np.int64), 60))
    process.close()
    assert not [a.problem for a in answers if a.problem]
    np.testing.assert_allclose([a.energy for a in answers], model.predict(data.frames).energy, rtol=1e-9)
