"""Blocks and tasks in virtual time, against times that can be worked out by hand."""

from __future__ import annotations

import math

import pytest

from alflow.campaign.model import FailureKind, Task, Verb
from alflow.errors import CampaignError
from alflow.runtime import lanes
from alflow.runtime.runner import Capacity
from alflow.runtime.virtual_profile import Draws, Duration, Failures, Profile, Stragglers
from alflow.runtime.virtual_runner import VirtualRunner
from alflow.runtime.virtual_world import World
from alflow.spec.site import Lane, Site

QUICK = {"queue": Duration(), "start_s": 0.0, "reaction_s": 0.0, "halt_s": 0.0}


def site(**lane):
    return Site(name="there", lanes={"all": Lane(**lane)}, shares=dict.fromkeys(("sample", "label", "fit"), "all"))


def slurm(**lane):
    return site(**{"scheduler": "slurm", "launcher": "srun", "walltime": "01:00:00", **lane})


def runner(where, seconds=10.0, **profile):
    tasks = {"label": Duration(median_s=seconds, per="frame"), "sample": Duration(median_s=seconds)}
    world = World(Profile(**{"tasks": tasks, **QUICK, **profile}), 0, [None], [2])
    return VirtualRunner(where, world)


def label(n, frames=1):
    return {"id": f"0-label-{n:06d}", "verb": "label", "args": {"stage": 0, "frames": ["x", 0, frames], "pace": None}}


def drained(r, retry=True):
    """Ends of all tasks: (id, when, failure); failed ones are given out again."""
    ends, out = [], set(r._jobs)
    while out:
        for report in r.completed(math.inf):
            kind = (report.result or {}).get("failure") or report.failure
            ends.append((report.task_id, r.clock.now, kind))
            if kind is None or not retry:
                out.discard(report.task_id)
            else:
                r.submit(label(int(report.task_id[-6:])))
    return ends


def passed(r, t):
    """Let time go on to `t`; ids of the tasks that ended."""
    ended = []
    while r.clock.now < t:
        ended += [report.task_id for report in r.completed(t - r.clock.now)]
    return ended


def conserved(r):
    r.close()
    for lane in r.lanes.values():
        a = lane.account
        assert 0 <= a.lost_s <= a.busy_s <= a.open_s + 1e-9
        assert a.open_s <= a.block_s * lane.workers + 1e-9
    return next(iter(r.lanes.values())).account


def test_tasks_queue_for_the_workers_of_a_lane():
    r = runner(site(cores_per_node=2))
    for n in range(5):
        r.submit(label(n))
    assert [t for _, t, _ in drained(r)] == [10, 10, 20, 20, 30]
    account = conserved(r)
    assert (account.block_s, account.open_s, account.busy_s) == (30, 60, 50)


def test_a_label_task_takes_the_sum_of_its_frames():
    r = runner(site())
    r.submit(label(0, frames=7))
    assert drained(r) == [("0-label-000000", 70, None)]


def test_a_result_says_when_it_was_begun_and_ended():
    r = runner(site())
    r.submit(label(0))
    r.submit(label(1))
    results = []
    while len(results) < 2:
        results += [report.result for report in r.completed(math.inf)]
    assert [(x["started"], x["ended"], x["n"]) for x in results] == [(0, 10, 1), (10, 20, 1)]


def test_blocks_wait_in_the_queue_then_start():
    r = runner(slurm(), queue=Duration(median_s=100.0), start_s=20.0)
    r.submit(label(0))
    assert drained(r) == [("0-label-000000", 130, None)]
    account = conserved(r)
    assert (account.pending_s, account.block_s, account.open_s, account.busy_s) == (100, 30, 10, 10)


def test_the_coordinator_is_told_what_lanes_hold():
    r = runner(slurm(nodes_per_block=3, max_blocks=2, cores_per_node=4), queue=Duration(median_s=100.0), start_s=50.0)
    for n in range(13):
        r.submit(label(n))
    seen = [r.capacity()["all"]]
    while len(r._jobs) == 13:
        list(r.completed(math.inf))
        seen.append(r.capacity()["all"])
    assert list(dict.fromkeys(seen)) == [Capacity(), Capacity(0, 0, 2), Capacity(6, 0, 0), Capacity(6, 24, 0)]


def test_as_many_blocks_as_the_backlog_needs_and_no_more():
    r = runner(slurm(nodes_per_block=2, max_blocks=10, cores_per_node=4))
    for n in range(17):
        r.submit(label(n))
    assert {t for _, t, _ in drained(r)} == {10}
    assert r.capacity()["all"] == Capacity(6, 24, 0)


def test_idle_blocks_are_given_back_after_a_while():
    where = slurm(nodes_per_block=1, max_blocks=3, min_blocks=1)
    r = runner(where)
    for n in range(3):
        r.submit(label(n))
    drained(r)
    idle = lanes.times(where.lanes["all"]).idle
    passed(r, idle + 30)
    assert r.capacity()["all"] == Capacity(1, 1, 0)
    assert conserved(r).open_s == pytest.approx(3 * 10 + 3 * idle, abs=60)


def test_with_a_timeout_time_goes_that_far_and_no_farther():
    r = runner(site())
    r.submit(label(0))
    assert (passed(r, 4.0), r.clock.now) == ([], 4.0)
    assert drained(r) == [("0-label-000000", 10, None)]


def test_time_without_an_end_is_an_error_not_a_hang():
    with pytest.raises(CampaignError, match="nothing is left"):
        list(runner(site()).completed(math.inf))


# ---- walltime --------------------------------------------------------------------------------------------------------


def ends_of(lane):
    block = lanes.block_s(lane)
    deadline = block - lanes.margin_s(lane)
    return deadline - lanes.drain_s(lane), deadline, block


def test_a_halted_task_goes_on_in_the_next_block():
    where = slurm()
    drain, deadline, _ = ends_of(where.lanes["all"])
    seconds = 0.9 * drain  # the second of two tasks starts in time, but its block ends before it
    r = runner(where, seconds=seconds)
    for n in range(2):
        r.submit(label(n))
    first, halted, last = drained(r)
    assert first == ("0-label-000000", seconds, None)
    assert halted == ("0-label-000001", deadline, FailureKind.HALTED)
    assert last[1] == pytest.approx(2 * seconds, abs=5)  # nothing was lost; at most a look of five seconds
    assert conserved(r).lost_s == 0


def test_a_task_that_cannot_leave_what_it_has_is_lost_with_its_block():
    where = slurm()
    drain, _, block = ends_of(where.lanes["all"])
    seconds = 0.9 * drain
    r = runner(where, seconds=seconds, continues=())
    for n in range(2):
        r.submit(label(n))
    _, lost, last = drained(r)
    assert lost == ("0-label-000001", block, FailureKind.INFRASTRUCTURE)
    assert last[1] == pytest.approx(block + seconds, abs=5)
    assert conserved(r).lost_s == pytest.approx(block - seconds)


def test_a_block_takes_no_task_in_the_last_part_of_its_walltime():
    where = slurm()
    drain, _, _ = ends_of(where.lanes["all"])
    r = runner(where, seconds=drain + 1.0)
    for n in range(2):
        r.submit(label(n))
    (_, one, _), (_, two, _) = drained(r)
    assert one == drain + 1.0
    assert two == pytest.approx(2 * one, abs=5)
    assert conserved(r).open_s == pytest.approx(2 * one)  # the first block ended with its task


# ---- chance ----------------------------------------------------------------------------------------------------------


def test_failed_tries_take_part_of_the_time_and_are_drawn_anew():
    r = runner(site(cores_per_node=4), failures=Failures(infrastructure=0.5))
    for n in range(200):
        r.submit(label(n))
    ends = drained(r)
    failed = [e for e in ends if e[2] is FailureKind.INFRASTRUCTURE]
    assert len(ends) - len(failed) == 200
    assert 120 < len(failed) < 290  # as many again as tasks, give or take
    account = conserved(r)
    assert account.busy_s - account.lost_s == pytest.approx(2000)
    assert account.lost_s == pytest.approx(5 * len(failed), rel=0.2)


def test_draws_hang_on_seed_and_name_alone_and_are_even():
    draws = Draws(3)
    assert draws.uniforms("a") == Draws(3).uniforms("a")
    assert draws.uniforms("a") != draws.uniforms("b")
    assert draws.uniforms("a") != Draws(4).uniforms("a")
    many = [u for i in range(5000) for u in draws.uniforms(f"{i}")]
    assert sum(many) / len(many) == pytest.approx(0.5, abs=0.01)
    assert sum(u < 0.01 for u in many) / len(many) == pytest.approx(0.01, abs=0.002)
    assert 0 < min(many) < max(many) < 1


def test_a_task_takes_as_long_on_every_layout():
    profile = Profile(tasks={"label": Duration(median_s=9.0, sigma=1.0, per="frame")}, stragglers=Stragglers(), **QUICK)

    def seconds(where):
        r = VirtualRunner(where, World(profile, 5, [None], [2]))
        for n in range(40):
            r.submit(label(n))
        found = {}
        while len(found) < 40:
            found |= {x.task_id: x.result["ended"] - x.result["started"] for x in r.completed(math.inf)}
        return found

    assert seconds(site()) == pytest.approx(seconds(slurm(nodes_per_block=4, max_blocks=3)))


def test_durations_are_distributed_as_they_should_be():
    duration = Duration(median_s=100.0, sigma=0.5, per="frame", base_s=3.0)
    profile = Profile(tasks={"fit": duration}, stragglers=Stragglers(probability=0.1, factor=1000.0), **QUICK)
    world = World(profile, 0, [None], [1])
    tasks = [Task(f"0-fit-{n:06d}", Verb.FIT, {"stage": 0, "n_frames": 2, "members": [0, 1]}) for n in range(4000)]
    seconds = [(world.outcome(t, 0).seconds - 3) / 2 for t in tasks]
    usual = sorted(math.log(s / 100) for s in seconds if s < 20_000)
    assert 1 - len(usual) / 4000 == pytest.approx(0.1, abs=0.02)
    assert usual[len(usual) // 2] == pytest.approx(0, abs=0.04)
    assert math.sqrt(sum(x * x for x in usual) / len(usual)) == pytest.approx(0.5, abs=0.03)


def test_labels_that_take_too_long_are_ended_and_take_their_time_in_the_end():
    profile = Profile(
        tasks={"label": Duration(median_s=100.0, per="frame")}, stragglers=Stragglers(probability=0.3), **QUICK
    )
    world = World(profile, 1, [None], [2])
    atoms2 = profile.learning.atoms**2
    task = Task("0-label-000000", Verb.LABEL, {"stage": 0, "frames": ["x", 0, 50], "pace": [1000 / atoms2, 10.0]})
    out = world.outcome(task, 0)
    again = out.result["again"]
    assert 5 < again["n"] < 30
    assert out.result["n"] == 50 - again["n"]
    assert out.seconds == pytest.approx(100 * out.result["n"] + 1000 * again["n"])
    more = {"stage": 0, "frames": [again["path"], 0, 1], "level": 1, "home": task.id, "pace": [4000 / atoms2, 40.0]}
    second = world.outcome(Task("0-relabel-000000", Verb.RELABEL, more), 0)
    assert (second.seconds, second.result["n"]) == (pytest.approx(2000), 1)
    short = {**more, "pace": [1500 / atoms2, 15.0]}
    third = world.outcome(Task("0-relabel-000001", Verb.RELABEL, short), 0)
    assert (third.seconds, third.result["n"], len(third.result["failures"])) == (pytest.approx(1500), 0, 1)


def test_a_waiting_task_that_is_cancelled_never_starts_and_a_running_one_ends():
    from alflow.campaign.model import Cancelled

    r = runner(site(), halt_s=2.0)
    for n in range(3):
        r.submit(label(n))
    passed(r, 4.0)
    r.on_events(4.0, [Cancelled("0-label-000000", ""), Cancelled("0-label-000001", "")])
    assert drained(r) == [("0-label-000002", 16, None)]
    assert conserved(r).busy_s == 6 + 10
