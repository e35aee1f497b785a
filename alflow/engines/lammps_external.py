"""Any model inside LAMMPS: LAMMPS moves the atoms, the model pushes them (``fix external``).

The way for models that no pair style of the installed LAMMPS knows, such as networks whose activation its ``mliap``
lacks. One process; every step is one batch of one frame, so it is for tests and small cells, not for production.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

import numpy as np

from alflow.core.frames import Floats, Frames, Ints
from alflow.core.labels import Labels
from alflow.errors import InputError

_FIX: Final = "model"


class Predicts(Protocol):
    """The part of `alflow.interfaces.Model` that is needed here."""

    def predict(self, frames: Frames, *, stress: bool = True) -> Labels: ...


class ExternalModel:
    """The forces, energy and virial of a LAMMPS instance come from `model`.

    Args:
        lmp: an instance of ``lammps.lammps`` in metal units with its box and atoms, and no other pair style.
        model: energies in eV, forces in eV/angstrom, stress in eV/angstrom^3.
        numbers: atomic number of each atom type.

    Raises:
        InputError: the instance spans several processes, has other units, or another number of atom types.
    """

    def __init__(self, lmp: Any, model: Predicts, numbers: Sequence[int]) -> None:
        self._lmp, self._model, self._numbers = lmp, model, np.asarray(numbers, dtype=np.int64)
        self._failure: Exception | None = None
        if lmp.extract_setting("world_size") != 1:
            raise InputError(
                "lmp", "runs in several processes", "a model is evaluated in one: start LAMMPS without MPI"
            )
        if lmp.extract_global("units") != "metal":
            raise InputError("lmp", f"has units {lmp.extract_global('units')}", "begin with `units metal`")
        if len(self._numbers) != (n := lmp.extract_global("ntypes")):
            raise InputError("numbers", f"name {len(self._numbers)} elements", f"LAMMPS has {n} atom types")
        for line in (
            "pair_style zero 1.0 nocoeff",  # LAMMPS wants one; the model keeps its own neighbours
            "pair_coeff * *",
            f"fix {_FIX} all external pf/callback 1 1",
            f"fix_modify {_FIX} energy yes virial yes",
        ):
            lmp.command(line)
        lmp.set_fix_external_callback(_FIX, self._push)

    def run(self, steps: int, options: str = "") -> None:
        """Run so many steps, with `options` of LAMMPS's ``run`` such as ``pre no post no``.

        Raises:
            Exception: what the model raised, or LAMMPS.
        """
        self._failure = None
        try:
            self._lmp.command(f"run {steps} {options}")
        finally:
            if self._failure is not None:
                raise self._failure

    def _push(self, _: object, __: int, n: int, tag: Ints, x: Floats, f: Floats) -> None:  # noqa: ARG002
        """What LAMMPS calls. An exception cannot cross it: it is kept, and NaN forces end the run."""
        try:
            labels = self._model.predict(self._frame(x[:n]), stress=True)
            f[:n] = labels.forces
            self._lmp.fix_external_set_energy_global(_FIX, float(labels.energy[0]))
            self._lmp.fix_external_set_virial_global(_FIX, self._virial(labels))
        except Exception as exc:  # noqa: BLE001 -- see above
            self._failure = self._failure or exc
            f[:n] = np.nan

    def _frame(self, x: Floats) -> Frames:
        low, high, xy, yz, xz, periodic, _ = self._lmp.extract_box()
        lx, ly, lz = np.subtract(high, low)
        cell = [[lx, 0.0, 0.0], [xy, ly, 0.0], [xz, yz, lz]]
        types = np.array(self._lmp.numpy.extract_atom("type")[: len(x)]).ravel()
        return Frames.single(self._numbers[types - 1], np.array(x), cell, np.array(periodic, np.bool_))

    def _virial(self, labels: Labels) -> list[float]:
        """xx, yy, zz, xy, xz, yz in eV: minus the volume times the stress; zero where the model gives none."""
        if labels.stress is None or not np.isfinite(labels.stress).all():
            return [0.0] * 6
        low, high, *_ = self._lmp.extract_box()
        virial = -float(np.prod(np.subtract(high, low))) * labels.stress[0]
        return [float(virial[i, j]) for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))]
