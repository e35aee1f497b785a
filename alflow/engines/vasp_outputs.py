"""What VASP computed, believed only if it is whole and of the calculation that was asked for."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from alflow.core.frames import Floats, Frames
from alflow.core.labels import Cause, Labels
from alflow.core.units import EV_A3_GPa
from alflow.engines import vasp_inputs

VASPRUN: Final = "vasprun.xml"
Energy = Literal["free", "sigma0"]
"""The free energy, of which the forces are the derivative, or its extrapolation to zero smearing."""
_NEAR_A: Final = 1e-5
"""How well an output's structure must agree: vasprun.xml has eight decimals of fractional positions."""
_DIGITS: Final = 2e-8
"""Rounding of a real INCAR tag in vasprun.xml."""
_ECHOED: Final = ("ENCUT", "ENAUG", "EDIFF", "ISMEAR", "SIGMA", "ISPIN", "ISYM", "SYMPREC", "NSW", "IVDW", "NELECT")
"""Numbers of the INCAR that vasprun.xml repeats as they are; words it spells in ways of its own."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an output is no label."""

    cause: Cause
    reason: str


def read_label(folder: Path, frame: Frames, titles: Sequence[str], energy: Energy) -> Labels | Refusal:
    """The label in a folder's ``vasprun.xml``.

    Args:
        folder: with the inputs as the last run had them, and its outputs.
        frame: the frame that was asked.
        titles: of the POTCARs, in the order of the species.
        energy: which one.

    Returns:
        Energy in eV, forces in eV/angstrom in the order of the frame's atoms, stress in eV/angstrom^3 (tension
        positive); or why there is none.
    """
    run = load(folder / VASPRUN)
    if isinstance(run, Refusal):
        return run
    try:
        step = run.ionic_steps[-1]
        forces = np.array(step["forces"], np.float64).reshape(-1, 3)
        kbar = np.array(step["stress"], np.float64).reshape(3, 3)
        total = float(step["e_fr_energy"] if energy == "free" else run.final_energy)
        strange = _strange(run, folder, frame, titles)
        converged = run.converged_electronic and not _was_stopped(folder)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as exc:
        return Refusal(Cause.OUTPUT, f"{VASPRUN} is not whole: {type(exc).__name__}: {exc}")
    if strange:
        return Refusal(Cause.OUTPUT, strange)
    if not converged:
        return Refusal(Cause.UNCONVERGED, "the electronic loop did not converge")
    if forces.shape != frame.positions.shape or not (np.isfinite(total) and np.isfinite(forces).all()):
        return Refusal(Cause.VALUE, f"{VASPRUN} holds no finite energy and forces of all atoms")
    unsorted = np.empty_like(forces)
    unsorted[vasp_inputs.species_order(frame.numbers)] = forces
    stress = -0.1 * kbar / EV_A3_GPa  # VASP counts compression positive, in kbar
    return Labels(np.array([total]), unsorted, stress.reshape(1, 3, 3))


def load(path: Path) -> Any:
    """A ``vasprun.xml`` as pymatgen's Vasprun, shared with custodian's validators; or a `Refusal`."""
    from custodian.vasp.io import load_vasprun

    if not path.is_file():
        return Refusal(Cause.OUTPUT, f"VASP wrote no {path.name}")
    if not path.stat().st_size:
        return Refusal(Cause.OUTPUT, f"{path.name} is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what we test ourselves
            run = load_vasprun(str(path))
    except SyntaxError as exc:  # lxml's, of XML
        return Refusal(Cause.OUTPUT, f"{path.name} is cut off or damaged: {exc}")
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as exc:
        return Refusal(Cause.OUTPUT, f"{path.name} is damaged: {type(exc).__name__}: {exc}")
    return run if run.ionic_steps else Refusal(Cause.OUTPUT, f"{path.name} holds no finished calculation")


def _strange(run: Any, folder: Path, frame: Frames, titles: Sequence[str]) -> str:
    """What in the output is not of the calculation in `folder`, or empty."""
    from ase.data import atomic_numbers

    order = vasp_inputs.species_order(frame.numbers)
    cell, positions = vasp_inputs.right_handed(frame.cell[0]), frame.positions[order]
    for structure in (run.initial_structure, run.ionic_steps[-1]["structure"]):
        numbers = [atomic_numbers[site.specie.symbol] for site in structure]
        if numbers != frame.numbers[order].tolist():
            return f"{VASPRUN} is of another structure: its species are {structure.formula}"
        apart = _apart(structure.lattice.matrix, structure.frac_coords, cell, positions)
        if not apart < _NEAR_A:
            return f"{VASPRUN} is of another structure: cell or atoms are up to {apart:.3g} Å away"
    if [" ".join(t.split()) for t in run.potcar_symbols] != list(titles):
        return f"{VASPRUN} is of other POTCARs: {', '.join(run.potcar_symbols)}"
    return _other_settings(run, vasp_inputs.read(folder))


def _apart(lattice: Floats, fractions: Floats, cell: Floats, positions: Floats) -> float:
    """Largest distance between lattice vectors, or between atoms, whole lattice vectors apart being none, angstrom."""
    turns = positions @ np.linalg.inv(cell) - fractions
    moved = (turns - np.round(turns)) @ cell
    return float(max(np.abs(lattice - cell).max(), np.linalg.norm(moved, axis=1).max()))


def _other_settings(run: Any, asked: dict[str, Any]) -> str:
    """The first setting that the output was not made with, of those it echoes."""
    said = {"ENCUT": run.parameters.get("ENMAX"), **run.incar}
    for key in _ECHOED:
        one, other = asked.get(key), said.get(key)
        if one is not None and other is not None and abs(float(one) - float(other)) > _DIGITS + 1e-9 * abs(float(one)):
            return f"{VASPRUN} is of other settings: {key} is {other}, asked was {one}"
    grid, wanted = tuple(run.kpoints.kpts[0]), vasp_inputs.grid_in(asked["KPOINTS"])
    if grid != wanted:
        return f"{VASPRUN} is of other k-points: {grid}, asked was {wanted}"
    return ""


def _was_stopped(folder: Path) -> bool:
    """Whether VASP was told to stop before it converged; vasprun.xml does not say."""
    outcar = folder / "OUTCAR"
    if not outcar.is_file():
        return False
    with outcar.open("rb") as file:
        return any(b"stop encountered" in line for line in file)
