import io
import json
import shutil

import pytest
from rich.console import Console

from alflow.campaign.model import Amended, Closed, Failed, FailureKind, Finished, Resources, Submitted, Task, Verb
from alflow.monitor.history import History, read_header
from alflow.monitor.status import duration, label_target, median_length, render, short, status, summary
from alflow.runtime import layout, rundir
from alflow.runtime.journal import Journal


def text_of(renderable):
    out = io.StringIO()
    Console(file=out, width=100).print(renderable)
    return out.getvalue()


def test_a_finished_run(finished_run):
    run, _ = finished_run
    s = status(run)
    assert (s.state, s.why, s.stage, s.labels_target) == ("finished", "all stages are done", "main", 60)
    assert s.labels_bought + s.labels_failed > 10
    assert s.tasks["evaluate"] == {"finished": 1}
    assert s.models == len(list((run / "models").iterdir()))
    assert (run / s.model).is_file()
    words = text_of(render(s))
    for part in ("toy-disorder", "finished", f"{s.labels_bought} of at most 60", "meV/atom", "calibrate"):
        assert part in words
    json.dumps(s.to_json(), allow_nan=False)


def label(h, i, submitted, ended, n=2):
    task = Task(f"0-label-{i:06d}", Verb.LABEL, {"stage": 0, "frames": ["x", 0, n]})
    h.add(submitted, [Submitted(task)])
    h.add(ended, [Finished(task.id, {"n": n, "failed": 0})])


def test_rate_is_of_the_last_hour(tmp_path):
    h = History()
    label(h, 0, 1.0, 600.0, n=50)
    for i in range(1, 4):
        label(h, i, 600.0 + i, 9000.0 + 100 * i, n=10)
    s = summary(h, tmp_path, running=True, now=10_000.0)
    assert s.labels_per_hour == pytest.approx(30)  # the 50 are more than an hour old
    assert s.elapsed_s == 9_999.0
    assert summary(History(), tmp_path, running=False, now=5.0).labels_per_hour is None


def test_states(tmp_path):
    h = History()
    label(h, 0, 1.0, 2.0)
    assert summary(h, tmp_path, running=True, now=3.0).state == "running"
    assert summary(h, tmp_path, running=False, now=99.0).state == "stopped"
    assert summary(h, tmp_path, running=False, now=99.0).elapsed_s == 1.0
    h.add(3.0, [Failed("0-label-000000", FailureKind.DEFECT, "bug"), Closed("a defect", failed=True)])
    assert summary(h, tmp_path, running=False, now=99.0).state == "failed"


def test_state_follows_the_lock(tmp_path):
    (tmp_path / layout.WORKFLOW).write_text("name: x\n")
    assert status(tmp_path).state == "stopped"
    with rundir.locked(tmp_path):
        assert status(tmp_path).state == "running"


def test_what_was_amended_and_what_is_held_are_told(finished_run, tmp_path):
    run, _ = finished_run
    shutil.copytree(run, tmp_path / "run", symlinks=True)
    journal = tmp_path / "run" / layout.JOURNAL
    lanes = {"sample": {"nodes": 2, "workers": 4, "pending": 1, "trouble": "invalid account"}}
    t = json.loads(journal.read_text().splitlines()[-1])["t"]
    more = Journal(journal, read_header(tmp_path / "run"), t)
    more.append([Amended(0, {"until.max_labels": "70"})], t)
    more.append([Resources(lanes)], t)
    more.append([Amended(0, {"thresholds.stop": "0.5"})], t + 3600)
    more.close()
    s = status(tmp_path / "run")
    assert s.labels_target == 70
    assert s.amended == {"main.until.max_labels": "70", "main.thresholds.stop": "0.5"}
    assert [(b.lane, b.node_h) for b in s.ledger] == [("sample", pytest.approx(2))]
    words = text_of(render(s))
    for part in ("main.until.max_labels = 70", "no work", "straggler", "100 %"):
        assert part in words
    json.dumps(s.to_json(), allow_nan=False)
    with rundir.locked(tmp_path / "run"):
        assert "sample: invalid account" in text_of(render(status(tmp_path / "run")))


def test_target_needs_a_limit_in_every_stage(tmp_path):
    workflow = tmp_path / layout.WORKFLOW
    workflow.write_text("stages: [{until: {max_labels: 5}}, {until: {max_labels: 7}}]")
    assert label_target(tmp_path, History()) == 12
    workflow.write_text("stages: [{until: {max_labels: 5}}, {until: {max_rounds: 7}}]")
    assert label_target(tmp_path, History()) is None
    workflow.write_text("stages: nonsense")
    assert label_target(tmp_path, History()) is None


def test_median_length_is_that_of_the_newest_model():
    h = History()
    for i, (model, lengths) in enumerate([("v1", [1.0, 2.0, 9.0]), ("v2", [4.0, 6.0])]):
        task = Task(f"0-sample-{i:06d}", Verb.SAMPLE, {"stage": 0})
        h.add(i, [Submitted(task)])
        h.add(i, [Finished(task.id, {"model": model, "lengths": lengths, "length_unit": "ps"})])
    calibrate = Task("0-calibrate-000000", Verb.CALIBRATE, {"stage": 0})
    h.add(5, [Submitted(calibrate), Finished(calibrate.id, {"path": "v1"})])
    assert median_length(h, h.models[-1]) == (2.0, "ps")
    h.add(6, [Submitted(calibrate), Finished(calibrate.id, {"path": "v3"})])
    assert median_length(h, h.models[-1]) == (5.0, "ps")  # nothing sampled with v3 yet: the newest that has
    assert median_length(History(), None) == (None, "")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59.4, "59 s"), (187, "3 min 07 s"), (3599.6, "1 h 00 min"), (90000, "25 h 00 min")],
)
def test_durations(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(("value", "words"), [(1730.4, "1730"), (24.94, "24.9"), (0.046, "0.05"), (9.996, "10.0")])
def test_short_figures(value, words):
    assert short(value) == words
