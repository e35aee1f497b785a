"""What the coordinator writes down, when, and how it ends when the disk does."""

from __future__ import annotations

import errno
import json
import os
import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from alflow.campaign.model import Began, Failed, FailureKind, Finished, Resources, Retried, Submitted, Verb
from alflow.campaign.policy import PAUSES_S, Plan, Rounds, Until
from alflow.errors import InfrastructureError, RunError
from alflow.runtime import campaign_run, journal, layout
from alflow.runtime.coordinator import Coordinator
from alflow.runtime.journal import Journal, read_lines
from alflow.runtime.runner import Capacity, InlineRunner, Report
from alflow.runtime.worker import execute
from alflow.store.dataset import Dataset

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
    thresholds: {select: 0.01, stop: 0.02}
    policy: {kind: rounds, samples: 2, batch: 2, initial: 6, label_batch: 1}
    until: {max_rounds: 2}
"""
PLAN = Plan(policy=Rounds(samples=2, initial=4), until=Until(max_rounds=1))
HEADER = {"name": "x", "workflow": "y", "seed": 1}


@pytest.fixture
def run(tmp_path):
    (tmp_path / "site.yaml").write_text(SITE)
    (tmp_path / "workflow.yaml").write_text(WORKFLOW)
    return campaign_run.prepare(tmp_path / "workflow.yaml", tmp_path / "site.yaml", tmp_path / "run")


def inline(_site, root):
    return InlineRunner(execute, str(root))


def ids(run):
    return Dataset.open(sorted((run / "dataset").glob("*.h5"))).ids


class AllAtOnce(InlineRunner):
    """Does all that it was given before it reports."""

    def completed(self, timeout_s):
        for _ in range(len(self._waiting)):
            yield from super().completed(timeout_s)


def test_what_ends_together_is_one_line_with_all_that_follows(run):
    campaign_run.resume(run, lambda _site, root: AllAtOnce(execute, str(root)))
    lines = [events for _, events in read_lines(run / layout.JOURNAL)]
    labelled = [e for e in lines if sum(isinstance(x, Finished) and "label" in x.task_id for x in e) > 1]
    assert labelled
    # the decision that the last label leads to is in the line that tells of it
    assert any(isinstance(e[-1], Submitted) and e[-1].task.verb is Verb.MERGE for e in labelled)
    assert len(lines) < sum(map(len, lines)) / 2


class Scripted:
    """A runner in virtual time: tasks fail as told, and what it holds changes as told."""

    def __init__(self, fails, holds=()):
        self.now, self.fails, self.holds, self.given, self.ready = 0.0, dict(fails), list(holds), [], []

    def submit(self, task):
        self.given.append((self.now, task["id"]))
        kind = self.fails.get(task["id"], [None]).pop(0) if self.fails.get(task["id"]) else None
        self.ready.append(Report(task["id"], {"path": task["id"], "n": 0}, None) if kind is None else None)
        if kind is not None:
            self.ready[-1] = Report(task["id"], failure=kind, detail="told to")

    def completed(self, timeout_s):
        if not self.ready:
            self.now += max(timeout_s, 1e-3)
        ready, self.ready = self.ready, []
        yield from ready

    def capacity(self):
        return self.holds.pop(0) if len(self.holds) > 1 else (self.holds or [{}])[0]

    def close(self, *, now=False):
        pass


def driven(tmp_path, runner, stop):
    book = Journal(tmp_path / layout.JOURNAL, HEADER, 0.0)
    coordinator = Coordinator([PLAN], book, runner, None, clock=lambda: runner.now, lanes={"build": "cpu"})
    coordinator.drive(stop)
    book.close()
    return list(book.events)


def test_a_task_that_a_machine_failed_is_held_back_ever_longer(tmp_path):
    infra = FailureKind.INFRASTRUCTURE
    runner = Scripted({"0-build-000000": [infra] * 3})
    events = driven(tmp_path, runner, lambda: len(runner.given) == 4)
    times = [t for t, _ in runner.given]
    pauses = [b - a for a, b in pairwise(times)]
    assert pauses == pytest.approx(PAUSES_S[infra][:3])
    assert sorted(pauses) == pauses
    assert sum(isinstance(e, Retried) for e in events) == 3


def test_what_is_too_small_is_given_out_again_at_once(tmp_path):
    runner = Scripted({"0-build-000000": [FailureKind.RESOURCE] * 2})
    driven(tmp_path, runner, lambda: len(runner.given) == 3)
    assert [t for t, _ in runner.given] == [0.0] * 3


def test_what_is_held_is_written_down_when_it_changes(tmp_path):
    one, two = Capacity(1, 4, 2), Capacity(2, 8, 0, "invalid account")
    runner = Scripted(
        {"0-build-000000": [FailureKind.INFRASTRUCTURE] * 4}, [{}, {"cpu": one}, {"cpu": one}, {"cpu": two}]
    )
    events = driven(tmp_path, runner, lambda: runner.now > 20)
    assert events[0] == Began({"build": "cpu"}, ["rounds"])
    assert [e.lanes["cpu"] for e in events if isinstance(e, Resources)] == [
        {"nodes": 1, "workers": 4, "pending": 2},
        {"nodes": 2, "workers": 8, "pending": 0, "trouble": "invalid account"},
        {"nodes": 0, "workers": 0, "pending": 0},  # given back at the end
    ]


def test_a_try_that_failed_says_when_it_began(run):
    class Broken(InlineRunner):
        def submit(self, task):
            super().submit(task | {"args": task["args"] | {"frames": ["no", 0, 1]}} if "label" in task["id"] else task)

    campaign_run.resume(run, lambda _site, root: Broken(execute, str(root)))
    failures = [e for _, events in read_lines(run / layout.JOURNAL) for e in events if type(e).__name__ == "Broken"]
    assert failures
    assert all(e.started > 1.6e9 for e in failures)
    assert not [e for _, events in read_lines(run / layout.JOURNAL) for e in events if isinstance(e, Failed)]


@pytest.mark.parametrize("after", [1, 2, 3, 7])
def test_a_full_disk_ends_it_in_words_and_it_goes_on_where_it_was(run, tmp_path, monkeypatch, after):
    kept = tmp_path / "kept"
    shutil.copytree(run, kept)
    campaign_run.resume(run, inline)
    syncs = iter(range(10**6))

    def full(handle):
        if next(syncs) >= after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.fsync(handle)

    class System:
        """The journal's view of the system, with a disk that fills up."""

        fsync = staticmethod(full)

        def __getattr__(self, name):
            return getattr(os, name)

    with monkeypatch.context() as patch:
        patch.setattr(journal, "os", System())
        with pytest.raises(InfrastructureError, match=r"stopped where it was: .*No space left.*alflow resume"):
            campaign_run.resume(kept, inline)
    state = campaign_run.resume(kept, inline)
    assert not state.closed.failed
    assert ids(kept) == ids(run)


def test_a_damaged_dataset_is_not_gone_on_with(run):
    stop = iter(range(100))

    def until_sealed(_site, root):
        class Stopping(InlineRunner):
            def completed(self, timeout_s):
                if list(Path(root).glob("dataset/*.h5")) and next(stop) > 2:
                    (Path(root) / layout.STOP).touch()
                yield from super().completed(timeout_s)

        return Stopping(execute, str(root))

    assert campaign_run.resume(run, until_sealed).closed is None
    shard = next(iter((run / "dataset").glob("*.h5")))
    whole = shard.read_bytes()
    before = (run / layout.JOURNAL).read_bytes()
    shard.write_bytes(whole[:-1] + b"?")
    with pytest.raises(RunError, match=r"dataset/.* was changed after it was sealed") as told:
        campaign_run.resume(run, inline)
    assert "nothing was started or changed" in told.value.hint
    shard.unlink()
    with pytest.raises(RunError, match="is gone"):
        campaign_run.resume(run, inline)
    assert (run / layout.JOURNAL).read_bytes() == before
    shard.write_bytes(whole)
    assert not campaign_run.resume(run, inline).closed.failed


def test_a_label_that_changed_on_disk_is_not_merged(run):
    campaign_run.resume(run, inline)
    merge = next(
        e.task
        for _, events in read_lines(run / layout.JOURNAL)
        for e in events
        if isinstance(e, Submitted) and e.task.verb is Verb.MERGE
    )
    path = run / merge.args["labelled"][0][0]
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    (run / layout.task_dir(merge.id) / layout.RESULT).unlink()
    told = execute({"id": merge.id, "verb": "merge", "args": merge.args}, str(run))
    assert told["failure"] == "defect"
    assert "was changed after it was sealed" in told["detail"]


def test_a_journal_of_a_newer_alflow_is_left_alone(run):
    (run / layout.JOURNAL).write_text(json.dumps({"schema": 99}) + "\n")
    with pytest.raises(Exception, match="a newer alflow made it: upgrade alflow"):
        campaign_run.resume(run, inline)
    assert (run / layout.JOURNAL).read_text() == json.dumps({"schema": 99}) + "\n"


def test_a_run_directory_that_cannot_be_written_is_told_in_words(run):
    (run / layout.LOCK).unlink()
    (run / layout.LOCK).mkdir()  # root, whom no permission stops, cannot write that either
    with pytest.raises(InfrastructureError, match=r"cannot be written: .*; nothing was started"):
        campaign_run.resume(run, inline)
    assert not (run / layout.JOURNAL).exists()
