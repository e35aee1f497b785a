"""Files of Quantum ESPRESSO: pseudopotential headers in, what ``pw.x`` computed out."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

import numpy as np

from alflow.core.frames import Floats
from alflow.core.units import BOHR_A, HARTREE_eV
from alflow.errors import DataError

LOG: Final = "pw.out"
PREFIX: Final = "pwscf"
SCHEMA: Final = f"{PREFIX}.save/data-file-schema.xml"
DENSITY: Final = f"{PREFIX}.save/charge-density"
_NEAR_A: Final = 1e-6
"""How well positions and cell of an output must agree with what was asked: inputs carry ten decimals and more."""

_FUNCTIONALS: Final = {
    "PBE": "SLA PW PBX PBC",
    "PBESOL": "SLA PW PSX PSC",
    "PZ": "SLA PZ NOGX NOGC",
    "LDA": "SLA PZ NOGX NOGC",
    "BLYP": "SLA LYP B88 BLYP",
    "PW91": "SLA PW GGX GGC",
    "TPSS": "SLA PW TPSS TPSS",
}


# ---- pseudopotentials ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Upf:
    """What the header of a pseudopotential says.

    Attributes:
        element: chemical symbol.
        functional: its name where it has one (``PBE``), else pw.x's words for exchange and correlation.
        augmented: ultrasoft or PAW: its charge density needs a larger cutoff than four times that of wave functions.
        wfc_cutoff_Ry: suggested cutoff of wave functions, or 0.
        rho_cutoff_Ry: suggested cutoff of the charge density, or 0.
        title: who generated it, and when.
    """

    element: str
    functional: str
    augmented: bool
    wfc_cutoff_Ry: float
    rho_cutoff_Ry: float
    title: str


def read_upf(path: Path) -> Upf:
    """The header of a UPF file, version 1 or 2.

    Raises:
        DataError: it cannot be read, is cut off, or has no such header.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as exc:
        raise DataError(f"{path}: cannot be read: {exc}") from exc
    header = re.search(r"<PP_HEADER\b(.*?)(?:/>|</PP_HEADER>)", text, re.DOTALL)
    body = header.group(1) if header else ""
    pairs = re.findall(r"(\w+)\s*=\s*(?:\"([^\"]*)\"|'([^']*)')", body)
    words = {name: html.unescape(one or other) for name, one, other in pairs} or _old_header(body)
    element, functional = words.get("element", "").strip(), words.get("functional", "").strip()
    if not element or not functional:
        raise DataError(f"{path}: is not a pseudopotential in UPF: its header names no element or functional")
    if "<UPF" in text and "</UPF>" not in text:
        raise DataError(f"{path}: is cut off: it has no end")
    kind = words.get("pseudo_type", "").strip().upper()
    return Upf(
        element.capitalize(),
        functional_of(functional),
        kind in {"US", "USPP", "PAW"},
        _number(words.get("wfc_cutoff", "")),
        _number(words.get("rho_cutoff", "")),
        _title(text, words),
    )


def functional_of(words: str) -> str:
    """One name for all the ways in which pseudopotentials spell a functional."""
    parts = re.split(r"[\s+]+", words.strip().upper())
    if parts[0] in _FUNCTIONALS:
        parts = _FUNCTIONALS[parts[0]].split()
    if parts[2:4] == ["PBE", "PBE"]:  # of older generators
        parts[2:4] = ["PBX", "PBC"]
    spelled = " ".join(parts[:4])  # a fifth word repeats the name
    return next((name for name, known in _FUNCTIONALS.items() if known == spelled), spelled)


def _old_header(body: str) -> dict[str, str]:
    """The header of version 1: values, then what they are."""
    patterns = {
        "element": r"(?m)^\s*(\w+)\s+Element",
        "functional": r"(?m)^\s*(.+?)\s+Exchange-Correlation",
        "pseudo_type": r"(?m)^[ \t]*(NC|US|SL|PAW)\b",
        "wfc_cutoff": r"(?m)^\s*(\S+)\s+\S+\s+Suggested cutoff",
        "rho_cutoff": r"(?m)^\s*\S+\s+(\S+)\s+Suggested cutoff",
    }
    found = {name: re.search(pattern, body) for name, pattern in patterns.items()}
    return {name: match.group(1) for name, match in found.items() if match}


def _number(text: str) -> float:
    try:
        value = float(text.strip().upper().replace("D", "E"))
    except ValueError:
        return 0.0
    return value if np.isfinite(value) else 0.0


def _title(text: str, words: dict[str, str]) -> str:
    info = re.search(r"<PP_INFO>\s*([^\n]*)", text)
    said = [words.get("generated") or (info.group(1) if info else ""), words.get("author", ""), words.get("date", "")]
    return ", ".join(" ".join(s.split()) for s in said if s.strip())


# ---- results -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class PwResult:
    """What ``pw.x`` computed.

    Attributes:
        energy: eV. With smearing it is the free energy F = E - TS, of which forces and stress are the derivatives.
        forces: eV/angstrom, (n_atoms, 3).
        stress: eV/angstrom^3, tension positive, (3, 3), or None if it was not asked for.
    """

    energy: float
    forces: Floats
    stress: Floats | None


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What a calculation was asked for, to hold its output against.

    Attributes:
        symbols: chemical symbol of each atom.
        positions: angstrom, (n_atoms, 3).
        cell: rows are lattice vectors in angstrom, (3, 3).
        stress: whether the stress is wanted.
    """

    symbols: Sequence[str]
    positions: Floats
    cell: Floats
    stress: bool


def started(text: str) -> bool:
    """Whether ``pw.x`` itself came to speak: if not, launcher or machine are at fault."""
    return "Program PWSCF" in text


def read_schema(path: Path, asked: Asked) -> PwResult:
    """The result in a ``data-file-schema.xml``, of one self-consistent calculation of what was asked.

    It holds all digits, which the printed output does not.

    Raises:
        DataError: it is missing, damaged, not converged, incomplete, or of another structure.
    """
    try:
        root = ET.parse(path).getroot()  # noqa: S314  written by a program of the user's own
    except FileNotFoundError as exc:
        raise DataError(f"pw.x wrote no {path.name}") from exc
    except (ET.ParseError, OSError) as exc:
        raise DataError(f"{path.name} is damaged or cut off: {exc}") from exc
    output = root.find("output")
    if output is None:
        raise DataError(f"{path.name} has no output")
    _compare(output, asked)
    if (output.findtext("convergence_info/scf_conv/convergence_achieved") or "").strip() != "true":
        raise DataError(f"{path.name} says that self-consistency was not achieved")
    energy = float(_numbers(output, "total_energy/etot", ())) * HARTREE_eV
    forces = _numbers(output, "forces", (len(asked.symbols), 3)) * HARTREE_eV / BOHR_A
    stress = None
    if asked.stress:  # pw.x counts compression as positive
        stress = -_numbers(output, "stress", (3, 3)) * HARTREE_eV / BOHR_A**3
    return PwResult(energy, forces, stress)


def _compare(output: ET.Element, asked: Asked) -> None:
    atoms = output.findall("atomic_structure/atomic_positions/atom")
    symbols = [re.sub(r"[^A-Za-z].*", "", a.get("name", "")).capitalize() for a in atoms]
    if symbols != list(asked.symbols):
        raise DataError(f"the output is of another structure: {_formula(symbols)}, not {_formula(asked.symbols)}")
    cell = np.stack([_numbers(output, f"atomic_structure/cell/a{i}", (3,)) for i in (1, 2, 3)]) * BOHR_A
    places = [_values(a.text) for a in atoms]
    if any(len(p) != 3 for p in places):
        raise DataError("the output holds no finite positions")
    positions = np.array(places) * BOHR_A
    for what, got, want in (("cell", cell, asked.cell), ("positions", positions, asked.positions)):
        apart = np.abs(got - want).max()
        if not apart < _NEAR_A * max(1.0, np.abs(want).max() / 100):
            raise DataError(f"the output is of another structure: its {what} differ by {apart:.3g} Å")


def _numbers(output: ET.Element, place: str, shape: tuple[int, ...]) -> Floats:
    values = _values(output.findtext(place))
    if len(values) != int(np.prod(shape)) or not np.isfinite(values).all():
        raise DataError(f"the output holds no finite {place.rpartition('/')[2]}")
    return values.reshape(shape)


def _values(text: str | None) -> Floats:
    try:
        return np.array((text or "").split(), np.float64)
    except ValueError:  # asterisks, where a number did not fit
        return np.full(1, np.nan)


def _formula(symbols: Sequence[str]) -> str:
    return "".join(f"{s}{symbols.count(s)}" for s in sorted(set(symbols))) or "no atoms"


# ---- what a calculation leaves behind ------------------------------------------------------------------------------


def sound_density(outdir: Path) -> bool:
    """Whether a charge density lies in `outdir`, whole and finite."""
    for suffix, reader in ((".dat", _fortran_density), (".hdf5", _hdf5_density)):
        path = outdir / f"{DENSITY}{suffix}"
        if path.is_file():
            found = reader(path)
            return len(found) > 0 and bool(np.isfinite(found).all())
    return False


def _fortran_density(path: Path) -> Floats:
    """The last record, of Fourier coefficients; the first are switches, reciprocal vectors and Miller indices."""
    from scipy.io import FortranEOFError, FortranFile, FortranFormattingError

    records = []
    try:
        with FortranFile(path) as file:
            while True:
                records.append(file.read_record(np.uint8))
    except FortranEOFError:
        pass
    except (FortranFormattingError, OSError, ValueError, TypeError):
        return np.zeros(0)
    whole = len(records) >= 4 and records[3].size % 16 == 0
    return np.concatenate(records[3:]).view(np.float64) if whole else np.zeros(0)


def _hdf5_density(path: Path) -> Floats:
    import h5py

    try:
        with h5py.File(path) as file:
            return np.asarray(file["rhotot_g"], np.float64).reshape(-1)
    except (OSError, KeyError, ValueError, TypeError):
        return np.zeros(0)
