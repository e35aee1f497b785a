import json

import pytest

from alflow.campaign.model import (
    Cancelled,
    Closed,
    Ending,
    Failed,
    FailureKind,
    Finished,
    Retried,
    StageDone,
    Submitted,
    Task,
    Verb,
)
from alflow.errors import JournalError, RunError
from alflow.monitor.history import History, Unlabelled, in_milli
from alflow.runtime import layout


def test_a_real_run_reads_as_what_was_heard(finished_run):
    run, heard = finished_run
    history = History.read(run)
    live = History()
    for t, events in heard:
        live.add(t, events)
    assert json.dumps([str(t) for t in history.tasks.values()]).count("open") == 0
    assert list(live.tasks) == list(history.tasks)
    assert [m.n for m in live.models] == [m.n for m in history.models]
    assert live.labels[-1][1:] == history.labels[-1][1:]


def test_series_of_a_real_run_fit_its_results(finished_run):
    run, _ = finished_run
    history = History.read(run)
    results = [json.loads(p.read_text()) for p in run.glob("tasks/0-label/*/*/result.json")]
    _, bought, failed = history.labels[-1]
    assert bought == sum(r["n"] for r in results) > 10
    assert failed == sum(len(r["failures"]) for r in results) > 0
    assert sum(f.frames for f in history.label_failures.values()) == failed
    models = history.models
    assert models[-1].n == bought
    assert models[-1].members == 4
    assert 0 < models[-1].errors["force_rmse_meV_A"] < 1000
    assert len({m.path for m in models}) == len(models) > 1
    waves = history.waves
    assert sum(len(w.lengths) for w in waves) == sum(sum(w.stops.values()) for w in waves)
    assert {w.model for w in waves} <= {m.path for m in models}
    assert {w.unit for w in waves} == {"ps"}
    assert history.evaluations[0]["fresh"]["n_frames"] > 0
    assert history.stage_names == ("main",)
    assert history.closed is not None
    assert not history.closed.failed


def test_failures_retries_and_cancellations_are_kept_apart():
    h = History()
    tasks = [Task(f"0-label-{i:06d}", Verb.LABEL, {"stage": 0, "frames": ["x.h5", 0, 5]}) for i in range(4)]
    h.add(100.0, [Submitted(t) for t in tasks])
    h.add(101.0, [Retried(tasks[0].id, FailureKind.INFRASTRUCTURE, "lost worker", "/log/a")])
    failure = {"id": "abc", "cause": "unconverged", "reason": "no convergence", "log": "/log/s"}
    h.add(110.0, [Finished(tasks[0].id, {"n": 4, "failures": [failure]})])
    h.add(111.0, [Failed(tasks[1].id, FailureKind.RESOURCE, "out of memory", "/log/b")])
    h.add(112.0, [Cancelled(tasks[2].id, "goal reached")])
    assert h.counts["label"] == {"finished": 1, "failed": 1, "cancelled": 1, "open": 1}
    assert h.labels == [(110.0, 4, 1), (112.0, 4, 6)]  # the stage did without what was cancelled
    assert h.waiting == 5  # the frames of the second are tried one by one
    single = Task("0-relabel-000000", Verb.RELABEL, {"stage": 0, "frames": ["x.h5", 0, 1], "home": tasks[1].id})
    h.add(113.0, [Submitted(single)])
    h.add(114.0, [Failed(single.id, FailureKind.RESOURCE, "out of memory", "/log/b")])
    h.add(115.0, [Ending("max_labels")])
    assert h.labels == [(110.0, 4, 1), (112.0, 4, 6), (114.0, 4, 7), (115.0, 4, 11)]
    assert h.label_failures == {
        "unconverged": Unlabelled(1, "no convergence", "/log/s", "abc"),
        "task failed (resource)": Unlabelled(1, "out of memory", "/log/b", single.id),
        "time or memory": Unlabelled(9, "given up: the stage could do without", "", ""),
    }
    told = [(tasks[0].id, True), (tasks[1].id, False), (single.id, False)]
    assert [(f.task_id, f.retried) for f in h.failures] == told
    assert (h.started, h.last) == (100.0, 115.0)


def test_stages_and_endings():
    h = History(header={"stages": ["one", "two"]})
    h.add(1.0, [Ending("max_labels")])
    assert (h.stage, h.ending) == (0, "max_labels")
    h.add(2.0, [StageDone(0, "max_labels")])
    assert (h.stage, h.ending) == (1, "")
    h.add(3.0, [StageDone(1, "no candidates"), Closed("all stages are done")])
    assert h.stage == 1
    assert h.stages_done[1] == (3.0, "no candidates")


def test_missing_keys_are_no_error():
    h = History()
    for verb in Verb:
        h.add(1.0, [Submitted(Task(f"0-{verb}-000000", verb, {}))])
        h.add(2.0, [Finished(f"0-{verb}-000000", {})])
    assert h.labels == [(2.0, 0, 0)]  # label and relabel, at the same time
    assert h.models[0].errors == {}
    assert h.waves[0].lengths == ()
    assert h.waves[0].median is None
    assert h.label_failures == {}


def test_units_are_made_alike():
    assert in_milli({"force_rmse_eV_A": 0.05, "energy_rmse_meV_atom": 3.0, "words": "x"}) == {
        "force_rmse_meV_A": 50.0,
        "energy_rmse_meV_atom": 3.0,
    }


def test_a_run_that_has_not_begun_has_an_empty_history(tmp_path):
    (tmp_path / layout.WORKFLOW).write_text("name: x\n")
    assert History.read(tmp_path).tasks == {}


def test_no_run_and_a_damaged_one_are_said(tmp_path):
    with pytest.raises(RunError, match="is no run directory"):
        History.read(tmp_path)
    (tmp_path / layout.JOURNAL).write_text('{"schema": 1}\n{"t": 1, "events": [{"event": "Nonsense"}]}\n')
    with pytest.raises(JournalError, match="line 2"):
        History.read(tmp_path)


def test_without_its_label_tasks_it_says_the_same(finished_run):
    run, _ = finished_run
    whole, lean, heard = History.read(run), History.read(run, whole=False), []
    History.read(run, also=lambda t, events: heard.append((t, events)))
    assert {t.verb for t in lean.tasks.values()} == {t.verb for t in whole.tasks.values()} - {"label"}
    for name in ("counts", "labels", "models", "waves", "label_failures", "first_label", "repeated", "closed"):
        assert getattr(lean, name) == getattr(whole, name)
    assert sum(len(events) for _, events in heard) > len(heard) > 10
