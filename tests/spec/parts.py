"""Parts of the shape that later methods have, so that the schema is held to express them."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from alflow.core.labels import Theory
from alflow.errors import InputError
from alflow.interfaces import Capability, Code, part


@part
class Basis:
    """A single potential with a linear basis (MTP, ACE)."""

    level: int
    cutoff_A: float = 5.0
    members: int = 1
    members_per_task: int = 1
    provides: ClassVar[frozenset[Capability]] = frozenset({Capability.FEATURES})

    def check(self, elements: frozenset[str]) -> None:
        if self.level % 2:
            raise InputError("level", f"is even, got {self.level}")
        if len(elements) > 2:
            raise InputError("elements", f"at most two, got {sorted(elements)}")


@part
class Grade:
    """An extrapolation grade."""

    per: str = "frame"
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.FEATURES})


@part
class Spread:
    """A deviation of members."""

    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.MEMBERS})


@part
class Climb:
    """A sampler without a model (entropy maximisation)."""

    steps: int = 10
    needs_guide: ClassVar[bool] = False
    length_unit: ClassVar[str] = "steps"


@part
class Resample:
    """Frames of an earlier stage."""

    from_stage: str
    count: int = 1

    def check(self) -> None:
        if self.count < 1:
            raise InputError("count", f"should be at least 1, got {self.count}")

    def elements(self) -> frozenset[str]:
        return frozenset()


@part
class Cells:
    """A builder with a file."""

    species: tuple[str, ...] = ("Al",)
    file: Path | None = None

    def check(self) -> None:
        if self.file is not None and not self.file.is_file():
            raise InputError("file", f"{self.file} does not exist")

    def elements(self) -> frozenset[str]:
        return frozenset(self.species)


@part
class MaxVol:
    """Rows of a basis."""

    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.FEATURES})


@part
class Any:
    """Takes what comes."""

    requires: ClassVar[frozenset[Capability]] = frozenset()


@part
class Dft:
    """A labeler with a program."""

    encut_eV: float = 300.0
    kpoints: str | tuple[int, int, int] = "gamma"
    code: ClassVar[str] = "dft"

    def check(self, elements: frozenset[str], code: Code | None) -> None:
        if code is None:
            raise InputError("codes.dft", "is not in the site file")
        if missing := sorted(elements - set(code.settings["knows"])):
            raise InputError("elements", f"no pseudopotential for {', '.join(missing)}")

    def theory(self, code: Code | None) -> Theory:
        return Theory("dft", {"encut_eV": self.encut_eV})
