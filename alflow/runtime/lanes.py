"""What a lane of the site file amounts to: workers, threads, GPUs, times. Pure: no scheduler is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from alflow.campaign.model import Verb
from alflow.spec.plan import workers_per_node
from alflow.spec.site import Lane, Site, lane_of, walltime_s

DEADLINE: Final = "ALFLOW_DEADLINE"
"""Environment variable of a batch worker: the Unix time at which it halts its tasks, a little before its block ends."""

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
        poll: between two looks at the tasks that wait, to ask for blocks or give them back.
        status: between two looks at the scheduler's queue.
        idle: after which an idle block is given back.
    """

    heartbeat: int
    threshold: int
    poll: int
    status: int
    idle: float


LOCAL: Final = Times(heartbeat=2, threshold=20, poll=1, status=5, idle=600.0)
REMOTE: Final = Times(heartbeat=15, threshold=120, poll=5, status=60, idle=120.0)


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


def block_s(lane: Lane) -> int:
    """Seconds that a block of a scheduler lives; they count whole minutes."""
    return walltime_s(lane.walltime) // 60 * 60


def margin_s(lane: Lane) -> int:
    """Seconds before its end at which a block halts its tasks, so that they can leave what they have."""
    return min(120, max(5, block_s(lane) // 30))


def drain_s(lane: Lane) -> int | None:
    """Seconds before it halts its tasks at which a block takes no more; None on this machine, which has no walltime.

    What the site file says a task needs; else a tenth of the walltime, at most 15 minutes.
    """
    if lane.scheduler == "local":
        return None
    return round(60 * lane.task_minutes) or min(block_s(lane) // 10, 900)


def drain_period(lane: Lane) -> str:
    """The same in seconds from now, as an expression for the shell of a block; ``None`` on this machine.

    Counted from the moment at which the pool starts: what went before, such as loading modules, is off the block.
    """
    before = drain_s(lane)
    return "None" if before is None else f"$(( {DEADLINE} - $(date +%s) - {before} ))"


def worker_init(lane: Lane) -> str:
    """Shell lines before the workers of a block: threads, deadline, then the site's own."""
    lines = [f"export {name}={lane.cores_per_task}" for name in _THREADS]
    if lane.scheduler != "local":
        lines.append(f"export {DEADLINE}=$(( $(date +%s) + {block_s(lane) - margin_s(lane)} ))")
    return "\n".join([*lines, lane.worker_init.strip()]).strip()


def times(lane: Lane) -> Times:
    """Heartbeats and polls of a lane: short blocks are looked at more often."""
    if lane.scheduler == "local":
        return LOCAL
    share = block_s(lane) / 1800  # blocks of half an hour and more are alike
    threshold = min(REMOTE.threshold, max(10, round(REMOTE.threshold * share)))
    return Times(
        heartbeat=max(1, threshold // 8),
        threshold=threshold,
        poll=min(REMOTE.poll, max(1, round(REMOTE.poll * share))),
        status=min(REMOTE.status, max(2, round(REMOTE.status * share))),
        idle=min(REMOTE.idle, max(10.0, REMOTE.idle * share)),
    )
