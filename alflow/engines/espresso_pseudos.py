"""Pseudopotentials of ``pw.x``: named files, or families in the manner of SSSP, and the cutoffs they need."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from alflow.engines.espresso import Upf, read_upf
from alflow.errors import DataError, InputError
from alflow.store.files import digest

NORM_CONSERVING: Final = 4.0
"""The density's cutoff over that of wave functions at which it holds all their products."""
AUGMENTED: Final = 8.0
"""The same for ultrasoft and PAW pseudopotentials, whose augmentation charges are harder."""
_LONGEST_PATH: Final = 200
"""``pw.x`` keeps paths in 256 characters and cuts off what is longer."""


@dataclass(frozen=True, slots=True)
class Pseudos:
    """The pseudopotentials of one calculation.

    Attributes:
        folder: where they are.
        files: file of each element.
        headers: what each says of itself.
        md5: of each file, as pw.x prints it.
        ecutwfc_Ry: cutoff of wave functions.
        ecutrho_Ry: cutoff of the charge density.
    """

    folder: Path
    files: Mapping[str, str]
    headers: Mapping[str, Upf]
    md5: Mapping[str, str]
    ecutwfc_Ry: float
    ecutrho_Ry: float

    def described(self) -> dict[str, dict[str, str]]:
        """What of them belongs to the theory: title, functional and digest, never a path."""
        return {
            s: {"title": u.title, "functional": u.functional, "sha256": digest(self.folder / self.files[s])}
            for s, u in sorted(self.headers.items())
        }


@dataclass(frozen=True, slots=True)
class _Listed:
    """What a family says of an element; cutoffs are 0 and md5 is empty where it says nothing."""

    file: str
    md5: str = ""
    wfc_Ry: float = 0.0
    rho_Ry: float = 0.0


def named(folder: Path, files: Mapping[str, str], ecutwfc_Ry: float, ecutrho_Ry: float | None) -> Pseudos:
    """The pseudopotentials of a file for each element.

    Raises:
        InputError: one is missing, unreadable, of another element, or of another functional than the rest.
    """
    _check_folder(folder, "codes.espresso.pseudo_dir")
    headers = {s: _header(f"pseudopotentials.{s}", s, folder, file) for s, file in files.items()}
    _check_functionals("pseudopotentials", headers)
    rho = ecutrho_Ry or max(_ecutrho(u, ecutwfc_Ry) for u in headers.values())
    return Pseudos(folder, dict(files), headers, {s: _md5(folder / f) for s, f in files.items()}, ecutwfc_Ry, rho)


def family(folder: Path, elements: Iterable[str], ecutwfc_Ry: float | None, ecutrho_Ry: float | None) -> Pseudos:
    """The pseudopotentials of `elements` in a family's folder, with the largest of their recommended cutoffs.

    Recommendations come from the folder's ``SSSP_*.json`` (element -> filename, md5, cutoff_wfc, cutoff_rho), else from
    the headers of the files. Cutoffs that are given override them.

    Raises:
        InputError: an element, a file or a cutoff is missing, or a file is not the one that the family means.
    """
    _check_folder(folder, "family")
    index = _index(folder)
    listed = {s: _found(folder, s) if index is None else _entry(index, folder, s) for s in sorted(set(elements))}
    headers = {s: _header("family", s, folder, entry.file) for s, entry in listed.items()}
    md5 = {s: _md5(folder / entry.file) for s, entry in listed.items()}
    if wrong := [str(folder / e.file) for s, e in listed.items() if e.md5 and e.md5.lower() != md5[s]]:
        raise InputError("family", f"{wrong[0]} is not the file that its family's list means: the md5 differs")
    _check_functionals("family", headers)
    wfc = {s: listed[s].wfc_Ry if index is not None else u.wfc_cutoff_Ry for s, u in headers.items()}
    if ecutwfc_Ry is None and (without := [s for s, value in wfc.items() if not value > 0]):
        raise InputError("ecutwfc_Ry", f"{folder} recommends none for {', '.join(without)}", "give ecutwfc_Ry")
    ecutwfc = ecutwfc_Ry or max(wfc.values())
    rho = ecutrho_Ry or max(_ecutrho(u, ecutwfc, listed[s].rho_Ry) for s, u in headers.items())
    return Pseudos(folder, {s: entry.file for s, entry in listed.items()}, headers, md5, ecutwfc, rho)


def candidates(folder: Path, symbol: str) -> list[str]:
    """Files whose name says that they are of an element, such as ``Al.pbe.UPF`` and ``al_ONCV.upf``."""
    pattern = re.compile(rf"{symbol}[._-].*", re.IGNORECASE)
    return sorted(p.name for p in folder.iterdir() if p.is_file() and pattern.fullmatch(p.name))


def _ecutrho(upf: Upf, ecutwfc_Ry: float, recommended_Ry: float = 0.0) -> float:
    if recommended_Ry > 0:
        return max(NORM_CONSERVING * ecutwfc_Ry, recommended_Ry)
    return max((AUGMENTED if upf.augmented else NORM_CONSERVING) * ecutwfc_Ry, upf.rho_cutoff_Ry)


def _check_folder(folder: Path, where: str) -> None:
    if not folder.is_dir():
        raise InputError(where, f"the folder {folder} does not exist")
    if len(str(folder)) > _LONGEST_PATH or "'" in str(folder):
        problem = f"pw.x cannot take the path {folder}"
        raise InputError(where, problem, f"use one of at most {_LONGEST_PATH} characters, without quotes")


def _header(where: str, symbol: str, folder: Path, file: str) -> Upf:
    path = folder / file
    hint = f"{folder} has for {symbol}: {', '.join(candidates(folder, symbol)) or 'nothing'}"
    if not path.is_file():
        raise InputError(where, f"the file {path} does not exist", hint)
    try:
        upf = read_upf(path)
    except DataError as exc:
        raise InputError(where, str(exc), hint) from exc
    if upf.element != symbol:
        raise InputError(where, f"{path} is for the element {upf.element}, not {symbol}", hint)
    return upf


def _check_functionals(where: str, headers: Mapping[str, Upf]) -> None:
    if len({u.functional for u in headers.values()}) > 1:
        said = ", ".join(f"{s}: {u.functional}" for s, u in headers.items())
        raise InputError(where, f"are of different functionals ({said})", "use one functional for all elements")


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def _found(folder: Path, symbol: str) -> _Listed:
    files = [f for f in candidates(folder, symbol) if f.lower().endswith(".upf")]
    if len(files) != 1:
        said = f"has {len(files)} files for {symbol}: {', '.join(files)}" if files else f"has no file for {symbol}"
        raise InputError("family", f"{folder} {said}", "name a file for each element in pseudopotentials instead")
    return _Listed(files[0])


def _index(folder: Path) -> Mapping[str, Any] | None:
    lists = sorted(folder.glob("SSSP_*.json"))
    if not lists:
        return None
    if len(lists) > 1:
        names = ", ".join(p.name for p in lists)
        raise InputError("family", f"{folder} holds several lists: {names}", "keep each family in a folder of its own")
    try:
        content = json.loads(lists[0].read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise InputError("family", f"{lists[0]} cannot be read: {exc}") from exc
    if not isinstance(content, dict):
        raise InputError("family", f"{lists[0]} is no list of elements")
    return content


def _entry(index: Mapping[str, Any], folder: Path, symbol: str) -> _Listed:
    if symbol not in index:
        raise InputError(
            "family", f"the list in {folder} has no element {symbol}", f"it has {', '.join(sorted(index))}"
        )
    entry = index[symbol]
    try:
        file, md5 = str(entry["filename"]), str(entry.get("md5", ""))
        wfc, rho = float(entry.get("cutoff_wfc", 0)), float(entry.get("cutoff_rho", 0))
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise InputError("family", f"the list in {folder} is damaged at {symbol}: {exc!r}") from exc
    if Path(file).name != file:
        raise InputError("family", f"the list in {folder} names a file outside of it for {symbol}: {file}")
    return _Listed(file, md5, wfc, rho)
