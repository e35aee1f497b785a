"""Molecular dynamics of a batch of trajectories, each ending on its own where the model stops knowing."""

from __future__ import annotations

import hashlib
import time
from dataclasses import fields
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal

import numpy as np
from ase.data import atomic_masses, covalent_radii
from pydantic import Field

from alflow.core.frames import Bools, Floats, Frames, Ints
from alflow.core.labels import Labels
from alflow.engines.batched_md import LangevinBatch, thermal_momenta
from alflow.engines.contacts import ContactWatch
from alflow.errors import InputError
from alflow.interfaces import Guide, Halt, Harvest, Scores, Stop, never, part
from alflow.numerics.schedules import StrainRanges, StrainSchedule, TemperatureRanges, TemperatureSchedule
from alflow.samplers._md_record import Checkpoint, Record

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Steps = Annotated[int, Field(ge=1)]
Range = tuple[NotNegative, NotNegative]

_RADII_FRACTION: Final = 0.5
_RELAX_CAP_A: Final = 0.05
_NOISE_BLOCK: Final = 32
_RAMP: Final = ("T_start_K", "T_end_K", "T_mod_K", "period_ps")
_SCHEDULE, _VELOCITIES, _STRAIN, _NOISE = range(4)  # streams of random numbers of one trajectory


@part
class Part:
    """Langevin dynamics at a random, time-varying temperature (Smith et al., Nat. Commun. 12, 1257, equation 2).

    A trajectory ends when its score passes `thresholds.stop` (extrapolated), when it becomes unphysical (a pair too
    close, an exploding energy or temperature, a NaN), or after `length_ps` (completed); the others go on without it.
    Its final frame is a candidate unless it is unphysical. With ``thresholds.select < thresholds.stop`` frames between
    the two are candidates as well: what was selected before a trajectory became unphysical, or was halted, is brought
    home; a frame it ended in for such a reason is not.

    Everything a trajectory does depends on its own seed and start, not on its batch. Random starts go straight into
    dynamics, as in the paper: the score is looked at from the very first frame on, so that a model that does not know
    them is shown them. Their potential energy becomes heat (several thousand K, gone after a few 1 / friction);
    `relax_steps` takes most of it out before, looking at the score all the same.

    Attributes:
        length_ps: longest trajectory.
        timestep_fs: time step.
        friction_per_ps: friction of the Langevin thermostat.
        ensemble: ``nvt``, or ``nve``: no thermostat, temperatures only set the initial velocities.
        T_K: one constant temperature in place of the four ranges below.
        T_start_K: range of the temperature the ramp begins at.
        T_end_K: range of the temperature the ramp ends at, after `length_ps`.
        T_mod_K: range of the height of the oscillation on top.
        period_ps: range of the period of the oscillation.
        volumetric_strain: lowest and highest V / V(0) - 1 of a cell that breathes; zero lies between.
        shear_strain: greatest principal logarithmic strain, at constant volume, of a cell that shears.
        strain_period_ps: range of the periods of both.
        relax_steps: steps of steepest descent before the dynamics, no atom moving more than 0.05 Å in one.
        check_every: ask for the score at every so many steps; the model's own prediction is cheaper for some gauges.
        keep: of frames whose score passes `select`: the ``last`` of a trajectory, or ``all``.
        spacing_ps: least time between two frames kept of one trajectory; its final frame is exempt.
        queue_final: whether the final frame of a completed trajectory is a candidate (else it is a product).
        min_distance_A: a pair closer than this is unphysical; by default half the sum of covalent radii.
        max_energy_change_eV: change of the energy per atom since the start, up or down, that is unphysical.
        max_T_K: kinetic temperature that is unphysical.
        checkpoint_s: seconds between checkpoints in the work folder.
    """

    length_ps: Positive = 250.0
    timestep_fs: Positive = 1.0
    friction_per_ps: NotNegative = 2.0
    ensemble: Literal["nvt", "nve"] = "nvt"
    T_K: Positive | None = None
    T_start_K: Range = (10.0, 1000.0)
    T_end_K: Range = (10.0, 600.0)
    T_mod_K: Range = (0.0, 2000.0)
    period_ps: tuple[Positive, Positive] = (10.0, 50.0)
    volumetric_strain: tuple[float, float] = (0.0, 0.0)
    shear_strain: NotNegative = 0.0
    strain_period_ps: tuple[Positive, Positive] = (10.0, 50.0)
    relax_steps: Annotated[int, Field(ge=0)] = 0
    check_every: Steps = 1
    keep: Literal["last", "all"] = "last"
    spacing_ps: NotNegative = 0.1
    queue_final: bool = True
    min_distance_A: Positive | None = None
    max_energy_change_eV: Positive = 10.0
    max_T_K: Positive = 20_000.0
    checkpoint_s: NotNegative = 300.0

    needs_guide: ClassVar[bool] = True
    length_unit: ClassVar[str] = "ps"

    def __post_init__(self) -> None:
        for name in (*_RAMP, "strain_period_ps"):
            low, high = getattr(self, name)
            if low > high:
                raise InputError(name, f"expected the lower value first, got [{low:g}, {high:g}]")
        low, high = self.volumetric_strain
        if not -1 < low <= 0 <= high < np.inf:
            raise InputError(
                "volumetric_strain",
                f"expected [low, high] with -1 < low <= 0 <= high, got [{low:g}, {high:g}]",
                "0.1 is ten per cent; the start itself must be allowed",
            )
        changed = [f.name for f in fields(self) if f.name in _RAMP and getattr(self, f.name) != f.default]
        if self.T_K is not None and changed:
            raise InputError("T_K", f"is constant, but {', '.join(changed)} is set too", "set one or the other")
        if self.timestep_fs > 1000 * self.length_ps:
            raise InputError("timestep_fs", f"is longer than the trajectory of {self.length_ps:g} ps")

    @property
    def strains(self) -> bool:
        """Whether the cell moves."""
        return self.volumetric_strain != (0.0, 0.0) or self.shear_strain > 0

    def run(
        self, start: Frames, guide: Guide | None, rng: np.random.Generator, workdir: Path, halt: Halt = never
    ) -> Harvest:
        if guide is None:
            raise InputError("sampler 'md'", "follows a model, got none", "give the stage a potential")
        if self.strains and not start.pbc.all():
            raise InputError(
                "volumetric_strain", "needs starts that are periodic in all directions", "use open cells unstrained"
            )
        seeds = rng.integers(2**63, size=len(start))
        if not len(start):
            return Record(0).harvest(atomic_masses)
        return _Run(self, start, guide, seeds, workdir / "md_checkpoint.npz").go(halt)


class _Eye:
    """Asks the model, or model and gauge in one, and remembers the scores."""

    def __init__(self, guide: Guide) -> None:
        self._guide = guide
        self.due = True
        self.scores: Scores | None = None

    def __call__(self, frames: Frames) -> Labels:
        self.scores = None
        if self._guide.gauge is None or not self.due:
            return self._guide.model.predict(frames, stress=False)
        labels, self.scores = self._guide.gauge.evaluate(frames)
        return labels


class _Run:
    """One batch on its way: `alive` maps systems of the batch to trajectories, that is, to start frames."""

    def __init__(self, part: Part, start: Frames, guide: Guide, seeds: Ints, checkpoint: Path) -> None:
        self.part, self.start, self.seeds, self.path = part, start, seeds, checkpoint
        self.thresholds, self.eye = guide.thresholds, _Eye(guide)
        self.last = part.relax_steps + max(1, round(1000 * part.length_ps / part.timestep_fs))
        self.key = hashlib.sha256(repr((part, start.ids(), seeds.tolist())).encode()).hexdigest()
        self._draw_schedules()
        self._noise: Floats = np.zeros((0, 0, 3))
        self._noise_block = -1
        self._saved_at = time.monotonic()
        saved = Checkpoint.load(checkpoint, self.key)
        self.record = saved.record if saved else Record(len(start))
        self.step = saved.step if saved else 0
        self.alive = saved.alive if saved else np.arange(len(start))
        self.eye.due = self._is_due()
        self.batch = self._batch(saved)
        self.energy_at_start = saved.energy if saved else self.batch.energy.copy()
        self.watch = ContactWatch(self.batch.frames, self._reach(self.batch.frames))
        if saved is None:
            self.look()

    def go(self, halt: Halt) -> Harvest:
        """Advance until the last trajectory has ended."""
        while len(self.alive):
            if halt():
                self.save()  # should it be called again
                self._end(np.arange(len(self.alive)), Stop.HALTED)
                return self.record.harvest(atomic_masses)
            if time.monotonic() - self._saved_at >= self.part.checkpoint_s:
                self.save()
            self.advance()
            self.look()
        harvest = self.record.harvest(atomic_masses)
        self.path.unlink(missing_ok=True)
        return harvest

    def advance(self) -> None:
        """One step of what is alive, at the end of which the model has been asked."""
        now, self.step = self.step, self.step + 1
        self.eye.due = self._is_due()
        if now < self.part.relax_steps:
            self.batch.descend(_RELAX_CAP_A)
            return
        T = self.temperature.at(self._time_ps(now))[self.alive]
        cell = None
        if self.strain is not None:
            cell = (self.start.cell @ self.strain.at(self._time_ps(self.step)))[self.alive]
        self.batch.step(T, self._draw_noise(now), cell)

    def look(self) -> None:
        """End what is unphysical, unknown or complete; keep what is worth it; go on with the rest."""
        scores, n = self.eye.scores, len(self.alive)
        score = np.full(n, np.nan) if scores is None else scores.per_frame
        bad, words = self._unphysical(np.isnan(score) if scores is not None else np.zeros(n, np.bool_))
        unknown = ~bad & (score > self.thresholds.stop)
        complete = ~bad & ~unknown & (self.step >= self.last)
        for k in np.flatnonzero(~bad & ~unknown & ~complete & (score > self.thresholds.select)):
            self._select(int(k))
        for k in np.flatnonzero(unknown | (complete & self.part.queue_final)):
            self._select(int(k), final=True)
        for k in np.flatnonzero(complete & ~np.bool_(self.part.queue_final)):
            if score[k] > self.thresholds.select:
                self._select(int(k))
            self.record.products.add(int(self.alive[k]), self.batch.frames[int(k)], {})
        self._end(np.flatnonzero(bad), Stop.UNPHYSICAL, words)
        self._end(np.flatnonzero(unknown), Stop.EXTRAPOLATED)
        self._end(np.flatnonzero(complete), Stop.COMPLETED)
        stay = np.flatnonzero(~(bad | unknown | complete))
        if len(stay) < n:
            self._take(stay)

    def save(self) -> None:
        """Write a checkpoint: everything that is not a function of the seeds."""
        b, f = self.batch, self.batch.frames
        state = Checkpoint(
            self.step, self.alive, f.positions, b.momenta, f.cell, b.rate, self.energy_at_start, self.record
        )
        state.save(self.path, self.key)
        self._saved_at = time.monotonic()

    # ---- beginnings and ends ----

    def _draw_schedules(self) -> None:
        p, n = self.part, len(self.start)
        if p.T_K is not None:
            self.temperature = TemperatureSchedule.constant(n, p.T_K)
        else:
            ranges = TemperatureRanges(p.T_start_K, p.T_end_K, p.T_mod_K, p.period_ps)
            rngs = [self._rng(i, _SCHEDULE) for i in range(n)]
            self.temperature = TemperatureSchedule.draw(rngs, ranges, p.length_ps)
        self.strain = None
        if p.strains:
            bounds = StrainRanges(p.volumetric_strain, p.shear_strain, p.strain_period_ps)
            self.strain = StrainSchedule.draw([self._rng(i, _STRAIN) for i in range(n)], bounds)

    def _batch(self, saved: Checkpoint | None) -> LangevinBatch:
        frames = self.start.take(self.alive)
        masses = np.asarray(atomic_masses[frames.numbers], np.float64)
        if saved is None:
            T = self.temperature.at(0.0)
            each = np.split(masses, frames.offsets[1:-1])
            momenta = np.concatenate([thermal_momenta(self._rng(i, _VELOCITIES), m, T[i]) for i, m in enumerate(each)])
        else:
            frames, momenta = frames.moved(saved.positions, saved.cell), saved.momenta
        friction = self.part.friction_per_ps if self.part.ensemble == "nvt" else 0.0
        batch = LangevinBatch(frames, momenta, masses, self.eye, self.part.timestep_fs, friction)
        if saved is not None:
            batch.rate = saved.rate
        return batch

    def _reach(self, frames: Frames) -> Floats:
        if self.part.min_distance_A is not None:
            return np.full(frames.n_atoms, self.part.min_distance_A / 2)
        return _RADII_FRACTION * np.asarray(covalent_radii[frames.numbers], np.float64)

    def _rng(self, trajectory: int, *stream: int) -> np.random.Generator:
        return np.random.default_rng([int(self.seeds[trajectory]), *stream])

    def _take(self, stay: Ints) -> None:
        atoms = self.batch.frames.atoms_of(stay)
        self.alive = self.alive[stay]
        if len(stay):
            self._noise = self._noise[:, atoms] if self._noise_block >= 0 else self._noise
            self.batch.take(stay)
            self.watch.take(stay)

    def _end(self, which: Ints, stop: Stop, words: list[str] | None = None) -> None:
        said = words or [""] * len(which)
        self.record.end(self.alive[which].tolist(), stop, said, self._time_ps(self.step))

    # ---- steps ----

    def _time_ps(self, step: int) -> float:
        return max(0, step - self.part.relax_steps) * self.part.timestep_fs / 1000

    def _is_due(self) -> bool:
        return self.step % self.part.check_every == 0 or self.step == self.last

    def _draw_noise(self, step: int) -> Floats:
        """A function of seed and step alone, drawn for several steps at once."""
        block, row = divmod(step, _NOISE_BLOCK)
        if block != self._noise_block:
            sizes = self.start.sizes[self.alive]
            each = [
                self._rng(int(i), _NOISE, block).standard_normal((_NOISE_BLOCK, n, 3))
                for i, n in zip(self.alive, sizes, strict=True)
            ]
            self._noise, self._noise_block = np.concatenate(each, axis=1), block
        noise: Floats = self._noise[row]
        return noise

    def _select(self, k: int, *, final: bool = False) -> None:
        """Make the frame of system `k` a candidate, in place of earlier ones if only the last is kept."""
        origin, now, pile = int(self.alive[k]), self._time_ps(self.step), self.record.candidates
        if not final and now - pile.last_time_ps(origin) < self.part.spacing_ps * (1 - 1e-9):
            return
        if self.part.keep == "last":
            pile.rows.pop(origin, None)
        figures = {
            "score": np.nan if self.eye.scores is None else float(self.eye.scores.per_frame[k]),
            "time_ps": now,
            "T_K": float(self.batch.temperatures_K()[k]),
            "T_target_K": float(self.temperature.at(now)[origin]),
            "energy_eV_atom": float(self.batch.energy[k] / self.start.sizes[origin]),
        }
        if self.eye.scores is not None:
            figures |= {name: float(v[k]) for name, v in self.eye.scores.detail.items()}
        pile.add(origin, self.batch.frames[k], figures)

    def _unphysical(self, lost: Bools) -> tuple[Bools, list[str]]:
        """Which systems cannot be matter, and why; `lost` are those without a score."""
        b, p = self.batch, self.part
        if not np.isfinite(b.forces.sum() + b.energy.sum()):
            lost = lost | ~np.isfinite(b.energy)
            lost |= ~np.logical_and.reduceat(np.isfinite(b.forces).all(axis=1), b.frames.offsets[:-1])
        with np.errstate(all="ignore"):
            change = np.abs(b.energy - self.energy_at_start[self.alive]) / b.frames.sizes
            T = b.temperatures_K()
        close = self.watch.too_close(b.frames)
        bad: Bools = lost | close | (change > p.max_energy_change_eV) | ~(p.max_T_K >= T)
        words = []
        for k in np.flatnonzero(bad):
            if lost[k]:
                words.append("energy, forces or score are not finite")
            elif close[k]:
                words.append("a pair of atoms is closer than its limit")
            elif change[k] > p.max_energy_change_eV:
                words.append(f"energy changed by {change[k]:.3g} eV/atom, limit {p.max_energy_change_eV:g}")
            else:
                words.append(f"temperature is {T[k]:.4g} K, limit {p.max_T_K:g}")
        return bad, words
