"""What a lane of the site file amounts to: workers, threads, GPUs, times. Pure: no scheduler is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from alflow.campaign.model import Verb
from alflow.spec.plan import workers_per_node
from alflow.spec.site import Lane, Site, lane_of, walltime_s

DEADLINE: Final = "ALFLOW_DEADLINE"
"""Environment variable of a batch worker: the Unix time at which its block ends."""

_THREADS: Final = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds that depend on whether workers share the coordinator's machine.

    Attributes:
        heartbeat: between two signs of life of a pool and the interchange; a dead worker is noticed that fast.
        threshold: silence after which the other side is taken for dead.
        poll: between two looks at the queue of tasks, to ask for blocks or give them back.
        idle: after which an idle block is given back.
    """

    heartbeat: int
    threshold: int
    poll: int
    idle: float


LOCAL: Final = Times(heartbeat=2, threshold=60, poll=1, idle=600.0)
REMOTE: Final = Times(heartbeat=15, threshold=120, poll=5, idle=120.0)


def lanes_in_use(site: Site) -> dict[str, Lane]:
    """The lanes that some verb runs in, by name, each once."""
    return {name: site.lanes[name] for name in dict.fromkeys(lane_of(site, verb) for verb in Verb)}


def pool_workers(lane: Lane) -> int:
    """Workers of one pool: of its node, or of the whole block where no launcher puts a pool on every node.

    A lane without launcher is for codes that bring their own (``srun``, ``jsrun``, ``flux run``): started from inside
    a launched pool, which holds the nodes, they would wait for these nodes without end.
    """
    return workers_per_node(lane) * (lane.nodes_per_block if lane.launcher == "none" else 1)


def accelerators(lane: Lane) -> list[str]:
    """The GPUs each worker of a pool sees, such as ``["0,1", "2,3"]``; empty where it is not for us to say.

    Where more workers than GPUs are asked for, Parsl spreads workers 0, 1, 2 ... over the GPUs in turn.
    """
    n, size = workers_per_node(lane), lane.gpus_per_task
    if not size or pool_workers(lane) > n:
        return []
    if n * size <= lane.gpus_per_node:
        return [",".join(str(g) for g in range(i * size, (i + 1) * size)) for i in range(n)]
    return [str(i) for i in range(n)]


def affinity(lane: Lane) -> str:
    """Bind workers to cores only where they own the node and compute themselves; else leave that to the system."""
    fits = pool_workers(lane) * lane.cores_per_task <= lane.cores_per_node
    return "block" if lane.scheduler != "local" and lane.ranks_per_task == 1 and fits else "none"


def drain_s(lane: Lane) -> int | None:
    """Seconds after which a block takes no more tasks; None on this machine, which has no walltime.

    The last tenth of the walltime, at most 15 minutes, is kept for the tasks that run.
    """
    if lane.scheduler == "local":
        return None
    whole = walltime_s(lane.walltime)
    return whole - min(whole // 10, 900)


def worker_init(lane: Lane) -> str:
    """Shell lines before the workers of a block: threads, deadline, then the site's own."""
    lines = [f"export {name}={lane.cores_per_task}" for name in _THREADS]
    if lane.scheduler != "local":
        lines.append(f"export {DEADLINE}=$(( $(date +%s) + {walltime_s(lane.walltime)} ))")
    return "\n".join([*lines, lane.worker_init.strip()]).strip()


def times(lane: Lane) -> Times:
    """Heartbeats and polls of a lane."""
    return LOCAL if lane.scheduler == "local" else REMOTE
