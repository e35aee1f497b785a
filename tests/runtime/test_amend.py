"""A campaign's thresholds, levels and goals change while it runs or rests; everything else is refused."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from alflow.campaign.model import Amended, Submitted, fold
from alflow.errors import InputError, RunError
from alflow.runtime import campaign_run, layout, rundir
from alflow.runtime.journal import read_lines
from alflow.runtime.runner import InlineRunner
from alflow.runtime.worker import execute
from alflow.spec.amend import amended, parse
from alflow.spec.workflow import digest, load
from alflow.store.dataset import Dataset

SITE = "site: here\nlanes:\n  sample: {scheduler: local}\nshares: {label: sample, fit: sample}\nmonitoring: false\n"
STAGE = """
  - name: {name}
    policy: {{kind: stream, sampling: 1, batch: 2, initial: 4, select_at: 1, fit_at: 4, label_batch: 2}}
    until: {{max_labels: 12, max_rounds: 50}}"""
WORKFLOW = """
alflow: 1
name: toy
seed: 1
defaults:
  builder: {kind: random_cell, species: {Al: 1.0}, edge_A: [6.0, 7.0], density_g_cm3: [1.8, 2.6]}
  sampler: {kind: toy}
  potential: {kind: toy}
  uncertainty: {kind: spread, energy_meV: 1.0}
  selector: {kind: everything}
  labeler: {kind: toy}
  thresholds: {select: 0.01, stop: 0.02}
stages:"""


@pytest.fixture
def run(tmp_path):
    return submitted(tmp_path, "melt")


def submitted(folder: Path, *stages: str) -> Path:
    (folder / "site.yaml").write_text(SITE)
    (folder / "workflow.yaml").write_text(WORKFLOW + "".join(STAGE.format(name=name) for name in stages))
    return campaign_run.prepare(folder / "workflow.yaml", folder / "site.yaml", folder / "run")


def inline(_site, root):
    return InlineRunner(execute, str(root))


class StopsAfter(InlineRunner):
    def __init__(self, root, n, then=lambda: None):
        super().__init__(execute, str(root))
        self.left, self.dir, self.then = n, Path(root), then

    def completed(self, timeout_s):
        self.left -= 1
        if self.left == 0:
            self.then()
            (self.dir / layout.STOP).touch()
        yield from super().completed(timeout_s)


def stopped_after(run, n):
    return campaign_run.resume(run, lambda _site, root: StopsAfter(root, n))


def events(run):
    return [e for _, line in read_lines(run / layout.JOURNAL) for e in line]


def test_a_stopped_campaign_goes_on_by_its_new_goal(run):
    assert stopped_after(run, 3).closed is None
    assert campaign_run.amend(run, ["until.max_labels=20", "melt.policy.sampling=2"]) == [
        {"stage": 0, "changes": {"until.max_labels": "20", "policy.sampling": "2"}}
    ]
    state = campaign_run.resume(run, inline)
    assert state.closed is not None
    assert not state.closed.failed
    assert len(Dataset.open(sorted((run / "dataset").glob("*.h5")))) == 20
    assert fold(events(run)).amendments == state.amendments
    assert (
        digest(load(run / layout.WORKFLOW))
        == json.loads((run / layout.JOURNAL).read_text().splitlines()[0])["workflow"]
    )


def test_what_workers_read_follows_from_the_next_task_on(run):
    stopped_after(run, 3)
    campaign_run.amend(run, ["gates.max_force_eV_A=1e-6"])
    state = stopped_after(run, 12)
    assert {e["cause"] for e in state.quarantine.values()} == {"value"}
    tasks = [e.task for e in events(run) if isinstance(e, Submitted)]
    at = next(i for i, e in enumerate(events(run)) if isinstance(e, Amended))
    before = {e.task.id for e in events(run)[:at] if isinstance(e, Submitted)}
    assert all(t.args.get("amended", 0) == (0 if t.id in before else 1) for t in tasks)
    # a task given out before, and done again, goes by what held then
    task = next(t for t in tasks if t.verb == "label" and t.id in before)
    (run / layout.task_dir(task.id) / layout.RESULT).unlink()
    assert execute({"id": task.id, "verb": "label", "args": task.args}, str(run))["n"] > 0


def test_a_worker_whose_disk_is_behind_tries_again(run):
    stopped_after(run, 3)
    task = next(e.task for e in events(run) if isinstance(e, Submitted))
    told = execute({"id": "0-build-000099", "verb": "build", "args": {**task.args, "amended": 1}}, str(run))
    assert told["failure"] == "infrastructure"
    assert "0 amendments on this node, 1 are in the journal" in told["detail"]


def test_a_running_campaign_is_asked(run):
    heard = []

    def ask():
        def other():
            heard.append(campaign_run.amend(run, ["until.max_labels=6"], 20.0))
            with pytest.raises(InputError, match="max_labels"):
                campaign_run.amend(run, ["until.max_labels=-6"], 20.0)
            (run / layout.STOP).touch()

        threading.Thread(target=other, daemon=True).start()

    class Asked(InlineRunner):
        def __init__(self, root):
            super().__init__(execute, str(root))
            ask()

        def completed(self, timeout_s):
            threading.Event().wait(0.3)  # between two tasks, so that the campaign outlasts the question
            yield from super().completed(timeout_s)

    state = campaign_run.resume(run, lambda _site, root: Asked(root))
    assert heard == [[{"stage": 0, "changes": {"until.max_labels": "6"}}]]
    assert state.amendments == heard[0]
    assert not list(run.glob("amend-*"))


def test_what_two_users_want_at_once_may_not_fit_together_and_is_refused(run):
    asked = run / "amend-000000000000.request"
    asked.write_text(json.dumps([{"stage": 0, "changes": {"thresholds.stop": "0.001"}}]))
    assert stopped_after(run, 4).amendments == []
    assert not asked.exists()
    assert "below select" in (run / "amend-000000000000.request.refused").read_text()


def test_nobody_answers(run):
    with rundir.locked(run):
        (run / layout.JOURNAL).write_text("")
        assert campaign_run.amend(run, ["until.max_labels=6"], 0.2) is None
    assert not list(run.glob("amend-*"))


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("seed=2", "seed cannot be changed: all random numbers follow from it"),
        ("labeler.fail_every=2", "labeler cannot be changed: it decides what the numbers mean"),
        ("melt.builder.species={Cu: 1}", "builder cannot be changed"),
        ("potential.members=3", "potential cannot be changed"),
        ("policy.initial=9", "policy.initial cannot be changed: it is built at the beginning"),
        ("policy.kind=rounds", "policy.kind cannot be changed"),
        ("policy.samplings=9", "did you mean 'sampling'"),
        ("untill.max_labels=9", "did you mean 'until'"),
        ("until.max_labels", "not of the form key=value"),
        ("until.max_labels=many", "whole number"),
        ("until.max_labels=0", "at least 1"),
        ("thresholds.stop=.nan", "NaN is no threshold"),
        ("thresholds.stop=0.001", "below select"),
        ("policy.label_batch=[", "cannot be read"),
        ("policy.batch=0", "at least 1"),
    ],
)
def test_everything_else_is_refused_and_nothing_changes(run, word, says):
    stopped_after(run, 2)
    before = (run / layout.JOURNAL).read_bytes()
    with pytest.raises(InputError, match=says.replace("(", r"\(")):
        campaign_run.amend(run, ["until.max_rounds=60", word])
    assert (run / layout.JOURNAL).read_bytes() == before


def test_what_is_over_cannot_change(run):
    campaign_run.resume(run, inline)
    with pytest.raises(RunError, match="is over"):
        campaign_run.amend(run, ["until.max_labels=50"])


def test_a_key_means_every_stage_that_is_not_over_or_the_one_it_names(tmp_path):
    workflow = load(submitted(tmp_path, "melt", "freeze", "boil") / layout.WORKFLOW)
    changes = {"until.max_labels": "9"}
    assert parse(["until.max_labels=9"], workflow, 1) == [{"stage": i, "changes": changes} for i in (1, 2)]
    assert parse(["boil.until.max_labels=9"], workflow, 0) == [{"stage": 2, "changes": changes}]
    with pytest.raises(InputError, match="stage 'melt' is over"):
        parse(["melt.until.max_labels=9"], workflow, 1)


def test_no_value_takes_a_goal_away_but_not_the_last(tmp_path):
    workflow = load(submitted(tmp_path, "melt") / layout.WORKFLOW)
    now = amended(workflow, [{"stage": 0, "changes": {"until.max_labels": "null"}}])
    assert now.stages[0].until.max_labels is None
    assert now.stages[0].until.max_rounds == 50
    assert workflow.stages[0].until.max_labels == 12
    with pytest.raises(InputError, match="never holds"):
        amended(now, [{"stage": 0, "changes": {"until.max_rounds": "null"}}])
