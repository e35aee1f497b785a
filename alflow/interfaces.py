"""The six things a newcomer can add, and what flows between them. Read this file first.

    Builder -> Sampler -> Selector -> Labeler -> Potential -> Uncertainty -> Sampler ...

A *builder* makes starting structures. A *sampler* moves them, guided by the current model, and brings home
candidates. A *selector* picks which are worth money. A *labeler* buys the labels. A *potential* fits. An
*uncertainty* turns a fitted model into a *gauge* that tells a sampler how far it has strayed.

A part is one file, ``alflow/<role>/<kind>.py``, that exports a frozen dataclass named ``Part``; its fields are its
YAML keys and carry their units. Everything that crosses a border here is numpy in the internal units (eV, angstrom,
fs, K); torch, ase and files stay inside a part. Parts never import each other: they meet through these protocols.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, cast, dataclass_transform, runtime_checkable

import numpy as np
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as _checked

from alflow.core.frames import Floats, Frames, Ints
from alflow.core.labels import Labels, Theory, Verdict

if TYPE_CHECKING:
    from alflow.store.dataset import Dataset

T = TypeVar("T")

Halt = Callable[[], bool]
"""Asked between steps of long work: True means bring home what you have (walltime is near, the stage is over)."""


def never() -> bool:
    """The `Halt` of work that may run to its end."""
    return False


@dataclass_transform(kw_only_default=True, frozen_default=True)
def part(cls: type[T]) -> type[T]:
    """Make a class a part: frozen, keyword only; its fields are its YAML keys, no others are accepted."""
    checked = _checked(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))(cls)
    return cast("type[T]", checked)


class Capability(StrEnum):
    """What a model can do beyond predicting energies and forces."""

    MEMBERS = "members"
    """It is an ensemble: see `HasMembers`."""
    FEATURES = "features"
    """It has a linear basis: see `HasFeatures`."""
    PAIR_STYLE = "pair_style"
    """LAMMPS can run it: see `HasPairStyle`."""


# ---- what a fitted potential is ------------------------------------------------------------------------------------


class Model(Protocol):
    """A fitted potential, ready to evaluate. May keep neighbour lists between calls; not thread-safe."""

    @property
    def cutoff_A(self) -> float:
        """No interaction reaches farther, in angstrom."""
        ...

    def predict(self, frames: Frames, *, stress: bool = True) -> Labels:
        """Energy, forces and (if asked) stress of every frame."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class MemberLabels:
    """What the members of an ensemble say, and their mean: all from one descriptor pass.

    Attributes:
        mean: energy, forces and perhaps stress of the mean of the members.
        energy: total energy of each member in eV, (n_members, n_frames).
        forces: forces of each member in eV/angstrom, (n_members, n_atoms, 3), or None if not asked for.
    """

    mean: Labels
    energy: Floats
    forces: Floats | None = None


@runtime_checkable
class HasMembers(Protocol):
    """Capability.MEMBERS: the model is the mean of several."""

    @property
    def n_members(self) -> int: ...

    def predict_members(self, frames: Frames, *, forces: bool, stress: bool = False) -> MemberLabels:
        """Energies of all members and forces of their mean; forces of each member if `forces`."""
        ...


@runtime_checkable
class HasFeatures(Protocol):
    """Capability.FEATURES: the energy is linear in per-atom basis functions."""

    def features(self, frames: Frames) -> Floats:
        """Basis row of every atom, (n_atoms, n_features)."""
        ...


@runtime_checkable
class PredictsWithFeatures(Protocol):
    """A model with features that gives predictions and features from one pass, which a gauge then takes."""

    def predict_features(self, frames: Frames, *, stress: bool = False) -> tuple[Labels, Floats]:
        """What `Model.predict` and `HasFeatures.features` give."""
        ...


@runtime_checkable
class HasPairStyle(Protocol):
    """Capability.PAIR_STYLE: LAMMPS can run the model."""

    def pair_style(self, folder: Path) -> Sequence[str]:
        """Write what LAMMPS needs into `folder`; return the pair_style and pair_coeff lines."""
        ...


# ---- how far a sampler has strayed ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """How far each frame lies outside what the model knows; bigger is farther; NaN where the model gave NaN.

    Attributes:
        per_frame: the number that thresholds are compared with, (n_frames,).
        detail: the figures it was made of, each (n_frames,), named with their unit; stored with candidates.
        per_atom: a score for each atom, (n_atoms,), or None if the gauge has none.
    """

    per_frame: Floats
    detail: Mapping[str, Floats] = field(default_factory=dict)
    per_atom: Floats | None = None


class Gauge(Protocol):
    """An uncertainty fitted to one model."""

    def evaluate(self, frames: Frames, *, stress: bool = False) -> tuple[Labels, Scores]:
        """What the model predicts and how far outside it is: both from one pass over the batch."""
        ...

    def extended(self, frames: Frames) -> Gauge:
        """A gauge that also knows `frames`, without refitting the model; itself where that has no meaning."""
        ...


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What a gauge's score decides; `spread` counts in its own thresholds, so that 1 is at one of them.

    Attributes:
        select: a frame whose score passes it is a candidate.
        stop: a trajectory ends when its score passes it; at least `select`.
    """

    select: float
    stop: float


@dataclass(frozen=True, slots=True)
class Guide:
    """What a sampler may ask of the current model: prediction AND score come from ``gauge.evaluate``."""

    model: Model
    gauge: Gauge | None
    thresholds: Thresholds


class Stop(StrEnum):
    """Why a trajectory ended."""

    COMPLETED = "completed"
    """It reached its full length without leaving what the model knows."""
    EXTRAPOLATED = "extrapolated"
    """Its score passed the `stop` threshold: its last frame is worth a label."""
    UNPHYSICAL = "unphysical"
    """Atoms too close, energy or temperature exploded, or a NaN: its last frame is not brought home."""
    HALTED = "halted"
    """It was told to stop early; what it had selected is brought home."""


@dataclass(frozen=True, slots=True, eq=False)
class Harvest:
    """What one sampling run of a batch of trajectories brings home.

    Attributes:
        candidates: frames worth a label.
        scores: their gauge scores, (n_candidates,); NaN where no gauge was asked.
        origin: index into the start frames of each candidate's trajectory, (n_candidates,).
        products: results in their own right, such as relaxed structures.
        stops: why each trajectory ended, one per start frame.
        detail: why in words, one per start frame; empty where the stop says all.
        lengths: how far each trajectory got, (n_start,), in the sampler's `length_unit`.
        columns: more figures about each candidate, each (n_candidates,): temperature, time, score details.
    """

    candidates: Frames
    scores: Floats
    origin: Ints
    products: Frames
    stops: tuple[Stop, ...]
    detail: tuple[str, ...]
    lengths: Floats
    columns: Mapping[str, Floats] = field(default_factory=dict)


# ---- fits ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FitReport:
    """How a fit of one group of members went; plain JSON values, stored in the journal.

    Attributes:
        files: name of each file that `Potential.load` needs, relative to `out`.
        members: which members these are.
        metrics: per-member figures named with their unit (``valid_energy_rmse_meV_atom`` ...), one value a member.
        epochs: epochs each member ran.
    """

    files: tuple[str, ...]
    members: tuple[int, ...]
    metrics: Mapping[str, Sequence[float]]
    epochs: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Code:
    """An outside program as the site file describes it.

    Attributes:
        name: such as ``espresso``.
        command: the command line as words; never passed through a shell.
        launcher: words put before it, such as ``("/usr/bin/mpirun", "-np", "4")``; may be empty.
        env: environment variables to set.
        settings: the rest of the site file's entry: pseudopotential folder, potcar library ...
        scratch: where to run, or None for the task's own folder.
    """

    name: str
    command: tuple[str, ...] = ()
    launcher: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    scratch: Path | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """How far a labeler may go.

    Attributes:
        seconds: longest that one frame may take, all corrections included; None for no limit.
        halt: asked while programs run.
    """

    seconds: float | None = None
    halt: Halt = never


UNLIMITED = Limits()


# ---- the six parts -------------------------------------------------------------------------------------------------


class Builder(Protocol):
    """Makes starting structures."""

    def check(self) -> None:
        """Refuse what cannot work, before anything runs.

        Raises:
            InputError: settings that no amount of trying can satisfy (an impossible density, a missing file).
        """
        ...

    def elements(self) -> frozenset[str]:
        """Chemical symbols of everything it can build; empty if only its source knows."""
        ...

    def build(self, count: int, rng: np.random.Generator, source: Frames | None = None) -> Frames:
        """`count` structures. `source` are the frames of the stage named by the builder's `from_stage`, if it has one.

        Raises:
            UnphysicalError: the settings could not be met.
        """
        ...


@runtime_checkable
class HasGroups(Protocol):
    """A builder that knows groups; the frames of others are all of a group that is called as their stage."""

    def group_names(self) -> frozenset[str]:
        """All groups there are."""
        ...

    def groups(self, frames: Frames) -> Sequence[str]:
        """The group of each of some frames that it has built; empty for none."""
        ...


class Sampler(Protocol):
    """Moves a batch of structures and brings home candidates.

    A sampler that `needs_guide` follows a model; any other is given one as soon as there is one. One that keeps only
    what the model does not know may say so by a true attribute ``needs_scores``; see also `ChecksElements`.
    """

    needs_guide: ClassVar[bool]
    length_unit: ClassVar[str]

    def run(
        self, start: Frames, guide: Guide | None, rng: np.random.Generator, workdir: Path, halt: Halt = never
    ) -> Harvest:
        """Advance all of `start` together; each trajectory ends on its own. Writes in `workdir` only."""
        ...


class Potential(Protocol):
    """A form of potential and its own trainer; its fields are its hyperparameters."""

    provides: ClassVar[frozenset[Capability]]

    @property
    def members(self) -> int:
        """How many members an ensemble has; 1 for a single potential."""
        ...

    @property
    def members_per_task(self) -> int:
        """How many members one fit task trains, sharing one descriptor pass."""
        ...

    def check(self, elements: frozenset[str]) -> None:
        """Refuse settings that cannot work for these chemical symbols.

        Raises:
            InputError: with the field at fault.
        """
        ...

    def fit(
        self, data: Dataset, members: range, seed: int, out: Path, start: Sequence[Path] = (), halt: Halt = never
    ) -> FitReport:
        """Fit `members` to `data` and write them into `out`.

        A member's result depends on (data, settings, seed, member) only, never on its group. `start` are the files of
        an earlier model to go on from (warm start). A fit that finds its own checkpoint in `out` goes on from it; one
        that is halted leaves a checkpoint and raises `ResourceError`.

        Raises:
            UnphysicalError: the data cannot be fitted (no frames, NaN labels).
            ResourceError: halted before its end; call again with the same `out` to go on.
        """
        ...

    def load(self, files: Sequence[Path]) -> Model:
        """The model of the members found in `files`: those that arrived, not necessarily all."""
        ...


class Uncertainty(Protocol):
    """Makes a gauge of a fitted model.

    One whose gauges score all frames alike says so by a false attribute ``tells_apart``.
    """

    requires: ClassVar[frozenset[Capability]]

    def calibrate(self, model: Model, data: Dataset, out: Path) -> Mapping[str, float]:
        """Learn from the training set what `load` needs, write it into `out`; return figures for the report."""
        ...

    def load(self, model: Model, out: Path) -> Gauge:
        """The gauge of `model` calibrated into `out`."""
        ...


class Selector(Protocol):
    """Picks which candidates are worth money."""

    requires: ClassVar[frozenset[Capability]]

    def choose(
        self, pool: Frames, scores: Floats, known: Frames, model: Model | None, limit: int, rng: np.random.Generator
    ) -> Ints:
        """Indices into `pool`, at most `limit`, no index twice."""
        ...


class Labeler(Protocol):
    """Buys labels."""

    code: ClassVar[str]
    """Which entry of the site file's ``codes:`` it runs, or empty if it needs none."""

    def check(self, elements: frozenset[str], code: Code | None) -> None:
        """Refuse what cannot work, before anything runs: an element without pseudopotential, a missing program.

        Raises:
            InputError: with the place and the remedy.
        """
        ...

    def theory(self, code: Code | None) -> Theory:
        """Everything that decides the numbers; labels of different theories never mix."""
        ...

    def label(
        self, frames: Frames, code: Code | None, workdir: Path, limits: Limits = UNLIMITED
    ) -> tuple[Labels, tuple[Verdict, ...]]:
        """Labels of all frames, NaN where the verdict is not ok, and one verdict a frame.

        A frame that fails is a verdict, never an exception. A frame whose label is already in `workdir` from an
        interrupted call with the same frames is not computed again; one that ran out of time or memory there goes on
        from what it left, if the program can.

        Raises:
            InfrastructureError: the machine failed, not the structure.
            ResourceError: halted.
        """
        ...


@runtime_checkable
class ChecksElements(Protocol):
    """A sampler with settings that can be wrong for what is built, or that reads a file."""

    def check(self, elements: frozenset[str]) -> None:
        """Refuse settings that cannot work for these chemical symbols; none if the builder cannot know them.

        Raises:
            InputError: with the field at fault.
        """
        ...


@runtime_checkable
class HasTrial(Protocol):
    """A labeler that can be tried with what the site file says alone, without a workflow."""

    @classmethod
    def trial(cls, code: Code) -> tuple[Labeler, str]:
        """The cheapest labeler of its kind that the site can run, and the chemical symbol it is for.

        Raises:
            InputError: the site has nothing to compute with, such as a pseudopotential that can be read.
        """
        ...
