"""SNAP: energies linear in the bispectrum of each atom, or quadratic, fitted by streamed least squares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from ase.data import atomic_numbers

from alflow.core.frames import Ints
from alflow.errors import InputError
from alflow.interfaces import Capability, FitReport, Halt, Model, never, part
from alflow.numerics.bispectrum import BispectrumSettings
from alflow.numerics.zbl import Zbl
from alflow.potentials._snap_memory import check_memory
from alflow.potentials._snap_settings import check_descriptors, check_keyed, settings_of

if TYPE_CHECKING:
    from alflow.store.dataset import Dataset


@part
class Part:
    """SNAP potential: linear or quadratic in bispectrum components, fitted by weighted least squares.

    Thompson et al., J. Comput. Phys. 285, 316 (2015); quadratic: Wood and Thompson, J. Chem. Phys. 148, 241721 (2018).
    An atom of element t has the energy ``c_t + beta_t . B + B . alpha_t . B / 2`` (the last term if `quadratic`). The
    fit makes the sum of squares least of ``energy_weight dE / N`` of each frame of N atoms, ``force_weight_A dF`` of
    each force component, and ``stress_weight V dstress / N`` of each of the six stress components, all times the weight
    of the frame's group. Frames go through it in batches; only triangles of QR factorisations stay in memory, so their
    number does not matter. Where the data do not decide all coefficients, the shortest solution is taken, and the
    report says of which rank it is.

    Several members are a Bayesian bootstrap (Rubin, Ann. Stat. 9, 130 (1981)): each weighs the frames by its own
    exponentially distributed random numbers. All come from one descriptor pass, and their mean is one SNAP potential
    again. LAMMPS runs the files that a fit leaves: ``member-000.snap`` and the two files that it names.

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
        bzero: take the components of a lone atom away, so that its energy is the constant alone.
        quadratic: products of components, too.
        isolated_eV: energy of a lone atom of these elements, held fixed (exact if `bzero`); the constants of other
            elements are fitted.
        zbl_A: inner and outer cutoff of a ZBL repulsion that is added to the potential and taken from the labels
            before the fit; None for none.
        energy_weight: of the energy error per atom.
        force_weight_A: of the error of a force component; a length.
        stress_weight: of volume times stress error per atom; 0 fits no stress.
        group_column: column of the dataset that names each frame's group; in a workflow that is the name of its stage,
            or what a builder of kind ``file`` finds in its file.
        group_weights: for each group one factor, or three, of energies, forces and stresses; 1 where not named. A
            factor of 0 leaves the group's labels out.
        zero_labels: what to do with forces of a frame, or its stress, that are all exactly zero although its structure
            has no such symmetry, so that nobody computed them: ``refuse`` them, ``skip`` them, or ``fit`` them as they
            are.
        ridge: strength of a ridge on the coefficients but not on the constants, relative to the squared length of
            their columns; holds down combinations that the data hardly decide.
        rcond: combinations of coefficients whose singular value is below this part of the largest are left out.
        members: fits in the ensemble.
        members_per_task: fits one task does, sharing descriptors; 0 means all.
        batch_atoms: atoms whose rows are in memory at a time.
        checkpoint_s: seconds between checkpoints.
    """

    elements: tuple[str, ...] = ()
    twojmax: int = 6
    cutoff_A: float = 5.0
    radii: Mapping[str, float] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    rfac0: float = 0.99363
    rmin0_A: float = 0.0
    switch: bool = True
    bzero: bool = True
    quadratic: bool = False
    isolated_eV: Mapping[str, float] = field(default_factory=dict)
    zbl_A: tuple[float, float] | None = None
    energy_weight: float = 100.0
    force_weight_A: float = 1.0
    stress_weight: float = 0.0
    group_column: str = "group"
    group_weights: Mapping[str, float | tuple[float, float, float]] = field(default_factory=dict)
    zero_labels: Literal["refuse", "skip", "fit"] = "refuse"
    ridge: float = 0.0
    rcond: float = 1e-12
    members: int = 1
    members_per_task: int = 0
    batch_atoms: int = 300
    checkpoint_s: float = 300.0

    provides: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.MEMBERS, Capability.FEATURES, Capability.PAIR_STYLE}
    )
    foreign_suffixes: ClassVar[tuple[str, ...]] = (".snap", ".snapcoeff")

    def __post_init__(self) -> None:
        group = self.members if self.members_per_task == 0 else min(self.members_per_task, self.members)
        object.__setattr__(self, "members_per_task", group)

    def check(self, elements: frozenset[str]) -> None:
        check_descriptors(self, elements)
        for name in _POSITIVE:
            if not 0 < getattr(self, name) < np.inf:
                raise InputError(name, f"expected a positive number, got {getattr(self, name)}")
        for name in _NOT_NEGATIVE:
            if not 0 <= getattr(self, name) < np.inf:
                raise InputError(name, f"expected zero or more, got {getattr(self, name)}")
        if not self.energy_weight + self.force_weight_A + self.stress_weight > 0:
            raise InputError("energy_weight", "all three weights are zero: nothing to fit")
        if not self.rcond < 1:  # at 1 not even the largest singular value would be left
            raise InputError("rcond", f"expected less than 1, got {self.rcond}")
        if strange := sorted(s for s in self.isolated_eV if atomic_numbers.get(s, 0) < 1):
            raise InputError("isolated_eV", f"not chemical symbols: {', '.join(strange)}")
        check_keyed("isolated_eV", self.isolated_eV, self.elements or sorted(elements))
        if not np.isfinite(list(self.isolated_eV.values())).all():
            raise InputError("isolated_eV", f"expected numbers, got {dict(self.isolated_eV)}")
        for group, factors in self.group_weights.items():
            if not all(0 <= f < np.inf for f in (factors if isinstance(factors, tuple) else (factors,))):
                raise InputError(f"group_weights.{group}", f"expected factors of zero or more, got {factors}")
        if self.zbl_A is not None and not 0 < self.zbl_A[0] < self.zbl_A[1] < np.inf:
            raise InputError("zbl_A", f"expected 0 < inner < outer, got {list(self.zbl_A)}")
        check_memory(self, len(self.elements or elements))

    @property
    def zbl(self) -> Zbl | None:
        """The repulsion that is added."""
        return None if self.zbl_A is None else Zbl(*self.zbl_A)

    def descriptors(self, numbers: Ints | Sequence[int]) -> BispectrumSettings:
        """Settings of the descriptors for these atomic numbers, or for `elements` where given.

        Raises:
            DataError: an atomic number that is not among `elements`, or settings that make no sense.
        """
        return settings_of(self, numbers, bzero=self.bzero)

    def fit(
        self, data: Dataset, members: range, seed: int, out: Path, start: Sequence[Path] = (), halt: Halt = never
    ) -> FitReport:
        """Fit `members`; `start` is checked and otherwise unused: least squares do not depend on where they begin."""
        from alflow.potentials._snap_fit import fit

        return fit(self, data, members, seed, out, start, halt)

    def load(self, files: Sequence[Path]) -> Model:
        from alflow.potentials._snap_model import SnapModel

        return SnapModel.load(files)

    @staticmethod
    def read_foreign(path: Path) -> Model:
        """The potential of a ``.snap`` script, or of a ``.snapcoeff`` with the ``.snapparam`` beside it."""
        from alflow.potentials._snap_model import SnapModel

        return SnapModel.load([path])


_POSITIVE = ("rcond", "members", "batch_atoms", "checkpoint_s")
_NOT_NEGATIVE = ("energy_weight", "force_weight_A", "stress_weight", "ridge", "members_per_task")
