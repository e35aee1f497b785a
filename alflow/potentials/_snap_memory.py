"""The memory that a fit of `snap` needs, known before any label is bought."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from alflow.errors import InputError
from alflow.numerics.bispectrum_tables import triples
from alflow.potentials._snap_files import n_terms

if TYPE_CHECKING:
    from alflow.potentials.snap import Part

MOST_GB: Final = 64
"""For the triangles of one task: what a large node has for each of several tasks. 25,000 unknowns of a member fit in,
whose solution takes hours; nobody has more by intent."""
_A_MEMBER, _ONCE = 9, 3
"""Triangles in memory at once, for each member and besides: of energies, forces and stresses, and two copies of each
while a checkpoint is written or read. To solve for a member takes nine besides those three of each, never more than
that."""


def check_memory(part: Part, n_elements: int) -> None:
    """Refuse more unknowns than any machine has memory for.

    Raises:
        InputError: with the field to lower.
    """
    n = max(n_elements, 1) * (1 + n_terms(len(triples(part.twojmax)), part.quadratic))
    triangle = 8e-9 * (n + 1) ** 2
    needed = (_A_MEMBER * part.members_per_task + _ONCE) * triangle
    if needed <= MOST_GB:
        return
    fit = max(0, int((MOST_GB / triangle - _ONCE) / _A_MEMBER))
    where = "members_per_task" if fit else "quadratic" if part.quadratic else "twojmax"
    less = "quadratic: false, or a lower twojmax" if part.quadratic else "a lower twojmax"
    raise InputError(
        where,
        f"{n} unknowns, of {part.members_per_task} members in a task, need {needed:.0f} GB of memory, "
        f"expected at most {MOST_GB}",
        f"members_per_task: {fit}" if fit else f"{less}, or fewer elements",
    )
