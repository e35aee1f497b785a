"""Reads INCAR, POSCAR, KPOINTS and POTCAR, and refuses what VASP refuses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from alflow.core.frames import Floats

_INTS: Final = frozenset(
    {"IALGO", "IBRION", "ICHARG", "IMIX", "INIMIX", "ISIF", "ISMEAR", "ISPIN", "ISTART", "ISYM", "IVDW", "KPAR"}
    | {"LMAXMIX", "LORBIT", "MAXMIX", "MIXPRE", "NBANDS", "NCORE", "NELM", "NELMDL", "NELMIN", "NGX", "NGY", "NGZ"}
    | {"NPAR", "NSIM", "NSW", "NWRITE", "ISEARCH"}
)
_REALS: Final = frozenset(
    {"AMIN", "AMIX", "AMIX_MAG", "BMIX", "BMIX_MAG", "EDIFF", "EDIFFG", "ENAUG", "ENCUT", "KSPACING", "POTIM", "SIGMA"}
    | {"SYMPREC", "TIME", "WC", "NELECT"}
)
_BOOLS: Final = frozenset(
    {"ADDGRID", "KGAMMA", "LASPH", "LCHARG", "LPLANE", "LSCALAPACK", "LUSE_VDW", "LWAVE", "LDAU", "LDIAG", "LSCALU"}
)
_LISTS: Final = frozenset({"MAGMOM"})
KINDS: Final[Mapping[str, frozenset[str]]] = {"int": _INTS, "real": _REALS, "logical": _BOOLS, "list": _LISTS}
_TRUTH: Final = {"T": True, "F": False}
EXCHANGE: Final = frozenset({"PE", "PS", "RP", "AM", "91", "CA"})


class RefusedError(Exception):
    """What VASP says when it does not take its input."""


@dataclass(frozen=True, slots=True)
class Species:
    """One dataset of a POTCAR."""

    element: str
    title: str
    lexch: str
    zval: float
    enmax: float
    mass: float


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """All four files.

    Attributes:
        incar: tags as given, with their values.
        lattice: rows in angstrom, (3, 3).
        fractions: fractional positions, (n_atoms, 3).
        species: those of the POTCAR, in its order.
        counts: atoms of each species.
        grid: k-points along each reciprocal lattice vector.
        style: ``Gamma`` or ``Monkhorst-Pack``.
    """

    incar: Mapping[str, Any]
    lattice: Floats
    fractions: Floats
    species: tuple[Species, ...]
    counts: tuple[int, ...]
    grid: tuple[int, int, int]
    style: str

    @property
    def symbols(self) -> list[str]:
        return [s.element for s, n in zip(self.species, self.counts, strict=True) for _ in range(n)]

    @property
    def electrons(self) -> float:
        return sum(s.zval * n for s, n in zip(self.species, self.counts, strict=True))

    @property
    def bands(self) -> int:
        """NBANDS as given, or VASP's default, ``max(NELECT/2 + NIONS/2, 0.6 NELECT)``."""
        n = sum(self.counts)
        default = max(int(self.electrons + 2.5) // 2 + max(n // 2, 3), int(0.6 * self.electrons))
        return int(self.incar.get("NBANDS", default))

    def tag(self, name: str, default: Any) -> Any:
        return self.incar.get(name, default)


def read(folder: Path) -> Inputs:
    """The inputs in `folder`.

    Raises:
        RefusedError: as VASP would.
    """
    incar = _incar(_text(folder, "INCAR"))
    symbols, counts, lattice, fractions = _poscar(_text(folder, "POSCAR"))
    species = _potcar(_text(folder, "POTCAR"))
    if [s.element for s in species] != symbols:
        raise RefusedError(
            "ERROR: the type information on POSCAR and POTCAR are incompatible\n"
            f"POTCAR overwrites the type information in POSCAR: {[s.element for s in species]} and {symbols}"
        )
    if len({s.lexch for s in species}) > 1:
        raise RefusedError("ERROR: the exchange-correlation types of the POTCAR datasets differ (LEXCH)")
    if "KSPACING" in incar and not (folder / "KPOINTS").is_file():
        lengths = 2 * np.pi * np.linalg.norm(np.linalg.inv(lattice), axis=0) / incar["KSPACING"]
        a, b, c = (max(1, int(np.ceil(x))) for x in lengths)
        grid, style = (a, b, c), "Gamma"
    else:
        grid, style = _kpoints(_text(folder, "KPOINTS"))
    inputs = Inputs(incar, lattice, fractions, species, tuple(counts), grid, style)
    if inputs.bands < inputs.electrons / 2:
        raise RefusedError("ERROR: the number of bands is not sufficient to hold all electrons.")
    return inputs


def _text(folder: Path, name: str) -> str:
    path = folder / name
    if not path.is_file() or not path.stat().st_size:
        raise RefusedError(f"No {name} found, STOPPING")
    return path.read_text()


def _incar(text: str) -> dict[str, Any]:
    tags: dict[str, Any] = {}
    for line in text.splitlines():
        for part in re.split("[#!]", line)[0].split(";"):
            if "=" in part:
                key, _, value = part.partition("=")
                tags.setdefault(key.strip().upper(), value.strip())
    return {key: _value(key, text) for key, text in tags.items()}


def _value(key: str, text: str) -> Any:
    try:
        if key in _INTS:
            return int(text.split(maxsplit=1)[0])
        if key in _REALS:
            return float(text.split(maxsplit=1)[0])
        if key in _BOOLS:
            return _TRUTH[text.strip(".").upper()[0]]
        if key in _LISTS:
            pairs = [word.split("*") if "*" in word else ["1", word] for word in text.split()]
            return [float(x) for n, x in pairs for _ in range(int(n))]
    except (ValueError, KeyError, IndexError):
        raise RefusedError(f"Error reading item {key} from file INCAR.\nError code was IERR= 5") from None
    if key == "GGA" and text.upper() not in EXCHANGE:
        raise RefusedError(f"ERROR: unknown GGA type {text}")
    return text


def _poscar(text: str) -> tuple[list[str], list[int], Floats, Floats]:
    lines = text.splitlines()
    try:
        scale = float(lines[1])
        lattice = scale * np.array([line.split()[:3] for line in lines[2:5]], float)
        symbols, counts = lines[5].split(), [int(n) for n in lines[6].split()]
        direct = lines[7].strip()[0].lower() == "d"
        rows = np.array([line.split()[:3] for line in lines[8 : 8 + sum(counts)]], float).reshape(sum(counts), 3)
    except (ValueError, IndexError):
        raise RefusedError("ERROR: there is a problem reading the POSCAR file") from None
    if len(symbols) != len(counts) or not direct:
        raise RefusedError("ERROR: there is a problem reading the POSCAR file")
    if np.linalg.det(lattice) < 0:
        raise RefusedError("ERROR: the triple product of the basis vectors is negative exchange two basis vectors")
    return symbols, counts, lattice, rows


def _potcar(text: str) -> tuple[Species, ...]:
    found = []
    for part in text.split("End of Dataset")[:-1]:
        keys = dict(re.findall(r"(\w+)\s*=\s*([^;\n]*)", part.partition("END of PSCTR")[0]))
        try:
            element = keys["VRHFIN"].partition(":")[0].strip()
            numbers = (float(keys[k].split()[0]) for k in ("ZVAL", "ENMAX", "POMASS"))
            found.append(Species(element, keys["TITEL"].strip(), keys["LEXCH"].strip(), *numbers))
        except (KeyError, ValueError, IndexError):
            raise RefusedError("ERROR: there is a problem reading the POTCAR file") from None
    if not found:
        raise RefusedError("ERROR: there is a problem reading the POTCAR file")
    return tuple(found)


def _kpoints(text: str) -> tuple[tuple[int, int, int], str]:
    lines = text.splitlines()
    try:
        if int(lines[1]) != 0:
            raise RefusedError("this stand-in reads automatic grids only")
        style = {"g": "Gamma", "m": "Monkhorst-Pack"}[lines[2].strip()[0].lower()]
        a, b, c = (int(n) for n in lines[3].split()[:3])
    except (ValueError, IndexError, KeyError):
        raise RefusedError("ERROR: there is a problem reading the KPOINTS file") from None
    return (a, b, c), style
