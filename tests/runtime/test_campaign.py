"""Whole campaigns of toy parts, in process: the same data however often and wherever they were interrupted."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import write

from alflow.campaign.model import Arrived, Submitted
from alflow.errors import InputError, JournalError, RunError
from alflow.monitor.history import History, read_header
from alflow.runtime import campaign_run, layout, rundir
from alflow.runtime.journal import Journal, read_lines
from alflow.runtime.runner import InlineRunner
from alflow.runtime.worker import execute, finished
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
MANY = "{kind: rounds, samples: 12, batch: 6, initial: 12, label_batch: 4}"
PATIENT = "patience: {factor: 3, least_s: 0.3, after: 3, tries: 2}\n    thresholds: {select: 0.01, stop: 0.02}"
STREAM = "{kind: stream, sampling: 2, batch: 3, initial: 6, select_at: 2, fit_at: 5, label_batch: 2}"


def submitted(
    folder: Path,
    policy: str = ROUNDS,
    until: str = "{max_rounds: 2}",
    labeler: str = "sleep_s: 0.0",
    more: str = "",
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "site.yaml").write_text(SITE)
    text = WORKFLOW.format(policy=policy, until=until, labeler=labeler)
    (folder / "workflow.yaml").write_text(text + (f"    {more}\n" if more else ""))
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
    for k in range(1, len(lines), max(1, len(lines) // 8)):
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
    journal = Journal(run / layout.JOURNAL, read_header(run), 0.0)
    journal.append([Arrived(7)], 1.0)
    journal.close()
    before = tree(run)
    with pytest.raises(JournalError, match=r"line \d+: Arrived does not follow"):
        campaign_run.resume(run, inline)
    assert tree(run) == before


@pytest.mark.parametrize("name", [layout.WORKFLOW, layout.SITE])
def test_a_run_that_lost_a_file_is_told_which(tmp_path, name):
    run = submitted(tmp_path)
    campaign_run.resume(run, inline)
    (run / name).unlink()
    before = tree(run)
    with pytest.raises(RunError, match=f"{name}: is gone"):
        campaign_run.resume(run, inline)
    assert tree(run) == before


def test_a_finished_run_whose_dataset_is_damaged_is_no_finished_run(tmp_path):
    run = submitted(tmp_path)
    campaign_run.resume(run, inline)
    shard = next((run / "dataset").glob("*.h5"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    before = tree(run)
    with pytest.raises(RunError, match="was changed after it was sealed"):
        campaign_run.resume(run, inline)
    assert tree(run) == before


def tree(folder):
    """Every file of a folder and what is in it."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_results_without_their_journal_are_not_taken_for_a_new_campaigns(tmp_path):
    run = submitted(tmp_path)
    campaign_run.resume(run, inline)
    (run / layout.JOURNAL).unlink()
    with pytest.raises(JournalError, match="is gone"):
        campaign_run.resume(run, inline)


# ---- labels that fail ------------------------------------------------------------------------------------------------


def verbs_of(run):
    return [e.task for _, events in read_lines(run / layout.JOURNAL) for e in events if isinstance(e, Submitted)]


def test_a_slow_label_is_ended_and_bought_at_the_second_try(tmp_path):
    slow = "sleep_s: 0.02, slow_every: 3, slow_s: 0.7"
    run = submitted(tmp_path, policy=MANY, until="{max_rounds: 2}", labeler=slow, more=PATIENT)
    state = campaign_run.resume(run, inline)
    assert not state.closed.failed
    again = [t for t in verbs_of(run) if t.verb == "relabel"]
    assert again, "no label was slow"
    results = [finished(run, t.id) for t in again]
    assert any(r and r["n"] for r in results)
    assert all(t.args["level"] == 1 and t.args["pace"][1] == pytest.approx(1.2) for t in again)
    home = run / layout.task_dir(again[0].args["home"])
    assert list(home.glob("label-*.json")), "the second try works where the first one did"


def test_what_stays_too_slow_is_given_up_with_its_reason(tmp_path):
    hopeless = "sleep_s: 0.02, slow_every: 3, slow_s: 1.5"
    run = submitted(tmp_path, policy=MANY, until="{max_rounds: 2}", labeler=hopeless, more=PATIENT)
    state = campaign_run.resume(run, inline)
    assert not state.closed.failed
    causes = Counter(entry["cause"] for entry in state.quarantine.values())
    assert causes["time"] > 0
    assert "ran out of time after 1.2 s" in next(e["reason"] for e in state.quarantine.values() if e["cause"] == "time")


def test_a_structure_that_failed_is_not_tried_again_even_by_another_coordinator(tmp_path):
    frames = tmp_path / "frames.extxyz"
    cell = Atoms("Al2", [[0, 0, 0], [0, 0, 2.6]], cell=[5, 5, 5], pbc=True)
    others = [cell.copy() for _ in range(8)]
    for i, atoms in enumerate(others):
        atoms.positions[1, 0] += 0.1 * i
    write(frames, others)
    ledger = tmp_path / "ledger.txt"
    builder = f"builder: {{kind: file, path: {frames}}}"
    labeler = f"fail_every: 3, ledger: {ledger}"
    run = submitted(tmp_path, labeler=labeler, policy=ROUNDS.replace("initial: 6", "initial: 8"), more=builder)
    stop = iter([False] * 8)
    campaign_run.resume(run, lambda site, root: Stopping(execute, str(root), stop))
    (run / layout.QUARANTINE).unlink(missing_ok=True)  # made anew from the journal
    state = campaign_run.resume(run, inline)
    assert not state.closed.failed
    failed = [e for e in state.quarantine.values() if e["cause"] == "other"]
    asked = Counter(ledger.read_text().split())
    assert failed
    assert all(asked[e["id"]] == 1 for e in failed)
    lines = [json.loads(line) for line in (run / layout.QUARANTINE).read_text().splitlines()]
    assert {e["id"] for e in lines} == set(state.quarantine)


class Stopping(InlineRunner):
    """Asks the coordinator to stop after some tasks."""

    def __init__(self, execute, root, steps):
        super().__init__(execute, root)
        self._dir, self._steps = Path(root), steps

    def completed(self, timeout_s):
        if next(self._steps, None) is None:
            (self._dir / layout.STOP).touch()
        return super().completed(timeout_s)


def test_gates_before_and_after(tmp_path):
    gates = "gates: {max_atoms: 20, max_force_eV_A: 14.0}"
    run = submitted(tmp_path, until="{max_rounds: 1}", more=gates)
    state = campaign_run.resume(run, inline)
    assert not state.closed.failed
    causes = {e["cause"] for e in state.quarantine.values()}
    assert causes <= {"structure", "value"}
    assert causes, "nothing met a gate"
    data = Dataset.open(sorted((run / "dataset").glob("*.h5")))
    assert data.frames.sizes.max() <= 20
    assert np.linalg.norm(data.labels.forces, axis=1).max() <= 14.0


def test_another_theory_is_kept_apart_unless_the_workflow_maps_it(tmp_path):
    two = tmp_path / "two"
    apart = submitted(two, until="{max_rounds: 1}", labeler="other_every: 3")
    state = campaign_run.resume(apart, inline)
    results = [finished(apart, t.id) for t in verbs_of(apart) if t.verb == "label"]
    others = {a["theory"] for r in results for a in r["aside"] if a["n"]}
    assert len(others) == 1
    kept = sum(a["n"] for r in results for a in r["aside"])
    assert sum(b.n for b in state.archive[0]) == sum(r["n"] for r in results)
    assert kept > 0

    (other,) = others
    joined = submitted(
        tmp_path / "one", until="{max_rounds: 1}", labeler="other_every: 3", more=f"same_theory: ['{other}']"
    )
    campaign_run.resume(joined, inline)
    data = Dataset.open(sorted((joined / "dataset").glob("*.h5")))
    assert set(data.columns["theory"]) == {other, results[0]["theory"]}
    assert data.theory.fingerprint == results[0]["theory"]


@pytest.mark.parametrize("verb", ["build", "sample", "label", "merge", "fit", "calibrate"])
def test_a_campaign_that_a_defect_broke_goes_on_after_the_fix(tmp_path, verb):
    want = submitted(tmp_path / "whole")
    campaign_run.resume(want, inline)
    run = submitted(tmp_path / "broken")

    def defective(task, root):
        return {"failure": "defect", "detail": "a bug", "log": "x.log"} if task["verb"] == verb else execute(task, root)

    state = campaign_run.resume(run, lambda site, root: InlineRunner(defective, str(root)))
    assert state.closed.failed
    assert "a bug" in state.closed.reason
    history = History.read(run)
    assert [(f.kind, f.retried) for f in history.failures] == [("defect", False)]
    state = campaign_run.resume(run, inline)
    assert not state.closed.failed
    assert dataset_digest(run) == dataset_digest(want)
    assert History.read(run).closed == state.closed
