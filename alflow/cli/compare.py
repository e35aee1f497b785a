"""``alflow compare``: thin, the work is done in science and monitor."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from rich.console import Console

from alflow.errors import InputError


def compare(a: Path, b: Path, *, twojmax: int, cutoff_A: float, out: Path, as_json: bool) -> None:
    """Compare two datasets; print tables, write ``compare.html`` and ``compare.json`` into a folder.

    Raises:
        InputError: what is given is no dataset, is empty, or has no element of the other, or the folder cannot be
            written; nothing was.
    """
    from alflow.monitor import comparison
    from alflow.monitor.table import drawn
    from alflow.science import compare as science
    from alflow.store.files import write_json, write_text
    from alflow.store.sources import read_set

    descriptor = science.Descriptor(twojmax, cutoff_A)
    with _writable(out):
        found = science.compare(read_set(a), read_set(b), descriptor)
        plain = science.summary(found, descriptor, (str(a), str(b)))
        html = comparison.page(found, plain)
        with _refused(out):
            write_json(out / "compare.json", plain)
            write_text(out / "compare.html", html)
    if as_json:
        print(json.dumps(plain, indent=1))  # noqa: T201  # rich would wrap it
        return
    console = Console(highlight=False)
    console.print(drawn(comparison.sections(plain)))
    console.print(f"pictures: {out / 'compare.html'}", markup=False, soft_wrap=True)


@contextmanager
def _writable(out: Path) -> Iterator[None]:
    """Make the folder and try to write there; what was made is taken away again if nothing comes of it."""
    with ExitStack() as undo:
        with _refused(out):
            for folder in reversed((out, *out.parents)):
                if not folder.exists():
                    folder.mkdir()
                    undo.callback(_remove, folder)
                if not folder.is_dir():
                    raise InputError(f"--out {out}", f"{folder} is a file, expected a folder", "choose another folder")
            tempfile.TemporaryFile(dir=out).close()
        yield
        undo.pop_all()


def _remove(folder: Path) -> None:
    with suppress(OSError):  # somebody has put something there
        folder.rmdir()


@contextmanager
def _refused(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise InputError(f"--out {out}", f"cannot be written: {exc.strerror}", "choose another folder") from exc
