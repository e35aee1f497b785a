"""The descriptor settings that parts on bispectrum components share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from alflow.core.frames import Ints
from alflow.errors import DataError, InputError
from alflow.numerics.bispectrum import BispectrumSettings
from alflow.potentials._nets_check import check_elements

MOST_TWOJMAX: Final = 20
"""506 components; tables of more couplings would fill the memory."""
_WHY_WEIGHTS: Final = "with several elements each needs a weight of its own, or neighbours of all kinds look the same"


class BispectrumPart(Protocol):
    """The fields; see `alflow.potentials.snap.Part`."""

    @property
    def elements(self) -> tuple[str, ...]: ...
    @property
    def twojmax(self) -> int: ...
    @property
    def cutoff_A(self) -> float: ...
    @property
    def radii(self) -> Mapping[str, float]: ...
    @property
    def weights(self) -> Mapping[str, float]: ...
    @property
    def rfac0(self) -> float: ...
    @property
    def rmin0_A(self) -> float: ...
    @property
    def switch(self) -> bool: ...


def settings_of(part: BispectrumPart, numbers: Ints | Sequence[int], *, bzero: bool = True) -> BispectrumSettings:
    """Settings of the descriptors for these atomic numbers, or for the part's `elements` where given.

    Raises:
        DataError: an atomic number that is not among `elements`, or settings that make no sense.
    """
    found = sorted({int(z) for z in numbers})
    known = tuple(sorted(atomic_numbers[s] for s in part.elements)) or tuple(found)
    if not set(found) <= set(known):
        raise DataError(f"the data hold the atomic numbers {found}, but `elements` is {list(part.elements)}")
    symbols = [chemical_symbols[z] for z in known]
    if lacking := _unweighted(part, symbols):
        raise DataError(f"`weights` lacks {', '.join(lacking)}: {_WHY_WEIGHTS}")
    return BispectrumSettings(
        known,
        part.twojmax,
        part.cutoff_A,
        tuple(part.radii.get(s, 0.5) for s in symbols),
        tuple(part.weights.get(s, 1.0) for s in symbols),
        part.rfac0,
        part.rmin0_A,
        part.switch,
        bzero,
    )


def check_descriptors(part: BispectrumPart, elements: frozenset[str]) -> None:
    """Refuse fields that cannot work for these chemical symbols; see `alflow.interfaces.Potential.check`.

    Raises:
        InputError: with the field at fault.
    """
    if not 0 < part.cutoff_A < np.inf:
        raise InputError("cutoff_A", f"expected a positive number, got {part.cutoff_A}")
    if not 0 <= part.twojmax <= MOST_TWOJMAX:
        raise InputError("twojmax", f"expected a number from 0 to {MOST_TWOJMAX}, got {part.twojmax}")
    if not 0 < part.rfac0 <= 1:
        raise InputError("rfac0", f"expected a positive number of at most 1, got {part.rfac0}")
    check_elements(part.elements, elements)
    for name, given in (("radii", part.radii), ("weights", part.weights)):
        if strange := sorted(s for s in given if atomic_numbers.get(s, 0) < 1):
            raise InputError(name, f"not chemical symbols: {', '.join(strange)}")
        check_keyed(name, given, part.elements or sorted(elements))
    if not all(0 < r < np.inf for r in part.radii.values()):
        raise InputError("radii", f"expected positive numbers, got {dict(part.radii)}")
    if not np.isfinite(list(part.weights.values())).all():
        raise InputError("weights", f"expected numbers, got {dict(part.weights)}")
    symbols = part.elements or sorted(elements)
    shortest = 2 * part.cutoff_A * min([part.radii.get(s, 0.5) for s in symbols], default=0.5)
    if not 0 <= part.rmin0_A < shortest:
        raise InputError(
            "rmin0_A", f"expected 0 or more and less than the shortest cutoff, {shortest:g}, got {part.rmin0_A}"
        )
    if lacking := _unweighted(part, symbols):
        raise InputError("weights", f"lacks {', '.join(lacking)}", _WHY_WEIGHTS)


def check_keyed(name: str, given: Iterable[str], elements: Sequence[str]) -> None:
    """Refuse a mapping by element with keys that are none of these.

    Raises:
        InputError: with the field `name`.
    """
    if unused := sorted(set(given) - set(elements)):
        problem = f"has {', '.join(unused)}, but the elements are {', '.join(elements)}"
        raise InputError(name, problem, "take it out, or add it to elements")


def _unweighted(part: BispectrumPart, elements: Sequence[str]) -> list[str]:
    """Those of several elements that have no weight."""
    return [s for s in elements if s not in part.weights] if len(elements) > 1 else []
