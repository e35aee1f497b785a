"""What is freed is missed by nobody: resume, why, report and dataset go on as if nothing had been."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from alflow.campaign.model import Finished
from alflow.errors import RunError
from alflow.monitor import why
from alflow.monitor.report import write_report
from alflow.runtime import campaign_run, layout, rundir
from alflow.runtime.clean import clean
from alflow.runtime.journal import read_lines
from alflow.runtime.runner import InlineRunner
from alflow.runtime.worker import execute
from alflow.store.dataset import Dataset

SITE = "site: here\nlanes:\n  sample: {scheduler: local}\nshares: {label: sample, fit: sample}\nmonitoring: false\n"
WORKFLOW = """
alflow: 1
name: toy
seed: 1
stages:
  - name: melt
    builder: {kind: random_cell, species: {Al: 1.0}, edge_A: [6.0, 7.0], density_g_cm3: [1.8, 2.6]}
    sampler: {kind: toy}
    potential: {kind: toy, members: 2, members_per_task: 1}
    uncertainty: {kind: spread, energy_meV: 1.0}
    selector: {kind: everything}
    labeler: {kind: toy, fail_every: 4, slow_every: 5, slow_s: 0.05}
    thresholds: {select: 0.01, stop: 0.02}
    patience: {factor: 1, least_s: 0.01, after: 1, tries: 2}
    policy: {kind: rounds, samples: 4, batch: 2, initial: 8, label_batch: 4}
    until: {max_rounds: 4}
"""


class Stopping(InlineRunner):
    def __init__(self, root, n):
        super().__init__(execute, str(root))
        self.left, self.dir = n, Path(root)

    def completed(self, timeout_s):
        self.left -= 1
        if self.left == 0:
            (self.dir / layout.STOP).touch()
        yield from super().completed(timeout_s)


def resumed(run, n=-1):
    return campaign_run.resume(run, lambda _site, root: Stopping(root, n))


@pytest.fixture
def run(tmp_path):
    (tmp_path / "site.yaml").write_text(SITE)
    (tmp_path / "workflow.yaml").write_text(WORKFLOW)
    return campaign_run.prepare(tmp_path / "workflow.yaml", tmp_path / "site.yaml", tmp_path / "run")


def files(run):
    found = (p for p in run.rglob("*") if p.is_file() and not p.is_symlink())
    return {p.relative_to(run): p.stat().st_size for p in found if p != run / layout.LOCK}


def stories(run):
    """Everything `alflow why` can tell, logs included, which must be there."""
    told = why.failures(run)
    for _, events in read_lines(run / layout.JOURNAL):
        for event in events:
            if isinstance(event, Finished):
                told.append(why.why(run, event.task_id))
    ids = Dataset.open(sorted((run / "dataset").glob("*.h5"))).ids
    told += [why.why(run, name) for name in ids]
    for story in told:
        for line in story.lines:
            if line.words.startswith("log: "):
                assert Path(line.words.removeprefix("log: ")).exists(), line.words
    return [why.text(story) for story in told]


def test_a_cleaned_run_tells_the_same_and_says_what_it_freed(run):
    state = resumed(run)
    assert not state.closed.failed
    assert {e["cause"] for e in state.quarantine.values()} >= {"other"}
    before, told = files(run), stories(run)
    planned = clean(run, dry_run=True)
    assert files(run) == before
    freed = clean(run)
    after = files(run)
    assert freed == planned
    assert set(after) < set(before)
    assert sum(f.bytes for f in freed.values()) == sum(before.values()) - sum(after.values())
    assert sum(f.files for f in freed.values()) == len(before) - len(after)
    assert {"work files of labels", "checkpoints and members of fits"} <= set(freed)
    assert stories(run) == told
    write_report(run)
    assert (run / "potential" / "model.json").is_file()
    assert clean(run) == {}


@pytest.mark.parametrize("n", range(1, 40, 7))
def test_a_campaign_that_is_cleaned_at_any_time_ends_with_the_same_data(run, tmp_path, n):
    kept = tmp_path / "kept"
    shutil.copytree(run, kept)
    resumed(run)
    want = Dataset.open(sorted((run / "dataset").glob("*.h5"))).ids
    resumed(kept, n)
    clean(kept, models=True)
    state = resumed(kept)
    assert not state.closed.failed
    assert Dataset.open(sorted((kept / "dataset").glob("*.h5"))).ids == want


def test_models_go_only_when_asked_and_never_the_newest(run):
    state = resumed(run)
    models = sorted(p.name for p in (run / "models").iterdir())
    assert len(models) > 1
    clean(run)
    assert sorted(p.name for p in (run / "models").iterdir()) == models
    freed = clean(run, models=True)
    assert freed["superseded model versions"].files > 0
    assert [p.name for p in (run / "models").iterdir()] == [Path(state.latest).parent.name]


def test_a_run_at_work_is_left_alone(run):
    resumed(run, 5)
    before = files(run)
    with rundir.locked(run), pytest.raises(RunError, match="is being run"):
        clean(run)
    assert files(run) == before
