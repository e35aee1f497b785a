"""Files that come with alflow: site files of ``configs/`` and workflows of ``workflows/``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import alflow
from alflow.errors import InputError
from alflow.validation import suggestion

Shelf = Literal["configs", "workflows"]


def names(shelf: Shelf) -> tuple[str, ...]:
    """What can be given by its bare name."""
    return tuple(sorted(p.stem for p in _folder(shelf).glob("*.yaml")))


def find(given: str | Path, shelf: Shelf) -> Path:
    """The file that the user means: a path, or the bare name of a shipped file.

    Raises:
        InputError: there is neither, with the closest shipped name as a hint.
    """
    path = Path(given).expanduser()
    if path.is_file():
        return path
    word = str(given)
    bare = "/" not in word and not word.endswith((".yaml", ".yml"))
    if bare and word in names(shelf):
        return _folder(shelf) / f"{word}.yaml"
    if path.is_dir():
        raise InputError(word, "is a folder, expected a YAML file")
    raise InputError(
        word, "no such file", f"of those that come with alflow: {suggestion(Path(word).stem, names(shelf))}"
    )


def _folder(shelf: Shelf) -> Path:
    """Inside the package where a wheel was installed, beside it in a checkout."""
    package = Path(alflow.__file__).resolve().parent
    inside = package / shelf
    return inside if inside.is_dir() else package.parent / shelf
