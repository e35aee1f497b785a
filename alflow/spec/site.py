"""The site file: where work runs, never what is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from alflow.interfaces import Code

Scheduler = Literal["local", "slurm", "lsf", "flux"]
Launcher = Literal["none", "srun", "jsrun", "flux"]


@dataclass(frozen=True, kw_only=True)
class Lane:
    """Where the tasks of one costly verb run: blocks of nodes with workers on them.

    Attributes:
        scheduler: who grants the nodes; ``local`` uses this machine.
        launcher: what starts the worker pool on every node of a block.
        nodes_per_block: nodes the scheduler grants at a time.
        min_blocks: blocks held even when idle.
        max_blocks: most blocks at a time.
        walltime: length of a block, ``HH:MM:SS`` (hours may pass 24).
        workers_per_node: tasks a node runs at a time; 0 derives it from GPUs or cores.
        cores_per_node: physical cores of a node.
        cores_per_task: cores (threads) a task may use.
        gpus_per_node: GPUs of a node.
        gpus_per_task: GPUs bound to a task; 0 for none.
        ranks_per_task: MPI ranks of an outside code in this lane.
        account, partition, qos: as the scheduler wants them; empty where it does not.
        options: further lines for the head of the batch script, such as ``#SBATCH --exclusive``.
        worker_init: shell lines run before the workers start (modules, virtual environment); the site's own, trusted.
        address: how workers reach the coordinator: an interface such as ``ib0`` or an address; empty finds out.
    """

    scheduler: Scheduler = "local"
    launcher: Launcher = "none"
    nodes_per_block: int = 1
    min_blocks: int = 0
    max_blocks: int = 1
    walltime: str = "01:00:00"
    workers_per_node: int = 0
    cores_per_node: int = 1
    cores_per_task: int = 1
    gpus_per_node: int = 0
    gpus_per_task: int = 0
    ranks_per_task: int = 1
    account: str = ""
    partition: str = ""
    qos: str = ""
    options: tuple[str, ...] = ()
    worker_init: str = ""
    address: str = ""


@dataclass(frozen=True, kw_only=True)
class Site:
    """A machine as alflow sees it.

    Attributes:
        name: what users call it.
        lanes: by name; ``sample``, ``label`` and ``fit`` always resolve, see `lane_of`.
        shares: verb -> lane for verbs that run in another verb's lane, such as ``{"fit": "sample"}``.
        codes: outside programs by name.
        monitoring: keep Parsl's monitoring database in the run directory.
    """

    name: str
    lanes: Mapping[str, Lane]
    shares: Mapping[str, str] = field(default_factory=dict)
    codes: Mapping[str, Code] = field(default_factory=dict)
    monitoring: bool = True
