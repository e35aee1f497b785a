"""Tasks are given to the block that has most to do."""

from __future__ import annotations

import pickle

from alflow.runtime.parsl_packing import FullestBlock


def pools(**blocks):
    """Managers by block: how many tasks each has."""
    return {
        f"{block}{i}".encode(): {"block_id": block, "tasks": [0] * n}
        for block, tasks in blocks.items()
        for i, n in enumerate(tasks)
    }


def test_the_fullest_block_comes_first_and_within_it_the_fullest_pool():
    ready = pools(a=[1, 0], b=[0, 0], c=[3, 1, 2])
    order = FullestBlock().sort_managers(ready, set(ready) - {b"c0"})  # c0 has no room
    assert order[::-1][:4] == [b"c2", b"c1", b"a0", b"a1"]
    assert set(order[:2]) == {b"b0", b"b1"}


def test_blocks_that_are_alike_share_by_chance():
    ready = pools(a=[0], b=[0], c=[0])
    assert len({FullestBlock().sort_managers(ready, set(ready))[-1] for _ in range(100)}) == 3


def test_the_last_tasks_fill_one_block():
    """As the interchange goes about it: the last of the order gets what it has room for."""
    ready = pools(a=[2, 1], b=[4, 4], c=[0, 0])
    for _ in range(8):
        free = {m for m, pool in ready.items() if len(pool["tasks"]) < 4}
        ready[FullestBlock().sort_managers(ready, free)[-1]]["tasks"].append(0)
    assert [len(pool["tasks"]) for pool in ready.values()][:4] == [4, 4, 4, 4]
    assert sum(len(pool["tasks"]) for pool in ready.values()) == 2 + 1 + 8 + 8


def test_it_travels_to_the_interchange():
    assert isinstance(pickle.loads(pickle.dumps(FullestBlock())), FullestBlock)
