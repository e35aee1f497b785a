"""Which INCAR tags decide what VASP computes, and which only how it gets there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from alflow.errors import InputError

ALGORITHMS: Final = frozenset(
    {"normal", "fast", "veryfast", "all", "damped", "conjugate", "subrot", "n", "f", "v", "a", "d", "c", "s"}
)
"""Values of ALGO that look for the same self-consistent ground state."""
ON_PATH: Final = frozenset(
    {"AMIN", "AMIX", "AMIX_MAG", "BMIX", "BMIX_MAG", "DEPER", "EBREAK", "IMIX", "INIMIX", "INIWAV", "ISEARCH", "ISTART"}
    | {"KPAR", "LASYNC", "LCHARG", "LDIAG", "LMAXMIX", "LPLANE", "LSCALAPACK", "LSCALU", "LWAVE", "MAXMIX", "MIXPRE"}
    | {"NCORE", "NELM", "NELMDL", "NELMIN", "NPAR", "NRMM", "NSIM", "NWRITE", "TIME", "WC", "WEIMIN"}
    | {"POTIM"}  # moves nothing where nothing moves
)
"""Tags whose every value leaves the ground state where it is: the numerical path."""
_SOME: Final = frozenset({"ALGO", "IALGO", "ICHARG", "NBANDS"})
"""Tags of which some values are on the path."""

_OURS: Final = frozenset(
    {"EDIFF", "ENCUT", "GGA", "IBRION", "ICHARG", "ISIF", "ISMEAR", "ISPIN", "ISTART", "IVDW", "KGAMMA", "KSPACING"}
    | {"LCHARG", "LWAVE", "MAGMOM", "METAGGA", "NELM", "NSW", "SIGMA"}
)
"""Tags that a labeler of static labels sets itself."""
_UNFIT: Final = frozenset({"LCALCPOL", "LCHIMAG", "LEPSILON", "LOPTICS", "ML_LMLFF", "PSTRESS"})
"""Tags that make something else than the energy of a structure and its derivatives."""
_BY_ELEMENT: Final = frozenset({"LDAUJ", "LDAUL", "LDAUU"})


def on_path(key: str, old: Any, new: Any) -> bool:
    """Whether a change of a setting leaves the label what it is: an INCAR tag, ``KPOINTS`` or ``POSCAR``.

    EDIFF may only become tighter, NBANDS larger, projections exact (``LREAL = .FALSE.``).
    """
    if key == "ALGO":
        return str("Normal" if new is None else new).lower() in ALGORITHMS
    if key == "IALGO":
        return new is None or 38 <= int(new) <= 68  # the algorithms that ALGO names
    if key == "ICHARG":
        return new in {None, 0, 1, 2}  # 10 and more keep the density as it is
    if key == "EDIFF":
        return new is not None and float(new) < float(1e-4 if old is None else old)
    if key == "NBANDS":
        return new is not None and (old is None or int(new) > int(old))
    if key == "LREAL":
        return new is False or str(new).strip(".").upper() in {"F", "FALSE"}
    return key in ON_PATH


def decides(key: str) -> bool:
    """Whether an INCAR tag belongs to the level of theory."""
    return key not in ON_PATH | _SOME


def check_hubbard(tags: Mapping[str, Any]) -> None:
    """Refuse Hubbard parameters that would not be used: they need LDAU, which needs all three of them.

    Raises:
        InputError: with the tag.
    """
    on = tags.get("LDAU", False)
    switched = on is True or str(on).strip(".").upper() in {"T", "TRUE"}
    given = sorted(_BY_ELEMENT & set(tags))
    if given and not switched:
        raise InputError(f"incar.{given[0]}", "has no effect without LDAU", "add LDAU: true")
    if switched and (missing := sorted({"LDAUL", "LDAUU"} - set(given))):
        raise InputError(f"incar.{missing[0]}", "is missing with LDAU", "give it by element, such as {Fe: 2}")
    strengths = dict(tags.get("LDAUU", {}))
    for element in [*strengths, *tags.get("LDAUJ", {})]:
        if not strengths.get(element, 0.0) > 0:  # pymatgen drops everything of such an element
            raise InputError(
                f"incar.LDAUU.{element}", f"should be above 0, got {strengths.get(element)}", "or leave it out"
            )
    for element, value in dict(tags.get("LDAUL", {})).items():
        if value not in {-1, 0, 1, 2, 3}:
            raise InputError(f"incar.LDAUL.{element}", f"should be -1, 0, 1, 2 or 3, got {value:g}")


def check_tag(tag: str, value: Any) -> None:
    """Refuse a user's INCAR tag that is not his to set, or that makes no label.

    Raises:
        InputError: with the tag.
    """
    if tag in _OURS:
        raise InputError(f"incar.{tag}", "is set by the other keys of this labeler", "remove it from incar")
    if tag in _UNFIT:
        raise InputError(f"incar.{tag}", "makes no static label of a structure", "remove it from incar")
    if isinstance(value, Mapping) != (tag in _BY_ELEMENT):
        hint = "give it by element, such as {Fe: 4}" if tag in _BY_ELEMENT else "give one value"
        raise InputError(f"incar.{tag}", f"cannot be {value!r}", hint)
    if tag in {"ALGO", "IALGO"} and not on_path(tag, None, value):
        raise InputError(f"incar.{tag}", f"{value!r} does not look for the self-consistent ground state", "try Normal")
