"""Pools of a lane: when blocks are asked for, given up and given back."""

from dataclasses import replace

import pytest
from parsl.executors import HighThroughputExecutor
from parsl.jobs.states import JobState, JobStatus
from parsl.providers.errors import SubmitException

from alflow.runtime import parsl_pools
from alflow.runtime.parsl_site import parsl_config
from alflow.spec.site import Lane

SLURM = Lane(
    scheduler="slurm", launcher="srun", nodes_per_block=2, max_blocks=4, walltime="04:00:00", address="10.1.1.1"
)
LSF = Lane(scheduler="lsf", nodes_per_block=2, cores_per_node=4, address="10.1.1.1")


@pytest.fixture
def pools(only, tmp_path, monkeypatch):
    """A lane that is not started, whose clock stands, and whose scheduler says what `refusing` says."""
    (lane,) = parsl_config(only(SLURM), tmp_path).executors
    now = [0.0]
    monkeypatch.setattr(parsl_pools.time, "monotonic", lambda: now[0])
    lane.run_dir, lane.worker_port, lane.now, lane.refusing, lane.asked = str(tmp_path), 1, now, "", []

    def submit(command, tasks_per_node, job_name):
        lane.asked.append(job_name)
        if lane.refusing:
            raise SubmitException(job_name, "no", stderr=f"sbatch: error: first\n{lane.refusing}\n")
        return str(len(lane.asked))

    lane.provider.submit = submit
    lane._get_launch_command = lambda block: "true"
    return lane


def test_a_refused_lane_asks_ever_more_seldom_and_never_fails(pools):
    pools.refusing = "sbatch: error: Invalid partition"
    times = []
    for pools.now[0] in range(3000):
        before = len(pools.asked)
        pools.scale_out_facade(3)
        pools.handle_errors(pools.status_facade)
        times += [pools.now[0]] * (len(pools.asked) - before)
    assert times == [0, 5, 15, 35, 75, 155, 315, 635, 1275, 2175]
    assert pools.wait.trouble == "no blocks: sbatch: error: Invalid partition (failures in a row: 10)"
    assert pools.status_facade == {}
    assert not pools.bad_state_is_set
    pools.refusing, pools.now[0] = "", 4000.0
    assert len(pools.scale_out_facade(3)) == 3
    assert pools.wait == parsl_pools.Wait()


def dead(block):
    return JobStatus(JobState.MISSING, message=f"block {block}")


def test_a_lane_whose_workers_never_report_is_given_up_with_the_reason(pools):
    status = {}
    for n in range(3):
        assert not pools.bad_state_is_set
        pools.now[0] += 1000.0
        (block,) = pools.scale_out_facade(1)
        status[block] = JobStatus(JobState.MISSING, message=f"line\nno module named x{n}")
        pools.handle_errors(status)
        pools.handle_errors(status)  # counted once
    assert pools.bad_state_is_set
    assert "batch job 3 ended before a worker reported: no module named x2" in str(pools.executor_exception)


def test_a_lane_that_has_worked_is_not_given_up(pools, monkeypatch):
    monkeypatch.setattr(HighThroughputExecutor, "connected_blocks", lambda self: ["0"])
    pools.scale_out_facade(1)
    pools.connected_blocks()
    status = {}
    for _ in range(8):
        pools.now[0] += 1000.0
        assert len(pools.scale_out_facade(3)) == (1 if status else 3)  # one at a time until a worker reports
        status |= {block: dead(block) for block in pools.blocks_to_job_id if block != "0"}
        pools.handle_errors(status)
    assert not pools.bad_state_is_set
    assert "ended before a worker reported" in pools.wait.trouble
    monkeypatch.setattr(HighThroughputExecutor, "connected_blocks", lambda self: ["0", "99"])
    pools.connected_blocks()
    assert pools.wait == parsl_pools.Wait()


def test_scale_in_spares_blocks_that_wait_or_work(only, tmp_path):
    (pools,) = parsl_config(only(Lane(max_blocks=4, workers_per_node=2)), tmp_path).executors

    def pool(block, tasks, idle):
        return {"block_id": block, "tasks": tasks, "idle_duration": idle, "active": True, "manager": block}

    held, cancelled = [], []
    pools.connected_managers = lambda: [pool("1", 1, 0.0), pool("2", 0, 900.0), pool("3", 0, 700.0), pool("4", 0, 5.0)]
    pools._hold_block = held.append
    pools.provider.cancel = lambda jobs: cancelled.extend(jobs) or [True] * len(jobs)
    pools.blocks_to_job_id.update({b: f"job{b}" for b in "01234"})  # block 0 has not connected yet
    assert pools.scale_in(0, max_idletime=600.0) == []
    assert pools.scale_in(1, max_idletime=600.0) == ["2"]
    assert sorted(pools.scale_in(4, max_idletime=600.0)) == ["2", "3"]
    assert set(held) == {"2", "3"}
    assert set(cancelled) == {"job2", "job3"}


def test_workers_of_a_pool_that_serves_a_block_are_counted_once(only, tmp_path):
    (pools,) = parsl_config(only(replace(LSF, ranks_per_task=2)), tmp_path).executors
    assert pools.max_workers_per_node == 4
    assert pools.workers_per_node == 2.0
    (pools,) = parsl_config(only(replace(LSF, launcher="jsrun")), tmp_path).executors
    assert (pools.max_workers_per_node, pools.workers_per_node) == (4, 4.0)
