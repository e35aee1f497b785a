"""One fit task of `snap`: one pass over the dataset, all members at once, with checkpoints and a report."""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from alflow.core.frames import Floats, Frames
from alflow.core.labels import Labels
from alflow.errors import DataError, ResourceError, UnphysicalError
from alflow.interfaces import FitReport, Halt
from alflow.numerics import zbl
from alflow.numerics.bispectrum import BispectrumSettings
from alflow.numerics.least_squares import Solution, Triangle, solve
from alflow.numerics.neighbors import neighbor_list
from alflow.numerics.statistics import atomic_shift, composition
from alflow.potentials import _snap_files
from alflow.potentials._snap_files import Snap, n_terms
from alflow.potentials._snap_labels import KINDS, FrameWeights, bootstrap_weights, frame_weights
from alflow.potentials._snap_rows import VOIGT, rows_of
from alflow.store.files import written_whole

if TYPE_CHECKING:
    from alflow.potentials.snap import Part
    from alflow.store.dataset import Dataset

_NO_MATTER: Final = {"checkpoint_s", "members_per_task"}
"""Fields that do not decide the result of a member."""
_ABSURD: Final = 1e150
"""Coefficients and errors from here on are no potential."""


def fit(
    part: Part, data: Dataset, members: range, seed: int, out: Path, start: Sequence[Path], halt: Halt
) -> FitReport:
    """Fit `members` to `data`; see `alflow.interfaces.Potential.fit`."""
    if not len(data):
        raise UnphysicalError("nothing to fit: the dataset holds no frames")
    if not members:
        raise DataError(f"expected a range of members such as range(0, 4), got {members}")
    for path in start:
        _snap_files.read(path)
    settings = part.descriptors(data.frames.numbers)
    weights = frame_weights(part, data, settings, halt)
    problem = Problem(part, data, settings, weights)
    share = [bootstrap_weights(data.ids, seed, k) if part.members > 1 else np.ones(len(data)) for k in members]
    checkpoint = out / f"fit-{members.start}-{members.stop}.checkpoint"
    sums = Sums(problem.n_columns, share, weights)
    _accumulate(problem, sums, checkpoint, _key(part, data, members, seed), part.checkpoint_s, halt)
    report = _finish(part, problem, sums, members, out)
    checkpoint.unlink(missing_ok=True)
    return report


class Problem:
    """The unweighted rows of a dataset: first a constant of each element that has a free one, then its terms.

    Args:
        part: the settings.
        data: the dataset.
        settings: of the descriptors.
        weights: of the frames; labels of weight zero get no rows.
    """

    def __init__(self, part: Part, data: Dataset, settings: BispectrumSettings, weights: FrameWeights) -> None:
        self.part, self.data, self.settings, self.weights = part, data, settings, weights
        fixed = [part.isolated_eV.get(s) for s in Snap(settings, part.quadratic, np.zeros((0, 0))).symbols]
        self.free = np.array([value is None for value in fixed])
        self.offset = np.array([0.0 if value is None else value for value in fixed])
        counts = composition(data.frames, settings.numbers)
        rest = data.labels.energy - counts @ self.offset
        use = weights.energy > 0
        if self.free.any() and use.any():  # a mean energy of thousands of eV would cost digits
            some = data.frames.take(np.flatnonzero(use))
            self.offset[self.free] = atomic_shift(some, rest[use], settings.numbers)[self.free]
        self.terms = n_terms(settings.n_features, part.quadratic)

    @property
    def n_free(self) -> int:
        """Constants that are fitted."""
        return int(self.free.sum())

    @property
    def n_columns(self) -> int:
        """Unknowns."""
        return self.n_free + len(self.free) * self.terms

    def rows(self, frames: Frames, labels: Labels, kinds: Collection[str] = KINDS) -> dict[str, tuple[Floats, Floats]]:
        """Rows and right-hand sides of a batch by kind: (n_frames, r, n_columns) or, for forces, (n_atoms, 3, ...).

        Those of energies, and of the `kinds` asked for.

        Raises:
            UnphysicalError: a frame without descriptors or repulsion: NaN, no volume, denser than any matter.
        """
        found = rows_of(self.settings, self.part.quadratic, frames, kinds)
        n, size, lost = len(frames), frames.sizes[:, None], ~np.isfinite(found.energy).all((1, 2))
        counts = composition(frames, self.settings.numbers)
        energy = labels.energy - counts @ self.offset
        forces, virial = labels.forces, self._virial(frames, labels)
        if self.part.zbl is not None:
            near = neighbor_list(frames, self.part.zbl.outer_A)
            e, gradient, strain = zbl.evaluate(self.part.zbl, frames, near)
            lost |= np.isnan(e)
            energy, forces = energy - e, forces + gradient
            virial = virial - np.stack([strain[:, i, j] for i, j in VOIGT], 1)
        if lost.any():
            raise UnphysicalError(
                f"frame {frames[int(lost.argmax())].ids()[0]} has no descriptors: positions that are not finite, a "
                "cell without volume, atoms in one place, or far more neighbours than in any matter; leave it out of "
                "the dataset"
            )
        left = counts[:, self.free] / size
        rows = {
            "energy": (np.hstack([left, found.energy.reshape(n, -1) / size])[:, None], (energy / size[:, 0])[:, None])
        }
        none = np.zeros((1, 1, self.n_free))
        if found.gradient is not None:
            rows["force"] = (_joined(none, -found.gradient.reshape(frames.n_atoms, 3, -1)), forces)
        if found.strain is not None:
            rows["stress"] = (_joined(none, found.strain.reshape(n, 6, -1) / size[:, :, None]), virial / size)
        return rows

    @staticmethod
    def _virial(frames: Frames, labels: Labels) -> Floats:
        """Volume times stress, (n_frames, 6); zero where there is none, which has no weight."""
        if labels.stress is None:
            return np.zeros((len(frames), 6))
        stress = np.stack([(labels.stress[:, i, j] + labels.stress[:, j, i]) / 2 for i, j in VOIGT], 1)
        return np.nan_to_num(stress * frames.volumes[:, None], nan=0.0, posinf=0.0, neginf=0.0)

    def coefficients(self, x: Floats) -> Floats:
        """Coefficients (n_elements, 1 + terms) of a solution."""
        constant = self.offset.copy()
        constant[self.free] += x[: self.n_free]
        return np.hstack([constant[:, None], x[self.n_free :].reshape(len(self.free), self.terms)])


def _joined(left: Floats, right: Floats) -> Floats:
    return np.concatenate([np.broadcast_to(left, (*right.shape[:2], left.shape[2])), right], 2)


class Sums:
    """What the pass adds up: a triangle for each member and kind of label.

    Args:
        n_columns: unknowns.
        share: of each member, how much of each frame it gets, (n_frames,).
        weights: of the labels of each frame.

    Attributes:
        triangles: by member and kind.
        done: frames that are in.
    """

    def __init__(self, n_columns: int, share: Sequence[Floats], weights: FrameWeights) -> None:
        self.triangles = [{kind: Triangle(n_columns) for kind in KINDS} for _ in share]
        self.share, self.weights, self.done = share, weights, 0

    def wanted(self, n: int) -> list[str]:
        """Kinds of labels that have a weight in the next `n` frames."""
        now = slice(self.done, self.done + n)
        return [kind for kind in KINDS if (getattr(self.weights, kind)[now] > 0).any()]

    def add(self, rows: dict[str, tuple[Floats, Floats]], frames: Frames) -> None:
        """Add the rows of the next frames."""
        now = slice(self.done, self.done + len(frames))
        for kind, (a, b) in rows.items():
            w: Floats = getattr(self.weights, kind)[now]
            owner = frames.frame_of_atom if kind == "force" else np.arange(len(frames))
            use = np.flatnonzero(w[owner] > 0)
            if not len(use):
                continue
            a_used, b_used = a[use].reshape(-1, a.shape[2]), b[use].ravel()
            for share, triangles in zip(self.share, self.triangles, strict=True):
                factor = np.repeat((w * np.sqrt(share[now]))[owner[use]], a.shape[1])
                triangles[kind].add(a_used * factor[:, None], b_used * factor)
        self.done += len(frames)

    def solved(self, member: int, n_free: int, ridge: float, rcond: float) -> Solution:
        """Coefficients of the member at that place."""
        triangles = list(self.triangles[member].values())
        whole = Triangle(triangles[0].n_columns)
        for triangle in triangles:
            whole.merge(triangle)
        return solve(whole, n_free, ridge, rcond)

    def rmse(self, member: int, x: Floats, frames: Frames) -> dict[str, float]:
        """Root mean squares of the residuals, as weighted in the fit; of kinds that have a weight."""
        found = {}
        for kind, triangle in self.triangles[member].items():
            each = {"energy": np.ones(1), "force": 3.0 * frames.sizes, "stress": np.full(1, 6.0)}[kind]
            w: Floats = getattr(self.weights, kind)
            if largest := float(w.max()):
                total = float((np.square(w / largest) * self.share[member] * each).sum())
                with np.errstate(over="ignore", invalid="ignore"):  # the caller looks for it
                    found[kind] = triangle.residual(x) / largest / total**0.5
        return found


def _accumulate(problem: Problem, sums: Sums, checkpoint: Path, key: str, every_s: float, halt: Halt) -> None:
    """Send all frames through `sums`, from where the checkpoint left it.

    Raises:
        ResourceError: halted; there is a checkpoint.
    """
    _read_checkpoint(checkpoint, key, sums)
    data, saved = problem.data, time.monotonic()
    first = sums.done
    for frames, labels in data.take(range(first, len(data))).batches(problem.part.batch_atoms):
        if halt():
            _write_checkpoint(checkpoint, key, sums)
            raise ResourceError("halted")
        sums.add(problem.rows(frames, labels, sums.wanted(len(frames))), frames)
        if time.monotonic() - saved > every_s:
            _write_checkpoint(checkpoint, key, sums)
            saved = time.monotonic()


def _finish(part: Part, problem: Problem, sums: Sums, members: range, out: Path) -> FitReport:
    metrics: dict[str, list[float]] = {}
    files: list[str] = []
    for place, member in enumerate(members):
        found = sums.solved(place, problem.n_free, part.ridge, part.rcond)
        snap = Snap(problem.settings, part.quadratic, problem.coefficients(found.x), part.zbl)
        errors = sums.rmse(place, found.x, problem.data.frames)
        if not np.abs([*snap.coefficients.ravel(), *errors.values()]).max() < _ABSURD:
            raise UnphysicalError("labels are too large for floating point: no square of an error would be a number")
        files += _snap_files.write(out, f"member-{member:03d}", snap, f"member {member}")
        units = {"energy": "energy_rmse_meV_atom", "force": "force_rmse_meV_A", "stress": "virial_rmse_meV_atom"}
        figures = {f"train_{units[kind]}": 1000 * value for kind, value in errors.items()}
        figures |= {
            "rank": float(found.rank),
            "coefficients": float(problem.n_columns),
            "condition": found.condition,
            "placeholder_forces_frames": float(problem.weights.placeholders[0]),
            "placeholder_stress_frames": float(problem.weights.placeholders[1]),
        }
        for name, value in figures.items():
            metrics.setdefault(name, []).append(value)
    return FitReport(tuple(files), tuple(members), metrics, (1,) * len(members))


# ---- checkpoints ---------------------------------------------------------------------------------------------------


def _key(part: Part, data: Dataset, members: range, seed: int) -> str:
    """Digest of everything that decides the result: a checkpoint with another one is of another fit."""
    settings = {k: v for k, v in asdict(cast("Any", part)).items() if k not in _NO_MATTER}
    labels = hashlib.sha256(data.labels.energy.tobytes() + data.labels.forces.tobytes())
    if data.labels.stress is not None:
        labels.update(data.labels.stress.tobytes())
    groups = [str(v) for v in data.columns.get(part.group_column, ())]
    everything = [settings, data.ids, labels.hexdigest(), groups, list(members), seed]
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()


def _write_checkpoint(path: Path, key: str, sums: Sums) -> None:
    buffer = io.BytesIO()
    triangles = {f"{k}-{kind}": t.r for k, all_ in enumerate(sums.triangles) for kind, t in all_.items()}
    rows = [t.rows for all_ in sums.triangles for t in all_.values()]
    np.savez(buffer, key=np.array(key), done=np.array(sums.done), rows=np.array(rows), **cast("Any", triangles))
    payload = buffer.getvalue()
    with written_whole(path) as draft:
        draft.write_bytes(hashlib.sha256(payload).digest() + payload)


def _read_checkpoint(path: Path, key: str, sums: Sums) -> None:
    """Put `sums` where the checkpoint left it, if there is one of `key` that is not damaged."""
    if not path.is_file():
        return
    whole = path.read_bytes()
    if hashlib.sha256(whole[32:]).digest() != whole[:32]:
        return
    with np.load(io.BytesIO(whole[32:]), allow_pickle=False) as values:
        if str(values["key"]) != key:
            return
        sums.done = int(values["done"])
        rows = iter(values["rows"].tolist())
        for k, all_ in enumerate(sums.triangles):
            for kind, triangle in all_.items():
                triangle.r, triangle.rows = np.asfortranarray(values[f"{k}-{kind}"]), next(rows)
