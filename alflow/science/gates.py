"""What a structure must be to be worth a label, and what a label must be to enter a dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Final

import numpy as np
from pydantic import Field

from alflow.core.frames import Bools, Floats, Frames
from alflow.core.labels import Cause, Labels, Verdict
from alflow.core.units import EV_A3_GPa
from alflow.engines.contacts import ContactWatch, closest_A
from alflow.errors import InputError
from alflow.interfaces import part

_NO_VOLUME_A3: Final = 1e-6
Positive = Annotated[float, Field(gt=0)]


@part
class Gates:
    """Verdicts before a label is bought and after; null switches a test off.

    Attributes:
        min_contact: closest that two atoms may come, as a fraction of the sum of their covalent radii (Cordero et al.,
            Dalton Trans. 2008, 2832).
        min_height_A: least distance of opposite faces of a cell, in its periodic directions.
        max_aspect: largest ratio of a cell's longest lattice vector to its least height.
        max_atoms: most atoms of a structure.
        energy_eV_atom: range of the energy per atom; its zero is the reference's own.
        max_force_eV_A: largest force on any atom.
        max_stress_GPa: largest component of the stress.
    """

    min_contact: Annotated[float, Field(ge=0, lt=2)] | None = 0.5
    min_height_A: Positive | None = 1.0
    max_aspect: Annotated[float, Field(gt=1)] | None = 50.0
    max_atoms: Annotated[int, Field(ge=1)] | None = None
    energy_eV_atom: tuple[float, float] | None = None
    max_force_eV_A: Positive | None = 300.0
    max_stress_GPa: Positive | None = 1000.0

    def __post_init__(self) -> None:
        if self.energy_eV_atom is not None and not self.energy_eV_atom[0] < self.energy_eV_atom[1]:
            low, high = self.energy_eV_atom
            raise InputError("energy_eV_atom", f"is no range: {low:g} is not below {high:g}", "give [low, high]")

    def before(self, frames: Frames) -> list[Verdict | None]:
        """Of each frame: the verdict on one that is not worth a label, or None."""
        found: list[Verdict | None] = [None] * len(frames)
        for test in (self._shape, self._contacts):
            open_ = np.flatnonzero([v is None for v in found])
            for i, reason, cause in test(frames.take(open_)):
                found[open_[i]] = Verdict.bad(cause, reason)
        return found

    def after(self, frames: Frames, labels: Labels) -> list[Verdict | None]:
        """Of each label: the verdict on one that must not enter a dataset, or None."""
        n, which = len(frames), frames.frame_of_atom
        force = np.zeros(n)
        with np.errstate(invalid="ignore"):  # NaN is a verdict
            np.maximum.at(force, which, np.linalg.norm(labels.forces, axis=1))
        stress: Floats = np.zeros((n, 3, 3)) if labels.stress is None else labels.stress * EV_A3_GPa
        per_atom = labels.energy / np.maximum(frames.sizes, 1)
        reasons = [""] * n
        for i in range(n):
            reasons[i] = self._absurd(float(per_atom[i]), float(force[i]), stress[i])
        return [Verdict.bad(Cause.VALUE, r) if r else None for r in reasons]

    def _absurd(self, energy: float, force: float, stress: Floats) -> str:
        if not (np.isfinite(energy) and np.isfinite(force)):
            return "energy or forces are not finite"
        if self.energy_eV_atom is not None and not self.energy_eV_atom[0] <= energy <= self.energy_eV_atom[1]:
            low, high = self.energy_eV_atom
            return f"energy {energy:.6g} eV/atom, outside of {low:g} to {high:g}"
        if self.max_force_eV_A is not None and force > self.max_force_eV_A:
            return f"largest force {force:.3g} eV/Å, more than {self.max_force_eV_A:g}"
        if np.isnan(stress).all():
            return ""  # this frame has no stress
        if not np.isfinite(stress).all():
            return "the stress is not finite"
        largest = float(np.abs(stress).max())
        if np.abs(stress - stress.T).max() > 1e-2 + 1e-3 * largest:
            return f"the stress is not symmetric: off by {np.abs(stress - stress.T).max():.3g} GPa"
        if self.max_stress_GPa is not None and largest > self.max_stress_GPa:
            return f"largest stress {largest:.4g} GPa, more than {self.max_stress_GPa:g}"
        return ""

    def _shape(self, frames: Frames) -> Iterator[tuple[int, str, Cause]]:
        atoms = frames.sizes
        finite: Bools = np.array(np.isfinite(frames.cell).all(axis=(1, 2)))
        finite[frames.frame_of_atom[~np.isfinite(frames.positions).all(axis=1)]] = False
        heights, longest = _heights(frames)
        least = heights.min(axis=1)
        with np.errstate(invalid="ignore"):  # NaN is a verdict
            flat = frames.pbc.all(axis=1) & ~(frames.volumes > _NO_VOLUME_A3)
        tests: tuple[tuple[Bools, Callable[[int], str]], ...] = (
            (~finite, lambda _: "positions or cell are not finite"),
            (flat, lambda _: "the lattice vectors span no volume"),
            (
                np.zeros(len(frames), bool) if self.max_atoms is None else atoms > self.max_atoms,
                lambda i: f"{atoms[i]} atoms, more than {self.max_atoms}",
            ),
            (
                least < (self.min_height_A or 0.0),
                lambda i: f"opposite faces of the cell are {least[i]:.3g} Å apart, less than {self.min_height_A:g}",
            ),
            (
                longest > (self.max_aspect or np.inf) * least,
                lambda i: (
                    f"the cell's longest vector is {longest[i] / least[i]:.3g} times its least height, "
                    f"more than {self.max_aspect:g}"
                ),
            ),
        )
        told: Bools = np.zeros(len(frames), bool)
        for bad, words in tests:
            for i in np.flatnonzero(bad & ~told):
                yield int(i), words(int(i)), Cause.STRUCTURE
            told |= bad

    def _contacts(self, frames: Frames) -> Iterator[tuple[int, str, Cause]]:
        if not self.min_contact or not len(frames):
            return
        from ase.data import covalent_radii

        radii: Floats = np.asarray(covalent_radii, np.float64)[frames.numbers]
        close = ContactWatch(frames, self.min_contact * radii).too_close(frames)
        for i in np.flatnonzero(close):
            distance = float(closest_A(frames[int(i)])[0])
            words = f"two atoms are {distance:.3g} Å apart" if np.isfinite(distance) else "atoms are far too close"
            yield (
                int(i),
                f"{words}: less than {self.min_contact:g} of the sum of their covalent radii",
                Cause.CONTACT,
            )


def _heights(frames: Frames) -> tuple[Floats, Floats]:
    """Distances of opposite faces along each lattice vector, infinite where not periodic, and the longest vector."""
    v = frames.cell
    lengths: Floats = np.linalg.norm(v, axis=2)
    periodic: Bools = np.array(frames.pbc.all(axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        faces = np.linalg.norm(np.cross(v[:, [1, 2, 0]], v[:, [2, 0, 1]]), axis=2)
        heights = np.where(periodic[:, None], frames.volumes[:, None] / faces, lengths)
    heights = np.where(frames.pbc, heights, np.inf)
    longest: Floats = np.where(frames.pbc, lengths, 0.0).max(axis=1, initial=0.0)
    return heights, longest
