"""The worker pools of a lane: how many blocks to ask a scheduler for, when again, and which to give back."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from typing import Any, Final

from parsl.executors import HighThroughputExecutor
from parsl.jobs.states import JobState, JobStatus
from parsl.launchers import SimpleLauncher

from alflow.errors import InfrastructureError
from alflow.runtime.parsl_schedulers import last_line
from alflow.runtime.runner import Capacity

FIRST_WAIT_S: Final = 5.0
"""Seconds after the first refusal of a block until the next is asked for."""

LONGEST_WAIT_S: Final = 900.0
"""The same after many."""

STILL_BORN: Final = 3
"""Blocks in a row that may die before a worker reports, in a lane where none ever has: something is wrong in it."""

LOOK_S: Final = 2.0
"""Seconds between two looks at the connected worker pools, at least."""

logger = logging.getLogger(__name__)


class Pools(HighThroughputExecutor):  # type: ignore[misc]  # Parsl's class is untyped here
    """Worker pools of one lane.

    They are given back only when they have been idle, not while they still wait or start. Where the scheduler refuses
    blocks or does not answer, or blocks die before a worker reports, the next are asked for after ever longer waits:
    Parsl would ask on at full speed, and fail all tasks of the lane for good after the third time.

    Attributes:
        capacity: what the lane has at hand.
        wait: when to ask for blocks again.
    """

    capacity = Capacity()
    _looked = -math.inf

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.wait = Wait()
        self._reported: set[str] = set()
        self._dead: set[str] = set()
        self._still_born = 0
        self._said = ""

    @property
    def nodes_per_pool(self) -> int:
        """One, but where one pool serves a whole block."""
        return int(self.provider.nodes_per_block) if isinstance(self.provider.launcher, SimpleLauncher) else 1

    @property
    def workers_per_node(self) -> float:
        """Where one pool serves a whole block, its workers are those of all nodes together."""
        return float(super().workers_per_node / self.nodes_per_pool)

    def poll_facade(self) -> None:
        """Parsl's thread calls this every few seconds: look after blocks, and at the pools."""
        super().poll_facade()
        if time.monotonic() - self._looked < LOOK_S or is_lost(self):
            return
        self._looked = time.monotonic()
        pools = [pool for pool in self.connected_managers() if pool["active"]]
        workers = sum(pool["worker_count"] for pool in pools)
        wanted = self.outstanding() > workers  # else more blocks are not missed
        trouble = (self.wait.trouble if wanted else "") or getattr(self.provider, "complaint", "")
        self.capacity = Capacity(
            nodes=len(pools) * self.nodes_per_pool,
            workers=workers,
            pending_blocks=sum(s.state is JobState.PENDING for s in self._status.values()),
            trouble=trouble,
        )
        if trouble != self._said:
            logger.warning("lane %s: %s", self.label, trouble or "all is well again")
            self._said = trouble

    def connected_blocks(self) -> list[str]:
        found: list[str] = super().connected_blocks()
        if set(found) - self._reported:
            self._reported.update(found)
            self._still_born = 0
            self.wait.over()
        return found

    def scale_out_facade(self, n: int) -> list[str]:
        """Ask for `n` blocks, one after the other; after a refusal, for none until its time has come."""
        granted: list[str] = []
        while len(granted) < n and self.wait.is_over(time.monotonic()):
            granted += super().scale_out_facade(1)
            if granted and not self._still_born:
                self.wait.over()
            elif granted:  # one at a time, until a worker reports
                self.wait.again(time.monotonic())
        return granted

    def _launch_block(self, block_id: str) -> Any:
        try:
            return super()._launch_block(block_id)
        except Exception as exc:
            said = getattr(exc, "stderr", None) or getattr(exc, "stdout", None) or str(exc)
            self.wait.longer(time.monotonic(), f"no blocks: {last_line(said)}")
            raise

    def handle_errors(self, status: dict[str, JobStatus]) -> None:
        """See which blocks have died before a worker reported; one that was refused is no block."""
        for block in [b for b in status if b not in self.blocks_to_job_id]:
            if self._simulated_status.pop(block, None) is not None:
                self._status.pop(block, None)
        dead = {b for b, s in status.items() if s.state is JobState.MISSING} - self._dead
        self._dead |= dead
        for block in sorted(dead, key=int):
            self._still_born += 1
            said = last_line(status[block].stderr_summary or status[block].message or "")
            job = self.blocks_to_job_id.get(block, "?")
            trouble = f"batch job {job} ended before a worker reported: {said}"
            self.wait.longer(time.monotonic(), trouble)
            if self._still_born >= STILL_BORN and not self._reported:
                problem = f"lane {self.label}: {trouble}; so did the {STILL_BORN - 1} before it, and no worker ever did"
                self.set_bad_state_and_fail_all(InfrastructureError(problem))

    def scale_in(self, blocks: int, max_idletime: float | None = None) -> list[str]:
        """Give back `blocks` blocks at most; with `max_idletime`, only such as have been idle for longer.

        Parsl takes a block that has not connected yet for one idle since ever, and cancels it even when it asked
        for zero blocks: with fewer tasks than workers no block would live to its first task.
        """
        if max_idletime is None:
            return list(super().scale_in(blocks))
        idle: dict[str, float] = {}
        for pool in self.connected_managers():
            busy = pool["tasks"] or not pool["active"]
            idle[pool["block_id"]] = min(idle.get(pool["block_id"], math.inf), 0.0 if busy else pool["idle_duration"])
        longest = sorted(
            (b for b in idle if idle[b] > max_idletime and b in self.blocks_to_job_id), key=idle.__getitem__
        )
        chosen = longest[-blocks:] if blocks > 0 else []
        for block in chosen:
            self._hold_block(block)
        done = self.provider.cancel([self.blocks_to_job_id[b] for b in chosen]) if chosen else []
        return [block for block, ok in zip(chosen, done, strict=True) if ok]


@dataclass(slots=True)
class Wait:
    """Waits that double from one failure to the next.

    Attributes:
        trouble: what the last failure was; empty if there is none.
        until: on the monotonic clock.
        failures: in a row.
    """

    trouble: str = ""
    until: float = -math.inf
    failures: int = 0

    def is_over(self, now: float) -> bool:
        """Whether it is time to try."""
        return now >= self.until

    def longer(self, now: float, trouble: str) -> None:
        """It failed: wait, twice as long as the last time."""
        self.again(now)
        self.failures += 1
        self.trouble = f"{trouble} (failures in a row: {self.failures})"

    def again(self, now: float) -> None:
        """Wait once more as long as the failures so far ask for."""
        self.until = now + min(FIRST_WAIT_S * 2**self.failures, LONGEST_WAIT_S)

    def over(self) -> None:
        """It worked."""
        self.trouble, self.until, self.failures = "", -math.inf, 0


def is_lost(executor: Any) -> bool:
    """Whether the executor's interchange has ended: whatever asks it anything waits for ever."""
    process = getattr(executor, "interchange_proc", None)
    return process is not None and process.poll() is not None
