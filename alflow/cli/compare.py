"""``alflow compare``: thin, the work is done in science and monitor."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from alflow.errors import InputError


def compare(a: Path, b: Path, *, twojmax: int, cutoff_A: float, out: Path, as_json: bool) -> None:
    """Compare two datasets; print tables, write ``compare.html`` and ``compare.json`` into a folder.

    Raises:
        InputError: what is given is no dataset, is empty, or has no element of the other; nothing was written.
    """
    from alflow.monitor import comparison
    from alflow.monitor.table import drawn
    from alflow.science import compare as science
    from alflow.store.files import write_json, write_text
    from alflow.store.sources import read_set

    descriptor = science.Descriptor(twojmax, cutoff_A)
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}", "is a file, expected a folder")
    found = science.compare(read_set(a), read_set(b), descriptor)
    plain = science.summary(found, descriptor, (str(a), str(b)))
    write_json(out / "compare.json", plain)
    write_text(out / "compare.html", comparison.page(found, plain))
    if as_json:
        print(json.dumps(plain, indent=1))  # noqa: T201  # rich would wrap it
        return
    console = Console(highlight=False)
    console.print(drawn(comparison.sections(plain)))
    console.print(f"pictures: {out / 'compare.html'}", markup=False, soft_wrap=True)
