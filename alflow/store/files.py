"""Files that are there whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alflow.errors import DataError


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a draft path beside `path`; rename it onto `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        yield draft
        with draft.open("rb") as f:
            os.fsync(f.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def discard_drafts(path: Path) -> None:
    """Remove what killed writers of `path` left beside it; of all files in it where it is a folder.

    Nobody else may be writing them: call it holding the task's lock.
    """
    drafts = path.rglob(".*.part") if path.is_dir() else path.parent.glob(f".{path.name}.*.part")
    for draft in list(drafts):
        draft.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    with written_whole(path) as draft:
        draft.write_text(text)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON to `path`, whole or not at all; NaN is written as null by nobody: it is refused."""
    write_text(path, json.dumps(value, allow_nan=False, indent=1))


def digest(path: Path) -> str:
    """SHA-256 of a file, sixteen hexadecimal digits."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()[:16]


def check_digest(path: Path, known: str = "") -> None:
    """Refuse a file whose content has another digest than the one that is known of it, if one is.

    Raises:
        DataError: it is another content, or no file.
    """
    try:
        found = digest(path) if known else known
    except FileNotFoundError as exc:
        raise DataError(f"{path} is gone: restore it from a copy of the run") from exc
    if found != known:
        words = f"was changed after it was sealed: digest {found}, {known} in the journal"
        raise DataError(f"{path} {words}; restore it from a copy of the run")
