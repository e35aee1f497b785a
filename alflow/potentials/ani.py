"""ANI: small neural nets on atomic environment vectors, an ensemble, and its trainer (ANI-Al by default)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from ase.data import atomic_numbers

from alflow.core.frames import Frames, Ints
from alflow.errors import DataError, InputError
from alflow.interfaces import Capability, FitReport, Halt, Model, never, part
from alflow.numerics.aev import AevSettings
from alflow.numerics.devices import torch_device
from alflow.potentials._nets_check import check_elements, check_hidden, check_positive, check_training

if TYPE_CHECKING:
    from alflow.potentials._nets_fit import Recipe
    from alflow.store.dataset import Dataset


@part
class Part:
    """ANI potential: an ensemble of small neural nets on atomic environment vectors, with its own trainer.

    Smith et al., Nat. Commun. 12, 1257 (2021); descriptors and nets default to ANI-Al's. Each member has its own
    random start and its own split of the data (13/16 to train, 2/16 to stop by, 1/16 to test), chosen by a hash of
    the frame, so a frame never changes sides while the dataset grows. The loss of a frame of N atoms is
    ``[energy_weight^2 dE^2 + force_weight_A^2 sum |dF|^2 + stress_weight^2 V^2 |dstress|^2] / N`` (equation 1, and
    stress). Adam; the learning rate is halved after `patience` epochs without a better validation loss, and a fit ends
    below `min_lr`, at `max_epochs`, or after `max_seconds`; or it falls along a cosine to `min_lr` at `max_epochs`,
    which gets more out of a small budget. The weights kept are those with the best validation.

    Attributes:
        elements: chemical symbols it shall know; empty means all that the workflow builds, outside of one those of the
            dataset.
        radial_cutoff_A: radial descriptors end here.
        angular_cutoff_A: angular descriptors end here.
        n_radial: radial shifts.
        n_angular: radial shifts of the angular descriptors.
        n_angles: angles of the angular descriptors.
        eta_radial_per_A2: width of the radial Gaussians. None, here and below, keeps ANI-Al's ratio of width to
            spacing, so that neighbouring functions overlap whatever their number: narrower ones fit much worse.
        eta_angular_per_A2: width of the radial Gaussians of the angular descriptors, or None.
        zeta: sharpness in the angle, or None.
        r_start_A: first radial shift of both.
        hidden: widths of the hidden layers.
        members: nets in the ensemble.
        members_per_task: nets one fit task trains, sharing descriptors; 0 means all.
        energy_weight: weight of the energy error per square root of N.
        force_weight_A: the length l0 that makes a force an energy.
        stress_weight: weight of volume times stress error per square root of N; 0 fits no stress.
        schedule: how the learning rate falls: ``plateau`` (ANI-Al) or ``cosine``.
        lr: first learning rate.
        warm_lr: first learning rate of a warm start.
        min_lr: a member stops when its rate falls below.
        patience: epochs without a better validation loss before the rate is halved (``plateau`` only).
        batch: frames a step.
        max_epochs: a member stops here at the latest.
        max_seconds: wall time of one fit, after which the best weights so far are taken; results then depend on the
            machine. None for no limit.
        warm_start: go on from an earlier model where there is one.
        split_group: column of the dataset whose equal values stay on one side of a split, such as ``group`` or
            ``origin``, the trajectory; empty splits by frame.
        cache_GB: memory for the Jacobians of the descriptors; what does not fit is computed again in every epoch.
        checkpoint_s: seconds between checkpoints.
        device: where to train.
    """

    elements: tuple[str, ...] = ()
    radial_cutoff_A: float = 7.0
    angular_cutoff_A: float = 5.0
    n_radial: int = 32
    n_angular: int = 8
    n_angles: int = 8
    eta_radial_per_A2: float | None = None
    eta_angular_per_A2: float | None = None
    zeta: float | None = None
    r_start_A: float = 1.25
    hidden: tuple[int, ...] = (96, 96, 64)
    members: int = 8
    members_per_task: int = 0
    energy_weight: float = 1.0
    force_weight_A: float = 1.0
    stress_weight: float = 0.0
    schedule: Literal["plateau", "cosine"] = "plateau"
    lr: float = 1e-3
    warm_lr: float = 5e-4
    min_lr: float = 1e-5
    patience: int = 100
    batch: int = 128
    max_epochs: int = 2000
    max_seconds: float | None = None
    warm_start: bool = True
    split_group: str = ""
    cache_GB: float = 4.0
    checkpoint_s: float = 300.0
    device: Literal["auto", "cpu", "cuda"] = "auto"

    provides: ClassVar[frozenset[Capability]] = frozenset({Capability.MEMBERS})
    foreign_suffixes: ClassVar[tuple[str, ...]] = (".info",)

    def __post_init__(self) -> None:
        group = self.members if self.members_per_task == 0 else min(self.members_per_task, self.members)
        object.__setattr__(self, "members_per_task", group)

    def check(self, elements: frozenset[str]) -> None:
        check_positive(self, _POSITIVE)
        check_training(self)
        if not self.r_start_A < self.angular_cutoff_A <= self.radial_cutoff_A:
            raise InputError(
                "angular_cutoff_A",
                f"expected r_start_A < angular_cutoff_A <= radial_cutoff_A, "
                f"got {self.r_start_A}, {self.angular_cutoff_A}, {self.radial_cutoff_A}",
            )
        check_hidden(self.hidden)
        check_elements(self.elements, elements)

    def descriptors(self, numbers: Ints | Sequence[int]) -> AevSettings:
        """Settings of the descriptors for these atomic numbers, or for `elements` where given.

        Raises:
            DataError: an atomic number that is not among `elements`.
        """
        found = sorted({int(z) for z in numbers})
        species = tuple(sorted(atomic_numbers[s] for s in self.elements)) or tuple(found)
        if not set(found) <= set(species):
            raise DataError(f"the data hold the atomic numbers {found}, but `elements` is {list(self.elements)}")
        # ANI-Al: 32 radial steps from 1.25 to 7, 8 to 5 angstrom, 8 angles
        finer_r = (7.0 - 1.25) / 32 / ((self.radial_cutoff_A - self.r_start_A) / self.n_radial)
        finer_a = (5.0 - 1.25) / 8 / ((self.angular_cutoff_A - self.r_start_A) / self.n_angular)
        return AevSettings.spaced(
            species,
            self.radial_cutoff_A,
            self.angular_cutoff_A,
            self.n_radial,
            self.n_angular,
            self.n_angles,
            self.eta_radial_per_A2 or 43.9 * finer_r**2,
            self.eta_angular_per_A2 or 6.5 * finer_a**2,
            self.zeta or 69.4 * (self.n_angles / 8) ** 2,
            self.r_start_A,
        )

    def fit(
        self, data: Dataset, members: range, seed: int, out: Path, start: Sequence[Path] = (), halt: Halt = never
    ) -> FitReport:
        from alflow.potentials import _nets_fit

        return _nets_fit.fit(self, data, members, seed, out, start, halt)

    def recipe(self, frames: Frames, halt: Halt) -> Recipe:
        """How to fit to `frames`; `halt` is asked while descriptors are computed."""
        from alflow.potentials._ani_data import Descriptors
        from alflow.potentials._ani_model import Members
        from alflow.potentials._nets import Shape
        from alflow.potentials._nets_fit import Recipe
        from alflow.potentials._nets_state import Schedule

        settings, device = self.descriptors(frames.numbers), torch_device(self.device) or "cpu"

        def inputs(frames: Frames, strains: bool) -> Descriptors:
            return Descriptors(settings, frames, self.cache_GB * 1e9, strains, halt, device)

        schedule = Schedule(
            self.schedule, self.batch, self.patience, self.min_lr, self.max_epochs, self.max_seconds, self.checkpoint_s
        )
        return Recipe(Members, settings, Shape((settings.n_features, *self.hidden, 1)), schedule, inputs)

    def load(self, files: Sequence[Path]) -> Model:
        from alflow.potentials._ani_model import AniModel

        return AniModel.load(files)

    @staticmethod
    def read_foreign(path: Path) -> Model:
        """The ensemble in NeuroChem format that the ``.info`` file at `path` describes."""
        from alflow.potentials._ani_model import read_neurochem

        return read_neurochem(path)


_POSITIVE = ("n_radial", "n_angular", "n_angles", "eta_radial_per_A2", "eta_angular_per_A2", "zeta", "r_start_A")
