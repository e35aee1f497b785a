"""Whole campaigns of toy parts, in process: the same data however often and wherever they were interrupted."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from alflow.errors import InputError, JournalError, RunError
from alflow.runtime import campaign_run, layout, rundir
from alflow.runtime.journal import read_lines
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
name: toy
seed: 1
defaults:
  builder: {{kind: random_cell, species: {{Al: 1.0}}, edge_A: [6.0, 8.0], density_g_cm3: [1.8, 2.6]}}
  sampler: {{kind: toy}}
  potential: {{kind: toy}}
  uncertainty: {{kind: spread, energy_meV: 5.0}}
  selector: {{kind: everything}}
  labeler: {{kind: toy, {labeler}}}
stages:
  - name: melt
    policy: {policy}
    until: {until}
"""
ROUNDS = "{kind: rounds, samples: 4, batch: 2, initial: 6, label_batch: 2}"
CYCLES = "{kind: cycles, loops: 2, samples: 3, batch: 3, initial: 6, label_batch: 2}"
STREAM = "{kind: stream, sampling: 2, batch: 3, initial: 6, select_at: 2, fit_at: 5, label_batch: 2}"


def submitted(
    folder: Path, policy: str = ROUNDS, until: str = "{max_rounds: 2}", labeler: str = "sleep_s: 0.0"
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "site.yaml").write_text(SITE)
    (folder / "workflow.yaml").write_text(WORKFLOW.format(policy=policy, until=until, labeler=labeler))
    return campaign_run.prepare(folder / "workflow.yaml", folder / "site.yaml", folder / "run")


def inline(site, root):
    return InlineRunner(execute, str(root))


def dataset_digest(run: Path) -> str:
    shards = sorted((run / "dataset").glob("*.h5"))
    data = Dataset.open(shards)
    h = hashlib.sha256("".join(data.ids).encode())
    h.update(data.labels.energy.tobytes())
    h.update(data.labels.forces.tobytes())
    return h.hexdigest()


@pytest.mark.parametrize("policy", [ROUNDS, CYCLES, STREAM])
def test_a_campaign_runs_to_its_end(tmp_path, policy):
    run = submitted(tmp_path, policy)
    state = campaign_run.resume(run, inline)
    assert state.closed is not None
    assert not state.closed.failed
    assert state.archive[0]
    assert (run / "potential" / "model.json").is_file()
    assert run.stat().st_mode & 0o077 == 0
    # a run that is over is left as it is
    before = (run / layout.JOURNAL).read_bytes()
    assert campaign_run.resume(run, inline).closed == state.closed
    assert (run / layout.JOURNAL).read_bytes() == before


@pytest.mark.parametrize("wipe", [False, True])
@pytest.mark.parametrize("policy", [ROUNDS, CYCLES])
def test_cut_anywhere_the_campaign_ends_with_the_same_data(tmp_path, policy, wipe):
    run = submitted(tmp_path / "whole", policy)
    campaign_run.resume(run, inline)
    want = dataset_digest(run)
    lines = (run / layout.JOURNAL).read_bytes().splitlines(keepends=True)
    whole = tmp_path / "kept"
    shutil.copytree(run, whole, symlinks=True)
    for k in range(0, len(lines), max(1, len(lines) // 8)):
        for torn in (b"", lines[k][: len(lines[k]) // 2]):
            shutil.rmtree(run)
            shutil.copytree(whole, run, symlinks=True)
            (run / layout.JOURNAL).write_bytes(b"".join(lines[:k]) + torn)
            if wipe:  # what the journal does not know to be finished is lost as well
                _forget_unfinished(run)
            state = campaign_run.resume(run, inline)
            assert state.closed is not None
            assert not state.closed.failed
            assert dataset_digest(run) == want, f"cut after line {k}"


def _forget_unfinished(run: Path) -> None:
    done = set()
    for _, events in read_lines(run / layout.JOURNAL):
        done |= {e.task_id for e in events if type(e).__name__ == "Finished"}
    for folder in (run / "tasks").glob("*/*/*"):
        if folder.name not in done:
            shutil.rmtree(folder)


def test_no_label_is_bought_twice_when_a_coordinator_dies(tmp_path):
    ledger = tmp_path / "ledger.txt"
    run = submitted(tmp_path, labeler=f"ledger: {ledger}")

    class DiesAfter:
        def __init__(self, n):
            self.n = n

        def __call__(self, site, root):
            runner, me = inline(site, root), self

            class Runner(type(runner)):
                def completed(self, timeout_s):
                    me.n -= 1
                    if me.n < 0:  # after the work is done, before the coordinator hears of it
                        list(super().completed(timeout_s))
                        raise KeyboardInterrupt
                    yield from super().completed(timeout_s)

            runner.__class__ = Runner
            return runner

    deaths, state = 0, None
    while state is None:
        try:
            state = campaign_run.resume(run, DiesAfter(1))
        except KeyboardInterrupt:
            deaths += 1
    assert deaths >= 3
    assert not state.closed.failed
    bought = Counter(ledger.read_text().split())
    assert bought
    assert set(bought.values()) == {1}
    data = Dataset.open(sorted((run / "dataset").glob("*.h5")))
    assert set(data.ids) == set(bought)


def test_failed_labels_are_counted_and_do_not_stop_anything(tmp_path):
    run = submitted(tmp_path, labeler="fail_every: 3", until="{max_rounds: 3}")
    state = campaign_run.resume(run, inline)
    assert not state.closed.failed
    results = [json.loads(p.read_text()) for p in (run / "tasks").glob("0-label/*/*/result.json")]
    failures = [f for r in results for f in r["failures"]]
    assert failures
    assert all(f["cause"] == "other" and f["reason"].startswith("toy failure") for f in failures)
    assert set(state.quarantine) == {f["id"] for f in failures}


def test_a_worker_returns_a_finished_task_without_doing_it_again(tmp_path):
    ledger = tmp_path / "ledger.txt"
    run = submitted(tmp_path, labeler=f"ledger: {ledger}")
    campaign_run.resume(run, inline)
    before = ledger.read_text()
    for _, events in read_lines(run / layout.JOURNAL):
        for event in events:
            if type(event).__name__ == "Submitted" and event.task.verb == "label":
                task = {"id": event.task.id, "verb": "label", "args": event.task.args}
                again = execute(task, str(run))
                assert again == json.loads((run / layout.task_dir(event.task.id) / layout.RESULT).read_text())
    assert ledger.read_text() == before


def test_what_a_task_raises_is_data_with_a_log(tmp_path):
    run = submitted(tmp_path)
    broken = {"id": "0-label-000000", "verb": "label", "args": {"stage": 0, "frames": ["nowhere.h5", 0, 1]}}
    result = execute(broken, str(run))
    assert result["failure"] == "defect"
    assert "nowhere.h5" in result["detail"]
    assert "Traceback" in Path(result["log"]).read_text()


def test_provenance_travels_with_every_label(tmp_path):
    run = submitted(tmp_path)
    campaign_run.resume(run, inline)
    data = Dataset.open(sorted((run / "dataset").glob("*.h5")))
    assert {"origin", "label", "id", "score"} <= set(data.columns)
    assert tuple(data.columns["id"]) == data.ids
    for origin in data.columns["origin"]:
        task_id = str(origin).rpartition("/")[0]
        assert (run / layout.task_dir(task_id) / layout.FRAMES).exists()


def test_a_run_has_one_coordinator_at_a_time(tmp_path):
    run = submitted(tmp_path)
    with rundir.locked(run), pytest.raises(RunError, match="is being run by process"):
        campaign_run.resume(run, inline)
    assert not rundir.is_locked(run)


def test_a_run_directory_is_never_taken_twice(tmp_path):
    submitted(tmp_path)
    with pytest.raises(RunError, match="is a run already, of workflow 'toy'"):
        submitted(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("precious")
    with pytest.raises(RunError, match="not an empty folder"):
        campaign_run.prepare(tmp_path / "workflow.yaml", tmp_path / "site.yaml", other)
    assert [p.name for p in other.iterdir()] == ["thesis.tex"]


def test_bad_input_leaves_nothing_behind(tmp_path):
    (tmp_path / "site.yaml").write_text(SITE)
    text = WORKFLOW.format(policy=ROUNDS, until="{}", labeler="sleep: 0.0")
    (tmp_path / "workflow.yaml").write_text(text)
    with pytest.raises(InputError, match="sleep_s"):
        campaign_run.prepare(tmp_path / "workflow.yaml", tmp_path / "site.yaml", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_changed_workflow_is_not_resumed(tmp_path):
    run = submitted(tmp_path)
    campaign_run.resume(run, inline)
    path = run / layout.WORKFLOW
    path.write_text(path.read_text().replace("seed: 1", "seed: 2"))
    with pytest.raises(JournalError, match="another campaign"):
        campaign_run.resume(run, inline)


def test_stop_is_heard_and_leaves_a_resumable_run(tmp_path):
    run = submitted(tmp_path)

    def asked(site, root):
        (run / layout.STOP).touch()
        return inline(site, root)

    assert campaign_run.resume(run, asked).closed is None
    assert not (run / layout.STOP).exists()
    assert campaign_run.resume(run, inline).closed is not None


def test_stop_says_when_there_is_nothing_to_stop(tmp_path):
    with pytest.raises(RunError, match="no run directory"):
        campaign_run.stop(tmp_path)
    with pytest.raises(RunError, match="is not running"):
        campaign_run.stop(submitted(tmp_path))


def test_a_truncated_result_is_none_and_the_task_is_done_again(tmp_path):
    run = submitted(tmp_path)
    campaign_run.resume(run, inline)
    task_id = "0-build-000000"
    path = run / layout.task_dir(task_id) / layout.RESULT
    whole = json.loads(path.read_text())
    path.write_text(path.read_text()[:7])
    again = execute(
        {"id": task_id, "verb": "build", "args": {"stage": 0, "loop": 0, "count": 6, "source": None}}, str(run)
    )
    assert {k: again[k] for k in ("path", "n")} == {k: whole[k] for k in ("path", "n")}
    assert json.loads(path.read_text()) == again


def test_events_that_do_not_follow_are_one_clear_error(tmp_path):
    run = submitted(tmp_path)
    campaign_run.resume(run, inline)
    with (run / layout.JOURNAL).open("a") as f:
        f.write('{"t": 1, "events": [{"event": "Arrived", "loop": 7}]}\n')
    with pytest.raises(JournalError, match="Arrived does not follow"):
        campaign_run.resume(run, inline)


def test_results_without_their_journal_are_not_taken_for_a_new_campaigns(tmp_path):
    run = submitted(tmp_path)
    campaign_run.resume(run, inline)
    (run / layout.JOURNAL).unlink()
    with pytest.raises(JournalError, match="is gone"):
        campaign_run.resume(run, inline)
