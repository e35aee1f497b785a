"""A SNAP potential or an ensemble of them: all members from one descriptor pass, forces of their mean from the same.

The energy is linear in the coefficients, products included, so the mean of the members is the potential of the mean
coefficients: one gradient serves it, and LAMMPS runs it as one potential.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from alflow.core.frames import Floats, Frames, Ints
from alflow.core.labels import Labels
from alflow.errors import DataError
from alflow.interfaces import MemberLabels
from alflow.numerics import bispectrum, zbl
from alflow.numerics.neighbors import NeighborCache, Neighbors
from alflow.potentials import _snap_files
from alflow.potentials._snap_files import Snap


class SnapModel:
    """The mean of several SNAP potentials with the same descriptors; of one, that one.

    Args:
        members: the potentials.
        skin_A: how much farther neighbour lists reach than the cutoff, so that they last several steps.

    Raises:
        DataError: no members, or members that differ in more than coefficients.
    """

    def __init__(self, members: Sequence[Snap], skin_A: float = 0.5) -> None:
        if not members:
            raise DataError("a SNAP model needs a member, got none")
        if not all(members[0].alike(m) for m in members):
            raise DataError("members of a SNAP model must have the same elements, descriptors and repulsion")
        self.members = tuple(members)
        self.mean = replace(members[0], coefficients=np.mean([m.coefficients for m in members], axis=0))
        self.settings = self.mean.settings
        reach = 0.0 if self.mean.zbl is None else self.mean.zbl.outer_A
        self._cache = NeighborCache(max(self.settings.cutoff_A, reach), skin_A)
        self._forms, self._mean_form = [_Form(m) for m in self.members], _Form(self.mean)

    @staticmethod
    def load(files: Sequence[Path]) -> SnapModel:
        """The ensemble of the members in `files`; of a member, any of its files will do.

        Raises:
            DataError: no file, one that cannot be read, or two that do not belong together.
        """
        stems = sorted({f.with_suffix("") for f in files}, key=lambda s: (s.name, s))  # by member, whatever its folder
        if not stems:
            raise DataError("a SNAP model needs a file, got none")
        members = [_snap_files.read(next(f for f in files if f.with_suffix("") == s)) for s in stems]
        for stem, member in zip(stems, members, strict=True):
            if not member.alike(members[0]):
                raise DataError(f"{stem}.snap: descriptors or elements differ from {stems[0]}.snap: not one ensemble")
        return SnapModel(members)

    def __getstate__(self) -> dict[str, Any]:
        return {"members": self.members, "skin_A": self._cache.skin_A}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # rebuilt from what it was made of

    @property
    def cutoff_A(self) -> float:
        return self._cache.cutoff_A

    @property
    def n_members(self) -> int:
        return len(self.members)

    def predict(self, frames: Frames, *, stress: bool = True) -> Labels:
        return self.predict_members(frames, forces=False, stress=stress).mean

    def predict_members(self, frames: Frames, *, forces: bool, stress: bool = False) -> MemberLabels:
        return self._evaluated(frames, forces=forces, stress=stress)[0]

    def predict_features(self, frames: Frames, *, stress: bool = False) -> tuple[Labels, Floats]:
        """What `predict` and `features` give, from one pass."""
        found, b = self._evaluated(frames, forces=False, stress=stress)
        return found.mean, self._basis(b)

    def _evaluated(self, frames: Frames, *, forces: bool, stress: bool) -> tuple[MemberLabels, Floats]:
        """What the members say, and the descriptors of every atom."""
        each = np.zeros((self.n_members, frames.n_atoms, 3)) if forces else None
        if not len(frames):
            nothing = MemberLabels(Labels.missing(frames, stress), np.zeros((self.n_members, 0)), each)
            return nothing, np.zeros((0, self.settings.n_features))
        element, neighbors = self.settings.species_index(frames.numbers).astype(np.int64), self._cache.update(frames)
        atomic = np.empty((self.n_members, frames.n_atoms))
        kept: list[Floats] = []

        def respond(b: Floats) -> Floats:
            kept.append(b)
            for k, form in enumerate(self._forms):
                atomic[k] = form.energy(b, element)
            return self._mean_form.slope(b, element)

        _, grad, strain = bispectrum.evaluate(self.settings, frames, neighbors, respond)
        energy = np.add.reduceat(atomic, frames.offsets[:-1], axis=1)
        if each is not None:
            for k, form in enumerate(self._forms):
                slope = form.slope(kept[0], element)
                each[k] = -bispectrum.vjp(self.settings, frames, neighbors, slope)[0]
        found = MemberLabels(Labels(energy.mean(0), -grad, strain if stress else None), energy, each)
        return self._finished(found, frames, neighbors), kept[0]

    def _finished(self, found: MemberLabels, frames: Frames, neighbors: Neighbors) -> MemberLabels:
        """With the repulsion, and stress instead of derivatives by strain."""
        mean = found.mean
        if self.mean.zbl is not None:
            energy, grad, strain = zbl.evaluate(self.mean.zbl, frames, neighbors)
            total = None if mean.stress is None else mean.stress + strain
            forces = None if found.forces is None else found.forces - grad
            found = MemberLabels(Labels(mean.energy + energy, mean.forces - grad, total), found.energy + energy, forces)
            mean = found.mean
        if mean.stress is None:
            return found
        volume = np.where(frames.pbc.all(axis=1), frames.volumes, np.nan)[:, None, None]
        stress = (mean.stress + mean.stress.transpose(0, 2, 1)) / 2 / volume
        return replace(found, mean=Labels(mean.energy, mean.forces, stress))

    def features(self, frames: Frames) -> Floats:
        """What the coefficients of every atom's element are multiplied with, (n_atoms, n_features).

        1, the components, and their products if the potential has them. Without the 1 an atom without neighbours would
        be a row of zeros, and no gauge would find it new.
        """
        if not len(frames):
            return self._basis(np.zeros((0, self.settings.n_features)))
        return self._basis(bispectrum.features(self.settings, frames, self._cache.update(frames)))

    def _basis(self, b: Floats) -> Floats:
        parts = [np.ones((len(b), 1)), b]
        return np.hstack([*parts, products(b)] if self.mean.quadratic else parts)

    def pair_style(self, folder: Path) -> Sequence[str]:
        """Write the files of the mean into `folder`; the lines for atom types in the order of its elements."""
        coefficients, parameters, _ = _snap_files.write(folder, "snap", self.mean)
        place = folder.resolve()
        return _snap_files.pair_lines(self.mean, str(place / coefficients), str(place / parameters))


def products(b: Floats) -> Floats:
    """``b_1^2 / 2, b_1 b_2, ..., b_1 b_K, b_2^2 / 2, ...`` of each row of (n, K): the order of LAMMPS."""
    i, j = np.triu_indices(b.shape[1])
    found: Floats = b[:, i] * b[:, j] * np.where(i == j, 0.5, 1.0)
    return found


class _Form:
    """Energy of an atom with the descriptors B: ``c + beta . B + B . alpha . B / 2``.

    Args:
        snap: whose coefficients to take.
    """

    def __init__(self, snap: Snap) -> None:
        k = snap.settings.n_features
        c = snap.coefficients
        self.constant, self.beta = c[:, 0], c[:, 1 : 1 + k]
        self.alpha: Floats | None = None
        if snap.quadratic:
            i, j = np.triu_indices(k)
            self.alpha = np.zeros((len(c), k, k))
            self.alpha[:, i, j] = c[:, 1 + k :]
            self.alpha[:, j, i] = c[:, 1 + k :]

    def energy(self, b: Floats, element: Ints) -> Floats:
        """(n_atoms,)."""
        bent = self.beta[element] if self.alpha is None else (self.beta[element] + self.slope(b, element)) / 2
        found: Floats = self.constant[element] + np.einsum("ak,ak->a", bent, b)
        return found

    def slope(self, b: Floats, element: Ints) -> Floats:
        """Derivative of the energy by B, (n_atoms, K)."""
        slope: Floats = self.beta[element]
        if self.alpha is not None:
            for e, alpha in enumerate(self.alpha):
                rows = np.flatnonzero(element == e)
                slope[rows] += b[rows] @ alpha
        return slope
