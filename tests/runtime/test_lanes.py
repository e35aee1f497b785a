"""What a lane amounts to."""

import dataclasses
import subprocess

import pytest

from alflow.runtime import lanes
from alflow.spec.site import Lane, Site


@pytest.mark.parametrize(
    ("lane", "count"),
    [
        (Lane(), 1),
        (Lane(cores_per_node=2), 2),
        (Lane(cores_per_node=44, cores_per_task=4), 11),
        (Lane(cores_per_node=44, ranks_per_task=40), 1),
        (Lane(cores_per_node=44, ranks_per_task=10, cores_per_task=2), 2),
        (Lane(cores_per_node=2, cores_per_task=8), 1),
        (Lane(cores_per_node=44, gpus_per_node=4, gpus_per_task=1), 4),
        (Lane(cores_per_node=44, gpus_per_node=4, gpus_per_task=2), 2),
        (Lane(cores_per_node=44, gpus_per_node=4, gpus_per_task=1, workers_per_node=8), 8),
    ],
)
def test_workers(lane, count):
    assert lanes.workers_per_node(lane) == count


@pytest.mark.parametrize(
    ("lane", "names"),
    [
        (Lane(gpus_per_node=4), []),
        (Lane(gpus_per_node=4, gpus_per_task=1), ["0", "1", "2", "3"]),
        (Lane(gpus_per_node=4, gpus_per_task=2), ["0,1", "2,3"]),
        (Lane(gpus_per_node=2, gpus_per_task=1, workers_per_node=4), ["0", "1", "2", "3"]),
    ],
)
def test_accelerators(lane, names):
    assert lanes.accelerators(lane) == names


def test_a_pool_without_launcher_serves_the_whole_block():
    lane = Lane(scheduler="lsf", nodes_per_block=3, cores_per_node=40, ranks_per_task=20, gpus_per_node=4)
    assert lanes.pool_workers(lane) == 6
    assert lanes.pool_workers(dataclasses.replace(lane, launcher="jsrun")) == 2
    assert lanes.accelerators(dataclasses.replace(lane, gpus_per_task=1)) == []


def test_workers_are_bound_only_where_they_own_the_node_and_compute_themselves():
    node = {"scheduler": "slurm", "cores_per_node": 8}
    assert lanes.affinity(Lane(**node, cores_per_task=4)) == "block"
    assert lanes.affinity(Lane(**node, ranks_per_task=8)) == "none"
    assert lanes.affinity(Lane(**node, cores_per_task=4, workers_per_node=3)) == "none"
    assert lanes.affinity(Lane(cores_per_node=8)) == "none"


def test_a_block_stops_taking_tasks_before_it_halts_them():
    assert lanes.drain_s(Lane(scheduler="slurm", walltime="01:00:00")) == 360
    assert lanes.drain_s(Lane(scheduler="slurm", walltime="12:00:00")) == 900
    assert lanes.drain_s(Lane(scheduler="slurm", walltime="12:00:00", task_minutes=90)) == 5400
    assert lanes.drain_s(Lane()) is None
    assert lanes.drain_period(Lane()) == "None"


def test_drain_period_counts_from_the_start_of_the_pool():
    lane = Lane(scheduler="slurm", walltime="00:20:00", task_minutes=3)
    lines = f"{lanes.worker_init(lane)}\nsleep 2\necho {lanes.drain_period(lane)}"
    out = subprocess.run(["bash", "-c", lines], capture_output=True, text=True, check=True).stdout
    assert int(out) in range(1200 - 40 - 180 - 4, 1200 - 40 - 180 - 1)


def test_blocks_halt_tasks_before_the_scheduler_ends_them():
    margins = {w: lanes.margin_s(Lane(scheduler="slurm", walltime=w)) for w in ("00:01:00", "00:30:00", "24:00:00")}
    assert margins == {"00:01:00": 5, "00:30:00": 60, "24:00:00": 120}
    assert lanes.block_s(Lane(scheduler="lsf", walltime="00:02:59")) == 120  # schedulers count whole minutes


def test_short_blocks_are_looked_at_more_often():
    long, short = (lanes.times(Lane(scheduler="slurm", walltime=w)) for w in ("01:00:00", "00:01:00"))
    assert long == lanes.REMOTE
    assert short == lanes.Times(heartbeat=1, threshold=10, poll=1, status=2, idle=10.0)
    assert lanes.times(Lane(walltime="00:01:00")) == lanes.LOCAL


def test_worker_init_sets_threads_deadline_and_the_sites_own_lines():
    text = lanes.worker_init(
        Lane(scheduler="lsf", walltime="00:10:00", cores_per_task=3, worker_init="module load x\n")
    )
    assert "export OMP_NUM_THREADS=3\n" in text
    assert "export NUMBA_NUM_THREADS=3\n" in text
    assert "export ALFLOW_DEADLINE=$(( $(date +%s) + 580 ))\nmodule load x" in text
    assert lanes.DEADLINE not in lanes.worker_init(Lane())


def test_lanes_in_use_are_named_once_and_only_if_used():
    one = Lane()
    site = Site(name="s", lanes={"all": one, "spare": one}, shares={"sample": "all", "label": "all", "fit": "all"})
    assert lanes.lanes_in_use(site) == {"all": one}
    site = Site(name="s", lanes={"sample": one, "label": one, "fit": one})
    assert set(lanes.lanes_in_use(site)) == {"sample", "label", "fit"}
