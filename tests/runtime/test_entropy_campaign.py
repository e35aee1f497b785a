"""Entropy as a one-shot set, and as the sampler of an active-learning loop."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from alflow.builders.random_cell import Part as RandomCell
from alflow.core.frames import Frames
from alflow.engines.lammps import LammpsProcess
from alflow.errors import DataError, InputError
from alflow.monitor.why import failures
from alflow.registry import load_model
from alflow.runtime import campaign_run
from alflow.runtime.runner import InlineRunner
from alflow.runtime.worker import execute
from alflow.store.convert import write_file
from alflow.store.dataset import Dataset
from alflow.store.shards import Shard, read_shard

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
    builder: {builder}
    sampler: {{kind: entropy, cutoff_A: 4.5, method: minimize, max_steps: 10, keep: {keep}}}
    potential: {potential}
    uncertainty: {uncertainty}
    selector: {{kind: everything}}
    labeler: {{kind: toy}}
    policy: {{kind: rounds, samples: 6, batch: 3, label_batch: 6}}
    until: {{max_rounds: {rounds}}}
"""


CELLS = "{kind: random_cell, species: {Al: 1.0}, edge_A: [5.0, 7.0], density_g_cm3: [1.8, 2.6], min_distance_A: 2.2}"


def ran(folder: Path, uncertainty: str, rounds: int, potential: str = "{kind: toy}", builder: str = CELLS) -> Dataset:
    (folder / "site.yaml").write_text(SITE)
    keep = "all" if uncertainty == "{kind: none}" else "unknown"
    text = WORKFLOW.format(keep=keep, uncertainty=uncertainty, rounds=rounds, potential=potential, builder=builder)
    (folder / "workflow.yaml").write_text(text)
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


def test_fits_weigh_the_groups_of_a_file(tmp_path):
    """Structures of a file keep their groups through sampling and labels; others belong to their stage."""
    start = random_cells(8)
    write_file(tmp_path / "start.extxyz", Shard(start, {"group": np.array(["a", "b", "", "a"] * 2)}))
    builder = "{kind: file, path: start.extxyz, shuffle: false}"
    snap = "{kind: snap, twojmax: 2, cutoff_A: 4.5, group_weights: {a: [1, 0, 0], set: 2.0}}"
    data = ran(tmp_path, "{kind: none}", 1, snap, builder)
    assert data.columns["group"].tolist() == ["a", "b", "set"] * 2  # two batches of three
    with pytest.raises(InputError, match=r"group_weights\.c"):
        ran(tmp_path, "{kind: none}", 1, "{kind: snap, group_weights: {c: 2.0}}", builder)


def test_a_campaign_in_which_nothing_stays_physical_says_so(tmp_path):
    dense = Frames.single([13, 13], [[0.0, 0.0, 0.0], [0.2, 0.2, 0.2]], np.eye(3) * 0.4)
    write_file(tmp_path / "dense.extxyz", Shard(Frames.concat([dense, dense])))
    with pytest.raises(DataError, match="no shards"):
        ran(tmp_path, "{kind: none}", 1, builder="{kind: file, path: dense.extxyz}")
    stories = failures(tmp_path / "run")
    assert [s.outcome for s in stories] == ["nothing came of it"] * 2
    assert "all 3 trajectories became unphysical: 3 x the cell has no volume" in stories[0].lines[0].words


def test_a_model_knows_elements_that_its_first_labels_lack(tmp_path):
    """One atom of copper in a hundred: the first set has none, what the model is to follow does."""
    builder = CELLS.replace("{Al: 1.0}", "{Al: [1.0, 1.0], Cu: [0.0, 0.05]}")
    snap = "{kind: snap, twojmax: 2, cutoff_A: 4.5, weights: {Al: 1.0, Cu: 0.9}}"
    ran(tmp_path, "{kind: none}", 2, snap, builder)
    model = load_model(tmp_path / "run" / "potential")
    copper = Frames.single([29, 13], [[0.0, 0.0, 0.0], [2.5, 0.0, 0.0]], np.eye(3) * 12)
    assert np.isfinite(model.predict(copper).energy).all()


def random_cells(count):
    part = RandomCell(species={"Al": 1.0}, edge_A=(5.0, 7.0), density_g_cm3=(1.8, 2.6), min_distance_A=2.2)
    return part.build(count, np.random.default_rng(0))


LOOP = """
alflow: 1
name: loop
seed: 5
stages:
  - name: loop
    builder:
      kind: random_cell
      species: {{Al: 1.0}}
      edge_A: [4.0, 7.0]
      density_g_cm3: [1.8, 2.6]
      min_distance_A: 2.2
      n_atoms: [2, 12]
    sampler: {{kind: entropy, cutoff_A: 4.5, method: minimize, max_steps: 10, keep: {keep}}}
    potential: {{kind: snap, elements: [Al], twojmax: 2, cutoff_A: 4.5, ridge: 1.0e-9}}
    uncertainty: {{kind: grade}}
    selector: {{kind: maxvol}}
    thresholds: {{select: 1.1, stop: 10}}
    labeler: {{kind: toy}}
    policy: {{{policy}}}
    until: {{{until}}}
"""
POLICIES = {
    "rounds": ("kind: rounds, samples: 12, batch: 6, initial: 6, label_batch: 6", "max_rounds: 3"),
    "stream": ("kind: stream, sampling: 2, batch: 6, initial: 6, label_batch: 3, fit_at: 6", "max_rounds: 2"),
}


def looped(folder: Path, policy: str, keep: str) -> list[Shard]:
    how, until = POLICIES[policy]
    folder.mkdir(exist_ok=True)
    (folder / "site.yaml").write_text(SITE)
    (folder / "workflow.yaml").write_text(LOOP.format(policy=how, until=until, keep=keep))
    run = campaign_run.prepare(folder / "workflow.yaml", folder / "site.yaml", folder / "run")
    campaign_run.resume(run, lambda _, root: InlineRunner(execute, str(root)))
    return [read_shard(path) for path in sorted((run / "dataset").glob("*.h5"))]


@pytest.mark.parametrize(("policy", "keep"), [("rounds", "unknown"), ("stream", "all")])
def test_maxvol_chooses_among_optima_that_the_model_of_a_first_fit_has_graded(tmp_path, policy, keep):
    shards = looped(tmp_path, policy, keep)
    assert len(shards) >= 3
    assert len(shards[0].frames) == 6
    assert "K_eV" not in shards[0].columns
    for shard in shards[1:]:
        assert np.isfinite(shard.columns["K_eV"]).all()
        assert (shard.columns["model"] != "").all()
        new = shard.columns["score"] > (1.1 if keep == "unknown" else 1.0)
        assert new.all() if keep == "unknown" else new.mean() > 0.5, "a swap may bring in what was inside before"


def test_rounds_of_a_loop_are_the_same_bit_by_bit(tmp_path):
    first, second = (looped(tmp_path / name, "rounds", "unknown") for name in "ab")
    assert [s.frames.ids() for s in first] == [s.frames.ids() for s in second]
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.columns["score"], other.columns["score"])


def test_a_selector_that_asks_a_model_wants_a_first_training_set(tmp_path):
    (tmp_path / "site.yaml").write_text(SITE)
    how = POLICIES["rounds"][0].replace("initial: 6, ", "")
    (tmp_path / "workflow.yaml").write_text(LOOP.format(policy=how, until="max_rounds: 3", keep="all"))
    with pytest.raises(InputError, match="'maxvol' asks a model, but nothing is labelled before"):
        campaign_run.prepare(tmp_path / "workflow.yaml", tmp_path / "site.yaml", tmp_path / "run")
    assert not (tmp_path / "run").exists()
