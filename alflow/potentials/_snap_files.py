"""SNAP potentials as LAMMPS keeps them: ``.snapcoeff``, ``.snapparam``, and the ``.snap`` script that joins them.

They are also the form in which fits are saved: LAMMPS reads them as they are, and numbers are written with all digits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from alflow.core.frames import Floats
from alflow.errors import DataError
from alflow.numerics.bispectrum import BispectrumSettings
from alflow.numerics.zbl import Zbl
from alflow.store.files import write_text

_FLAGS: Final = {"switchflag": "switch", "bzeroflag": "bzero"}
_NUMBERS: Final = {"rcutfac": "rcutfac_A", "rfac0": "rfac0", "rmin0": "rmin0_A"}
_ONLY_OFF: Final = ("chemflag", "bnormflag", "wselfallflag", "switchinnerflag")
"""What we know of and do not compute: 0 is their only value here."""
_NO_MATTER: Final = ("chunksize", "parallelthresh", "sinner", "dinner", "diagonalstyle")
_ONE_EACH: Final = ("sinner", "dinner")
"""Keywords with a value for every element."""


@dataclass(frozen=True, slots=True, eq=False)
class Snap:
    """One SNAP potential.

    Attributes:
        settings: of the descriptors B.
        quadratic: whether products of descriptors enter.
        coefficients: in eV, (n_elements, 1 + K) or (n_elements, 1 + K + K (K + 1) / 2), K descriptors: a constant; one
            of each B_k; then of B_1 B_1 / 2, B_1 B_2, ..., B_1 B_K, B_2 B_2 / 2, ... B_K B_K / 2.
        zbl: the repulsion that is added, or None.
    """

    settings: BispectrumSettings
    quadratic: bool
    coefficients: Floats
    zbl: Zbl | None = None

    @property
    def symbols(self) -> list[str]:
        """Chemical symbols in the order of the coefficients."""
        return [chemical_symbols[z] for z in self.settings.numbers]

    def alike(self, other: Snap) -> bool:
        """Whether the two differ in nothing but coefficients."""
        mine, theirs = ((s.settings, s.quadratic, s.zbl) for s in (self, other))
        return mine == theirs


def n_terms(n_features: int, quadratic: bool) -> int:
    """Terms of the energy of an atom besides the constant."""
    return n_features + (n_features * (n_features + 1) // 2 if quadratic else 0)


# ---- writing -------------------------------------------------------------------------------------------------------


def write(folder: Path, name: str, snap: Snap, remark: str = "") -> tuple[str, str, str]:
    """Write ``NAME.snapcoeff``, ``NAME.snapparam`` and ``NAME.snap`` into `folder`; their names."""
    names = (f"{name}.snapcoeff", f"{name}.snapparam", f"{name}.snap")
    head = (
        f"# SNAP potential of {' '.join(snap.symbols)}, units metal, made by alflow{f': {remark}' if remark else ''}\n"
    )
    write_text(folder / names[0], head + _coefficients(snap))
    write_text(folder / names[1], head + _parameters(snap))
    write_text(folder / names[2], head + "\n".join(pair_lines(snap, names[0], names[1])) + "\n")
    return names


def pair_lines(snap: Snap, coefficients: str, parameters: str) -> list[str]:
    """The pair_style and pair_coeff lines; atom types in the order of `Snap.symbols`."""
    files, elements = f"{_quoted(coefficients)} {_quoted(parameters)}", " ".join(snap.symbols)
    if snap.zbl is None:
        return ["pair_style snap", f"pair_coeff * * {files} {elements}"]
    z = snap.settings.numbers
    pairs = [f"pair_coeff {i + 1} {j + 1} zbl {z[i]} {z[j]}" for i in range(len(z)) for j in range(i, len(z))]
    style = f"pair_style hybrid/overlay zbl {snap.zbl.inner_A!r} {snap.zbl.outer_A!r} snap"
    return [style, *pairs, f"pair_coeff * * snap {files} {elements}"]


def _quoted(word: str) -> str:
    return f'"{word}"' if re.search(r"\s", word) else word


def _coefficients(snap: Snap) -> str:
    lines = [f"{len(snap.coefficients)} {snap.coefficients.shape[1]}"]
    for symbol, r, w, c in zip(
        snap.symbols, snap.settings.radii, snap.settings.weights, snap.coefficients.tolist(), strict=True
    ):
        lines += [f"{symbol} {r!r} {w!r}", *map(repr, c)]
    return "\n".join(lines) + "\n"


def _parameters(snap: Snap) -> str:
    s = snap.settings
    lines = [f"twojmax {s.twojmax}"]
    lines += [f"{theirs} {float(getattr(s, ours))!r}" for theirs, ours in _NUMBERS.items()]
    lines += [f"{theirs} {int(getattr(s, ours))}" for theirs, ours in _FLAGS.items()]
    return "\n".join([*lines, f"quadraticflag {int(snap.quadratic)}"]) + "\n"


# ---- reading -------------------------------------------------------------------------------------------------------


def read(path: Path) -> Snap:
    """The potential of a ``.snap``, ``.snapcoeff`` or ``.snapparam`` file; the others are looked for beside it.

    A ``.snap`` script beside the other two counts too: it knows of the repulsion that belongs to them.

    Raises:
        DataError: a file that is missing or cannot be read, or asks for what is not computed here.
    """
    script = path.with_suffix(".snap")
    if path.suffix == ".snap" or script.is_file():
        return _read_script(script)
    return read_pair(path.with_suffix(".snapcoeff"), path.with_suffix(".snapparam"))


def read_pair(coefficients: Path, parameters: Path, elements: Sequence[str] = ()) -> Snap:
    """The potential of two files, of some of its elements if they are named.

    Raises:
        DataError: as `read`.
    """
    blocks, count = _read_coefficients(coefficients)
    given, quadratic = _read_parameters(parameters)
    if absent := [s for s in elements if s not in blocks]:
        raise DataError(f"{coefficients}: has no {', '.join(absent)}, only {', '.join(blocks)}")
    chosen = {s: blocks[s] for s in elements or blocks}
    try:
        settings = BispectrumSettings(
            tuple(atomic_numbers[s] for s in chosen),
            radii=tuple(b[0] for b in chosen.values()),
            weights=tuple(b[1] for b in chosen.values()),
            **given,
        )
    except DataError as exc:
        raise DataError(f"{coefficients} with {parameters}: {exc}") from exc
    expected = 1 + n_terms(settings.n_features, quadratic)
    if count != expected:
        raise DataError(
            f"{coefficients}: expected {expected} coefficients an element for twojmax {settings.twojmax}"
            f"{' and products' if quadratic else ''} as {parameters.name} says, got {count}"
        )
    return Snap(settings, quadratic, np.array([b[2] for b in chosen.values()]))


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number and words of each line that has any; comments are none."""
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")  # comments are in any encoding
    except OSError as exc:
        raise DataError(f"{path}: cannot be read: {exc}") from exc
    if "\0" in text:
        raise DataError(f"{path}: cannot be read: is no text, or text of 16 bits a character")
    for number, line in enumerate(text.splitlines(), 1):
        if words := re.findall(r'"[^"]*"|\S+', line.partition("#")[0]):
            yield number, words


def _read_parameters(path: Path) -> tuple[dict[str, Any], bool]:
    """Arguments of `BispectrumSettings`, and whether products enter."""
    found: dict[str, str] = {}
    for number, words in _lines(path):
        if len(words) != 2 and not (len(words) > 2 and words[0] in _ONE_EACH):
            raise DataError(f"{path}, line {number}: expected a keyword and a value, got {' '.join(words)!r}")
        found[words[0]] = words[1]
    known = {*_FLAGS, *_NUMBERS, *_ONLY_OFF, *_NO_MATTER, "twojmax", "quadraticflag"}
    if strange := sorted(found.keys() - known):
        raise DataError(f"{path}: keywords that SNAP does not have: {', '.join(strange)}")
    if missing := sorted({"rcutfac", "twojmax"} - found.keys()):
        raise DataError(f"{path}: expected {' and '.join(missing)}, got {', '.join(found) or 'nothing'}")
    if extra := [k for k in _ONLY_OFF if found.get(k, "0") != "0"]:
        raise DataError(f"{path}: {', '.join(extra)}: only 0 is supported; LAMMPS itself can run this potential")
    try:
        given: dict[str, Any] = {ours: float(found[theirs]) for theirs, ours in _NUMBERS.items() if theirs in found}
        flags = {theirs: bool(int(found[theirs])) for theirs in (*_FLAGS, "quadraticflag") if theirs in found}
        given |= {ours: flags[theirs] for theirs, ours in _FLAGS.items() if theirs in flags}
        given["twojmax"] = int(found["twojmax"])
    except ValueError as exc:
        raise DataError(f"{path}: not a number: {exc}") from exc
    return given, flags.get("quadraticflag", False)


def _read_coefficients(path: Path) -> tuple[dict[str, tuple[float, float, list[float]]], int]:
    """Radius, weight and coefficients of each element, and how many there are of the last."""
    lines = list(_lines(path))
    if not lines or len(lines[0][1]) != 2 or not all(w.isdigit() for w in lines[0][1]):
        raise DataError(f"{path}: expected the numbers of elements and coefficients first, got {lines[:1]}")
    n_elements, count = map(int, lines[0][1])
    if not (n_elements and count and len(lines) == 1 + n_elements * (1 + count)):
        raise DataError(
            f"{path}: is cut off or damaged: expected {n_elements} elements of {count} coefficients, one a line, "
            f"{1 + n_elements * (1 + count)} lines in all, got {len(lines)}"
        )
    blocks = {}
    for k in range(n_elements):
        at = 1 + k * (1 + count)
        number, head = lines[at]
        if len(head) != 3 or atomic_numbers.get(head[0], 0) < 1 or head[0] in blocks:
            raise DataError(f"{path}, line {number}: expected an element, its radius and its weight, got {head}")
        radius, weight = (_number(path, number, [w]) for w in head[1:])
        blocks[head[0]] = (radius, weight, [_number(path, *line) for line in lines[at + 1 : at + 1 + count]])
    return blocks, count


def _number(path: Path, line: int, words: list[str]) -> float:
    try:
        (value,) = map(float, words)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise DataError(f"{path}, line {line}: expected one number, got {' '.join(words)!r}")
    return value


# ---- LAMMPS scripts ------------------------------------------------------------------------------------------------


def _read_script(path: Path) -> Snap:
    """The potential of a script with ``pair_style snap``, or ``hybrid/overlay`` of it with ``zbl``."""
    commands = list(_commands(path))
    for number, words in commands:
        if words[0] == "units" and words[1:] != ["metal"]:
            raise DataError(f"{path}, line {number}: expected units metal (eV and Å), got {' '.join(words)!r}")
    ((style, styles),) = [(k, w[1:]) for k, w in commands if w[0] == "pair_style"][-1:] or [(0, [])]
    coeffs = [(k, w[1:]) for k, w in commands if w[0] == "pair_coeff"]
    overlay = styles[:1] == ["hybrid/overlay"]
    named = [w for w in styles if not _is_number(w) and w != "hybrid/overlay"]
    if sorted(named) not in (["snap"], ["snap", "zbl"]) or (len(named) == 2 and not overlay):
        wanted = "expected pair_style snap, or hybrid/overlay of zbl and snap"
        raise DataError(f"{path}, line {style}: {wanted}, got {' '.join(styles)!r}")
    snap_lines = [w[:2] + w[3:] if overlay else w for _, w in coeffs if not overlay or w[2:3] == ["snap"]]
    if len(snap_lines) != 1 or len(snap_lines[0]) < 5 or snap_lines[0][:2] != ["*", "*"]:
        raise DataError(f"{path}: expected one line pair_coeff * * [snap] COEFFICIENTS PARAMETERS ELEMENTS")
    _, _, coefficients, parameters, *elements = snap_lines[0]
    found = read_pair(path.parent / coefficients, path.parent / parameters, elements)
    if "zbl" not in named:
        return found
    _check_charges(path, found, [(k, w) for k, w in coeffs if w[2:3] == ["zbl"]])
    at = styles.index("zbl")
    try:
        zbl = Zbl(*map(float, styles[at + 1 : at + 3]))
    except (TypeError, ValueError) as exc:
        raise DataError(f"{path}, line {style}: zbl wants an inner and an outer cutoff: {exc}") from exc
    return Snap(found.settings, found.quadratic, found.coefficients, zbl)


def _check_charges(path: Path, snap: Snap, lines: list[tuple[int, list[str]]]) -> None:
    """Refuse a script whose zbl leaves a pair out, or gives it other charges than its elements have."""
    z = snap.settings.numbers
    given: dict[tuple[int, int], tuple[int, list[str]]] = {}
    for number, words in lines:
        types = [_types(w, len(z)) for w in words[:2]]
        if len(words) != 5 or not all(types) or not all(map(_is_number, words[3:])):
            raise DataError(f"{path}, line {number}: expected pair_coeff I J zbl Zi Zj, got {' '.join(words)!r}")
        given |= {
            (min(i, j), max(i, j)): (number, words[3:]) for i in types[0] for j in types[1]
        }  # the last one counts
    for (i, j), (number, charges) in given.items():
        if sorted(map(float, charges)) != sorted((z[i], z[j])):
            raise DataError(f"{path}, line {number}: expected the charges {z[i]} and {z[j]}, got {charges}")
    if len(given) != len(z) * (len(z) + 1) // 2:
        raise DataError(f"{path}: zbl is given for {len(given)} of {len(z) * (len(z) + 1) // 2} pairs of elements")


def _types(word: str, n: int) -> range:
    """Indices of the atom types that a number, ``*``, ``2*`` or ``1*3`` stands for; none where that makes no sense."""
    match = re.fullmatch(r"(\d*)(\*?)(\d*)", word)
    if match is None or not (match[1] or match[2]):
        return range(0)
    first = int(match[1] or 1)
    last = int(match[3] or n) if match[2] else first
    return range(first - 1, last) if 1 <= first <= last <= n else range(0)


def _commands(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and words of each command, its continuation lines joined and its variables filled in."""
    variables: dict[str, str] = {}
    before: list[str] = []
    for number, words in _lines(path):
        before += [w for w in words if w != "&"]
        if words[-1] == "&":
            continue
        filled = [_filled(w, variables, path, number).strip('"') for w in before]
        before = []
        if filled[0] == "variable" and len(filled) == 4 and filled[2] in {"equal", "index", "string"}:
            variables[filled[1]] = filled[3]
        yield number, filled


def _filled(word: str, variables: Mapping[str, str], path: Path, number: int) -> str:
    def value(match: re.Match[str]) -> str:
        if match[1] not in variables:
            raise DataError(f"{path}, line {number}: the variable {match[1]} is not set")
        return variables[match[1]]

    return re.sub(r"\$\{(\w+)\}", value, word)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
