"""Policies over a world without physics: what they order, and that they always come to an end."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from alflow.campaign import policy
from alflow.campaign.model import (
    Amended,
    Arrived,
    Batch,
    Cancelled,
    Closed,
    Failed,
    FailureKind,
    Finished,
    Retried,
    StageDone,
    State,
    Submitted,
    Synced,
    Task,
    Verb,
    apply,
    fold,
)
from alflow.campaign.policy import BARREN, MAX_RETRIES, Cycles, Plan, Rounds, Stream, Until, decide, respond
from alflow.errors import CampaignError

_spec = importlib.util.spec_from_file_location("simulator", Path(__file__).with_name("simulator.py"))
simulator = importlib.util.module_from_spec(_spec)
sys.modules["simulator"] = simulator
_spec.loader.exec_module(simulator)
World = simulator.World

ROUNDS = Plan(
    policy=Rounds(samples=4, batch=2, initial=6, label_batch=2),
    until=Until(max_rounds=3),
    members=4,
    members_per_task=2,
)
STREAM = Plan(
    policy=Stream(sampling=2, batch=4, initial=20, select_at=4, fit_at=8, label_batch=3),
    until=Until(max_labels=100),
    members=8,
    members_per_task=8,
)
CYCLES = Plan(
    policy=Cycles(loops=3, samples=4, batch=4, initial=10, fits_per_sync=2, quorum=0.6),
    until=Until(max_rounds=3),
    members=2,
    members_per_task=1,
)
ALL = {"rounds": ROUNDS, "stream": STREAM, "cycles": CYCLES}


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("name", ALL)
def test_comes_to_an_end_and_uses_every_label_once(name, seed):
    world = World([ALL[name]], seed)
    state = world.run()
    assert state.closed is None
    assert isinstance(world.events[-1], StageDone)
    assert len(world.bought) == len(set(world.bought))  # nothing is bought twice
    assert sum(b.n for b in state.archive[0]) == len(world.bought)  # nothing that was bought is lost
    last_fit = world.submitted(Verb.FIT)[-1]
    assert last_fit.args["n_frames"] == len(world.bought)  # the last model has seen all of it


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("name", ALL)
def test_random_failures_are_survived(name, seed):
    def fail(task, rng):
        if task.verb in {Verb.SAMPLE, Verb.LABEL} and rng.random() < 0.2:
            return FailureKind.UNPHYSICAL
        return FailureKind.INFRASTRUCTURE if rng.random() < 0.1 else None

    world = World([ALL[name]], seed, fail)
    state = world.run()
    assert isinstance(world.events[-1], StageDone)
    assert len(world.bought) == len(set(world.bought))
    assert sum(b.n for b in state.archive[0]) == len(world.bought)
    assert all(f.kind is FailureKind.UNPHYSICAL for f in world.failures())  # the machine's failures were tried again


def test_the_fold_of_the_events_is_the_state():
    world = World([CYCLES], 7)
    assert world.run() == fold(world.events)


def test_rounds_are_the_same_whatever_the_order_of_completion():
    def orders(seed):
        world = World([ROUNDS], seed)
        world.run()
        return [
            (t.id, t.args) for verb in (Verb.MERGE, Verb.FIT, Verb.SAMPLE, Verb.LABEL) for t in world.submitted(verb)
        ]

    assert orders(1) == orders(2) == orders(3)


def test_rounds_do_one_thing_at_a_time():
    world = World([ROUNDS], 0)
    world.run()
    running: dict[str, Verb] = {}
    for event in world.events:
        if hasattr(event, "task"):
            running[event.task.id] = event.task.verb
            assert len(set(running.values())) == 1, running
        elif isinstance(event, Finished):
            del running[event.task_id]


def test_stream_keeps_sampling_while_it_labels_and_fits():
    world = World([STREAM], 0)
    world.run()
    state, overlaps = State(), set()
    for event in world.events:
        fold([event], state)
        verbs = {t.verb for t in state.open.values()}
        if Verb.SAMPLE in verbs:
            overlaps |= verbs
        if state.loops[0].model is not None and not state.ending:
            assert state.running[0, Verb.SAMPLE] <= STREAM.policy.sampling
    assert {Verb.LABEL, Verb.FIT} <= overlaps


def test_a_budget_of_labels_is_spent_to_the_last_one_and_not_passed():
    world = World([STREAM], 3)
    state = world.run()
    assert len(world.bought) == 100
    assert any(isinstance(e, Cancelled) for e in world.events)
    assert not state.open


def test_stream_pauses_sampling_while_labels_pile_up():
    plan = replace(STREAM, policy=replace(STREAM.policy, max_waiting=8), until=Until(max_labels=400))
    world = World([plan], 1, fail=lambda t, r: None)
    state, most = State(), 0
    world.run()
    for event in world.events:
        fold([event], state)
        if state.loops[0].model is not None:
            most = max(most, sum(b.n for b in state.loops[0].queue) + state.open_frames)
    # what is out when the level is reached may still come in, two tasks of four; 20 are there to begin with
    assert most <= max(20, 8 + 2 * 4)


def test_cycles_have_models_of_their_own_and_meet_at_sync_points():
    world = World([CYCLES], 5)
    state = world.run()
    assert sum(isinstance(e, Synced) for e in world.events) >= 3
    assert {e.loop for e in world.events if isinstance(e, Arrived)} == {0, 1, 2}
    by_loop = {k: [t for t in world.submitted(Verb.FIT) if t.loop == k] for k in range(3)}
    assert all(by_loop.values())
    # between sync points a loop does not see what the others bought
    seen = [{tuple(b) for b in t.args["shards"]} for tasks in by_loop.values() for t in tasks]
    assert any(not a <= b and not b <= a for a in seen for b in seen)
    assert sum(b.n for b in state.archive[0]) == len(world.bought)


def test_a_sync_point_does_not_wait_for_the_last_loop():
    stuck = {"id": None}

    def fail(task, rng):
        return None

    world = World([CYCLES], 2, fail)
    real = world._end_one

    def end_one():  # the first sample task of loop 2 is a straggler: it ends only when nothing else can
        for task in list(world.state.open.values()):
            if task.verb is Verb.SAMPLE and task.loop == 2 and stuck["id"] is None:
                stuck["id"] = task.id
        held = world.state.open.get(stuck["id"])
        if held is not None and len(world.state.open) > 1:
            del world.state.open[held.id]
            try:
                real()
            finally:
                world.state.open[held.id] = held
        else:
            real()

    world._end_one = end_one
    state = world.run()
    order = [type(e).__name__ if not isinstance(e, Finished) else e.task_id for e in world.events]
    assert "Synced" in order[: order.index(stuck["id"])] if stuck["id"] in order else "Synced" in order
    assert sum(b.n for b in state.archive[0]) == len(world.bought)


def test_a_model_is_usable_at_k_of_n():
    plan = replace(ROUNDS, members=4, members_per_task=1, min_members=3)
    world = World([plan], 0, fail=lambda t, r: FailureKind.UNPHYSICAL if t.args.get("members") == [2, 3] else None)
    world.run()
    calibrations = world.submitted(Verb.CALIBRATE)
    assert calibrations
    assert all(len(t.args["groups"]) == 3 for t in calibrations)


def test_too_few_members_are_tried_again_and_then_given_up():
    plan = replace(ROUNDS, members=4, members_per_task=2, min_members=3)
    world = World([plan], 0, fail=lambda t, r: FailureKind.UNPHYSICAL if t.args.get("members") == [2, 4] else None)
    state = world.run()
    assert state.closed.failed
    assert "3 models in a row" in state.closed.reason


def test_no_initial_label_closes_the_campaign_with_a_reason():
    world = World([ROUNDS], 0, fail=lambda t, r: FailureKind.UNPHYSICAL if t.verb is Verb.LABEL else None)
    state = world.run()
    assert state.closed.failed
    assert "none of the 6 initial structures" in state.closed.reason


def test_a_defect_stops_loudly_at_once():
    world = World([STREAM], 0, fail=lambda t, r: FailureKind.DEFECT if t.verb is Verb.FIT else None)
    state = world.run()
    assert isinstance(world.events[-1], Closed)
    assert state.closed.failed
    assert "defect" in state.closed.reason


def test_no_model_and_no_way_to_one_is_said():
    plan = replace(ROUNDS, policy=replace(ROUNDS.policy, initial=0))
    world = World([plan], 0)
    assert "no model to sample with" in world.run().closed.reason


def test_retries_are_capped():
    task = Task("0-label-000000", Verb.LABEL, {"loop": 0})
    state = State(open={task.id: task})
    for _ in range(MAX_RETRIES[FailureKind.INFRASTRUCTURE]):
        events = respond(state, task, FailureKind.INFRASTRUCTURE, "lost", "")
        assert isinstance(events[0], Retried)
        fold(events, state)
    assert isinstance(respond(state, task, FailureKind.INFRASTRUCTURE, "lost", "")[0], Failed)


def test_a_task_may_span_many_batch_jobs_and_fail_beside():
    state = State()
    task = Task("0-fit-000000", Verb.FIT, {"stage": 0, "loop": 0})
    state.open[task.id] = task
    for n in range(MAX_RETRIES[FailureKind.HALTED]):
        assert n < 90 or isinstance(respond(state, task, FailureKind.RESOURCE, "memory", "")[0], Retried)
        events = respond(state, task, FailureKind.HALTED, "the block ends", "")
        assert isinstance(events[0], Retried)
        apply(state, events[0])
    assert isinstance(respond(state, task, FailureKind.HALTED, "for ever", "")[0], Failed)


@pytest.mark.parametrize("name", ALL)
def test_no_candidates_ends_the_stage(name):
    plan = replace(ALL[name], until=Until(no_candidates=True))
    world = World([plan], 0, found=lambda s: 0 if s.models >= 3 else 4)
    world.run()
    assert world.events[-1].reason.startswith("no candidates")


@pytest.mark.parametrize("name", ALL)
def test_sampling_that_finds_nothing_is_not_continued_for_ever(name):
    world = World([replace(ALL[name], until=Until())], 0, found=lambda s: 0)
    world.run()
    assert world.events[-1].reason.startswith("no candidates")
    assert sum(t.args["count"] for t in world.submitted(Verb.SAMPLE)) <= 6 * BARREN


@pytest.mark.parametrize("name", ALL)
def test_long_trajectories_end_the_stage(name):
    plan = replace(ALL[name], until=Until(median_length_ps=250.0))
    if name == "rounds":
        plan = replace(plan, policy=replace(plan.policy, samples=16))
    world = World([plan], 0, length=lambda s: 40.0 * s.models, found=lambda s: 3)
    world.run()
    assert world.events[-1].reason.startswith("median_length_ps: trajectories reach ")


def test_model_free_one_shot():
    plan = Plan(policy=Rounds(samples=60, batch=20, label_batch=7), until=Until(max_rounds=1), guided=False)
    world = World([plan], 0)
    world.run()
    assert len(world.bought) == 60
    assert not world.submitted(Verb.BUILD)
    assert len(world.submitted(Verb.FIT)) == 1


def test_stages_hand_on_data_and_model_or_start_anew():
    first = replace(ROUNDS, keep_data=True, keep_model=True)
    second = replace(ROUNDS, policy=Rounds(samples=4), until=Until(max_rounds=2))
    third = replace(ROUNDS, policy=Rounds(samples=4, initial=5), source=0)
    world = World([first, second, third], 0)
    world.run()
    fits = world.submitted(Verb.FIT)
    per_stage = {i: [t.args["n_frames"] for t in fits if t.args["stage"] == i] for i in range(3)}
    assert min(per_stage[1]) > max(per_stage[0])  # goes on with the data
    assert min(per_stage[2]) == 5  # another theory: a new dataset
    samples = [t for t in world.submitted(Verb.SAMPLE) if t.args["stage"] == 1]
    assert samples[0].args["model"] is not None
    built = [t for t in world.submitted(Verb.BUILD) if t.args["stage"] == 2]
    assert built[0].args["source"] == [b.json() for b in world.state.archive[0]]


def test_evaluation_comes_last_and_its_failure_is_not_fatal():
    plan = replace(ROUNDS, evaluate=True)
    world = World([plan], 0, fail=lambda t, r: FailureKind.DEFECT if t.verb is Verb.EVALUATE else None)
    state = world.run()
    assert state.closed is None
    assert len(world.submitted(Verb.EVALUATE)) == 1
    assert isinstance(world.events[-1], StageDone)


def test_deciding_nothing_while_nothing_is_open_is_an_error_not_a_hang(monkeypatch):
    monkeypatch.setattr("alflow.campaign.policy._decide", lambda plan, s: iter(()))
    with pytest.raises(CampaignError, match="nothing is running"):
        decide(ROUNDS, State())


def test_replay_is_linear_in_the_events():
    plan = Plan(policy=Stream(sampling=4, batch=8, initial=4000, fit_at=500), until=Until(max_labels=6000))
    world = World([plan], 0, found=lambda s: 8)
    world.run()
    assert len(world.events) > 8_000
    assert fold(world.events) == world.state


def test_labels_that_all_fail_close_the_campaign():
    plan = replace(STREAM, until=Until(max_labels=1000))

    def fail(task, rng):
        late = task.verb is Verb.LABEL and int(task.id.rpartition("-")[2]) > 10
        return FailureKind.UNPHYSICAL if late else None

    state = World([plan], 0, fail).run()
    assert state.closed.failed
    assert "all failed" in state.closed.reason


def test_a_selection_level_above_the_waiting_level_is_no_deadlock():
    policy = Stream(sampling=2, batch=4, initial=20, select_at=40, fit_at=8, max_waiting=20)
    world = World([replace(STREAM, policy=policy)], 0, found=lambda s: 3)
    world.run()
    assert isinstance(world.events[-1], StageDone)


def test_no_rounds_still_build_label_and_fit():
    world = World([Plan(policy=Rounds(samples=2, initial=3), until=Until(max_rounds=0))], 0)
    world.run()
    assert len(world.bought) == 3
    assert len(world.submitted(Verb.FIT)) == 1
    assert not world.submitted(Verb.SAMPLE)


def test_a_loop_that_fits_through_a_sync_point_goes_on():
    """Its fit has seen all there is when it ends: the fit that the sync point made due is due no more."""
    plan = Plan(policy=Cycles(loops=3, samples=2, batch=2, initial=4, quorum=0.6), until=Until(max_labels=1000))
    world = World([plan], 0, found=lambda s: 10**6 if s.syncs < 1 else 0)
    real, held = world._end_one, []

    def end_one():
        if not held:
            held.extend(t.id for t in world.state.open.values() if t.verb is Verb.FIT and t.loop == 1)
        late = [world.state.open.pop(i) for i in held if i in world.state.open and world.state.syncs < 3]
        if not world.state.open:
            world.state.open.update({t.id: t for t in late})
            late = []
        real()
        world.state.open.update({t.id: t for t in late})

    world._end_one = end_one
    world.run(5_000)
    assert world.events[-1].reason.startswith("no candidates")


def tally(world):
    """Frames asked once, and what became of them, from the events alone."""
    asked = {(t.args["frames"][0], i) for t in world.submitted(Verb.LABEL) for i in range(*t.args["frames"][1:])}
    results = [e.result for e in world.events if isinstance(e, Finished) and "again" in e.result]
    n, failed = sum(r["n"] for r in results), sum(len(r["failures"]) for r in results)
    aside, again = (sum(r["aside"][0]["n"] for r in results), sum(r["again"]["n"] for r in results))
    cancelled = {e.task_id for e in world.events if isinstance(e, Cancelled)}
    once_more = sum(Batch(*t.args["frames"]).n for t in world.submitted(Verb.RELABEL) if t.id not in cancelled)
    return len(asked), n, failed, aside, again - once_more


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", ALL)
def test_every_frame_is_bought_kept_apart_failed_or_given_up(name, seed, late):
    world = World([ALL[name]], seed, mixed=True, late=late)
    state = world.run()
    asked, bought, failed, aside, given_up = tally(world)
    assert asked == bought + failed + aside + given_up
    assert sum(b.n for b in state.archive[0]) == bought
    assert len(state.quarantine) == failed > 0
    assert world.submitted(Verb.FIT)[-1].args["n_frames"] == bought
    if late:
        assert given_up >= 0
        assert world.submitted(Verb.RELABEL)


@pytest.mark.parametrize("name", ["rounds", "cycles"])
def test_nothing_waits_for_a_label_that_is_tried_again(name):
    world = World([ALL[name]], 3, mixed=True, late=True)
    world.run()
    first = next(i for i, e in enumerate(world.events) if isinstance(e, Submitted) and e.task.verb is Verb.RELABEL)
    ends = {e.task_id: i for i, e in enumerate(world.events) if isinstance(e, Finished)}
    end = ends[world.events[first].task.id]
    between = [e.task.verb for e in world.events[first:end] if isinstance(e, Submitted)]
    assert {Verb.SAMPLE, Verb.FIT} <= set(between)


def test_a_budget_of_labels_holds_with_failures_and_second_tries():
    plan = replace(STREAM, until=Until(max_labels=60))
    for seed in range(10):
        world = World([plan], seed, mixed=True)
        world.run()
        assert tally(world)[1] <= 60


def test_labels_are_timed_by_those_before_them():
    world = World([STREAM], 0, mixed=True)
    world.run()
    paces = [t.args["pace"] for t in world.submitted(Verb.LABEL)]
    assert paces[0] is None  # nothing is known yet
    assert paces[-1] == [pytest.approx(0.1), 120.0]  # ten times the median of 0.01 s
    assert world.submitted(Verb.RELABEL)[-1].args["pace"] == [pytest.approx(0.4), 480.0]


def test_initial_labels_that_all_need_a_second_try_are_waited_for():
    plan = replace(ROUNDS, policy=Rounds(samples=2, batch=2, initial=4, label_batch=4))
    state = State()
    for event in decide(plan, state):
        apply(state, event)
    build = next(iter(state.open))
    apply(state, Finished(build, {"path": "b.h5", "n": 4}))
    for event in decide(plan, state):
        apply(state, event)
    label = next(iter(state.open))
    apply(state, Finished(label, {"path": "l.h5", "n": 0, "again": {"path": "a.h5", "n": 4}}))
    events = decide(plan, state)
    assert [e.task.verb for e in events] == [Verb.RELABEL] * 4
    assert all(e.task.args["home"] == label and e.task.args["level"] == 1 for e in events)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("seed", range(5))
def test_large_sets_are_given_out_and_merged_in_portions(name, seed, monkeypatch):
    plan = ALL[name]
    plan = replace(plan, policy=replace(plan.policy, initial=60, label_batch=1), until=Until(max_rounds=2))
    monkeypatch.setattr(policy, "MOST_OPEN", 7)
    monkeypatch.setattr(policy, "MERGE_MOST", 5)
    world = World([plan], seed)
    most, record = 0, world._record

    def counted(events):
        nonlocal most
        record(events)
        most = max(most, *(world.state.active(Verb.LABEL, loop=k) for k in range(len(world.state.loops))))

    world._record = counted
    state = world.run()
    assert not state.closed
    assert most == 7
    assert len(world.bought) == len(set(world.bought)) >= 60
    merges = world.submitted(Verb.MERGE)
    assert max(len(t.args["labelled"]) for t in merges) == 5
    merged = [tuple(b) for t in merges for b in t.args["labelled"]]
    assert len(merged) == len(set(merged)) == len(world.bought)
    assert fold(world.events).archive == state.archive


def test_a_stage_amended_gives_out_tasks_that_say_so():
    state = fold([Amended(0, {"until.max_labels": "9"})])
    assert all(e.task.args["amended"] == 1 for e in decide(ROUNDS, state))
    assert state.amendments == [{"stage": 0, "changes": {"until.max_labels": "9"}}]
    assert all("amended" not in e.task.args for e in decide(ROUNDS, State()))


@pytest.mark.parametrize("name", ["rounds", "stream"])
def test_one_frame_that_ends_every_worker_does_not_take_its_batch_along(name):
    def fail(task, _):
        path, start, stop = task.args.get("frames", ("", 0, 0))
        return FailureKind.INFRASTRUCTURE if "build" in path and start <= 1 < stop else None

    world = World([ALL[name]], 1, fail)
    state = world.run()
    asked = {(t.args["frames"][0], i) for t in world.submitted(Verb.LABEL) for i in range(*t.args["frames"][1:])}
    alone = [t for t in world.submitted(Verb.RELABEL) if t.args["frames"][1] != 1]
    assert alone
    assert all(t.args["home"].startswith("0-label") and t.args["level"] == 0 for t in alone)
    assert sum(b.n for b in state.archive[0]) == len(asked) - 1
    assert len(world.failures()) == 2  # the batch, then the frame
