"""What changes during a fit: the weights and the optimiser of each member, and the checkpoint they are kept in."""

from __future__ import annotations

import hashlib
import io
import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from alflow.store.files import written_whole

BETA1: Final = 0.9
BETA2: Final = 0.99
EPSILON: Final = 1e-8
"""Of Adam: Kingma and Ba, arXiv:1412.6980. BETA2 is shorter than their 0.999: fits of some hundred frames last a few
thousand steps, and ended with errors a sixth smaller."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast; see `Part`. A loss is better if lower by more than `change`, a part of what it was."""

    kind: str
    batch: int
    patience: int
    min_lr: float
    max_epochs: int
    max_seconds: float | None
    checkpoint_s: float
    change: float = 0.0


@dataclass(slots=True)
class Member:
    """One net on its way.

    Attributes:
        index: which member of the ensemble.
        weights: current parameters, (count,).
        first: where it began, (count,).
        best: parameters of the lowest validation loss so far, (count,).
        mean: Adam's running mean of the gradient.
        square: Adam's running mean of its square.
        lr: learning rate.
        first_lr: the one it began with.
        steps: updates since it (re)started.
        epochs: epochs since it (re)started.
        waited: epochs without a better validation loss.
        best_loss: lowest validation loss.
        bar: the loss that a better one is compared with.
        restarts: how often it diverged and began again with a lower rate.
        running: it is neither finished nor given up.
        failed: it was given up.
        history: one row an epoch: lr, training loss, validation loss.
    """

    index: int
    weights: Tensor
    lr: float
    first: Tensor = field(init=False)
    best: Tensor = field(init=False)
    mean: Tensor = field(init=False)
    square: Tensor = field(init=False)
    first_lr: float = field(init=False)
    steps: int = 0
    epochs: int = 0
    waited: int = 0
    best_loss: float = math.inf
    bar: float = math.inf
    restarts: int = 0
    running: bool = True
    failed: bool = False
    history: list[list[float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.first, self.first_lr = self.weights.clone(), self.lr
        self._forget()

    def _forget(self) -> None:
        self.best = self.weights.clone()
        self.mean, self.square = torch.zeros_like(self.weights), torch.zeros_like(self.weights)
        self.steps = self.epochs = self.waited = 0
        self.best_loss = self.bar = math.inf
        self.history = []

    def step(self, gradient: Tensor) -> None:
        """One update by Adam."""
        self.steps += 1
        self.mean.lerp_(gradient, 1 - BETA1)
        self.square.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        root = self.square.sqrt().div_(math.sqrt(1 - BETA2**self.steps)).add_(EPSILON)
        self.weights.addcdiv_(self.mean, root, value=-self.lr / (1 - BETA1**self.steps))

    def restart(self, max_restarts: int, min_lr: float) -> None:
        """Begin again from the first weights with a tenth of the rate; give up when that is too often or too slow."""
        self.restarts += 1
        self.first_lr /= 10
        if self.restarts > max_restarts or self.first_lr < min_lr:
            self.running, self.failed = False, True
            return
        self.weights.copy_(self.first)
        self.lr = self.first_lr
        self._forget()

    def judge(self, train_loss: float, valid_loss: float, schedule: Schedule) -> None:
        """After an epoch: keep the best weights, lower the rate, stop when the schedule says so."""
        self.epochs += 1
        self.history.append([self.lr, train_loss, valid_loss])
        self.waited += 1
        if valid_loss < self.best_loss:
            self.best_loss = valid_loss
            self.best.copy_(self.weights)
        if valid_loss < self.bar * (1 - schedule.change):
            self.bar, self.waited = valid_loss, 0
        if schedule.kind == "cosine":
            part = 0.5 + 0.5 * math.cos(math.pi * self.epochs / schedule.max_epochs)
            self.lr = schedule.min_lr + part * (self.first_lr - schedule.min_lr)
        elif self.waited > schedule.patience:
            self.lr, self.waited = self.lr / 2, 0
        self.running = self.lr >= schedule.min_lr and self.epochs < schedule.max_epochs

    def saved(self) -> dict[str, Any]:
        """Everything, as what `torch.load` accepts with weights_only."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @staticmethod
    def loaded(values: dict[str, Any]) -> Member:
        """The member that `saved` gave."""
        member = Member(values["index"], values["weights"], values["lr"])
        for name, value in values.items():
            setattr(member, name, value)
        return member


@dataclass(slots=True)
class Progress:
    """How far the fit of a group is: what a checkpoint holds.

    Attributes:
        epoch: the epoch under way; all members share the order of frames within it.
        batch: the next batch of it.
        seconds: wall time spent so far.
        train: sum of training losses and frames they are of, in this epoch, one pair a member.
        members: their states.
    """

    members: list[Member]
    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    train: list[list[float]] = field(default_factory=list)


def write_checkpoint(path: Path, key: str, progress: Progress) -> None:
    """Write a checkpoint that belongs to `key`, whole or not at all."""
    values = {f.name: getattr(progress, f.name) for f in fields(progress)}
    buffer = io.BytesIO()
    torch.save({"key": key, **values, "members": [m.saved() for m in progress.members]}, buffer)
    payload = buffer.getvalue()
    with written_whole(path) as draft:
        draft.write_bytes(hashlib.sha256(payload).digest() + payload)


def read_checkpoint(path: Path, key: str, device: str = "cpu") -> Progress | None:
    """The checkpoint at `path`, its tensors on `device`; None if there is none of `key`, or it is damaged."""
    if not path.is_file():
        return None
    whole = path.read_bytes()
    head, payload = whole[:32], whole[32:]
    if hashlib.sha256(payload).digest() != head:
        return None
    values = torch.load(io.BytesIO(payload), map_location=device, weights_only=True)
    if values.pop("key") != key:
        return None
    return Progress(**{**values, "members": [Member.loaded(v) for v in values["members"]]})
