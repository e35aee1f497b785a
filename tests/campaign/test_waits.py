"""Waits that end: for members of a model, for loops at a sync point, for the last labels of a stream."""

from __future__ import annotations

import importlib.util
import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from alflow.campaign.model import (
    Arrived,
    Awaited,
    Began,
    Cancelled,
    Ending,
    Finished,
    Overdue,
    StageDone,
    State,
    Submitted,
    Synced,
    Verb,
    apply,
    fold,
)
from alflow.campaign.policy import Cycles, Patience, Plan, Rounds, Stream, Until, decide, waits

_spec = importlib.util.spec_from_file_location("simulator", Path(__file__).with_name("simulator.py"))
simulator = importlib.util.module_from_spec(_spec)
sys.modules["simulator"] = simulator
_spec.loader.exec_module(simulator)

STREAM = Plan(
    policy=Stream(sampling=3, batch=2, initial=20, select_at=4, fit_at=8),
    until=Until(max_labels=120),
    members=4,
    min_members=2,
)
CYCLES = Plan(
    policy=Cycles(loops=3, samples=4, batch=2, initial=10, quorum=1.0, deadline_h=2.0),
    until=Until(max_rounds=3),
    members=4,
    min_members=2,
)
ROUNDS = Plan(policy=Rounds(samples=4, batch=2, initial=6), until=Until(max_rounds=3), members=4, min_members=2)
ALL = {"stream": STREAM, "cycles": CYCLES, "rounds": ROUNDS}


class World(simulator.World):
    """One whose coordinator finds waits overdue at moments that a seed decides."""

    def __init__(self, plan, seed, **kwargs):
        super().__init__([plan], seed, **kwargs)
        self.clock, self.chance = 0.0, random.Random(seed + 2)

    def _end_one(self):
        self.clock += 1.0
        now = waits(self.plans[self.state.stage], self.state)
        self._record([Awaited(w, self.clock) for w in now if w not in self.state.awaited])
        late = [w for w in now if w not in self.state.overdue and self.chance.random() < 0.3]
        if late:
            self._record([Overdue(w) for w in late])
        else:
            super()._end_one()


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("name", ALL)
def test_nothing_bought_is_lost_whatever_is_given_up_and_when(name, seed, mixed):
    world = World(ALL[name], seed, mixed=mixed)
    state = world.run()
    assert isinstance(world.events[-1], StageDone)
    bought = sum(e.result["n"] for e in world.events if isinstance(e, Finished) and "label-" in e.task_id)
    assert sum(b.n for b in state.archive[0]) == bought
    assert world.submitted(Verb.FIT)[-1].args["n_frames"] == bought
    assert fold(world.events) == state
    models = world.submitted(Verb.CALIBRATE)
    assert all(2 <= len(t.args["groups"]) <= 4 for t in models)
    given_up = [e for e in world.events if isinstance(e, Cancelled) and "fit" in e.task_id]
    assert bool(given_up) is (name != "rounds")


def test_rounds_wait_for_all_so_that_they_never_depend_on_what_was_fast():
    for seed in range(3):
        world = World(ROUNDS, seed)
        world.run()
        assert not [e for e in world.events if isinstance(e, Awaited | Overdue | Cancelled)]


# ---- members of a model ----------------------------------------------------------------------------------------------


def settle(plan, state, *events):
    """The events folded in, and all that is decided on them."""
    found = []
    fold(events, state)
    while more := decide(plan, state):
        fold(more, state)
        found += more
    return found


def fitting(plan):
    """A campaign whose first model is being fitted, and the ids of its fit tasks."""
    state = State()
    settle(plan, state)
    while not state.running[0, Verb.FIT]:
        task = min(state.open.values(), key=lambda t: t.verb is Verb.LABEL)
        settle(plan, state, Finished(task.id, simulator.result_of(task, 1, 1.0)))
    return state, [t.id for t in state.open.values() if t.verb is Verb.FIT]


def fitted(state, task_id, seconds):
    result = simulator.result_of(state.open[task_id], 1, 1.0)
    return Finished(task_id, {**result, "started": 100.0, "ended": 100.0 + seconds})


@pytest.mark.parametrize("plan", [STREAM, CYCLES], ids=["stream", "cycles"])
def test_a_model_does_without_members_that_take_much_longer(plan):
    state, fits = fitting(plan)
    settle(plan, state, fitted(state, fits[0], 500.0))
    assert waits(plan, state) == {}  # one of four is no model
    settle(plan, state, fitted(state, fits[2], 700.0))
    ((two, longest),) = waits(plan, state).items()
    assert longest == 3 * 600.0
    settle(plan, state, Awaited(two, 800.0), fitted(state, fits[1], 600.0))
    ((three, _),) = waits(plan, state).items()
    assert three != two  # one came: the last one is waited for anew
    assert not settle(plan, state, Overdue(two))
    decided = settle(plan, state, Overdue(three))
    assert [(type(e), e.task_id) for e in decided if isinstance(e, Cancelled)] == [(Cancelled, fits[3])]
    (model,) = [e.task for e in decided if isinstance(e, Submitted)]
    assert model.verb is Verb.CALIBRATE
    assert [task for task, _ in model.args["groups"]] == sorted(fits[:3])
    assert not waits(plan, state)


def test_short_fits_are_waited_for_as_long_as_labels_at_least():
    plan = replace(STREAM, patience=Patience(fit_factor=2.0, least_s=90.0))
    state, fits = fitting(plan)
    settle(plan, state, *(fitted(state, f, 1.0) for f in fits[:2]))
    assert list(waits(plan, state).values()) == [90.0]


def test_a_coordinator_that_takes_over_waits_anew():
    """Fits that it gives out again have not run meanwhile."""
    state, fits = fitting(STREAM)
    settle(STREAM, state, *(fitted(state, f, 600.0) for f in fits[:2]))
    (before,) = waits(STREAM, state)
    settle(STREAM, state, Awaited(before, 1.0), Began())
    (after,) = waits(STREAM, state)
    assert after != before


# ---- loops at a sync point -------------------------------------------------------------------------------------------


def at_the_sync_point(plan):
    """A campaign one of whose three loops has done its part."""
    state, _ = fitting(plan)
    while not any(loop.waiting for loop in state.loops):
        task = next(t for t in state.open.values() if len(state.loops) == 1 or t.loop == 1)
        settle(plan, state, Finished(task.id, simulator.result_of(task, 1, 1.0)))
    return state


def test_a_sync_point_closes_at_its_deadline_without_a_quorum():
    state = at_the_sync_point(CYCLES)
    assert waits(CYCLES, state)["sync point 1"] == 2 * 3600
    others = [t.id for t in state.open.values() if t.loop != 1]
    assert others
    assert not settle(CYCLES, state, Awaited("sync point 1", 5.0))
    decided = settle(CYCLES, state, Overdue("sync point 1"))
    assert decided[0] == Synced(1)
    assert all(i in state.open for i in others)  # the others go on, and enter the next one
    assert any(isinstance(e, Submitted) and e.task.loop == 1 for e in decided)
    assert "sync point 2" not in state.overdue


def test_without_a_deadline_a_sync_point_waits_for_its_quorum():
    plan = replace(CYCLES, policy=replace(CYCLES.policy, deadline_h=None))
    state = at_the_sync_point(plan)
    assert not [w for w in waits(plan, state) if "sync" in w]


def test_a_deadline_counts_on_when_a_coordinator_takes_over():
    state = at_the_sync_point(CYCLES)
    before = waits(CYCLES, state)
    settle(CYCLES, state, Awaited("sync point 1", 5.0), Began())
    assert waits(CYCLES, state) == before
    assert state.awaited == {"sync point 1": 5.0}


@pytest.mark.parametrize("seed", range(5))
def test_labels_that_come_after_a_deadline_enter_the_next_sync_point_once(seed):
    world = World(CYCLES, seed)
    state = world.run()
    merged = [tuple(b[:3]) for t in world.submitted(Verb.MERGE) for b in t.args["labelled"]]
    assert len(merged) == len(set(merged))
    early, arrived = 0, 0
    for e in world.events:
        arrived += isinstance(e, Arrived)
        if isinstance(e, Synced):
            early, arrived = early + (arrived < 3), 0
    assert early
    assert sum(b.n for b in state.archive[0]) == len(world.bought)


# ---- the last labels -------------------------------------------------------------------------------------------------


def late_at_the_end(policy):
    """A campaign with a budget of 10 labels: 8 are bought, 2 ran out of time and are tried once more."""
    plan = Plan(policy=policy, until=Until(max_labels=10))
    state = State()
    settle(plan, state)
    (build,) = state.open
    settle(plan, state, Finished(build, {"path": "b.h5", "n": 12}))
    labels = list(state.open)
    assert len(labels) == 10
    for n, name in enumerate(labels):
        good = n < 8
        result = {"path": f"{name}.h5", "n": int(good), "again": {"path": f"{name}-again.h5", "n": int(not good)}}
        settle(plan, state, Finished(name, result))
    return plan, state


def test_a_stream_buys_others_in_place_of_second_tries_that_fill_its_budget():
    plan, state = late_at_the_end(Stream(sampling=2, initial=12))
    labels = [t.id for t in state.open.values() if t.verb is Verb.LABEL]
    assert len(labels) == 2
    assert not state.late_frames
    assert state.unbought == 2
    settle(plan, state, *map(bought, labels))
    assert state.ending == "max_labels: 10 labels bought"


def test_a_round_waits_for_second_tries_that_fill_its_budget():
    """A set is wanted whole."""
    plan, state = late_at_the_end(Rounds(samples=2, initial=12))
    assert {t.verb for t in state.open.values()} == {Verb.RELABEL}
    assert not waits(plan, state)


def test_second_tries_are_given_up_at_the_end_of_a_stream():
    plan, state = late_at_the_end(Stream(sampling=2, initial=12))
    plan = replace(plan, until=Until(max_labels=30))
    labels = [t.id for t in state.open.values() if t.verb is Verb.LABEL]
    again = {"path": "x.h5", "n": 0, "again": {"path": "again.h5", "n": 1}}
    settle(plan, state, *map(bought, labels[:1]), Finished(labels[1], again))
    (second,) = [t.id for t in state.open.values() if t.verb is Verb.RELABEL]
    plan = replace(plan, until=Until(max_labels=9))
    settle(plan, state, Awaited("the end", 50.0))
    found = waits(plan, state)
    (name,) = [w for w in found if "second" in w]
    assert found[name] == plan.patience.least_s
    decided = settle(plan, state, Awaited(name, 50.0), Overdue(name))
    assert [e.task_id for e in decided if isinstance(e, Cancelled)] == [second]
    assert (state.late_frames, state.unbought) == (0, 3)


def ending(patience=None):
    """A stream whose goal was reached with 40 labels out."""
    plan = Plan(policy=Stream(sampling=2, initial=60), until=Until(max_rounds=1), patience=patience or Patience())
    state = State()
    settle(plan, state)
    (build,) = state.open
    settle(plan, state, Finished(build, {"path": "b.h5", "n": 40}))
    assert state.open_frames == 40
    apply(state, Ending("enough"))
    assert state.out_at_end == 40
    return plan, state


def bought(name):
    return Finished(name, {"path": f"{name}.h5", "n": 1})


def test_the_last_labels_of_a_stream_get_as_long_again_as_the_others_took():
    plan, state = ending()
    labels = list(state.open)
    settle(plan, state, Awaited("the end", 1000.0), *map(bought, labels[:37]))
    assert set(waits(plan, state)) == {"the end"}
    settle(plan, state, bought(labels[37]))  # 95 % are in
    last = next(w for w in waits(plan, state) if "labels" in w)
    settle(plan, state, Awaited(last, 4000.0))
    assert waits(plan, state)[last] == 3000.0
    decided = settle(plan, state, bought(labels[38]), Overdue(last))
    assert [e.task_id for e in decided if isinstance(e, Cancelled)] == [labels[39]]
    (merge,) = [e.task for e in decided if isinstance(e, Submitted)]
    assert len(merge.args["labelled"]) == 39
    assert state.unbought == 1


def test_patience_without_end_waits_for_the_last_label():
    plan, state = ending(Patience(end_factor=float("inf")))
    settle(plan, state, Awaited("the end", 0.0), *map(bought, list(state.open)[:39]))
    assert set(waits(plan, state).values()) == {float("inf")}


def test_a_model_that_the_last_one_replaces_is_not_waited_for():
    state, fits = fitting(STREAM)
    assert state.open_frames == 2  # nine tenths of the first labels are enough for a first model
    enough = replace(STREAM, until=Until(max_labels=1))
    decided = decide(enough, state)
    assert isinstance(decided[0], Ending)
    assert set(fits) <= {e.task_id for e in decided[1:]}
    fold(decided, state)
    assert state.loops[0].making is None
    assert state.loops[0].lost_versions == 0
