"""One lane of a described cluster in virtual time: its queue of tasks, its blocks, its workers.

Blocks are granted, started, drained and ended as Parsl and a scheduler would (`parsl_pools`, `lanes`): a look at the
backlog every few seconds, blocks asked for while tasks outnumber workers, those given back that were idle for long, no
new task in the last part of a block's walltime, what still runs at its end halted to go on elsewhere, or lost.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any

from alflow.campaign.model import FailureKind, Task
from alflow.runtime import lanes
from alflow.runtime.runner import Capacity, Report
from alflow.runtime.virtual_world import Outcome, World
from alflow.spec.plan import workers_per_node
from alflow.spec.site import Lane

Act = Callable[[Any], None]


@dataclass(slots=True)
class Job:
    """A try of a task."""

    task: Task
    attempt: int
    lane: VirtualLane
    done_s: float = 0.0
    """Seconds of it that earlier blocks did."""
    started: float = 0.0
    outcome: Outcome | None = None
    block: Block | None = None
    starts: int = 0
    """How often it started: tells the end of this start from that of an earlier one."""
    over: bool = False


@dataclass(slots=True, eq=False)
class Block:
    """Nodes granted at once."""

    number: int
    state: str = "pending"
    """pending, starting, open (takes tasks), draining, over."""
    begin: float = math.inf
    idle_since: float = 0.0
    was_open: bool = False
    """Its workers have connected."""
    place: int = -1
    """Where it is among the blocks with a free worker; -1 if it is not."""
    jobs: dict[str, Job] = field(default_factory=dict)


def _fullest(block: Block) -> tuple[int, int]:
    return len(block.jobs), -block.number


class Clock:
    """Virtual time and what is to happen in it.

    Attributes:
        now: seconds since the beginning.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._agenda: list[tuple[float, int, Act, Any]] = []
        self._n = 0

    def at(self, t: float, act: Act, what: Any) -> None:
        """Have `act` called with `what` at `t`; what is for the same moment happens in the order of asking."""
        self._n += 1
        heappush(self._agenda, (t, self._n, act, what))

    @property
    def next(self) -> float:
        """When something happens next; infinity for never."""
        return self._agenda[0][0] if self._agenda else math.inf

    def step(self) -> None:
        """Let the next thing happen."""
        t, _, act, what = heappop(self._agenda)
        self.now = max(self.now, t)
        act(what)


@dataclass(slots=True)
class Account:
    """What a lane cost, in seconds.

    Attributes:
        block_s: of granted blocks, from their start to their end.
        open_s: of workers that were connected.
        busy_s: of workers that were at work.
        lost_s: of these, on what was lost.
        pending_s: of blocks in the scheduler's queue.
    """

    block_s: float = 0.0
    open_s: float = 0.0
    busy_s: float = 0.0
    lost_s: float = 0.0
    pending_s: float = 0.0


class VirtualLane:
    """One lane's queue of tasks, blocks and workers."""

    def __init__(
        self,
        name: str,
        spec: Lane,
        world: World,
        clock: Clock,
        ended: Callable[[Report], None],
        changed: Callable[[], None],
    ) -> None:
        self.name, self.spec, self.account = name, spec, Account()
        self._world, self._clock, self._tell, self._changed = world, clock, ended, changed
        self.workers = workers_per_node(spec) * spec.nodes_per_block
        """Of a block."""
        local = spec.scheduler == "local"
        self._times, self._local = lanes.times(spec), local
        self._queue: deque[Job] = deque()
        self._blocks: dict[int, Block] = {}
        self._free: list[Block] = []
        self._asked, self._waiting, self._running = 0, 0, 0
        self.capacity = Capacity()
        self._idle_since: float | None = None
        self._look_at = math.inf
        if spec.min_blocks:
            self._ask(spec.min_blocks)

    # ---- tasks ---------------------------------------------------------------------------------------------------

    @property
    def outstanding(self) -> int:
        """Tasks that wait or run."""
        return self._waiting + self._running

    def submit(self, job: Job) -> None:
        self._queue.append(job)
        self._waiting += 1
        self._dispatch()
        if self._waiting:
            self._look(0.0)

    def cancel(self, job: Job) -> None:
        """A waiting task will not start; one that runs ends as soon as it notices."""
        if job.block is None:
            self._halted(job)
        else:
            self._clock.at(self._clock.now + self._world.profile.halt_s, self._halted, job)

    def _halted(self, job: Job) -> None:
        if job.block is not None:
            self._leave(job)
            self._dispatch()
        elif not job.over:
            job.over = True
            self._waiting -= 1

    def _dispatch(self) -> None:
        """Start what waits on the free workers, of the block that has most to do: see `parsl_packing`."""
        while self._queue and self._free:
            job = self._queue.popleft()
            if job.over:
                continue
            self._start(job, max(self._free, key=_fullest))

    def _start(self, job: Job, block: Block) -> None:
        now = self._clock.now
        self._waiting, self._running = self._waiting - 1, self._running + 1
        job.block, job.started, job.starts = block, now, job.starts + 1
        block.jobs[job.task.id] = job
        if len(block.jobs) == self.workers:
            self._unlist(block)
        if job.outcome is None:
            job.outcome = self._world.outcome(job.task, job.attempt)
        self._clock.at(now + max(job.outcome.seconds - job.done_s, 0.0), self._done, (job, job.starts))

    def _done(self, what: tuple[Job, int]) -> None:
        job, start = what
        if job.block is None or start != job.starts or job.outcome is None:
            return  # it was cancelled, lost, or goes on elsewhere
        self._leave(job, lost=job.outcome.failure is not None)
        if job.outcome.failure is None:
            result = {**(job.outcome.result or {}), "started": job.started, "ended": self._clock.now}
            self._tell(Report(job.task.id, result))
        else:
            self._fail(job, job.outcome.failure, "drawn by chance")
        self._dispatch()

    def _fail(self, job: Job, kind: FailureKind, detail: str) -> None:
        self._tell(Report(job.task.id, {"failure": kind, "detail": detail, "log": "", "started": job.started}))

    def _leave(self, job: Job, *, lost: bool = False) -> None:
        """Free the worker of a task that ends."""
        block, seconds = job.block, self._clock.now - job.started
        job.block, job.over = None, True
        self._running -= 1
        self.account.busy_s += seconds
        self.account.lost_s += seconds if lost else 0.0
        if block is None or block.state == "over":
            return
        del block.jobs[job.task.id]
        if block.state == "open" and block.place < 0:
            self._list(block)
        if not block.jobs:
            block.idle_since = self._clock.now
            if block.state == "draining":
                self._end(block)
            elif not self._queue:
                self._look(self._times.idle if self._running else 0.0)

    # ---- blocks --------------------------------------------------------------------------------------------------

    def _list(self, block: Block) -> None:
        block.place = len(self._free)
        self._free.append(block)

    def _unlist(self, block: Block) -> None:
        if block.place >= 0:
            last = self._free.pop()
            if last is not block:
                self._free[block.place], last.place = last, block.place
            block.place = -1

    def _ask(self, count: int) -> None:
        """Ask the scheduler for blocks."""
        queue = self._world.profile.queue
        for _ in range(count):
            block = Block(self._asked)
            self._asked += 1
            self._blocks[block.number] = block
            u = self._world.draws.uniforms(f"block {self.name}/{block.number}")[0]
            wait = 0.0 if self._local else queue.base_s + queue.unit(u)
            block.begin = self._clock.now
            self._clock.at(self._clock.now + wait, self._granted, block)
        if count:
            self._count(pending=count)

    def _granted(self, block: Block) -> None:
        if block.state != "pending":
            return
        now = self._clock.now
        self.account.pending_s += now - block.begin
        self._count(nodes=self.spec.nodes_per_block, pending=-1)
        block.state, block.begin = "starting", now
        self._clock.at(now + (0.0 if self._local else self._world.profile.start_s), self._opened, block)
        if (drain := lanes.drain_s(self.spec)) is not None:
            end = now + lanes.block_s(self.spec)
            deadline = end - lanes.margin_s(self.spec)
            self._clock.at(deadline - drain, self._drained, block)
            self._clock.at(deadline + self._world.profile.halt_s, self._deadline, block)
            self._clock.at(end, self._walltime_over, block)

    def _opened(self, block: Block) -> None:
        if block.state == "starting":
            block.state, block.was_open, block.idle_since = "open", True, self._clock.now
            self._count(workers=self.workers)
            self._list(block)
            self._dispatch()
            if not block.jobs:
                self._look(self._times.idle)

    def _drained(self, block: Block) -> None:
        if block.state in {"starting", "open"}:
            block.state = "draining"
            self._unlist(block)
            if not block.jobs:
                self._end(block)

    def _deadline(self, block: Block) -> None:
        """Tasks that can leave what they have do so, to go on in another block."""
        for job in [j for j in block.jobs.values() if j.task.verb in self._world.profile.continues]:
            job.done_s += max(self._clock.now - job.started - self._world.profile.halt_s, 0.0)
            self._leave(job)
            self._fail(job, FailureKind.HALTED, "the block ends; to be continued")

    def _walltime_over(self, block: Block) -> None:
        """What still runs is lost."""
        for job in list(block.jobs.values()):
            self._leave(job, lost=True)
            self._tell(Report(job.task.id, failure=FailureKind.INFRASTRUCTURE, detail="the walltime of its block"))
        self._end(block)

    def _end(self, block: Block) -> None:
        """The nodes are given back."""
        if block.state == "over":
            return
        now = self._clock.now
        if block.state == "pending":
            self.account.pending_s += now - block.begin
            self._count(pending=-1)
        else:
            self.account.block_s += now - block.begin
            opened = block.begin + (0.0 if self._local else self._world.profile.start_s)
            self.account.open_s += max(now - opened, 0.0) * self.workers
            self._count(nodes=-self.spec.nodes_per_block, workers=-self.workers if block.was_open else 0)
        self._unlist(block)
        block.state = "over"
        del self._blocks[block.number]
        if self._waiting:
            self._look(0.0)

    def _count(self, *, nodes: int = 0, workers: int = 0, pending: int = 0) -> None:
        c = self.capacity
        self.capacity = Capacity(c.nodes + nodes, c.workers + workers, c.pending_blocks + pending)
        self._changed()

    def close(self) -> None:
        """End all blocks."""
        for block in list(self._blocks.values()):
            for job in list(block.jobs.values()):
                self._leave(job)
            self._end(block)

    # ---- how many blocks -------------------------------------------------------------------------------------------

    def _look(self, after_s: float) -> None:
        """Look at the backlog at the first regular moment that is `after_s` away or more."""
        period = self._times.poll
        t = math.ceil((self._clock.now + after_s) / period) * period
        if t < self._look_at:
            self._look_at = t
            self._clock.at(t, self._scale, t)

    def _scale(self, t: float) -> None:
        """What Parsl's strategy ``htex_auto_scale`` does, with the idle rule of `parsl_pools.Pools`."""
        if t != self._look_at:
            return  # an earlier look took its place
        self._look_at = math.inf
        tasks, spec = self.outstanding, self.spec
        slots = len(self._blocks) * self.workers
        if tasks:
            self._idle_since = None
        if tasks > slots:
            self._ask(min(math.ceil((tasks - slots) / self.workers), spec.max_blocks - len(self._blocks)))
        elif not tasks and len(self._blocks) > spec.min_blocks:
            self._idle_since = t if self._idle_since is None else self._idle_since
            if t - self._idle_since > self._times.idle:
                self._give_back(len(self._blocks) - spec.min_blocks, everything=True)
            else:
                self._look(self._idle_since + self._times.idle + self._times.poll - t)
        elif slots > tasks:
            excess = min((slots - tasks) // self.workers, len(self._blocks) - spec.min_blocks)
            self._give_back(excess, everything=False)

    def _give_back(self, count: int, *, everything: bool) -> None:
        now, idle = self._clock.now, self._times.idle
        if everything:
            for block in list(self._blocks.values())[:count]:
                self._end(block)
            return
        free = sorted((b for b in self._free if not b.jobs), key=lambda b: b.idle_since)
        long = [b for b in free if now - b.idle_since > idle]
        for block in long[: max(count, 0)]:
            self._end(block)
        left = free[min(len(long), max(count, 0)) :]
        if count > 0 and left and left[0].idle_since + idle >= now:
            self._look(left[0].idle_since + idle + 1e-3 - now)
        elif count > 0 and left:
            self._look(self._times.poll)
