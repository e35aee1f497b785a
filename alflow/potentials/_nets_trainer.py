"""The trainer of nets: the loop over epochs for a group of members that share descriptors and batches.

Each member trains on its own split with its own weights and schedule. The order of frames is shared and depends on
(seed, epoch) only, so a batch needs one pass through the Jacobian for all members, and no member can tell who
trains beside it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch

from alflow.core.frames import Ints
from alflow.errors import ResourceError
from alflow.interfaces import Halt
from alflow.numerics.splits import Split, shuffled
from alflow.potentials._nets_data import chunks
from alflow.potentials._nets_passes import Net, Problem, Sums
from alflow.potentials._nets_state import Progress, Schedule, write_checkpoint

CHUNK_ATOMS: Final = {"cpu": 384, "cuda": 32768}
"""Atoms that go through the nets at once: their activations fit into a core's cache, or fill a GPU."""
ENERGY_CHUNK_ATOMS: Final = 8192
"""The same on a CPU where no Jacobian is used: each chunk costs some calls, the nets hardly any time."""
MAX_RESTARTS: Final = 3


class Trainer:
    """Trains the members of `progress` in place.

    Args:
        problem: what to fit.
        splits: sides of the frames, by member.
        schedule: how long and how fast.
        seed: of the order of frames.
        checkpoint: where to keep the progress.
        key: what the checkpoint belongs to.
        threads: of `one_thread_an_operation`.
    """

    def __init__(
        self,
        problem: Problem,
        splits: Mapping[int, Split],
        schedule: Schedule,
        seed: int,
        checkpoint: Path,
        key: str,
        threads: ThreadPoolExecutor,
    ) -> None:
        self.problem, self.splits, self.schedule, self.seed = problem, splits, schedule, seed
        self.checkpoint, self.key, self.threads = checkpoint, key, threads

    def run(self, progress: Progress, halt: Halt) -> None:
        """Train until every member has stopped.

        Raises:
            ResourceError: halted; the checkpoint is written.
        """
        began = saved = time.monotonic()
        spent = progress.seconds
        while any(m.running for m in progress.members):
            order = shuffled(len(self.problem.frames), self.seed, progress.epoch)
            batches = [order[i : i + self.schedule.batch] for i in range(0, len(order), self.schedule.batch)]
            if not progress.batch:
                progress.train = [[0.0, 0.0] for _ in progress.members]
            for batch in batches[progress.batch :]:
                now = time.monotonic()
                progress.seconds = spent + now - began
                stop = halt()
                if stop or now - saved > self.schedule.checkpoint_s:
                    write_checkpoint(self.checkpoint, self.key, progress)
                    saved = now
                if stop:
                    raise ResourceError(f"fit halted in epoch {progress.epoch}; it goes on from {self.checkpoint}")
                self._step(progress, np.sort(batch))
                progress.batch += 1
            self._judge(progress)
            progress.epoch, progress.batch = progress.epoch + 1, 0

    def _step(self, progress: Progress, batch: Ints) -> None:
        """One update of every running member that has training frames in the batch."""
        members = [m for m in progress.members if m.running and self.splits[m.index].train[batch].any()]
        nets = []
        for m in members:
            train = self.splits[m.index].train
            nets.append(Net(m.index, m.weights, train, 1.0 / train[batch].sum(), torch.zeros_like(m.weights)))
        sums = self._sums(nets, batch)
        for k, (member, net) in enumerate(zip(members, nets, strict=True)):
            assert net.gradient is not None
            if np.isfinite(sums.loss[k]) and bool(torch.isfinite(net.gradient).all()):
                member.step(net.gradient)
                train_loss = progress.train[progress.members.index(member)]
                train_loss[0] += float(sums.loss[k])
                train_loss[1] += float(sums.frames[k])
            else:
                member.restart(MAX_RESTARTS, self.schedule.min_lr)

    def _judge(self, progress: Progress) -> None:
        """End of an epoch: validation, schedules, budgets."""
        s = self.schedule
        members = [m for m in progress.members if m.running]
        valid = self.errors([(m.index, m.weights) for m in members], "valid")
        for k, member in enumerate(members):
            loss = float(valid.loss[k] / valid.frames[k])
            total, frames = progress.train[progress.members.index(member)]
            if np.isfinite(loss):
                member.judge(total / max(frames, 1), loss, s)
            else:
                member.restart(MAX_RESTARTS, s.min_lr)
            if s.max_seconds is not None and progress.seconds > s.max_seconds:
                member.running = False

    def errors(self, nets: Sequence[tuple[int, torch.Tensor]], side: str) -> Sums:
        """Sums of errors of (member, parameters) over one side of each member's split."""
        seen = [Net(index, weights, getattr(self.splits[index], side)) for index, weights in nets]
        used = np.any([net.use for net in seen], axis=0) if seen else np.zeros(0, np.bool_)
        return self._sums(seen, np.flatnonzero(used))

    def _sums(self, nets: Sequence[Net], pick: Ints) -> Sums:
        """Visit `pick` in chunks; adds to the gradients of `nets`.

        Each chunk has one thread and gradients of its own, added up in order: no bit depends on how many threads
        there are.
        """
        total = Sums.zero(len(nets))
        if not nets:
            return total
        device = self.problem.device.type
        most = CHUNK_ATOMS[device] if self.problem.weights.slopes or device != "cpu" else ENERGY_CHUNK_ATOMS
        parts = list(chunks(self.problem.sizes, pick, most))

        def visit(part: Ints) -> tuple[Sums, list[Net]]:
            mine = [
                replace(net, gradient=None if net.gradient is None else torch.zeros_like(net.gradient)) for net in nets
            ]
            return self.problem.visit(mine, part), mine

        for sums, mine in self.threads.map(visit, parts):
            total.add(sums)
            for net, part in zip(nets, mine, strict=True):
                if net.gradient is not None and part.gradient is not None:
                    net.gradient += part.gradient
        return total


@contextmanager
def one_thread_an_operation() -> Iterator[ThreadPoolExecutor]:
    """As many threads as torch had, each running its operations alone; torch gets its threads back at the end.

    Operations on a few hundred atoms are too small to share, and to wait for each other on a busy machine.
    """
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(n) as threads:
            yield threads
    finally:
        torch.set_num_threads(n)
