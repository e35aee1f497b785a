"""VASP's pseudopotentials in the user's library: found, checked, and joined for one calculation.

POTCAR files are licensed. Their text stays in this process and in the folder of a calculation while it runs; what is
stored anywhere else are titles and digests.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from alflow.errors import InputError

POTCAR: Final = "POTCAR"
LEXCH: Final[Mapping[str, str]] = {"PE": "PBE", "CA": "LDA", "91": "PW91", "PS": "PBEsol", "RP": "revPBE"}
"""What LEXCH of a POTCAR stands for."""
_PYMATGEN: Final[Mapping[str, str]] = {"PE": "POT_GGA_PAW_PBE", "CA": "POT_LDA_PAW", "91": "POT_GGA_PAW_PW91"}
"""Folders of a library as pymatgen's ``PMG_VASP_PSP_DIR`` has them, by LEXCH."""
_ODD: Final = {"X": "Xe", "r": "Zr"}
"""Elements as VASP's own files misspell them in VRHFIN."""
_VRHFIN: Final = re.compile(r"VRHFIN\s*=\s*([A-Za-z]+)")
_END: Final = "End of Dataset"


@dataclass(frozen=True, slots=True)
class Potcar:
    """One dataset of the library.

    Attributes:
        path: where it lies.
        element: chemical symbol.
        title: its TITEL.
        lexch: its functional, as LEXCH has it.
        enmax_eV: its default cutoff.
        sha256: of its text.
        text: all of it; licensed.
    """

    path: Path
    element: str
    title: str
    lexch: str
    enmax_eV: float
    sha256: str
    text: str = field(repr=False)


def find(library: Path, symbol: str, element: str, lexch: str, where: str) -> Potcar:
    """The POTCAR `symbol` of a library, unpacked as VASP ships it or as pymatgen packs it.

    Args:
        library: folder with ``Al/POTCAR`` (or ``POTCAR.gz``), ``POTCAR.Al.gz``, or ``POT_GGA_PAW_PBE/POTCAR.Al.gz``.
        symbol: its name in the library, such as ``W_pv``.
        element: what it must be of.
        lexch: the functional it must have been made for, as LEXCH has it.
        where: key of the workflow that names it, for messages.

    Raises:
        InputError: it is missing, unreadable, or of another element or functional.
    """
    if not library.is_dir():
        raise InputError("codes.vasp.potcars", f"there is no folder {library}", "the folder of your POTCAR library")
    homes = (library, library / _PYMATGEN[lexch])
    names = (f"{symbol}/POTCAR", f"{symbol}/POTCAR.gz", f"POTCAR.{symbol}", f"POTCAR.{symbol}.gz")
    path = next((home / name for home in homes for name in names if (home / name).is_file()), None)
    if path is None:
        raise InputError(where, f"there is no POTCAR {symbol!r} in {library}", _remedy(library, symbol))
    try:
        stat = path.stat()
        potcar = _load(path, stat.st_mtime_ns, stat.st_size)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as exc:
        raise InputError(where, f"{path} cannot be read: {exc}", "it may be damaged, or not yours to read") from exc
    except ValueError as exc:
        raise InputError(where, f"{path} is not a POTCAR: {exc}") from exc
    if potcar.element != element:
        raise InputError(where, f"{path} is a POTCAR of {potcar.element}, not of {element}")
    if potcar.lexch != lexch:
        have, want = (LEXCH.get(x, x) for x in (potcar.lexch, lexch))
        raise InputError(where, f"{path} is a POTCAR for {have} (LEXCH = {potcar.lexch}), not for {want}")
    return potcar


def join(potcars: Sequence[Potcar]) -> str:
    """The text of a POTCAR of several species."""
    return "".join(p.text for p in potcars)


def check_order(poscar: str, potcar: str) -> None:
    """See that the POTCAR has the species of the POSCAR in its order.

    Raises:
        InputError: it has not: VASP would compute other atoms, or refuse.
    """
    asked, found = poscar.splitlines()[5].split(), [_element(part) for part in potcar.split(_END)[:-1]]
    if asked != found:
        both = f"POSCAR has {' '.join(asked)}, POTCAR has {' '.join(found)}"
        raise InputError(POTCAR, f"is not in the order of POSCAR: {both}", "one dataset a species, in POSCAR's order")


@functools.lru_cache(maxsize=128)
def _load(path: Path, _mtime_ns: int, _size: int) -> Potcar:
    """The file as it was at that time."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    found = {key: re.search(rf"\b{key}\s*=\s*([^\n;]+)", text) for key in ("TITEL", "LEXCH", "ENMAX")}
    missing = [key for key, match in found.items() if match is None]
    if missing:
        raise ValueError(f"it has no {', '.join(missing)}")
    if text.count(_END) != 1:
        raise ValueError(f"it holds {text.count(_END)} complete datasets, not one")
    title, lexch, enmax = (match[1].split() for match in found.values() if match)
    text = text if text.endswith("\n") else f"{text}\n"
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Potcar(path, _element(text), " ".join(title), lexch[0], float(enmax[0]), digest, text)


def _element(text: str) -> str:
    match = _VRHFIN.search(text)
    if match is None:
        raise ValueError("it has no VRHFIN")
    return _ODD.get(match[1], match[1])


def _remedy(library: Path, symbol: str) -> str:
    packed = sorted(p.name for p in library.glob("POT_*") if p.is_dir())
    if packed:
        return f"point codes.vasp.potcars of the site file to one of its folders: {', '.join(packed)}"
    alike = sorted({p.name for p in library.glob(f"{symbol.partition('_')[0]}*")})[:8]
    have = f"it has {', '.join(alike)}" if alike else "it has none of that element"
    return f"{have}; codes.vasp.potcars of the site file is the folder with one subfolder for each POTCAR"
