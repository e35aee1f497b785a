"""A batch of configurations on its way to local optima of the entropy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from ase.data import atomic_masses

from alflow.core.frames import Bools, Floats, Frames, Ints
from alflow.core.labels import Labels
from alflow.core.units import U_A3_g_cm3
from alflow.engines.batched_descent import FireBatch
from alflow.engines.batched_md import LangevinBatch, thermal_momenta, wrapped
from alflow.engines.contacts import ContactWatch, closest_A
from alflow.interfaces import Guide, Halt, Harvest, Stop
from alflow.numerics.entropy_potential import EntropyPotential, Told
from alflow.numerics.neighbors import NeighborCache

if TYPE_CHECKING:
    from alflow.samplers.entropy import Part

WINDOW: Final = 20
"""Steps of descent in which V must have changed."""
_CAP_A: Final = 0.1
_SOFTEN: Final = 20
"""Steps of descent before the dynamics: they take the heat out of random contacts."""
_NOISE_BLOCK: Final = 32
_VELOCITIES, _NOISE = range(2)  # streams of random numbers of one trajectory

NO_LIST: Final = "the cell has no volume, or is denser than any matter"
FLEW: Final = "atoms flew apart in the dynamics; lower timestep_fs, T_K, K_eV or repulsion_eV"
NO_NUMBER: Final = "energy or forces became infinite or NaN; lower weights, K_eV or repulsion_eV"


class Eye:
    """Asks the potential and remembers what it said; `which` are the starts that the frames it is shown belong to."""

    def __init__(self, potential: EntropyPotential, K_eV: Floats, reach_A: Floats, start: Frames) -> None:
        self._potential, self._K, self._reach, self._start = potential, K_eV, reach_A, start
        self._lists = NeighborCache(potential.descriptors.cutoff_A, ordered=True)
        self.look_at(np.arange(len(start)))
        self.said: Told
        self.listed: Bools

    def look_at(self, which: Ints) -> None:
        """Be shown the frames of these starts from now on."""
        self._k, self._r = self._K[which], self._reach[self._start.atoms_of(which)]

    def __call__(self, frames: Frames) -> Labels:
        lists = self._lists.update(frames)
        self.listed = lists.valid
        self.said = self._potential.evaluate(frames, lists, self._k, self._r)
        return Labels(self.said.energy, -self.said.gradient)


class Run:
    """One batch on its way: `alive` maps systems of the batch to trajectories, that is, to start frames.

    All that is kept of each living trajectory (`alive`, `past`, the systems that move) gets shorter in `_take` only.

    Args:
        part: the settings.
        start: where from.
        K_eV: of each; positive where it is to become diverse, negative for ordered, (n,).
        seeds: one of each trajectory, (n,).
        potential: V.
        guide: the model, if there is one.
    """

    def __init__(
        self, part: Part, start: Frames, K_eV: Floats, seeds: Ints, potential: EntropyPotential, guide: Guide | None
    ) -> None:
        self.part, self.start, self.seeds, self.guide = part, start, seeds, guide
        self.K = K_eV
        self.eye = Eye(potential, self.K, part.reach_A(start), start)
        self.alive = np.arange(len(start))
        self.past: list[Floats] = []
        """V of each of `alive` at the latest steps of descent."""
        self.steps = 0
        self.frames: dict[int, Frames] = {}
        self.figures: dict[int, dict[str, float]] = {}
        self.ends: dict[int, tuple[Stop, str, int]] = {}

    def go(self, halt: Halt) -> Harvest:
        """Anneal and descend until the last trajectory has ended, or `halt` says so."""
        if len(self.start):
            fire = FireBatch(self.start, self.eye, _CAP_A)
            self._drop_lost(fire)
            if self.part.method == "anneal":
                fire = self._annealed(fire, halt)
            self._descend(fire, halt)
        for i in self.alive:
            self.ends[int(i)] = (Stop.HALTED, "", self.steps)
        return self._harvest()

    def _annealed(self, fire: FireBatch, halt: Halt) -> FireBatch:
        """The batch after the dynamics."""
        for _ in range(_SOFTEN):
            if not len(self.alive) or halt():
                return fire
            self._advance(fire)
        if not len(self.alive):
            return fire
        p = self.part
        masses = np.asarray(atomic_masses[fire.frames.numbers], np.float64)
        each = zip(self.alive, np.split(masses, fire.frames.offsets[1:-1]), strict=True)
        momenta = np.concatenate([thermal_momenta(self._rng(int(i), _VELOCITIES), m, p.T_K[0]) for i, m in each])
        batch = LangevinBatch(fire.frames, momenta, masses, self.eye, p.timestep_fs, p.friction_per_ps)
        noise = _Noise([self._rng(int(i), _NOISE) for i in self.alive], fire.frames.sizes)
        for T in np.geomspace(*p.T_K, p.anneal_steps):
            if not len(self.alive) or halt():
                break
            batch.step(np.full(len(batch.frames), T), noise.draw())
            self.steps += 1
            self._drop_lost(batch, noise)
        return FireBatch(batch.frames, self.eye, _CAP_A) if len(self.alive) else fire

    def _descend(self, fire: FireBatch, halt: Halt) -> None:
        """Until V stands still, each trajectory on its own; all together if they see each other."""
        self._drop_lost(fire)
        for step in range(self.part.max_steps + 1):
            if not len(self.alive) or halt():
                return
            self.past = [*self.past[-WINDOW:], fire.energy]
            still: Bools = np.zeros(len(self.alive), np.bool_)
            if len(self.past) > WINDOW:
                still = np.abs(self.past[-1] - self.past[0]) <= self.part.converged_eV * fire.frames.sizes
            if self.part.across_batch:
                still[:] = still.all()
            if (done := still if step < self.part.max_steps else np.ones_like(still)).any():
                self._finish(fire, done, still)
                self._take(~done, fire)
            if len(self.alive):
                self._advance(fire)

    def _advance(self, fire: FireBatch) -> None:
        fire.step()
        self.steps += 1
        self._drop_lost(fire)

    def _drop_lost(self, moving: FireBatch | LangevinBatch, noise: _Noise | None = None) -> None:
        """End trajectories of which the potential makes no number, and say why."""
        if not len(self.alive):
            return
        good = np.isfinite(moving.energy)
        good &= np.logical_and.reduceat(np.isfinite(moving.forces).all(axis=1), moving.frames.offsets[:-1])
        if good.all():
            return
        no_list = FLEW if self.steps else NO_LIST  # cells stay as they are: what had a list loses it by its positions
        for k in np.flatnonzero(~good):
            words = NO_NUMBER if self.eye.listed[k] else no_list
            self.ends[int(self.alive[k])] = (Stop.UNPHYSICAL, words, self.steps)
        self._take(good, moving, *([noise] if noise else []))

    def _take(self, stay: Bools, *moving: FireBatch | LangevinBatch | _Noise) -> None:
        """Go on with some trajectories only: the one place where any is dropped."""
        self.alive = self.alive[stay]
        self.past = [energy[stay] for energy in self.past]
        if len(self.alive):  # or else nothing will move again
            self.eye.look_at(self.alive)
            for batch in moving:
                batch.take(np.flatnonzero(stay))

    def _finish(self, fire: FireBatch, done: Bools, still: Bools) -> None:
        said = self.eye.said
        for k in np.flatnonzero(done):
            i, n = int(self.alive[k]), int(fire.frames.sizes[k])
            self.frames[i] = fire.frames[int(k)]
            self.figures[i] = {
                "K_eV": float(self.K[i]),
                "entropy": float(said.S[k]),
                "repulsion_eV_atom": float(said.repulsion[k]) / n,
                "converged": float(still[k]),
            }
            words = "" if still[k] else f"no local optimum within {self.part.max_steps} steps of descent"
            self.ends[i] = (Stop.COMPLETED, words, self.steps)

    def _rng(self, trajectory: int, stream: int) -> np.random.Generator:
        return np.random.default_rng([int(self.seeds[trajectory]), stream])

    # ---- what is brought home ----

    def _harvest(self) -> Harvest:
        origin = np.array(sorted(self.frames), np.int64)
        frames = wrapped(Frames.concat([self.frames[i] for i in origin.tolist()]))
        columns = _columns([self.figures[i] for i in origin.tolist()])
        columns |= {"min_distance_A": closest_A(frames), "density_g_cm3": _density(frames)}
        good: Bools = np.ones(len(origin), np.bool_)
        if len(origin):
            good = ~ContactWatch(frames, self.part.contact_A(frames)).too_close(frames)
        self._unphysical(origin[~good], "a pair of atoms is closer than its limit")
        scores, unknown, known = self._judged(frames, origin, good, columns)
        chosen, rest = np.flatnonzero(unknown), np.flatnonzero(known)
        ends = [self.ends[i] for i in range(len(self.start))]
        return Harvest(
            candidates=frames.take(chosen),
            scores=scores[chosen],
            origin=origin[chosen],
            products=frames.take(rest),
            stops=tuple(e[0] for e in ends),
            detail=tuple(e[1] for e in ends),
            lengths=np.array([e[2] for e in ends], np.float64),
            columns={name: values[chosen] for name, values in columns.items()},
        )

    def _judged(
        self, frames: Frames, origin: Ints, good: Bools, columns: dict[str, Floats]
    ) -> tuple[Floats, Bools, Bools]:
        """Scores of all, and which are candidates and which only products; adds the model's figures to `columns`."""
        score: Floats = np.full(len(origin), np.nan)
        if self.guide is None or not good.any():
            return score, good, np.zeros_like(good)
        which = np.flatnonzero(good)
        some, gauge = frames.take(which), self.guide.gauge
        said, scores = (self.guide.model.predict(some, stress=False), None) if gauge is None else gauge.evaluate(some)
        finite = np.isfinite(said.energy)
        finite &= np.logical_and.reduceat(np.isfinite(said.forces).all(axis=1), some.offsets[:-1])
        columns["energy_eV_atom"] = _spread(said.energy / some.sizes, which, score)
        if scores is not None:
            finite &= np.isfinite(scores.per_frame)
            score = _spread(scores.per_frame, which, score)
            columns |= {name: _spread(v, which, score) for name, v in scores.detail.items()}
        self._unphysical(origin[which[~finite]], "the model gives no number")
        good = good.copy()
        good[which[~finite]] = False
        beyond = good & (score > self.guide.thresholds.stop)
        for i in origin[beyond].tolist():
            self.ends[i] = (Stop.EXTRAPOLATED, *self.ends[i][1:])
        wanted = good if self.part.keep == "all" or gauge is None else good & (score > self.guide.thresholds.select)
        return score, wanted, good & ~wanted

    def _unphysical(self, which: Ints, words: str) -> None:
        for i in which.tolist():
            self.ends[i] = (Stop.UNPHYSICAL, words, self.ends[i][2])


class _Noise:
    """Normal numbers of every trajectory from a generator of its own, drawn for several steps at once."""

    def __init__(self, rngs: list[np.random.Generator], sizes: Ints) -> None:
        self._rngs, self._sizes = rngs, sizes
        self._left: list[Floats] = []

    def draw(self) -> Floats:
        """For one step, (n_atoms, 3)."""
        if not self._left:
            each = [r.standard_normal((_NOISE_BLOCK, n, 3)) for r, n in zip(self._rngs, self._sizes, strict=True)]
            self._left = list(np.concatenate(each, axis=1)[::-1])
        return self._left.pop()

    def take(self, keep: Ints) -> None:
        """Go on with the trajectories at `keep` only."""
        atoms = np.isin(np.repeat(np.arange(len(self._sizes)), self._sizes), keep)
        self._left = [numbers[atoms] for numbers in self._left]
        self._rngs, self._sizes = [self._rngs[k] for k in keep], self._sizes[keep]


def _columns(figures: list[dict[str, float]]) -> dict[str, Floats]:
    names = ("K_eV", "entropy", "repulsion_eV_atom", "converged")
    return {name: np.array([row[name] for row in figures], np.float64) for name in names}


def _density(frames: Frames) -> Floats:
    """In g/cm³; NaN where a cell is open, (n_frames,)."""
    weight = np.bincount(frames.frame_of_atom, weights=atomic_masses[frames.numbers], minlength=len(frames))
    density: Floats = U_A3_g_cm3 * weight / np.where(frames.pbc.all(axis=1), frames.volumes, np.nan)
    return density


def _spread(values: Floats, which: Ints, like: Floats) -> Floats:
    """`values` in their places among all, NaN elsewhere."""
    out: Floats = np.full(len(like), np.nan)
    out[which] = values
    return out
