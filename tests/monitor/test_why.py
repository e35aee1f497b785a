import json
import re
import shutil
import subprocess
import sys

import pytest

from alflow.campaign.model import Amended
from alflow.errors import InputError, RunError
from alflow.monitor.history import History, read_header
from alflow.monitor.why import failures, text, why
from alflow.runtime import layout
from alflow.runtime.journal import Journal
from alflow.store.shards import read_shard


def labelled(run):
    """Ids of one bought and one failed structure, with their label tasks."""
    history = History.read(run)
    tasks = [t for t in history.tasks.values() if t.verb == "label"]
    good = next(t for t in tasks if t.result["n"] and t.args["frames"][0].startswith("tasks/0-select"))
    bad = next(t for t in tasks if t.result["failures"])
    return read_shard(run / good.result["path"]).frames.ids()[0], good, bad.result["failures"][0]["id"], bad


def test_a_bought_structure_is_told_from_its_proposal_to_the_models_that_saw_it(finished_run):
    run, _ = finished_run
    good, task, _, _ = labelled(run)
    story = why(run, good)
    words = text(story)
    assert story.outcome == "in the dataset"
    for part in (
        "proposed by 0-sample-",
        "guided by models/0-0-v",
        "uncertainty of",
        "selected by 0-select-",
        "offered",
        task.id,
        "passed the gates before a label: min_contact 0.5, min_height_A 1.0, max_aspect 50.0",
        "its label passed the gates: finite, max_force_eV_A 300.0, max_stress_GPa 1000.0",
        "label bought",
        "merged",
    ):
        assert part in words
    assert "dataset/0-" in words
    assert "seen by" in words
    assert why(run, good[:10]).subject == good
    times = [line.t for line in story.lines if line.t]
    assert times == sorted(times)


def test_a_failed_structure_is_told_with_its_reason_and_log(finished_run):
    run, _ = finished_run
    _, _, bad, task = labelled(run)
    words = text(why(run, bad))
    assert words.startswith(f"{bad}  no label: other")
    assert "toy failure: one frame in 19" in words
    assert "log: " in words
    assert task.id in words


def test_a_structure_by_its_place_in_a_task(finished_run):
    run, _ = finished_run
    good, task, _, _ = labelled(run)
    index = [read_shard(run / task.args["frames"][0], *task.args["frames"][1:]).frames.ids().index(good)][0]
    assert why(run, f"{task.id}/{index}").subject == good


def test_a_task(finished_run):
    run, _ = finished_run
    words = text(why(run, "0-fit-000000"))
    for part in ("0-fit-000000  finished", "given out: fit", "brought home", "log.txt"):
        assert part in words


def test_all_failures_are_those_of_the_status(finished_run):
    run, _ = finished_run
    history = History.read(run)
    stories = failures(run)
    assert len(stories) == sum(f.frames for f in history.label_failures.values()) == history.labels[-1][2] > 0


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("0-lable-000001", "did you mean '0-label'?"),
        ("0-build-000005", "tasks of this kind go up to 0-build-000000"),
        ("0-fit-000000/1", "a fit task makes none"),
        ("nonsense", "known: 0-build, 0-calibrate, 0-evaluate, 0-fit, 0-label"),
    ],
)
def test_what_may_have_been_meant_is_said(finished_run, name, says):
    run, _ = finished_run
    with pytest.raises(InputError, match=re.escape(says)):
        why(run, name)


def test_gates_are_those_that_the_task_was_given_out_with(finished_run, tmp_path):
    """An amendment after it was labelled changes nothing of a structure's story."""
    run, _ = finished_run
    good, *_ = labelled(run)
    shutil.copytree(run, tmp_path / "run", symlinks=True)
    journal = Journal(tmp_path / "run" / layout.JOURNAL, read_header(run), 0.0)
    journal.append([Amended(0, {"gates.max_aspect": "4"})], 9e9)
    journal.close()
    assert "max_aspect 50.0" in text(why(tmp_path / "run", good))


@pytest.mark.parametrize("name", ["nonsense", "0-label-999999", "abc", "0-label-000000/999", "ffffffffffff"])
def test_an_unknown_name_is_one_clear_message(finished_run, name):
    run, _ = finished_run
    with pytest.raises(InputError) as caught:
        why(run, name)
    assert name in str(caught.value)


def test_no_run(tmp_path):
    with pytest.raises(RunError):
        why(tmp_path, "x")


def test_the_verb(finished_run):
    run, _ = finished_run
    _, _, bad, _ = labelled(run)

    def alflow(*words):
        return subprocess.run([sys.executable, "-m", "alflow", *words], capture_output=True, text=True, check=False)

    done = alflow("why", str(run), bad)
    assert done.returncode == 0
    assert "toy failure" in done.stdout
    assert json.loads(alflow("why", str(run), "--json").stdout)[0]["outcome"] == "other"
    wrong = alflow("why", str(run), "zzzzzzzz")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: zzzzzzzz:")
