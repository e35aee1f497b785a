"""The one bridge between `Frames` and the structures of others: ase, pymatgen, and the files they read.

Energies are in eV, forces in eV/angstrom, stress in eV/angstrom^3 with tension positive, which is also ase's sign.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from alflow.core.frames import Floats, Frames
from alflow.core.labels import Labels
from alflow.errors import DataError
from alflow.store.files import written_whole
from alflow.store.shards import Column, Shard

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

_XYZ: Final = {".xyz", ".extxyz"}
_SCALARS: Final = (bool, int, float, str, np.generic)


# ---- ase -----------------------------------------------------------------------------------------------------------


def to_ase(frames: Frames, labels: Labels | None = None) -> list[Atoms]:
    """One `ase.Atoms` a frame; labels that are not NaN come with it as the results of a `SinglePointCalculator`."""
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    out = []
    for i in range(len(frames)):
        at = slice(int(frames.offsets[i]), int(frames.offsets[i + 1]))
        atoms = Atoms(frames.numbers[at], frames.positions[at], cell=frames.cell[i], pbc=frames.pbc[i])
        if labels is not None and np.isfinite(labels.energy[i]):
            results: dict[str, Any] = {"energy": float(labels.energy[i]), "forces": labels.forces[at]}
            if labels.stress is not None and np.isfinite(labels.stress[i]).all():
                results["stress"] = labels.stress[i][[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
            atoms.calc = SinglePointCalculator(atoms, **results)
        out.append(atoms)
    return out


def from_ase(structures: Iterable[Atoms], where: str = "structure") -> Frames:
    """The frames of several `ase.Atoms`.

    Raises:
        DataError: no atoms, unknown atoms, partial occupancies, numbers that are not finite, or a direction that is
            periodic without a lattice vector; `where` and the index say which.
    """
    parts = []
    for i, atoms in enumerate(structures):
        place = f"{where} {i}"
        for occupancy in (atoms.info.get("occupancy") or {}).values():
            if len(occupancy) != 1 or abs(sum(occupancy.values()) - 1) > 1e-6:
                raise DataError(f"{place}: partial occupancy {occupancy}; order the structure first")
        parts.append(_frame(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, place))
    return Frames.concat(parts)


def labelled_from_ase(structures: Sequence[Atoms], where: str = "structure") -> Shard:
    """Frames with the results of their calculators and the plain values of their ``info`` that all of them have.

    The shard's labels are None where no structure has both energy and forces; its theory is None, for it is not known.

    Raises:
        DataError: as `from_ase`.
    """
    frames = from_ase(structures, where)
    labels = Labels.missing(frames)
    assert labels.stress is not None
    for i, atoms in enumerate(structures):
        results = getattr(atoms.calc, "results", {})
        if "energy" in results and "forces" in results:
            labels.energy[i] = results["energy"]
            labels.forces[frames.offsets[i] : frames.offsets[i + 1]] = results["forces"]
            labels.stress[i] = _stress_of(atoms, results)
    found = bool(np.isfinite(labels.energy).any())
    if not np.isfinite(labels.stress).any():
        labels = Labels(labels.energy, labels.forces)
    return Shard(frames, _columns([a.info for a in structures]), labels if found else None)


def _stress_of(atoms: Atoms, results: Mapping[str, Any]) -> Floats:
    """Stress (3, 3) from six or nine values, or from a virial; NaN if there is neither."""
    if "stress" in results:
        s = np.asarray(results["stress"], float)
        return s[[[0, 5, 4], [5, 1, 3], [4, 3, 2]]] if s.shape == (6,) else s.reshape(3, 3)
    if "virial" in atoms.info:
        virial: Floats = -np.asarray(atoms.info["virial"], float).reshape(3, 3) / atoms.get_volume()
        return virial
    return np.full((3, 3), np.nan)


def _columns(infos: Sequence[Mapping[str, Any]]) -> dict[str, Column]:
    common = set.intersection(*(set(i) for i in infos)) if infos else set()
    columns = {}
    for name in sorted(common):
        values = [i[name] for i in infos]
        words = [isinstance(v, str) for v in values]
        if all(isinstance(v, _SCALARS) for v in values) and all(words) == any(words):
            columns[name] = np.array(values)
    return columns


def _frame(numbers: Any, positions: Any, cell: Any, pbc: Any, where: str) -> Frames:
    if not len(numbers):
        raise DataError(f"{where}: has no atoms")
    if min(numbers) < 1:
        raise DataError(f"{where}: has an atom of unknown element")
    frame = Frames.single(numbers, np.array(positions, float), np.array(cell, float), pbc)
    if not (np.isfinite(frame.positions).all() and np.isfinite(frame.cell).all()):
        raise DataError(f"{where}: positions or cell are not finite")
    vectors = frame.cell[0][frame.pbc[0]]
    if len(vectors) and np.linalg.matrix_rank(vectors) < len(vectors):
        raise DataError(f"{where}: periodic in {len(vectors)} directions, but its lattice vectors do not span them")
    return frame


# ---- pymatgen ------------------------------------------------------------------------------------------------------


def to_pymatgen(frames: Frames) -> list[Structure]:
    """One `pymatgen.core.Structure` a frame.

    Raises:
        DataError: a frame whose lattice vectors span no volume; a `Structure` cannot be without.
    """
    from pymatgen.core import Element, Lattice, Structure

    out = []
    for i, f in enumerate(frames):
        if not f.volumes[0] > 0:
            raise DataError(f"frame {i}: a pymatgen Structure needs three lattice vectors; put the atoms into a box")
        lattice = Lattice(f.cell[0], pbc=tuple(bool(p) for p in f.pbc[0]))
        species = [Element.from_Z(int(z)) for z in f.numbers]
        out.append(Structure(lattice, species, f.positions, coords_are_cartesian=True))
    return out


def from_pymatgen(structures: Iterable[Structure], where: str = "structure") -> Frames:
    """The frames of several `pymatgen.core.Structure`.

    Raises:
        DataError: as `from_ase`.
    """
    parts = []
    for i, s in enumerate(structures):
        if not s.is_ordered:
            raise DataError(f"{where} {i}: partial occupancy {s.composition}; order the structure first")
        numbers = [site.specie.Z for site in s]
        parts.append(_frame(numbers, s.cart_coords, s.lattice.matrix, s.lattice.pbc, f"{where} {i}"))
    return Frames.concat(parts)


# ---- files ---------------------------------------------------------------------------------------------------------


def read_file(path: Path, index: str = ":") -> Shard:
    """Structures of any file that ase reads (extxyz, POSCAR, OUTCAR, cif ...), with labels and columns if it has them.

    Args:
        path: the file; its format is known by its name and content.
        index: which of its structures, as a Python slice or number.

    Raises:
        DataError: missing, unreadable, no structures, or structures that cannot be frames.
    """
    from ase.io import read

    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        compressed = path.suffix == ".gz" and path.with_suffix("").suffix in _XYZ
        found = read(_unpacked(path), index=index, format="extxyz") if compressed else read(path, index=index)
    except Exception as exc:
        raise DataError(f"{path}: cannot be read as structures ({index=}): {type(exc).__name__}: {exc}") from exc
    structures = found if isinstance(found, list) else [found]
    if not structures:
        raise DataError(f"{path}: holds no structures ({index=})")
    return labelled_from_ase(structures, f"{path}: structure")


def _unpacked(path: Path) -> io.StringIO:
    """The text of a compressed file; ase goes back and forth in it, which costs a pass over the whole each time."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return io.StringIO(file.read())


def write_file(path: Path, shard: Shard) -> None:
    """Write structures in the format that the file's name says; whole or not at all.

    Extended XYZ keeps labels and columns and every bit of them; other formats keep what ase writes.

    Raises:
        DataError: ase has no writer for it, or it cannot hold these structures.
    """
    if path.suffix in _XYZ:
        with written_whole(path) as draft:
            draft.write_text(extxyz(shard), encoding="utf-8")
        return
    from ase.io import write
    from ase.io.formats import filetype

    try:
        kind = filetype(str(path), read=False)
        with written_whole(path) as draft:
            write(draft, to_ase(shard.frames, shard.labels), format=kind)
    except Exception as exc:
        raise DataError(f"{path}: cannot be written: {type(exc).__name__}: {exc}") from exc


def extxyz(shard: Shard) -> str:
    """Extended XYZ with numbers as short as they can be without losing a bit; ase's own writer keeps eight decimals."""
    from ase.data import chemical_symbols

    f, out = shard.frames, []
    symbols = [chemical_symbols[z] for z in f.numbers]
    for i in range(len(f)):
        at = slice(int(f.offsets[i]), int(f.offsets[i + 1]))
        labels, forces = shard.labels, None
        info = [f'Lattice="{_words(f.cell[i])}"', f'pbc="{" ".join("FT"[int(p)] for p in f.pbc[i])}"']
        if labels is not None and np.isfinite(labels.energy[i]):
            forces = labels.forces[at]
            info.append(f"energy={float(labels.energy[i])!r}")
            if labels.stress is not None and np.isfinite(labels.stress[i]).all():
                info.append(f'stress="{_words(labels.stress[i])}"')
        info += [f"{name}={_word(column[i])}" for name, column in shard.columns.items()]
        info.append("Properties=species:S:1:pos:R:3" + (":forces:R:3" if forces is not None else ""))
        rows = f.positions[at] if forces is None else np.hstack([f.positions[at], forces])
        out += [str(len(rows)), " ".join(info)]
        out += [f"{s} {' '.join(map(repr, row))}" for s, row in zip(symbols[at], rows.tolist(), strict=True)]
    return "\n".join(out) + "\n" if out else ""


def _words(array: Floats) -> str:
    return " ".join(map(repr, array.ravel().tolist()))


def _word(value: Any) -> str:
    plain = value.item() if isinstance(value, np.generic) else value
    if isinstance(plain, bool):
        return "FT"[plain]
    if plain == "":
        return '"_JSON \\"\\""'  # ase takes an empty pair of quotes for what comes next
    if isinstance(plain, str):
        escaped = plain.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'"{escaped}"'
    return repr(plain)
