"""What a site would ask of its scheduler: pure arithmetic on its lanes."""

from __future__ import annotations

from dataclasses import dataclass

from alflow.campaign.model import Verb
from alflow.spec.site import Lane, Site, lane_of, walltime_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One lane in figures.

    Attributes:
        lane: its name.
        verbs: the verbs that run in it.
        scheduler: who grants its nodes.
        nodes: nodes of a block.
        workers_per_node: tasks that a node runs at a time.
        tasks_per_block: tasks that a block runs at a time.
        max_tasks: tasks that all blocks run at a time.
        max_blocks: most blocks at a time.
        walltime_h: length of a block in hours.
        node_hours: price of one block that runs to its end.
    """

    lane: str
    verbs: tuple[str, ...]
    scheduler: str
    nodes: int
    workers_per_node: int
    tasks_per_block: int
    max_tasks: int
    max_blocks: int
    walltime_h: float
    node_hours: float

    def words(self) -> str:
        """The figures as a sentence."""
        if self.scheduler == "local":
            return f"this machine: {_count(self.max_tasks, 'task')} at a time"
        blocks = f"at most {_count(self.max_blocks, 'block')} of {_count(self.nodes, 'node')} for {self.walltime_h:g} h"
        tasks = f"{_count(self.workers_per_node, 'task')} a node, {self.max_tasks} at a time"
        return f"{self.scheduler}: {blocks} ({self.node_hours:g} node-hours each); {tasks}"


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def workers_per_node(lane: Lane) -> int:
    """Tasks a node runs at a time: as told, or what its cores and GPUs allow."""
    if lane.workers_per_node:
        return lane.workers_per_node
    by_cores = lane.cores_per_node // (lane.cores_per_task * lane.ranks_per_task)
    if lane.gpus_per_task:
        by_gpus = lane.gpus_per_node // lane.gpus_per_task
        return max(1, by_gpus if lane.cores_per_node == 1 else min(by_gpus, by_cores))  # 1 is: not said
    return max(1, by_cores)


def plan(site: Site) -> tuple[Block, ...]:
    """The blocks of every lane of `site`."""
    verbs: dict[str, list[str]] = {lane: [] for lane in site.lanes}
    for verb in Verb:
        verbs[lane_of(site, verb)].append(str(verb))
    return tuple(_block(name, lane, tuple(verbs[name])) for name, lane in site.lanes.items())


def _block(name: str, lane: Lane, verbs: tuple[str, ...]) -> Block:
    workers, hours = workers_per_node(lane), walltime_s(lane.walltime) / 3600
    tasks = workers * lane.nodes_per_block
    return Block(
        lane=name,
        verbs=verbs,
        scheduler=lane.scheduler,
        nodes=lane.nodes_per_block,
        workers_per_node=workers,
        tasks_per_block=tasks,
        max_tasks=tasks * lane.max_blocks,
        max_blocks=lane.max_blocks,
        walltime_h=hours,
        node_hours=lane.nodes_per_block * hours,
    )
