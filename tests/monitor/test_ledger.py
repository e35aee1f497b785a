"""Every hour that was held is in one place, and in the right one."""

from __future__ import annotations

import random

import pytest

from alflow.campaign.model import (
    Began,
    Cancelled,
    Closed,
    Ending,
    Failed,
    FailureKind,
    Finished,
    Resources,
    Retried,
    Submitted,
    Task,
    Verb,
)
from alflow.monitor.ledger import CAUSES, Ledger

LANES = {"sample": "gpu", "label": "cpu", "fit": "gpu", "build": "gpu", "calibrate": "gpu", "merge": "gpu"}
H = 3600.0


def given(name, verb=Verb.LABEL, **args):
    return Submitted(Task(name, verb, {"stage": 0, "frames": ["x", 0, 1], **args}))


def ended(name, start, stop, **more):
    return Finished(name, {"n": 1, "started": start * H, "ended": stop * H, **more})


def held(**lanes):
    return Resources({k: dict(zip(("nodes", "workers", "pending"), v, strict=True)) for k, v in lanes.items()})


def ledger(*lines, policies=("rounds",)):
    book = Ledger()
    book.add(0.0, [Began(LANES, list(policies))])
    for hours, *events in lines:
        book.add(hours * H, events)
    return book


def account(book, lane="cpu", now=None):
    found = next(b for b in book.books(None if now is None else now * H) if b.lane == lane)
    assert found.busy_h + sum(found.idle_h.values()) == pytest.approx(found.node_h)
    assert set(found.idle_h) == set(CAUSES)
    return {"held": found.node_h, "busy": found.busy_h, **{k: v for k, v in found.idle_h.items() if abs(v) > 1e-12}}


def test_a_wave_with_a_straggler_then_a_fit():
    book = ledger(
        (0, held(cpu=(1, 2, 0), gpu=(1, 1, 0))),
        (0, given("a"), given("b")),
        (1, ended("a", 0, 1)),
        (3, ended("b", 0, 3), given("f", Verb.FIT)),
        (5, ended("f", 3, 5), given("c"), given("d")),
        (6, ended("c", 5, 6), ended("d", 5, 6)),
    )
    # of one node's two workers one waited two hours for the other, then both two hours for the fit
    assert account(book) == pytest.approx({"held": 6, "busy": 3, "straggler": 1, "barrier": 2})
    assert account(book, "gpu") == pytest.approx({"held": 6, "busy": 2, "barrier": 4})


def test_a_wave_smaller_than_the_lane_leaves_the_rest_without_work():
    book = ledger((0, held(cpu=(1, 4, 0)), given("a")), (2, ended("a", 0, 2)), (3, Closed("done")))
    assert account(book) == pytest.approx({"held": 3, "busy": 0.5, "no work": 2.5})


def test_a_stream_waits_for_nobody_between_its_first_model_and_its_end():
    lines = [
        (0, held(cpu=(1, 2, 0), gpu=(1, 1, 0)), given("a")),
        (1, ended("a", 0, 1), given("f", Verb.FIT)),
        (2, ended("f", 1, 2), given("s", Verb.SAMPLE, count=1)),  # from here on it streams
        (3, ended("s", 2, 3), given("b"), given("c"), given("t", Verb.SAMPLE, count=1)),
        (4, ended("b", 3, 4), Ending("enough"), Cancelled("t", "enough")),
        (6, ended("c", 3, 6)),
    ]
    stream = account(ledger(*lines, policies=("stream",)))
    assert stream == pytest.approx(
        {"held": 6, "busy": 0.5 + 0.5 + 1.5, "no work": 0.5 + 1, "barrier": 1, "straggler": 1}
    )
    rounds = account(ledger(*lines, policies=("rounds",)))
    assert rounds == pytest.approx({"held": 6, "busy": 2.5, "no work": 0.5, "barrier": 2, "straggler": 1})


def test_pools_that_come_up_and_tasks_that_travel_are_start_up():
    book = ledger(
        (0, given("a"), given("b"), held(cpu=(0, 0, 1))),
        (1, held(cpu=(1, 0, 0))),
        (2, held(cpu=(1, 2, 0))),
        (4, ended("a", 3, 4), ended("b", 2, 4)),
    )
    assert account(book) == pytest.approx({"held": 3, "start-up": 1 + 0.5, "busy": 1.5})
    assert book.books()[0].queue_h == pytest.approx(1)
    assert book.books()[0].worker_h == pytest.approx(3)


def test_tries_that_fail_are_failure_whether_a_worker_told_or_not():
    infra = FailureKind.INFRASTRUCTURE
    book = ledger(
        (0, held(cpu=(1, 1, 0)), given("a"), given("b")),
        (2, Failed("a", FailureKind.UNPHYSICAL, "no", started=0.0)),
        (3, Retried("b", infra, "its worker was lost")),  # nobody told: it began when the worker was free
        (5, ended("b", 4, 5)),
    )
    lost = account(book)
    # one second is the pause before the retry, the rest of that hour the way to the worker
    assert lost == pytest.approx({"held": 5, "busy": 1, "failure": 3 + 1 / H, "start-up": 1 - 1 / H})


def test_what_a_killed_coordinator_held_counts_up_to_its_last_line():
    book = ledger(
        (0, held(cpu=(1, 1, 0)), given("a"), given("b")),
        (1, ended("a", 0, 1)),
        (9, Began(LANES, ["rounds"])),
        (10, held(cpu=(1, 1, 0))),
        (12, ended("b", 10, 12)),
    )
    assert account(book) == pytest.approx({"held": 3, "busy": 3})


def test_work_that_was_lost_with_a_coordinator_is_failure_and_what_it_had_finished_is_not():
    lines = [
        (0, held(cpu=(1, 1, 0)), given("a"), given("b")),
        (2, given("c")),
        (9, Began(LANES, ["rounds"])),
    ]
    done = [(9, ended("a", 0, 2)), (9, held(cpu=(1, 1, 0))), (10, ended("b", 9, 10))]
    assert account(ledger(*lines, *done)) == pytest.approx({"held": 3, "busy": 3})
    again = [(9, held(cpu=(1, 1, 0))), (10, ended("a", 9, 10))]
    assert account(ledger(*lines, *again)) == pytest.approx({"held": 3, "busy": 1, "failure": 2})


def test_of_a_run_at_work_what_is_out_counts_up_to_now():
    book = ledger((0, held(cpu=(2, 4, 0)), given("a"), given("b"), given("c")))
    assert account(book, now=2) == pytest.approx({"held": 4, "busy": 3, "no work": 1})
    assert account(book) == {"held": 0, "busy": 0}


def test_versions_share_out_all_that_was_held_and_bought():
    book = ledger(
        (0, held(cpu=(2, 2, 0), gpu=(1, 1, 0)), given("a"), given("b")),
        (1, ended("a", 0, 1), ended("b", 0, 1), given("m", Verb.CALIBRATE, version=1)),
        (2, Finished("m", {}), given("c")),
        (3, ended("c", 2, 3), held(cpu=(0, 0, 0)), given("n", Verb.CALIBRATE, version=2)),
        (5, Finished("n", {})),
    )
    first, second = book.versions()
    assert (first.version, first.labels, first.node_h) == (1, 2, pytest.approx(6))
    assert (second.version, second.labels, second.node_h) == (2, 1, pytest.approx(2 + 3))
    assert first.node_h + second.node_h == pytest.approx(sum(b.node_h for b in book.books()))


def test_a_runner_that_tells_nothing_is_known_for_it():
    book = ledger((0, given("a")), (1, ended("a", 0, 1)))
    assert not book.known
    assert book.books() == ()


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_it_adds_up(seed):
    rng = random.Random(seed)
    book, t, out = ledger(policies=(rng.choice(["rounds", "stream"]),)), 0.0, {}
    for i in range(300):
        t += rng.random() * 100
        kind = rng.randrange(8)
        if kind < 3:
            verb = rng.choice([Verb.LABEL, Verb.SAMPLE, Verb.FIT])
            out[f"t-{i}"] = verb
            book.add(t, [given(f"t-{i}", verb)])
        elif kind < 5 and out:
            name = rng.choice(list(out))
            start = t - rng.random() * 300  # clocks of workers may be off
            what = rng.randrange(4)
            if what == 0:
                book.add(t, [Retried(name, FailureKind.INFRASTRUCTURE, "", "", rng.choice([None, start]))])
                continue
            del out[name]
            end = Finished(name, {"n": 1, "started": start, "ended": start + rng.random() * 400})
            book.add(t, [end if what < 3 else Cancelled(name, "")])
        elif kind == 5:
            workers = rng.randrange(5)
            book.add(t, [held(cpu=(rng.randrange(3), workers, rng.randrange(2)), gpu=(workers, workers, 0))])
        elif kind == 6 and rng.random() < 0.1:
            book.add(t, [Began(LANES, ["rounds"])])
    for found in book.books(t + 50):
        assert found.busy_h + sum(found.idle_h.values()) == pytest.approx(found.node_h)
        assert min(found.busy_h, found.queue_h, *found.idle_h.values()) >= -1e-9
