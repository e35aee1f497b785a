"""The newest potential as LAMMPS reads it, beside its model."""

from __future__ import annotations

from pathlib import Path

from alflow.errors import InputError
from alflow.interfaces import HasPairStyle, Model
from alflow.store.files import write_text

INPUT = "in.potential"


def write_lammps(model: Model, folder: Path) -> str:
    """Write the mean of a model and an ``in.potential`` that names its files into `folder`.

    Paths in it are relative: a LAMMPS that runs in a copy of the folder needs no more than ``include in.potential``.

    Returns:
        Nothing, or why LAMMPS has no pair style for this model; then nothing was written.
    """
    if not isinstance(model, HasPairStyle):
        return "this kind of potential has no pair style"
    place = folder.resolve()
    try:
        lines = model.pair_style(place)
    except InputError as exc:
        return f"{exc.problem}: {exc.hint}"
    here = [line.replace(f"{place}/", "") for line in lines]
    head = "# units metal; made by alflow; run in a copy of this folder and include this file"
    write_text(folder / INPUT, "\n".join([head, *here, ""]))
    return ""
