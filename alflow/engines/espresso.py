"""Files of Quantum ESPRESSO: pseudopotential headers in, ``pw.x`` output out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from alflow.core.frames import Floats
from alflow.core.units import BOHR_A, RYDBERG_eV
from alflow.errors import DataError

_NUMBER: Final = r"[-+]?\d+\.\d*(?:[eEdD][-+]?\d+)?"
_ENERGY: Final = re.compile(rf"^!\s+total energy\s+=\s+({_NUMBER}) Ry", re.MULTILINE)
_FORCES: Final = re.compile(r"Forces acting on atoms[^\n]*\n\s*\n((?:\s+atom\s+\d+ [^\n]*\n)+)")
_FORCE: Final = re.compile(rf"force =\s*({_NUMBER})\s*({_NUMBER})\s*({_NUMBER})")
_STRESS: Final = re.compile(rf"total\s+stress\s+\(Ry/bohr\*\*3\)[^\n]*\n((?:(?:\s+{_NUMBER}){{6}}[ \t]*\n){{3}})")
_ERROR: Final = re.compile(r"Error in routine ([^\n]*)\n\s*([^\n]*)")


@dataclass(frozen=True, slots=True)
class Upf:
    """What the header of a pseudopotential says."""

    element: str
    functional: str


def read_upf(path: Path) -> Upf:
    """Element and functional of a UPF file, version 1 or 2.

    Raises:
        DataError: it cannot be read, or has no such header.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as exc:
        raise DataError(f"{path}: cannot be read: {exc}") from exc
    header = re.search(r"<PP_HEADER\b(.*?)(?:/>|</PP_HEADER>)", text, re.DOTALL)
    body = header.group(1) if header else ""
    element = re.search(r"element\s*=\s*[\"']\s*([A-Za-z]+)\s*[\"']", body) or re.search(
        r"(?m)^\s*(\w+)\s+Element", body
    )
    functional = re.search(r"functional\s*=\s*[\"']([^\"']*)[\"']", body) or re.search(
        r"(?m)^\s*(.+?)\s+Exchange-Correlation", body
    )
    if element is None or functional is None:
        raise DataError(f"{path}: is not a pseudopotential in UPF: its header names no element or functional")
    return Upf(element.group(1).capitalize(), " ".join(functional.group(1).upper().split()))


@dataclass(frozen=True, slots=True, eq=False)
class PwResult:
    """What ``pw.x`` computed.

    Attributes:
        energy: eV. With smearing it is the free energy F = E - TS ("!  total energy"), of which forces and stress are
            the derivatives.
        forces: eV/angstrom, (n_atoms, 3).
        stress: eV/angstrom^3, tension positive, (3, 3), or None if it was not asked for.
        problem: why there is no result, or empty.
    """

    energy: float = float("nan")
    forces: Floats | None = None
    stress: Floats | None = None
    problem: str = ""


def started(text: str) -> bool:
    """Whether ``pw.x`` itself came to speak: if not, launcher or machine are at fault."""
    return "Program PWSCF" in text


def read_pw_output(text: str, n_atoms: int, *, stress: bool) -> PwResult:
    """Read the output of one self-consistent calculation."""
    if error := _ERROR.search(text):
        return PwResult(problem=f"pw.x: error in {error.group(1).strip()}: {error.group(2).strip()}")
    if "convergence NOT achieved" in text:
        cycles = re.findall(r"convergence NOT achieved after\s+(\d+)", text)
        return PwResult(problem=f"not self-consistent after {cycles[0] if cycles else 'all'} cycles")
    if "JOB DONE." not in text:
        return PwResult(problem="pw.x ended before its end")
    energies, blocks, tensors = _ENERGY.findall(text), _FORCES.findall(text), _STRESS.findall(text)
    rows = _FORCE.findall(blocks[-1]) if blocks else []
    if not energies or len(rows) != n_atoms or (stress and not tensors):
        return PwResult(problem=f"output lacks energy, {n_atoms} forces or stress, or numbers too large to print")
    tensor = None
    if stress:  # pw.x prints compression as positive
        tensor = -np.array(tensors[-1].split(), float).reshape(3, 6)[:, :3] * RYDBERG_eV / BOHR_A**3
    return PwResult(float(energies[-1]) * RYDBERG_eV, np.array(rows, dtype=float) * RYDBERG_eV / BOHR_A, tensor)
