"""What a lane amounts to."""

import dataclasses

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


def test_a_block_stops_taking_tasks_before_it_ends():
    assert lanes.drain_s(Lane(scheduler="slurm", walltime="01:00:00")) == 3240
    assert lanes.drain_s(Lane(scheduler="slurm", walltime="12:00:00")) == 12 * 3600 - 900
    assert lanes.drain_s(Lane()) is None


def test_worker_init_sets_threads_deadline_and_the_sites_own_lines():
    text = lanes.worker_init(
        Lane(scheduler="lsf", walltime="00:10:00", cores_per_task=3, worker_init="module load x\n")
    )
    assert "export OMP_NUM_THREADS=3\n" in text
    assert "export NUMBA_NUM_THREADS=3\n" in text
    assert "export ALFLOW_DEADLINE=$(( $(date +%s) + 600 ))\nmodule load x" in text
    assert lanes.DEADLINE not in lanes.worker_init(Lane())


def test_lanes_in_use_are_named_once_and_only_if_used():
    one = Lane()
    site = Site(name="s", lanes={"all": one, "spare": one}, shares={"sample": "all", "label": "all", "fit": "all"})
    assert lanes.lanes_in_use(site) == {"all": one}
    site = Site(name="s", lanes={"sample": one, "label": one, "fit": one})
    assert set(lanes.lanes_in_use(site)) == {"sample", "label", "fit"}
