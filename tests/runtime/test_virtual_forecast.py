"""Whole campaigns in virtual time: sums that are known, what policies must make of long tails, and a real run again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from alflow.campaign.model import Awaited, FailureKind, Finished, Overdue, Retried, Submitted, Verb
from alflow.campaign.policy import Cycles, Patience, Plan, Rounds, Stream, Until
from alflow.errors import RunError
from alflow.monitor.ledger import Ledger
from alflow.runtime import campaign_run, layout
from alflow.runtime.journal import read_lines
from alflow.runtime.runner import InlineRunner
from alflow.runtime.virtual_forecast import forecast, measured, recorded
from alflow.runtime.virtual_profile import Duration, Failures, Learning, Profile, Stragglers
from alflow.runtime.worker import execute
from alflow.spec.site import Lane, Site

NOTHING = {str(v): Duration() for v in Verb}
EXACT = Profile(
    tasks={
        **NOTHING,
        "label": Duration(median_s=10.0, per="frame"),
        "sample": Duration(median_s=5.0),
        "fit": Duration(median_s=40.0),
    },
    learning=Learning(exploded=0.0, length=(1.0, 100.0)),
    reaction_s=0.0,
    queue=Duration(),
    start_s=0.0,
)
LONG_TAILS = Profile(
    tasks={
        **NOTHING,
        "label": Duration(median_s=600.0, sigma=0.6, per="frame"),
        "sample": Duration(median_s=300.0, sigma=0.6),
        "fit": Duration(median_s=1800.0, sigma=0.1),
    },
    stragglers=Stragglers(probability=0.01, factor=20.0),
    failures=Failures(infrastructure=0.03, unphysical=0.03),
    learning=Learning(labels=(50, 20_000)),
)
POLICIES = {
    "rounds": Rounds(samples=200, initial=100),
    "stream": Stream(sampling=60, initial=100, fit_at=200, max_waiting=400),
    "cycles": Cycles(loops=4, samples=50, initial=100, quorum=0.75),
}


def here(workers, **lane):
    shares = dict.fromkeys(("sample", "label", "fit"), "all")
    return Site(name="here", lanes={"all": Lane(cores_per_node=workers, **lane)}, shares=shares)


def there(nodes=8, blocks=8):
    return here(4, scheduler="slurm", launcher="srun", walltime="12:00:00", nodes_per_block=nodes, max_blocks=blocks)


def plan(policy, **until):
    return Plan(policy=policy, until=Until(**(until or {"max_rounds": 1})), members=1, min_members=1)


class Book:
    """A watcher that keeps everything."""

    def __init__(self):
        self.ledger, self.lines = Ledger(), []

    def on_events(self, t, events):
        self.ledger.add(t, events)
        self.lines.append((t, list(events)))

    def seconds(self):
        ends = (e for _, events in self.lines for e in events if isinstance(e, Finished))
        return {e.task_id: e.result["ended"] - e.result["started"] for e in ends}

    def verbs(self):
        return {e.task.id: e.task.verb for _, events in self.lines for e in events if isinstance(e, Submitted)}


def run(policy, site, profile, seed=0, **until):
    book = Book()
    found = forecast([plan(policy, **until)], site, profile, seed=seed, watchers=[book])
    for b in book.ledger.books():
        assert b.busy_h + sum(b.idle_h.values()) == pytest.approx(b.node_h)
        assert min(b.busy_h, *b.idle_h.values()) >= -1e-9
    return found, book


def test_a_round_of_constant_durations_takes_as_long_as_it_must():
    # 4 workers: 6 initial labels in 2 batches, a fit, 8 trajectories in 2, their 8 labels in 2, a fit
    found, book = run(Rounds(samples=8, initial=6), here(4), EXACT)
    assert found.state.closed.reason == "all stages are done"
    assert found.makespan_s == 2 * 10 + 40 + 2 * 5 + 2 * 10 + 40
    account = found.accounts["all"]
    assert account.open_s == 4 * found.makespan_s
    assert account.busy_s == 6 * 10 + 40 + 8 * 5 + 8 * 10 + 40
    assert (found.labels, found.models) == (14, 2)
    (lane,) = book.ledger.books()
    notice = 2.0  # the coordinator sees the workers two seconds after they are there
    assert lane.node_h * 3600 == pytest.approx(found.makespan_s, abs=notice)
    assert lane.busy_h * 4 * 3600 == pytest.approx(account.busy_s, abs=4 * notice)


def test_a_failed_task_is_held_back_as_in_a_real_campaign():
    sick = replace(EXACT, failures=Failures(infrastructure=1.0))
    found, _ = run(Rounds(samples=1, initial=1), here(1), sick)
    assert found.state.closed.failed
    assert found.makespan_s == pytest.approx(1 + 5 + 25 + 125 + 625)  # the pauses before five tries of one task


@pytest.mark.parametrize("name", POLICIES)
def test_the_same_seed_gives_the_same_campaign(name):
    def once(seed):
        found, book = run(POLICIES[name], there(), LONG_TAILS, seed, max_labels=600)
        return found.makespan_s, book.lines

    assert once(1) == once(1)
    assert once(1)[0] != once(2)[0]


def test_policies_and_layouts_meet_the_same_draws():
    _, rounds = run(POLICIES["rounds"], there(), LONG_TAILS, max_labels=600)
    _, stream = run(POLICIES["stream"], there(blocks=2), LONG_TAILS, max_labels=600)
    kinds = rounds.verbs()
    a, b = rounds.seconds(), stream.seconds()
    shared = [i for i in a.keys() & b.keys() if kinds[i] is Verb.LABEL]
    same = [i for i in shared if a[i] == pytest.approx(b[i])]
    assert len(shared) > 300
    assert len(same) > 0.98 * len(shared)  # a straggler may be ended earlier in one than in the other


def test_a_stream_wastes_less_than_rounds_when_some_tasks_take_long():
    rounds, by_rounds = run(POLICIES["rounds"], there(nodes=2), LONG_TAILS, max_labels=2000)
    stream, by_stream = run(POLICIES["stream"], there(nodes=2), LONG_TAILS, max_labels=2000)
    assert stream.labels >= 2000 <= rounds.labels
    assert stream.makespan_s < 0.7 * rounds.makespan_s
    (r,), (s,) = by_rounds.ledger.books(), by_stream.ledger.books()
    assert s.busy_h / s.node_h > r.busy_h / r.node_h + 0.1
    assert r.idle_h["straggler"] + r.idle_h["barrier"] > 2 * (s.idle_h["straggler"] + s.idle_h["barrier"])


def test_patience_cuts_what_one_straggler_costs_a_round():
    patient = Rounds(samples=100, initial=100)
    profile = replace(LONG_TAILS, failures=Failures())
    without = Patience(after=10**9)
    waited = forecast([replace(plan(patient, max_labels=500), patience=without)], there(), profile)
    cut = forecast([plan(patient, max_labels=500)], there(), profile)
    assert cut.makespan_s < waited.makespan_s
    assert Verb.RELABEL in cut.tasks
    assert Verb.RELABEL not in waited.tasks


def waited(book, what):
    """When waits whose name begins so began, and when they were over."""
    began = {
        e.what: t for t, events in book.lines for e in events if isinstance(e, Awaited) and e.what.startswith(what)
    }
    over = {e.what: t for t, events in book.lines for e in events if isinstance(e, Overdue)}
    return {name: (t, over[name]) for name, t in began.items() if name in over}


def test_a_sync_point_closes_when_its_deadline_has_come():
    sticky = replace(LONG_TAILS, stragglers=Stragglers(probability=0.02, factor=100.0))
    cycles = Cycles(loops=4, samples=50, initial=100)
    patient, _ = run(cycles, there(), sticky, max_rounds=3)
    hasty, book = run(replace(cycles, deadline_h=0.5), there(), sticky, max_rounds=3)
    closed = waited(book, "sync point")
    assert closed
    assert all(end - begin == pytest.approx(1800.0, abs=0.01) for begin, end in closed.values())
    assert hasty.makespan_s < patient.makespan_s


def test_a_model_does_without_the_fit_that_straggles():
    fits = replace(LONG_TAILS, stragglers=Stragglers(probability=0.1, factor=50.0))
    stages = [replace(plan(POLICIES["stream"], max_rounds=3), members=8, min_members=4)]
    found = {}
    for factor in (3.0, float("inf")):
        book = Book()
        patient = [replace(stages[0], patience=Patience(fit_factor=factor))]
        found[factor] = forecast(patient, there(), fits, seed=1, watchers=[book]).makespan_s, waited(book, "members")
    assert found[3.0][0] < found[float("inf")][0] / 2
    assert found[3.0][1]
    assert not found[float("inf")][1]
    longest = max(end - begin for begin, end in found[3.0][1].values())
    assert 3 * 1200 < longest < 3 * 2700  # three times a fit, which takes half an hour


def test_the_last_stragglers_do_not_hold_the_end_of_a_stream():
    hasty, book = run(POLICIES["stream"], there(), LONG_TAILS, max_rounds=4)
    whole = [replace(plan(POLICIES["stream"], max_rounds=4), patience=Patience(end_factor=float("inf")))]
    patient = forecast(whole, there(), LONG_TAILS)
    assert waited(book, "the last")
    assert hasty.makespan_s < patient.makespan_s
    assert hasty.unbought - patient.unbought < 0.05 * patient.labels


def test_trajectories_grow_with_the_labels_until_the_goal_is_reached():
    profile = replace(EXACT, learning=Learning(labels=(10, 100), length=(1.0, 50.0), sigma=0.3, exploded=0.0))
    found, book = run(Rounds(samples=20, initial=10), here(4), profile, median_length_ps=50.0)
    assert found.state.closed.reason == "all stages are done"
    assert 90 <= found.labels <= 140
    lengths = [
        sorted(e.result["lengths"])
        for _, events in book.lines
        for e in events
        if isinstance(e, Finished) and "lengths" in e.result
    ]
    assert max(lengths[0]) < min(max(x) for x in lengths[-20:])
    assert all(length <= 50 for x in lengths for length in x)


def test_tasks_that_the_end_of_their_block_halts_lose_nothing():
    short = there(nodes=1)
    short = replace(short, lanes={"all": replace(short.lanes["all"], walltime="00:30:00")})
    profile = replace(EXACT, tasks={**EXACT.tasks, "label": Duration(median_s=1000.0, per="frame")})
    found, book = run(Rounds(samples=200, initial=100), short, profile)
    halted = [e for _, events in book.lines for e in events if isinstance(e, Retried) and e.kind is FailureKind.HALTED]
    assert len(halted) > 20
    assert found.failures == {}
    (lane,) = book.ledger.books()
    assert lane.idle_h["failure"] == 0
    assert lane.busy_h * 4 * 3600 == pytest.approx(300 * 1000 + 200 * 5 + 2 * 40, rel=0.01)


# ---- a run that is over ----------------------------------------------------------------------------------------------

SITE = """
site: here
lanes: {sample: {scheduler: local, cores_per_node: 1}}
shares: {label: sample, fit: sample}
monitoring: false
"""
WORKFLOW = """
alflow: 1
name: toy
seed: 1
stages:
  - name: melt
    builder: {kind: random_cell, species: {Al: 1.0}, edge_A: [6.0, 8.0], density_g_cm3: [1.8, 2.6]}
    sampler: {kind: toy}
    potential: {kind: toy}
    uncertainty: {kind: spread, energy_meV: 5.0}
    selector: {kind: everything}
    labeler: {kind: toy, sleep_s: 0.15}
    policy: {kind: rounds, samples: 4, batch: 2, initial: 6, label_batch: 2}
    until: {max_rounds: 2}
    thresholds: {select: 0.01, stop: 0.02}
"""


@pytest.fixture(scope="module")
def toy_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    (folder / "site.yaml").write_text(SITE)
    (folder / "workflow.yaml").write_text(WORKFLOW)
    made = campaign_run.prepare(folder / "workflow.yaml", folder / "site.yaml", folder / "run")
    campaign_run.resume(made, lambda site, root: InlineRunner(execute, str(root)))
    return made


def again(run_dir, workers, *, by_id=True):
    from alflow.spec.workflow import load

    done = recorded(run_dir)
    profile = measured(Profile(), done, run_dir)
    site = here(workers)
    plans = campaign_run.plans(load(run_dir / layout.WORKFLOW), site)
    return forecast(plans, site, profile, recorded=done if by_id else {})


def test_a_run_that_is_replayed_takes_as_long_as_it_did(toy_run):
    times = [record["t"] for record, _ in read_lines(toy_run / layout.JOURNAL)]
    found = again(toy_run, 1)
    assert found.replayed == sum(found.tasks.values()) == len(recorded(toy_run))
    assert found.makespan_s == pytest.approx(times[-1] - times[1], rel=0.05)


def test_a_run_can_be_replayed_on_another_layout(toy_run):
    one, three = again(toy_run, 1), again(toy_run, 3)
    assert three.labels == one.labels
    # of 3 + 2 + 2 label tasks of 0.3 s at least that a layout of one does in turn, one of three does 3, 2 and 2 at once
    assert one.makespan_s - three.makespan_s > 0.95 * 4 * 0.3


def test_what_was_measured_is_near_even_where_no_task_is_the_same(toy_run):
    assert again(toy_run, 1, by_id=False).makespan_s == pytest.approx(again(toy_run, 1).makespan_s, rel=0.4)


def test_a_folder_that_is_no_run_and_a_run_that_did_nothing(tmp_path):
    with pytest.raises(RunError, match="no run directory"):
        recorded(tmp_path)
    (tmp_path / layout.JOURNAL).write_text('{"schema":1,"t":0}\n')
    with pytest.raises(RunError, match="nothing can be measured"):
        recorded(tmp_path)
