"""What VASP reads: INCAR, POSCAR and KPOINTS of a static calculation, through pymatgen's input sets."""

from __future__ import annotations

import difflib
import functools
import hashlib
import importlib.util
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from alflow.core.frames import Floats, Frames, Ints
from alflow.errors import InputError

_KINDS: Final = {"bool": "true or false", "int": "a whole number", "float": "a number"}
Grid = tuple[int, int, int]
Style = Literal["gamma", "monkhorst_pack"]

INPUTS: Final = ("INCAR", "POSCAR", "KPOINTS")
_STATIC: Final[Mapping[str, Any]] = {"NSW": 0, "IBRION": -1, "ISIF": 2, "LWAVE": False, "LCHARG": True}
"""Nothing moves, stress is computed, and the charge density stays for a run that has to go on later."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a calculation is to be, apart from its structure.

    Attributes:
        tags: INCAR tags, those of a static calculation excepted.
        moments: initial magnetic moment of each element in Bohr magnetons; empty without spin.
        dispersion: a van der Waals correction as pymatgen names it, or None.
        style: whether grids of k-points are centred on Gamma, or shifted as by Monkhorst and Pack.
    """

    tags: Mapping[str, Any]
    moments: Mapping[str, float]
    dispersion: str | None
    style: Style


def species_order(numbers: Ints) -> Ints:
    """Atoms in the order that VASP wants them: all of a species together, (n_atoms,)."""
    order: Ints = np.argsort(numbers, kind="stable")
    return order


def right_handed(cell: Floats) -> Floats:
    """The cell, (3, 3), or the opposite vectors, which span the same lattice: VASP takes no left-handed one."""
    return cell if np.linalg.det(cell) > 0 else -cell


def grid_of(cell: Floats, spacing_per_A: float) -> Grid:
    """Least number of k-points along each reciprocal vector with none farther apart than `spacing_per_A`.

    The spacing counts 2 pi, as VASP's KSPACING: ``n_i = max(1, ceil(|b_i| / spacing))``. Large cells get Gamma alone.
    """
    lengths = 2 * np.pi * np.linalg.norm(np.linalg.inv(cell), axis=0)
    a, b, c = np.maximum(1, np.ceil(lengths / spacing_per_A - 1e-9)).astype(int).tolist()
    return a, b, c


def write(frame: Frames, settings: Settings, grid: Grid, folder: Path) -> None:
    """Write INCAR, POSCAR and KPOINTS of one frame into `folder`."""
    from ase.data import chemical_symbols
    from pymatgen.core import Lattice, Structure
    from pymatgen.io.vasp import Kpoints
    from pymatgen.io.vasp.sets import VaspInputSet

    order = species_order(frame.numbers)
    symbols = [chemical_symbols[z] for z in frame.numbers[order]]
    lattice = Lattice(right_handed(frame.cell[0]))
    structure = Structure(lattice, symbols, frame.positions[order], coords_are_cartesian=True)
    make = Kpoints.gamma_automatic if settings.style == "gamma" else Kpoints.monkhorst_automatic
    incar = {**_STATIC, **settings.tags}
    if settings.moments:
        incar |= {"ISPIN": 2, "MAGMOM": {s: settings.moments.get(s, 0.0) for s in dict.fromkeys(symbols)}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice on settings that the user has chosen
        files = VaspInputSet(
            structure=structure,
            config_dict={"INCAR": incar, "KPOINTS": {}, "POTCAR": {}},
            user_kpoints_settings=make(grid),
            vdw=settings.dispersion,
            sort_structure=False,
        )
        written = files.incar
        written.update(_STATIC)  # of which pymatgen leaves out what it takes for the default
        if "LDAUL" in written:
            written["LDAUL"] = [int(value) for value in written["LDAUL"]]  # VASP reads whole numbers only
        written.write_file(folder / "INCAR")
        files.kpoints.write_file(folder / "KPOINTS")
        files.poscar.write_file(folder / "POSCAR", significant_figures=16)


def read(folder: Path) -> dict[str, Any]:
    """What a folder's INCAR, KPOINTS and POSCAR say: INCAR tags with plain values, the other two as one word each."""
    from pymatgen.io.vasp import Incar

    found = {key: _plain(value) for key, value in Incar.from_file(folder / "INCAR").items()}
    kpoints = (folder / "KPOINTS").read_text().split("\n", 1)[1]
    poscar = hashlib.sha256((folder / "POSCAR").read_bytes()).hexdigest()[:16]
    return {**found, "KPOINTS": " ".join(kpoints.split()), "POSCAR": poscar}


def grid_in(kpoints: str) -> Grid:
    """The grid in the KPOINTS of `read`: ``0 Gamma 2 2 2 ...``."""
    a, b, c = (int(word) for word in kpoints.split()[2:5])
    return a, b, c


def check_tags(tags: Mapping[str, Any]) -> None:
    """Refuse what VASP would silently ignore, or stop at: misspelt tags, values of another type.

    A tag that pymatgen's table does not have passes unless it looks like one that it has: VASP has new ones every year.

    Raises:
        InputError: with the tag.
    """
    known = _known_tags()
    for tag, value in tags.items():
        if tag in known:
            kind = str(known[tag].get("type"))
            if not _fits(value, kind):
                raise InputError(f"incar.{tag}", f"should be {_KINDS[kind]}, got {value!r}")
        elif close := difflib.get_close_matches(tag, known, 1, cutoff=0.8):
            raise InputError(f"incar.{tag}", "is no INCAR tag that is known", f"did you mean {close[0]}?")


def _fits(value: Any, kind: str) -> bool:
    if kind == "bool":
        return isinstance(value, bool) or str(value).strip(".").upper() in {"T", "F", "TRUE", "FALSE"}
    if kind in {"int", "float"}:
        return isinstance(value, int if kind == "int" else int | float) and not isinstance(value, bool)
    return True


@functools.cache
def _known_tags() -> dict[str, Any]:
    """Pymatgen's table of INCAR tags, read without importing pymatgen; empty where it has none."""
    spec = importlib.util.find_spec("pymatgen.io")
    places = [] if spec is None else [Path(p) for p in spec.submodule_search_locations or ()]
    table = next((t for p in places if (t := p / "vasp" / "incar_parameters.json").is_file()), None)
    return {} if table is None else dict(json.loads(table.read_text()))


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(v) for v in value]
    return value if isinstance(value, bool | int | str) else float(value)
