"""One fit task of nets: from a dataset to files of members, with warm starts, checkpoints and a report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from alflow.core.frames import Bools, Floats, Frames
from alflow.core.rng import task_rng
from alflow.errors import DataError, UnphysicalError
from alflow.interfaces import FitReport, Halt
from alflow.numerics.splits import PAPER, Split, split
from alflow.potentials._nets import Shape
from alflow.potentials._nets_data import Inputs, Targets, Weights
from alflow.potentials._nets_model import NetMembers
from alflow.potentials._nets_passes import Problem, Sums
from alflow.potentials._nets_state import Member, Progress, Schedule, read_checkpoint
from alflow.potentials._nets_trainer import Trainer, one_thread_an_operation
from alflow.store.files import digest, write_text

if TYPE_CHECKING:
    from alflow.store.dataset import Dataset

_NO_MATTER: Final = {"device", "cache_GB", "checkpoint_s", "members", "members_per_task"}
"""Fields that do not decide the result of a member."""


class NetPart(Protocol):
    """The fields that all parts of nets share; see `alflow.potentials.ani.Part`."""

    @property
    def energy_weight(self) -> float: ...
    @property
    def force_weight_A(self) -> float: ...
    @property
    def stress_weight(self) -> float: ...
    @property
    def lr(self) -> float: ...
    @property
    def warm_lr(self) -> float: ...
    @property
    def warm_start(self) -> bool: ...
    @property
    def split_group(self) -> str: ...

    def recipe(self, frames: Frames, halt: Halt) -> Recipe:
        """How to fit to `frames`; `halt` is asked while descriptors are computed."""
        ...


@dataclass(frozen=True, slots=True)
class Recipe:
    """What differs between the kinds of nets.

    Attributes:
        members: what is written.
        settings: of the descriptors.
        shape: of one net.
        schedule: how long and how fast.
        shares: of the data that train, decide when to stop, and test.
        inputs: descriptors of all frames, with derivatives by strain or without.
        without: whose forces, and stress, do not count, (n_frames, 2), or None.
    """

    members: type[NetMembers]
    settings: Any
    shape: Shape
    schedule: Schedule
    inputs: Callable[[Frames, bool], Inputs]
    shares: tuple[float, float, float] = PAPER
    without: Callable[[Dataset], Bools | None] = lambda _: None

    def of_members(self, numbers: tuple[int, ...], weights: Tensor, shift: Tensor) -> NetMembers:
        """Members of this form; weights (m, n_species, count), shift in eV (m, n_species)."""
        return self.members(
            self.settings,
            self.shape.widths[1:-1],
            numbers,
            weights.to(self.members.DTYPE),
            shift,
            self.shape.activation,
        )


def fit(
    part: NetPart, data: Dataset, members: range, seed: int, out: Path, start: Sequence[Path], halt: Halt
) -> FitReport:
    """Fit `members` to `data`; see `alflow.interfaces.Potential.fit`."""
    if not len(data):
        raise UnphysicalError("nothing to fit: the dataset holds no frames")
    if not members:
        raise DataError(f"expected a range of members such as range(0, 4), got {members}")
    recipe = part.recipe(data.frames, halt)
    weights = Weights.ratios(part.energy_weight, part.force_weight_A, part.stress_weight)
    nothing = recipe.of_members((), torch.zeros(0, 0, 0), torch.zeros(0, 0))
    species = recipe.settings.species_index(data.frames.numbers)
    without = recipe.without(data) if weights.slopes else None
    targets = Targets.of(data.frames, data.labels, nothing.species, species, weights, without)
    earlier = _earlier(start, nothing) if part.warm_start else {}
    problem = Problem(recipe.inputs(data.frames, targets.virial is not None), targets, weights, recipe.shape)
    key = _key(part, data, members, seed, start)
    checkpoint = out / f"fit-{members.start}-{members.stop}.checkpoint"
    progress = read_checkpoint(checkpoint, key, problem.device.type)
    if progress is None:
        progress = Progress([_first(part, recipe, k, seed, problem, earlier) for k in members])
    splits = _splits(part, data, members, recipe.shares)
    with one_thread_an_operation() as threads:
        trainer = Trainer(problem, splits, recipe.schedule, seed, checkpoint, key, threads)
        trainer.run(progress, halt)
        report = _finish(trainer, recipe, progress, out)
    checkpoint.unlink(missing_ok=True)
    return report


def _splits(part: NetPart, data: Dataset, members: range, shares: tuple[float, float, float]) -> dict[int, Split]:
    keys: Sequence[str] = data.ids
    if part.split_group:
        if part.split_group not in data.columns:
            raise DataError(f"split_group: the dataset has no column {part.split_group!r}, only {sorted(data.columns)}")
        keys = [str(v) for v in data.columns[part.split_group]]
    return {k: split(keys, k, shares) for k in members}


def _key(part: NetPart, data: Dataset, members: range, seed: int, start: Sequence[Path]) -> str:
    """Digest of everything that decides the result: a checkpoint with another one is of another fit."""
    settings = {k: v for k, v in asdict(cast("Any", part)).items() if k not in _NO_MATTER}
    labels = hashlib.sha256(data.labels.energy.tobytes() + data.labels.forces.tobytes())
    if data.labels.stress is not None:
        labels.update(data.labels.stress.tobytes())
    groups = [str(v) for v in data.columns[part.split_group]] if part.split_group in data.columns else []
    start_digests = sorted(digest(p) for p in start)
    everything = [settings, data.ids, labels.hexdigest(), groups, list(members), seed, start_digests]
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()


# ---- between the nets' units and physical ones ---------------------------------------------------------------------


def _first(
    part: NetPart,
    recipe: Recipe,
    index: int,
    seed: int,
    problem: Problem,
    earlier: Mapping[int, tuple[Tensor, Tensor]],
) -> Member:
    """A member at its start: random, or where an earlier model left it."""
    if index in earlier:
        return Member(index, unfolded(*earlier[index], problem).to(problem.device), part.warm_lr)
    rng = task_rng(seed, f"{recipe.members.KIND}/{index}")
    nets = [problem.shape.initial(rng) for _ in problem.targets.shift]
    return Member(index, torch.cat(nets).float().to(problem.device), part.lr)


def _earlier(start: Sequence[Path], new: NetMembers) -> dict[int, tuple[Tensor, Tensor]]:
    """Weights (n_species, count) and shifts (n_species,) of each member in the files `start`.

    Raises:
        DataError: a file of other descriptors, elements or widths, or one that cannot be read.
    """
    found = {}
    for path in start:
        old = new.open(path)
        if old.form != new.form:
            alike = (old.species, old.shape) == (new.species, new.shape)
            raise DataError(
                f"{path}: cannot go on from it: it has elements {old.species}, {old.shape.activation} nets of widths "
                f"{old.shape.widths}; this fit has elements {new.species}, {new.shape.activation} nets of widths "
                f"{new.shape.widths}"
                + (" and descriptors with other parameters" if alike else "")
                + ". Name all elements in `elements` from the first fit on, or set warm_start: false"
            )
        for number, w, shift in zip(old.numbers, old.weights, old.shift_eV, strict=True):
            found[number] = (w, shift)
    return found


def folded(weights: Tensor, problem: Problem) -> tuple[Tensor, Tensor]:
    """Parameters (n_species, count) and shifts in eV (n_species,) of the same net on bare descriptors."""
    flat = weights.detach().cpu().double().view(len(problem.targets.shift), -1).clone()
    mean, width = torch.from_numpy(problem.descriptors.mean), torch.from_numpy(problem.descriptors.width)
    for net in flat:
        layers = problem.shape.views(net)
        layers[0][0].div_(width)
        layers[0][1].sub_(layers[0][0] @ mean)
        for t in layers[-1]:
            t.mul_(problem.targets.scale)
    return flat, torch.from_numpy(problem.targets.shift)


def unfolded(weights: Tensor, shift_eV: Tensor, problem: Problem) -> Tensor:
    """The inverse of `folded`, for the units of `problem`: the parameters of one member, end to end."""
    flat = weights.double().clone()
    mean, width = torch.from_numpy(problem.descriptors.mean), torch.from_numpy(problem.descriptors.width)
    for net, old, new in zip(flat, shift_eV.double(), problem.targets.shift, strict=True):
        layers = problem.shape.views(net)
        layers[0][1].add_(layers[0][0] @ mean)
        layers[0][0].mul_(width)
        layers[-1][1].add_(old - new)
        for t in layers[-1]:
            t.div_(problem.targets.scale)
    return flat.flatten().float()


# ---- the end -------------------------------------------------------------------------------------------------------


def _finish(trainer: Trainer, recipe: Recipe, progress: Progress, out: Path) -> FitReport:
    """Write the members that made it and say how good they are.

    Raises:
        UnphysicalError: none made it.
    """
    good = [m for m in progress.members if not m.failed and np.isfinite(m.best_loss)]
    figures: dict[str, Floats] = {}
    sane = np.ones(len(good), np.bool_)
    for side in ("train", "valid", "test"):
        sums = trainer.errors([(m.index, m.best) for m in good], side)
        errors = _errors(sums, trainer.problem.targets.scale)
        if not trainer.problem.weights.force_A:
            del errors["force_rmse_meV_A"]  # never computed
        figures |= {f"{side}_{k}": v for k, v in errors.items()}
        if side != "test":
            sane &= np.isfinite(sums.loss)
    if not sane.any():
        raise UnphysicalError(
            f"all members {[m.index for m in progress.members]} diverged at every learning rate tried; "
            "look for absurd labels, or lower lr"
        )
    good = [m for m, ok in zip(good, sane, strict=True) if ok]
    metrics = {k: [float(x) for x in v[sane]] for k, v in figures.items()}
    # the test side may be empty, and a side without forces that count: a figure that some member lacks is left out
    metrics = {k: v for k, v in metrics.items() if np.isfinite(v).all()}
    metrics["restarts"] = [float(m.restarts) for m in good]
    metrics["lr_end"] = [m.lr for m in good]
    metrics["seconds_per_epoch"] = [progress.seconds / max(progress.epoch, 1)] * len(good)
    files = []
    for m in good:
        weights, shift = folded(m.best, trainer.problem)
        name = f"member-{m.index:03d}.pt"
        recipe.of_members((m.index,), weights[None], shift[None]).save(out / name)
        files.append(name)
        rows = [f"{k},{lr:.6g},{train:.9g},{valid:.9g}" for k, (lr, train, valid) in enumerate(m.history)]
        write_text(out / f"history-{m.index:03d}.csv", "\n".join(["epoch,lr,train_loss,valid_loss", *rows, ""]))
    return FitReport(tuple(files), tuple(m.index for m in good), metrics, tuple(m.epochs for m in good))


def _errors(sums: Sums, scale: float) -> dict[str, Floats]:
    with np.errstate(invalid="ignore"):
        return {
            "energy_rmse_meV_atom": np.sqrt(sums.energy / sums.frames) * scale * 1000,
            "force_rmse_meV_A": np.sqrt(sums.force / (3 * sums.atoms)) * scale * 1000,
        }
