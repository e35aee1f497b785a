"""Neural networks on bispectrum components (SNAP descriptors), with their own trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Literal

from alflow.core.frames import Frames, Ints
from alflow.errors import InputError
from alflow.interfaces import Capability, FitReport, Halt, Model, never, part
from alflow.numerics.bispectrum import BispectrumSettings
from alflow.potentials._nets_check import check_hidden, check_positive, check_training
from alflow.potentials._snap_settings import check_descriptors, settings_of

if TYPE_CHECKING:
    from alflow.potentials._nets_fit import Recipe
    from alflow.store.dataset import Dataset


@part
class Part:
    """Nets on bispectrum components: one small net an element maps the descriptor of an atom to its energy.

    Montes de Oca Zapiain et al., npj Comput. Mater. 8, 189 (2022), whose protocol is the default: SoftPlus, energies
    only, 70 % of the configurations to train, 10 % to lower the rate by and 20 % to test, Adam, 800 epochs, the rate
    halved when 50 epochs have not lowered the validation loss by a ten-thousandth of it. Sides are chosen by a hash
    of the frame, another for each member, so a frame never changes sides while the dataset grows. Components are
    shifted and scaled to mean 0 and standard deviation 1 over all frames; energies of atoms begin at those of a least
    squares fit to the composition. The loss of a frame of N atoms is
    ``[energy_weight^2 dE^2 + force_weight_A^2 sum |dF|^2 + stress_weight^2 V^2 |dstress|^2] / N``, so that only
    ratios of the three weights matter; the parameters kept are those with the best validation.

    With energies only, the descriptors are computed once and never differentiated: an epoch of ten thousand small
    cells takes a fraction of a second. With forces, the derivatives of the descriptors are kept as far as `cache_GB`
    allows, about 10 kB an atom for 30 components and 28 neighbours; those of other frames are computed in every epoch.

    Fits run on the CPU. A fitted model sends calls of many atoms to a GPU if there is one, others to compiled kernels.

    The paper prints the parameters of two of its ten nets with 30 components, 383 of A1 and 3965 of B1: the hidden
    layers 10, 6 and 64, 30. (No other two layers step down to 383, and these are the round ones that make 3965.) The
    deeper ones here are built by the same two rules, not read from the paper: each A puts one more layer before the
    last, 4 wider than it (14, 10, 6 ...), each B one 32 wider (96, 64, 30 ...). Widths do not depend on `twojmax`.

    LAMMPS runs nets with `activation` tanh by ``pair_style mliap`` (of the package ML-IAP; `Model.pair_style` writes
    the files, an ensemble becomes one net). Its ``nn`` model has no SoftPlus: such nets run there through
    `alflow.engines.lammps_external` (small cells), or through ``mliap model mliappy`` in a LAMMPS built with ML-IAP,
    PYTHON and MLIAP_ENABLE_PYTHON, which alflow does not write files for.

    Attributes:
        elements: chemical symbols it shall know; empty means all that the workflow builds, outside of one those of the
            dataset.
        twojmax: 2J: 2, 4, 6 or 8 give 5, 14, 30 or 55 components.
        cutoff_A: LAMMPS's ``rcutfac``: atoms i and j see each other closer than ``cutoff_A (R_i + R_j)``.
        radii: R of each element, without unit; 0.5 where not named, which makes `cutoff_A` the cutoff.
        weights: of each element as a neighbour; may be left out for a single element, whose weight is 1.
        rfac0: part of the three-sphere that distances fill.
        rmin0_A: distance at its pole.
        switch: let neighbours fade out towards the cutoff.
        architecture: hidden layers, A1 to A5 (step down) or B1 to B5 (expand, then contract).
        hidden: widths of the hidden layers, instead of an `architecture`.
        activation: of the hidden layers: ``softplus`` (the paper) or ``tanh`` (LAMMPS runs it).
        members: nets in the ensemble.
        members_per_task: nets one fit task trains, sharing descriptors; 0 means all.
        energy_weight: weight of the energy error per square root of N.
        force_weight_A: the length that makes a force an energy; 0 fits energies only, as the paper does.
        stress_weight: weight of volume times stress error per square root of N; 0 fits no stress.
        zero_labels: what to do with forces of a frame, or its stress, that are all exactly zero although its structure
            has no such symmetry, so that nobody computed them: ``refuse`` them, ``skip`` them, or ``fit`` them as they
            are. Only if forces or stress are fitted at all.
        shares: of the data that train, decide when to lower the rate, and test.
        split_group: column of the dataset whose equal values stay on one side of a split, such as ``group`` or
            ``origin``, the trajectory; empty splits by frame.
        schedule: how the learning rate falls: ``plateau`` (the paper) or along a ``cosine`` to `min_lr`.
        lr: first learning rate.
        warm_lr: first learning rate of a warm start.
        min_lr: a member stops when its rate falls below.
        patience: epochs without a better validation loss before the rate is halved (``plateau`` only).
        plateau_change: how much lower a better loss must be, as a part of it (``plateau`` only).
        batch: frames a step.
        max_epochs: a member stops here at the latest.
        max_seconds: wall time of one fit, after which the best weights so far are taken; results then depend on the
            machine. None for no limit.
        warm_start: go on from an earlier model where there is one.
        cache_GB: memory for the Jacobians of the descriptors; what does not fit is computed again in every epoch.
        checkpoint_s: seconds between checkpoints.
    """

    elements: tuple[str, ...] = ()
    twojmax: int = 6
    cutoff_A: float = 4.73
    radii: Mapping[str, float] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    rfac0: float = 0.99363
    rmin0_A: float = 0.0
    switch: bool = True
    architecture: Literal["A1", "A2", "A3", "A4", "A5", "B1", "B2", "B3", "B4", "B5"] = "A1"
    hidden: tuple[int, ...] = ()
    activation: Literal["softplus", "tanh"] = "softplus"
    members: int = 1
    members_per_task: int = 0
    energy_weight: float = 1.0
    force_weight_A: float = 0.0
    stress_weight: float = 0.0
    zero_labels: Literal["refuse", "skip", "fit"] = "refuse"
    shares: tuple[float, float, float] = (0.7, 0.1, 0.2)
    split_group: str = ""
    schedule: Literal["plateau", "cosine"] = "plateau"
    lr: float = 3e-3
    warm_lr: float = 1e-3
    min_lr: float = 1e-6
    patience: int = 50
    plateau_change: float = 1e-4
    batch: int = 64
    max_epochs: int = 800
    max_seconds: float | None = None
    warm_start: bool = True
    cache_GB: float = 4.0
    checkpoint_s: float = 300.0

    provides: ClassVar[frozenset[Capability]] = frozenset({Capability.MEMBERS, Capability.FEATURES})

    def __post_init__(self) -> None:
        group = self.members if self.members_per_task == 0 else min(self.members_per_task, self.members)
        object.__setattr__(self, "members_per_task", group)

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the hidden layers."""
        return self.hidden or hidden_layers(self.architecture)

    def check(self, elements: frozenset[str]) -> None:
        check_descriptors(self, elements)
        check_positive(self, ())
        check_training(self)
        check_hidden(self.widths)
        if not (min(self.shares) >= 0 and self.shares[0] > 0 and abs(sum(self.shares) - 1) < 1e-9):
            raise InputError("shares", f"expected three parts of 1, the first not zero, got {list(self.shares)}")
        if not 0 <= self.plateau_change < 1:
            raise InputError("plateau_change", f"expected a part of the loss, from 0 to 1, got {self.plateau_change}")

    def descriptors(self, numbers: Ints | Sequence[int]) -> BispectrumSettings:
        """Settings of the descriptors for these atomic numbers, or for `elements` where given.

        Raises:
            DataError: an atomic number that is not among `elements`, or settings that make no sense.
        """
        return settings_of(self, numbers)

    def fit(
        self, data: Dataset, members: range, seed: int, out: Path, start: Sequence[Path] = (), halt: Halt = never
    ) -> FitReport:
        from alflow.potentials import _nets_fit

        return _nets_fit.fit(self, data, members, seed, out, start, halt)

    def recipe(self, frames: Frames, halt: Halt) -> Recipe:
        """How to fit to `frames`; `halt` is asked while descriptors are computed."""
        from alflow.potentials._nets import Shape
        from alflow.potentials._nets_fit import Recipe
        from alflow.potentials._nets_state import Schedule
        from alflow.potentials._snap_nn_data import Descriptors, unlabelled
        from alflow.potentials._snap_nn_model import Members

        settings = self.descriptors(frames.numbers)
        slopes = self.force_weight_A > 0 or self.stress_weight > 0

        def inputs(frames: Frames, strains: bool) -> Descriptors:
            return Descriptors(settings, frames, self.cache_GB * 1e9 * slopes, strains, halt)

        schedule = Schedule(
            self.schedule,
            self.batch,
            self.patience,
            self.min_lr,
            self.max_epochs,
            self.max_seconds,
            self.checkpoint_s,
            self.plateau_change,
        )
        shape = Shape((settings.n_features, *self.widths, 1), self.activation)
        return Recipe(
            *(Members, settings, shape, schedule, inputs, self.shares),
            without=lambda data: unlabelled(self, data, settings, halt),
        )

    def load(self, files: Sequence[Path]) -> Model:
        from alflow.potentials._snap_nn_model import SnapNnModel

        return SnapNnModel.load(files)


def hidden_layers(architecture: str) -> tuple[int, ...]:
    """Widths of the hidden layers of A1, A2 ..., B1, B2 ...; see `Part`."""
    (first, *rest), step = _FIRST[architecture[0]]
    more = int(architecture[1:]) - 1
    return (*(first + step * k for k in range(more, 0, -1)), first, *rest)


_FIRST: Final = {"A": ((10, 6), 4), "B": ((64, 30), 32)}
"""Hidden layers of the first of each series, and how much wider each layer before them is than the next."""
