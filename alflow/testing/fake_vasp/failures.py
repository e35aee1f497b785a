"""The ways in which the stand-in goes wrong, and by what each goes away.

``FAKE_VASP`` (environment), or the arguments of the program, name them, separated by commas:

    eddrmm              the failure, until its usual cure
    eddrmm:never        whatever is tried
    eddrmm:ALGO=All     until the INCAR says so
    slow:0.5            every electronic step takes half a second
    fails:0.2           a fifth of the structures, by their content, cannot be labelled, each in a way of its own
    mends:0.3           so many can, after a correction
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from alflow.testing.fake_vasp.inputs import Inputs

Cure = Callable[[Inputs], bool]


class Act(StrEnum):
    """What happens besides the message."""

    STOP = "stop"
    """VASP stops with an error, in the middle of its output."""
    WARN = "warn"
    """It goes on to its end."""
    LOOP = "loop"
    """The electronic loop never converges."""
    HANG = "hang"
    """It does nothing more."""
    KILL = "kill"
    """Its process is killed, as the kernel does when memory runs out."""
    CRASH = "crash"
    """Segmentation fault."""
    TRUNCATE = "truncate"
    """``vasprun.xml`` is cut off."""
    EMPTY = "empty"
    """``vasprun.xml`` is empty."""
    NOTHING = "nothing"
    """No ``vasprun.xml`` at all."""
    OTHER = "other"
    """The output is of another structure."""
    SETTINGS = "settings"
    """The output is of other settings."""
    STARS = "stars"
    """Forces that do not fit their field."""
    BLOWN = "blown"
    """Forces a million times too large."""
    POSITIVE = "positive"
    """A positive total energy."""
    ALIAS = "alias"
    """The grid is too small; OUTCAR says how large it should be."""
    ENTROPY = "entropy"
    """A large entropy of the smearing."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One way to go wrong.

    Attributes:
        message: what is printed.
        cure: whether the inputs make it go away.
        act: what happens.
    """

    message: str
    cure: Cure
    act: Act = Act.STOP


def never(_inputs: Inputs) -> bool:
    """No cure."""
    return False


def tag(name: str, *values: Any) -> Cure:
    """Cured by an INCAR tag of one of these values."""
    wanted = [str(v).lower() for v in values]
    return lambda inputs: str(inputs.tag(name, "")).lower() in wanted


def algo(*values: str) -> Cure:
    """Cured by an algorithm; Normal is the default."""
    wanted = [v.lower() for v in values]
    return lambda inputs: str(inputs.tag("ALGO", "Normal")).lower() in wanted


def _symprec(inputs: Inputs) -> bool:
    return bool(inputs.tag("SYMPREC", 1e-5) != 1e-5)


FAILURES: Final[Mapping[str, Failure]] = {
    "tet": Failure("Tetrahedron method fails (number of k-points < 4)", tag("ISMEAR", 0)),
    "inv_rot_mat": Failure("rotation matrix was not found (increase SYMPREC)", _symprec),
    "brmix": Failure(
        "BRMIX: very serious problems\n the old and the new charge density differ", tag("IMIX", 1), Act.WARN
    ),
    "subspacematrix": Failure(
        "WARNING: Sub-Space-Matrix is not hermitian in DAV", lambda i: i.tag("LREAL", "F").upper().strip(".")[0] == "F"
    ),
    "real_optlay": Failure(
        "REAL_OPTLAY: internal error (1)", lambda i: i.tag("LREAL", "F").upper().strip(".")[0] == "F"
    ),
    "eddrmm": Failure("WARNING in EDDRMM: call to ZHEGV failed, returncode =   6  3     10", algo("Normal", "All")),
    "edddav": Failure("Error EDDDAV: Call to ZHEGV failed. Returncode =  15 2 16", algo("All")),
    "zheev": Failure("ERROR EDDIAG: Call to routine ZHEEV failed! 95 2 192", algo("All")),
    "zpotrf": Failure("LAPACK: Routine ZPOTRF failed!", tag("ISYM", 0)),
    "pssyevx": Failure("ERROR in subspace rotation PSSYEVX: not enough eigenvalues found", algo("Normal")),
    "rhosyg": Failure("RHOSYG internal error: stars are not distinct", _symprec),
    "posmap": Failure("POSMAP internal error: symmetry equivalent atom not found", _symprec),
    "point_group": Failure("internal error in subroutine IBZKPT: group operation missing", tag("ISYM", 0)),
    "bravais": Failure("Inconsistent Bravais lattice types found for crystalline and reciprocal lattice", _symprec),
    "amin": Failure(
        "One of the lattice vectors is very long (>50 A), but AMIN", lambda i: i.tag("AMIN", 0.1) <= 0.01, Act.WARN
    ),
    "nbands_not_sufficient": Failure(
        "ERROR: the number of bands is not sufficient to hold all electrons", lambda i: "NBANDS" in i.incar
    ),
    "too_few_bands": Failure("TOO FEW BANDS", lambda i: "NBANDS" in i.incar, Act.WARN),
    "dentet": Failure("DENTET: can't reach specified precision", tag("ISMEAR", 0), Act.WARN),
    "aliasing": Failure(
        "WARNING: small aliasing (wrap around) errors must be expected", lambda i: "NGX" in i.incar, Act.ALIAS
    ),
    "unconverged": Failure("", algo("All"), Act.LOOP),
    "positive_energy": Failure("", algo("Normal", "All"), Act.POSITIVE),
    "large_sigma": Failure("", lambda i: i.tag("SIGMA", 0.2) < 0.1, Act.ENTROPY),
    "frozen": Failure("", algo("Normal", "All"), Act.HANG),
    "out_of_memory": Failure(
        "Allocation would exceed memory limit", lambda i: "KPAR" in i.incar and i.tag("KPAR", 1) == 1
    ),
    "killed": Failure("", never, Act.KILL),
    "segfault": Failure("forrtl: severe (174): SIGSEGV, segmentation fault occurred", never, Act.CRASH),
    "core_wf": Failure("internal error in SET_CORE_WF", never),
    "truncated": Failure("", never, Act.TRUNCATE),
    "zero_byte": Failure("", never, Act.EMPTY),
    "no_output": Failure("", never, Act.NOTHING),
    "other_structure": Failure("", never, Act.OTHER),
    "other_settings": Failure("", never, Act.SETTINGS),
    "stars": Failure("", never, Act.STARS),
    "huge_forces": Failure("", never, Act.BLOWN),
}
FATAL: Final = (
    *("tet", "inv_rot_mat", "posmap", "zpotrf:never", "unconverged:never", "segfault", "killed", "truncated"),
    *("zero_byte", "no_output", "other_structure", "stars", "core_wf"),
)
MENDED: Final = ("brmix", "edddav", "zheev", "amin", "too_few_bands", "unconverged")


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of one run.

    Attributes:
        failure: how it goes wrong, or None.
        step_s: how long an electronic step takes.
    """

    failure: Failure | None
    step_s: float


def plan(words: Sequence[str], inputs: Inputs) -> Plan:
    """The first failure named in `words` that the inputs do not cure.

    Raises:
        ValueError: a word that names none.
    """
    step, failure = 0.0, None
    for word in [w for text in words for w in text.split(",") if w]:
        name, _, argument = word.partition(":")
        if name == "slow":
            step = float(argument)
        elif failure is None:
            for chosen in _drawn(name, float(argument), inputs) if name in {"fails", "mends"} else [word]:
                found = _named(chosen)
                failure = None if found.cure(inputs) else found
    return Plan(failure, step)


def _named(word: str) -> Failure:
    name, _, argument = word.partition(":")
    if name not in FAILURES:
        raise ValueError(f"FAKE_VASP names no failure {name!r}, only {', '.join(FAILURES)}")
    known = FAILURES[name]
    if not argument:
        return known
    key, _, value = argument.partition("=")
    return Failure(known.message, never if argument == "never" else tag(key, value), known.act)


def _drawn(name: str, fraction: float, inputs: Inputs) -> list[str]:
    """The failure of this structure, the same whenever it is asked, or none."""
    content = f"{inputs.symbols} {inputs.lattice.round(6).tolist()} {inputs.fractions.round(6).tolist()}"
    number = int.from_bytes(hashlib.sha256(f"{name} {content}".encode()).digest()[:8], "big")
    kinds = FATAL if name == "fails" else MENDED
    return [kinds[number % len(kinds)]] if number / 2**64 < fraction else []
