"""Toy parts for tests of everything around the parts: real behaviour, analytic physics, milliseconds a call.

They keep every promise of `alflow.interfaces`, need numpy only, and know nothing of chemistry: all elements are alike.
`ToyLabeler` is a Morse solid, `ToyPotential` an ensemble of linear pair potentials, `ToySampler` a thermal random walk.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from alflow.core.frames import Floats, Frames, Ints
from alflow.core.labels import Cause, Labels, Theory, Verdict
from alflow.core.units import KB_eV_K
from alflow.errors import InputError, ResourceError, UnphysicalError
from alflow.interfaces import (
    UNLIMITED,
    Capability,
    Code,
    FitReport,
    Guide,
    Halt,
    Harvest,
    Limits,
    MemberLabels,
    Model,
    Stop,
    never,
    part,
)
from alflow.store.dataset import Dataset
from alflow.store.files import digest, write_json
from alflow.testing.toy_physics import (
    MORSE,
    Pairs,
    forces_and_stress,
    morse,
    pairs_within,
    spoil,
    sum_rows,
    switch,
)

Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0)]


# ---- the labeler ---------------------------------------------------------------------------------------------------


@part
class ToyLabeler:
    """A Morse solid for a reference.

    Attributes:
        fail_every: about one frame in so many fails, chosen by its content id; 0 for none.
        sleep_s: seconds each label takes; `halt` is asked meanwhile.
        slow_every: about one frame in so many takes `slow_s`, chosen by its content id; 0 for none.
        slow_s: seconds a slow frame would take; where the limit is shorter, it fails once the limit has passed.
        other_every: about one frame in so many is labelled under another theory, chosen by its content id; 0 for none.
        ledger: a file that gets one line with the frame's id for each label computed, after it is durable in
            `workdir`; empty for none. So a test can count what was bought.
    """

    fail_every: Annotated[int, Field(ge=0)] = 0
    sleep_s: NotNegative = 0.0
    slow_every: Annotated[int, Field(ge=0)] = 0
    slow_s: NotNegative = 0.0
    other_every: Annotated[int, Field(ge=0)] = 0
    ledger: str = ""

    code: ClassVar[str] = ""

    def check(self, elements: frozenset[str], code: Code | None) -> None:
        """Every element will do."""

    def theory(self, code: Code | None) -> Theory:  # noqa: ARG002 - it runs no outside program
        return Theory("toy", dict(MORSE))

    def label(
        self,
        frames: Frames,
        code: Code | None,  # noqa: ARG002 - it runs no outside program
        workdir: Path,
        limits: Limits = UNLIMITED,
    ) -> tuple[Labels, tuple[Verdict, ...]]:
        workdir.mkdir(parents=True, exist_ok=True)
        bought = [self._one(frame, name, workdir, limits) for frame, name in zip(frames, frames.ids(), strict=True)]
        return Labels.concat([labels for labels, _ in bought]), tuple(verdict for _, verdict in bought)

    def _one(self, frame: Frames, name: str, workdir: Path, limits: Limits) -> tuple[Labels, Verdict]:
        path = workdir / f"label-{name}.json"
        if not path.exists():
            takes = self.slow_s if self.slow_every and int(name, 16) % self.slow_every == 0 else self.sleep_s
            if limits.seconds is not None and takes > limits.seconds:
                time.sleep(limits.seconds)
                return Labels.missing(frame), Verdict.bad(Cause.TIME, f"ran out of time after {limits.seconds:g} s")
            _sleep(takes, limits.halt, "toy: halted before a label; call again to go on")
            write_json(path, self._compute(frame, name) | {"seconds": takes})
            if self.ledger:
                _append_line(Path(self.ledger), name)
        found = json.loads(path.read_text())
        if not found["ok"]:
            return Labels.missing(frame), Verdict.bad(Cause(found["cause"]), found["reason"], path)
        stress = None if found["stress"] is None else np.array(found["stress"])
        labels = Labels(np.array(found["energy"]), np.array(found["forces"]).reshape(-1, 3), stress)
        other = self.other_every and int(name, 16) % self.other_every == 0
        theory = Theory("toy", {**MORSE, "changed": {"smearing": 2}}) if other else None
        return labels, Verdict(ok=True, log=str(path), seconds=found["seconds"] or math.nan, theory=theory)

    def _compute(self, frame: Frames, name: str) -> dict[str, Any]:
        if self.fail_every and int(name, 16) % self.fail_every == 0:
            return {"ok": False, "cause": "other", "reason": f"toy failure: one frame in {self.fail_every}"}
        labels = morse(frame)
        if not (np.isfinite(labels.energy).all() and np.isfinite(labels.forces).all()):
            return {"ok": False, "cause": "value", "reason": "energy or forces are not finite"}
        stress = labels.stress
        return {
            "ok": True,
            "energy": labels.energy.tolist(),
            "forces": labels.forces.tolist(),
            "stress": stress.tolist() if stress is not None and np.isfinite(stress).all() else None,
        }


def _append_line(path: Path, line: str) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, f"{line}\n".encode())
        os.fsync(handle)
    finally:
        os.close(handle)


# ---- the potential -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Basis:
    """Gaussians of the distance, switched off at the cutoff, and a constant: the last column."""

    cutoff_A: float
    n_radial: int

    def ofpairs_within(self, pairs: Pairs) -> tuple[Floats, Floats]:
        """Values and slopes, (n_pairs, n_radial)."""
        centres = np.linspace(1.0, self.cutoff_A, self.n_radial)
        width = (self.cutoff_A - 1.0) / max(self.n_radial - 1, 1)
        u = (pairs.r[:, None] - centres) / width
        value = np.exp(-0.5 * u**2)
        on, fall = (a[:, None] for a in switch(pairs.r, self.cutoff_A))
        return value * on, value * (fall - on * u / width)

    def of_atoms(self, frames: Frames, pairs: Pairs, values: Floats) -> Floats:
        """Rows whose sum over a frame is linear in its energy, (n_atoms, n_radial + 1)."""
        rows = np.concatenate([0.5 * sum_rows(values, pairs.i, frames.n_atoms), np.ones((frames.n_atoms, 1))], axis=1)
        rows[~np.isfinite(frames.positions).all(axis=1)] = np.nan
        return rows


class ToyModel:
    """The mean of linear pair potentials: has members and features.

    Args:
        basis: the pair basis all members share.
        weights: coefficients of each member in eV, (n_members, n_radial + 1).
    """

    def __init__(self, basis: _Basis, weights: Floats) -> None:
        self._basis, self._weights = basis, weights

    @property
    def cutoff_A(self) -> float:
        return self._basis.cutoff_A

    @property
    def n_members(self) -> int:
        return len(self._weights)

    def predict(self, frames: Frames, *, stress: bool = True) -> Labels:
        return self.predict_members(frames, forces=False, stress=stress).mean

    def predict_members(self, frames: Frames, *, forces: bool, stress: bool = False) -> MemberLabels:
        pairs = pairs_within(frames, self.cutoff_A)
        values, slopes = self._basis.ofpairs_within(pairs)
        rows = sum_rows(self._basis.of_atoms(frames, pairs, values), frames.frame_of_atom, len(frames))
        energy = self._weights @ rows.T
        mean = slopes @ self._weights[:, :-1].mean(axis=0)
        labels = Labels(energy.mean(axis=0), *forces_and_stress(frames, pairs, mean, stress))
        each = None
        if forces:
            each = np.stack([forces_and_stress(frames, pairs, slopes @ w[:-1], stress=False)[0] for w in self._weights])
            each[:, ~np.isfinite(frames.positions).all(axis=1)] = np.nan
        return MemberLabels(spoil(frames, labels), energy, each)

    def features(self, frames: Frames) -> Floats:
        pairs = pairs_within(frames, self.cutoff_A)
        return self._basis.of_atoms(frames, pairs, self._basis.ofpairs_within(pairs)[0])


@part
class ToyPotential:
    """Linear pair potentials fitted by ridge regression, each to its own bootstrap sample and from its own prior.

    The prior is what makes the members disagree where there are no data: a plain ridge would make them all vanish.

    Attributes:
        members: size of the ensemble.
        members_per_task: how many one fit task trains.
        cutoff_A: where the pair basis ends.
        n_radial: number of Gaussians.
        ridge: weight of the prior.
        sleep_s: seconds each member takes; `halt` is asked meanwhile.
    """

    members: Positive = 4
    members_per_task: Positive = 4
    cutoff_A: Annotated[float, Field(gt=1)] = 5.0
    n_radial: Positive = 12
    ridge: Annotated[float, Field(gt=0)] = 1e-4
    sleep_s: NotNegative = 0.0

    provides: ClassVar[frozenset[Capability]] = frozenset({Capability.MEMBERS, Capability.FEATURES})

    def check(self, elements: frozenset[str]) -> None:
        """Every element will do."""

    def fit(
        self, data: Dataset, members: range, seed: int, out: Path, start: Sequence[Path] = (), halt: Halt = never
    ) -> FitReport:
        if not len(data):
            raise UnphysicalError("toy: no frames to fit")
        out.mkdir(parents=True, exist_ok=True)
        basis = _Basis(self.cutoff_A, self.n_radial)
        priors = {found["member"]: np.array(found["weights"]) for found in _read_members(start)}
        key = hashlib.sha256(repr((data.ids, seed, basis, self.ridge, [digest(f) for f in start])).encode()).hexdigest()
        equations = None
        reports = []
        for member in members:
            path = out / _file(member)
            if not (path.exists() and json.loads(path.read_text())["key"] == key):
                _sleep(self.sleep_s, halt, f"toy: halted before member {member}; call again to go on")
                equations = equations or _Equations.of(basis, data)
                rng = np.random.default_rng([seed, member])
                weights, metrics = equations.solve(rng, self.ridge, priors.get(member))
                write_json(path, self._saved(member, key, weights, metrics))
            reports.append(json.loads(path.read_text())["metrics"])
        return FitReport(
            files=tuple(_file(m) for m in members),
            members=tuple(members),
            metrics={name: [r[name] for r in reports] for name in reports[0]} if reports else {},
            epochs=(1,) * len(members),
        )

    def load(self, files: Sequence[Path]) -> ToyModel:
        found = sorted(_read_members(files), key=lambda f: int(f["member"]))
        shapes = {(f["cutoff_A"], f["n_radial"]) for f in found}
        if len(shapes) != 1:
            raise InputError("toy potential", f"expected members of one shape, got {sorted(shapes)}")
        return ToyModel(_Basis(*shapes.pop()), np.array([f["weights"] for f in found]))

    def _saved(self, member: int, key: str, weights: Floats, metrics: Mapping[str, float]) -> dict[str, Any]:
        return {
            "member": member,
            "key": key,
            "cutoff_A": self.cutoff_A,
            "n_radial": self.n_radial,
            "weights": weights.tolist(),
            "metrics": dict(metrics),
        }


def _file(member: int) -> str:
    return f"member-{member:03d}.json"


def _read_members(files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    return (json.loads(f.read_text()) for f in files)


def _sleep(seconds: float, halt: Halt, words: str) -> None:
    end = time.monotonic() + seconds
    while not halt():
        left = end - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(left, 0.01))
    raise ResourceError(words)


@dataclass(frozen=True, slots=True, eq=False)
class _Equations:
    """Normal equations of every frame: energies per sqrt(N) and forces, weighed alike."""

    energy_rows: Floats
    energy: Floats
    force_rows: tuple[Floats, ...]
    forces: tuple[Floats, ...]

    @staticmethod
    def of(basis: _Basis, data: Dataset) -> _Equations:
        energy_rows, force_rows = [], []
        for frame in data.frames:
            pairs = pairs_within(frame, basis.cutoff_A)
            values, slopes = basis.ofpairs_within(pairs)
            energy_rows.append(basis.of_atoms(frame, pairs, values).sum(axis=0))
            pull = slopes[:, None, :] * (pairs.vectors / pairs.r[:, None])[:, :, None]
            rows = sum_rows(pull.reshape(len(pull), -1), pairs.i, frame.n_atoms).reshape(3 * frame.n_atoms, -1)
            force_rows.append(np.concatenate([rows, np.zeros((len(rows), 1))], axis=1))
        cuts = 3 * data.frames.offsets[1:-1]
        scale = np.sqrt(data.frames.sizes)
        return _Equations(
            np.array(energy_rows) / scale[:, None],
            data.labels.energy / scale,
            tuple(force_rows),
            tuple(np.split(data.labels.forces.reshape(-1), cuts)),
        )

    def solve(self, rng: np.random.Generator, ridge: float, prior: Floats | None) -> tuple[Floats, dict[str, float]]:
        n, k = self.energy_rows.shape
        guess = rng.normal(size=k)
        times = rng.multinomial(n, np.full(n, 1 / n))
        a, b = ridge * np.eye(k), ridge * (guess if prior is None else prior)
        for t, e, y, rows, f in zip(times, self.energy_rows, self.energy, self.force_rows, self.forces, strict=True):
            if t:
                a += t * (np.outer(e, e) + rows.T @ rows)
                b += t * (e * y + rows.T @ f)
        weights = np.asarray(np.linalg.solve(a, b), np.float64)
        unseen = np.nonzero(times == 0)[0]
        return weights, {
            **self._errors(weights, np.nonzero(times)[0], "train"),
            **self._errors(weights, unseen if len(unseen) else np.arange(n), "valid"),
        }

    def _errors(self, weights: Floats, pick: Ints, which: str) -> dict[str, float]:
        natoms = np.array([len(self.forces[i]) / 3 for i in pick])
        energy = (self.energy_rows[pick] @ weights - self.energy[pick]) / np.sqrt(natoms)
        forces = np.concatenate([self.force_rows[i] @ weights - self.forces[i] for i in pick])
        return {
            f"{which}_energy_rmse_meV_atom": 1e3 * float(np.sqrt(np.mean(energy**2))),
            f"{which}_force_rmse_eV_A": float(np.sqrt(np.mean(forces**2))),
        }


# ---- the sampler ---------------------------------------------------------------------------------------------------


@part
class ToySampler:
    """Overdamped Brownian motion along the model's forces; each frame ends at the `stop` threshold.

    Attributes:
        T_K: temperature of the walk.
        steps: longest walk; one step counts as a hundredth of a picosecond.
        step_A: standard deviation of the random part of one step, in each direction.
        sleep_s: seconds each step takes; `halt` is asked between steps.
    """

    T_K: Annotated[float, Field(gt=0)] = 600.0
    steps: Positive = 50
    step_A: Annotated[float, Field(gt=0)] = 0.05
    sleep_s: NotNegative = 0.0

    needs_guide: ClassVar[bool] = True
    length_unit: ClassVar[str] = "ps"

    def run(
        self,
        start: Frames,
        guide: Guide | None,
        rng: np.random.Generator,
        workdir: Path,  # noqa: ARG002 - it writes nothing
        halt: Halt = never,
    ) -> Harvest:
        if guide is None:
            raise InputError("sampler 'toy'", "follows a model, got none", "run it after a first fit")
        walk = _Walk.of(start, rng)
        for step in range(self.steps + 1):
            forces = walk.look(guide, step)
            if not walk.alive or step == self.steps:
                break
            if halt():
                walk.end(walk.alive, Stop.HALTED, step)
                break
            time.sleep(self.sleep_s)
            walk.move(forces, self.step_A, self.step_A**2 / (2 * KB_eV_K * self.T_K))
        walk.end(walk.alive, Stop.COMPLETED, self.steps)
        return walk.harvest()


@dataclass(slots=True, eq=False)
class _Walk:
    frames: list[Frames]
    rngs: list[np.random.Generator]
    alive: list[int]
    stops: dict[int, tuple[Stop, int]] = field(default_factory=dict)
    scores: dict[int, float] = field(default_factory=dict)

    @staticmethod
    def of(start: Frames, rng: np.random.Generator) -> _Walk:
        seeds = rng.integers(2**63, size=len(start))
        return _Walk(list(start), [np.random.default_rng(s) for s in seeds], list(range(len(start))))

    def look(self, guide: Guide, step: int) -> dict[int, Floats]:
        """End what has strayed; return the forces on the others."""
        if not self.alive:
            return {}
        batch, asked = Frames.concat([self.frames[i] for i in self.alive]), list(self.alive)
        labels, scores = _evaluate(guide.model, guide, batch)
        good = np.isfinite(scores) | (guide.gauge is None)
        self.end([i for i, ok in zip(asked, good, strict=True) if not ok], Stop.UNPHYSICAL, step)
        out = [i for i, s in zip(asked, scores, strict=True) if s > guide.thresholds.stop]
        self.scores.update(zip(asked, scores.tolist(), strict=True))
        self.end(out, Stop.EXTRAPOLATED, step)
        return dict(zip(asked, np.split(labels.forces, batch.offsets[1:-1]), strict=True))

    def move(self, forces: Mapping[int, Floats], step_A: float, mobility: float) -> None:
        for i in self.alive:
            x = self.frames[i].positions
            drift = np.clip(mobility * forces[i], -2 * step_A, 2 * step_A)
            self.frames[i] = self.frames[i].moved(x + drift + step_A * self.rngs[i].normal(size=x.shape))

    def end(self, which: Sequence[int], why: Stop, step: int) -> None:
        for i in list(which):
            self.stops[i] = (why, step)
            self.alive.remove(i)

    def harvest(self) -> Harvest:
        ends = [self.stops[i] for i in range(len(self.frames))]
        origin = [i for i, (why, _) in enumerate(ends) if why is Stop.EXTRAPOLATED]
        lengths = np.array([0.01 * step for _, step in ends], np.float64)
        return Harvest(
            candidates=Frames.concat([self.frames[i] for i in origin]),
            scores=np.array([self.scores[i] for i in origin], np.float64),
            origin=np.array(origin, np.int64),
            products=Frames.concat([self.frames[i] for i, (why, _) in enumerate(ends) if why is Stop.COMPLETED]),
            stops=tuple(why for why, _ in ends),
            detail=tuple("the score is NaN" if why is Stop.UNPHYSICAL else "" for why, _ in ends),
            lengths=lengths,
            columns={"time_ps": lengths[origin]},
        )


def _evaluate(model: Model, guide: Guide, batch: Frames) -> tuple[Labels, Floats]:
    if guide.gauge is None:
        return model.predict(batch, stress=False), np.full(len(batch), np.nan)
    labels, scores = guide.gauge.evaluate(batch)
    return labels, scores.per_frame
