"""Configurations that are diverse, or ordered, by construction: no model is needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal

import numpy as np
from ase.data import atomic_numbers, chemical_symbols, covalent_radii
from pydantic import Field

from alflow.core.frames import Floats, Frames
from alflow.errors import DataError, InputError
from alflow.interfaces import Guide, Halt, Harvest, never, part
from alflow.numerics.bispectrum import BispectrumSettings, features
from alflow.numerics.entropy import Known
from alflow.numerics.entropy_metric import Metric, metric
from alflow.numerics.entropy_potential import EntropyPotential, metered
from alflow.numerics.neighbors import neighbor_list
from alflow.store.convert import read_file

# Far beyond what is of use, and still such that no product or power in between overflows
Strength = Annotated[float, Field(ge=1e-9, le=1e4)]
Height = Annotated[float, Field(ge=1e-6, le=1e6)]
Cutoff = Annotated[float, Field(ge=0.5, le=15)]
Distance = Annotated[float, Field(ge=0.1, le=15)]
Kelvin = Annotated[float, Field(ge=1e-3, le=1e6)]
Timestep = Annotated[float, Field(ge=1e-3, le=1e3)]
Friction = Annotated[float, Field(ge=1e-6, le=1e6)]
Change = Annotated[float, Field(ge=0, le=1e3)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Steps = Annotated[int, Field(ge=1, le=10**7)]

_REPULSION: Final = 0.8
_CONTACT: Final = 0.7
_ATOMS: Final = 8192
_WEIGHTS: Final = (1e-3, 1e3)
_STRENGTH: Final = 7  # a stream of random numbers of one trajectory: those of its run are others


@part
class Part:
    """Local optima of the entropy of a configuration's descriptors.

    Montes de Oca Zapiain et al., npj Comput. Mater. 8, 189 (2022), figure 6; Karabin and Perez, J. Chem. Phys. 153,
    094110 (2020). Each start is driven by ``V = V_repulsive - N K S``: S is the entropy of the bispectrum components of
    its atoms, by the distance of each to its nearest neighbour. Where K is positive environments become as different
    as they can be; where it is negative they become alike, which makes crystals with defects. Which of the two a start
    is made into is drawn, `maximize_fraction` of them (within one) the first. Cells keep their volume and shape:
    variety in these comes from the builder. Everything is annealed by Langevin dynamics, or not, and ends in a local
    optimum: V has then changed by less than `converged_eV` per atom in 20 steps of descent (its slope has kinks, so a
    small force is no criterion).

    Without a model every optimum is a candidate: a set by construction. With one (later rounds of an active-learning
    loop) the gauge scores the optima: what the model cannot evaluate is unphysical, what it does not know ends as
    extrapolated, and `keep` says whether what it knows is a candidate all the same or only a product.

    What becomes of a start depends on its own seed only, not on its batch, unless `across_batch` is set. A run that is
    halted brings home the optima it has, and begins again if called again.

    The papers print neither K, nor the form of the repulsion, nor the schedule of the annealing: the defaults are ours,
    chosen for energies of tungsten that are spread as in their figure 2.

    Attributes:
        K_eV: range of the strength of the entropy, per atom, drawn evenly in its logarithm; its sign is drawn too.
        maximize_fraction: part of the starts that are made diverse; the others are made ordered.
        twojmax: 2 J; descriptors are all bispectrum components up to J: 2 gives the paper's 5, 4 gives 14.
        cutoff_A: cutoff of the descriptors.
        weights: weight of an element as a neighbour, as in SNAP; 1 if not given. Where it is 0 it is not seen.
        metric: ``whitened``, ``scaled`` or ``raw``: how components are weighed in the distance of two environments.
        floor: distances below this are not told apart, in units of the spread among randomly packed spheres.
        repulsion_A: distance at which two atoms begin to repel; by default 0.8 times the sum of covalent radii.
        repulsion_eV: A of the repulsion A (d / r - 1)^2.
        min_distance_A: a pair closer than this is unphysical; by default 0.7 times the distance of repulsion.
        method: ``anneal``, then descend; or ``minimize``, descend at once.
        T_K: temperature at the beginning and end of the annealing; it falls by the same factor at every step.
        anneal_steps: its length.
        timestep_fs: its time step.
        friction_per_ps: friction of its thermostat.
        max_steps: longest descent; what has not converged by then is brought home as it is.
        converged_eV: change of V per atom in 20 steps of descent that ends it.
        keep: with a model, ``all`` optima are candidates, or only those ``unknown`` to it: scores above `select`.
        avoid: file of structures whose environments are to be avoided as well, such as a set that exists.
        across_batch: environments are also to differ from those of the other diverse configurations of a batch.
    """

    K_eV: tuple[Strength, Strength] = (0.02, 0.1)
    maximize_fraction: Fraction = 0.5
    twojmax: Annotated[int, Field(ge=0, le=14)] = 2
    cutoff_A: Cutoff = 4.73
    weights: Mapping[str, float] = field(default_factory=dict)
    metric: Metric = "whitened"
    floor: Annotated[float, Field(ge=1e-6, le=1e3)] = 0.1
    repulsion_A: Distance | None = None
    repulsion_eV: Height = 20.0
    min_distance_A: Distance | None = None
    method: Literal["anneal", "minimize"] = "anneal"
    T_K: tuple[Kelvin, Kelvin] = (2000.0, 100.0)
    anneal_steps: Steps = 250
    timestep_fs: Timestep = 4.0
    friction_per_ps: Friction = 5.0
    max_steps: Steps = 200
    converged_eV: Change = 2e-4
    keep: Literal["all", "unknown"] = "all"
    avoid: Path | None = None
    across_batch: bool = False

    needs_guide: ClassVar[bool] = False
    length_unit: ClassVar[str] = "steps"

    def __post_init__(self) -> None:
        if self.K_eV[0] > self.K_eV[1]:
            raise InputError("K_eV", f"expected the lower value first, got [{self.K_eV[0]:g}, {self.K_eV[1]:g}]")
        for symbol, weight in self.weights.items():
            if symbol not in atomic_numbers or symbol == "X":
                raise InputError("weights", f"{symbol!r} is not a chemical symbol", "write symbols such as W")
            if weight != 0 and not _WEIGHTS[0] <= abs(weight) <= _WEIGHTS[1]:
                size = f"{_WEIGHTS[0]:g} to {_WEIGHTS[1]:g}"
                raise InputError("weights", f"the weight of {symbol} is {weight:g}", f"give 0, or a size of {size}")
        if self.repulsion_A is not None and self.repulsion_A > self.cutoff_A:
            raise InputError("repulsion_A", f"{self.repulsion_A:g} Å is beyond cutoff_A, {self.cutoff_A:g} Å")
        if self.avoid is not None and not self.avoid.is_file():
            raise InputError("avoid", f"the file {self.avoid} does not exist")

    @property
    def needs_scores(self) -> bool:
        """Whether it asks what a model does not know."""
        return self.keep == "unknown"

    def check(self, elements: frozenset[str]) -> None:
        """Refuse what cannot work for these chemical symbols; none if they are not known before the run.

        Raises:
            InputError: with the field at fault.
        """
        old = self._avoided()
        if not elements:
            return
        if self.min_distance_A is not None:
            self._check_distance(self.min_distance_A, elements)
        seen = elements if old is None else elements | {chemical_symbols[z] for z in np.unique(old.numbers)}
        if strange := sorted(set(self.weights) - seen):
            there = ", ".join(sorted(elements))
            raise InputError("weights", f"has {', '.join(strange)}, but the structures are of {there}", "take it out")
        if not any(self.weights.get(symbol, 1.0) for symbol in elements):
            hint = "give one of them another weight, such as 1"
            raise InputError("weights", "are 0 for all elements: every environment would look the same", hint)

    def _check_distance(self, least_A: float, elements: frozenset[str]) -> None:
        """Nothing keeps atoms apart that do not repel: a limit beyond that would throw optima away."""
        one_each = Frames.single([atomic_numbers[s] for s in sorted(elements)], np.zeros((len(elements), 3)), np.eye(3))
        farthest = 2 * float(self.reach_A(one_each).max())
        if least_A > farthest:
            raise InputError(
                "min_distance_A",
                f"{least_A:g} Å is beyond the distance at which atoms begin to repel, {farthest:.3g} Å at most: "
                "nothing would keep them so far apart",
                "lower it, or raise repulsion_A above it",
            )

    def run(
        self,
        start: Frames,
        guide: Guide | None,
        rng: np.random.Generator,
        workdir: Path,  # noqa: ARG002 -- writes nothing
        halt: Halt = never,
    ) -> Harvest:
        offset, seeds = rng.random(), rng.integers(2**63, size=len(start))
        steps = np.floor(offset + self.maximize_fraction * np.arange(len(start) + 1))
        from alflow.samplers._entropy_run import Run  # brings torch, which a check of a workflow can do without

        draws = np.array([np.random.default_rng([int(s), _STRENGTH]).random() for s in seeds])
        low, high = np.log(self.K_eV)
        K = np.where(np.diff(steps) > 0, 1.0, -1.0) * np.exp(low + (high - low) * draws)
        return Run(self, start, K, seeds, self.potential(start), guide).go(halt)

    def potential(self, start: Frames) -> EntropyPotential:
        """V of these frames.

        Raises:
            InputError: `avoid` cannot be read.
        """
        ruler, known = metric(self.metric, self.twojmax, self.cutoff_A), None
        frames = start
        if (old := self._avoided()) is not None:
            frames = Frames.concat([start, old])
            known = _known(old, self._descriptors(frames), ruler)
        settings = self._descriptors(frames)
        return EntropyPotential(settings, ruler, self.floor, self.repulsion_eV, known, self.across_batch)

    def _avoided(self) -> Frames | None:
        """The structures of `avoid`, if it is set."""
        if self.avoid is None:
            return None
        stat = self.avoid.stat()
        return _read(self.avoid, stat.st_mtime_ns, stat.st_size)

    def _descriptors(self, frames: Frames) -> BispectrumSettings:
        """Of all elements of some frames: a neighbour counts with its weight, all within one cutoff."""
        numbers = tuple(np.unique(frames.numbers).tolist()) or (1,)
        by_number = {atomic_numbers[symbol]: weight for symbol, weight in self.weights.items()}
        weights = tuple(by_number.get(z, 1.0) for z in numbers)
        return BispectrumSettings(numbers, self.twojmax, self.cutoff_A, (0.5,) * len(numbers), weights)

    def reach_A(self, frames: Frames) -> Floats:
        """Half the distance at which each atom begins to repel, (n_atoms,)."""
        if self.repulsion_A is not None:
            return np.full(frames.n_atoms, self.repulsion_A / 2)
        widest = self.cutoff_A / 2
        return np.minimum(_REPULSION * np.asarray(covalent_radii[frames.numbers], np.float64), widest)

    def contact_A(self, frames: Frames) -> Floats:
        """Half the distance below which a pair is unphysical, of each atom, (n_atoms,)."""
        if self.min_distance_A is not None:
            return np.full(frames.n_atoms, self.min_distance_A / 2)
        return _CONTACT * self.reach_A(frames)


@lru_cache(maxsize=1)
def _read(path: Path, mtime_ns: int, size: int) -> Frames:  # noqa: ARG001 -- of the file as it is now
    """Structures of a file, kept for the next task of this process.

    Raises:
        InputError: they cannot be read.
    """
    try:
        return read_file(path).frames
    except DataError as exc:
        raise InputError("avoid", str(exc), "give a file of structures that ase can read") from exc


def _known(frames: Frames, settings: BispectrumSettings, ruler: Floats) -> Known:
    """Their environments, without those that cannot be described."""
    parts = [metered(features(settings, f, neighbor_list(f, settings.cutoff_A)), ruler) for f in frames.batches(_ATOMS)]
    rows = np.concatenate(parts)
    good = np.isfinite(rows).all(axis=1)
    return Known(rows[good], frames.numbers[good])
