"""The descriptor settings that parts on bispectrum components share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from ase.data import atomic_numbers, chemical_symbols

from alflow.core.frames import Ints
from alflow.errors import DataError
from alflow.numerics.bispectrum import BispectrumSettings

WHY_WEIGHTS: Final = "with several elements each needs a weight of its own, or neighbours of all kinds look the same"


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
    if lacking := unweighted(part, symbols):
        raise DataError(f"`weights` lacks {', '.join(lacking)}: {WHY_WEIGHTS}")
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


def unweighted(part: BispectrumPart, elements: Sequence[str]) -> list[str]:
    """Those of several elements that have no weight."""
    return [s for s in elements if s not in part.weights] if len(elements) > 1 else []
