"""The verbs that act on a run directory: thin, all of the work is in runtime and monitor."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from alflow.errors import RunError


def submit(workflow: str, site: str, run: Path | None, *, detach: bool) -> int:
    """Check, make the run directory, and run the campaign in it, here or on its own; the exit status."""
    from alflow.runtime import campaign_run

    run_dir = campaign_run.prepare(workflow, site, run)
    if detach:
        pid = campaign_run.detach(run_dir)
        Console(highlight=False).print(
            f"{run_dir}: running as process {pid}\n"
            f"alflow status {run_dir}    how far it is\n"
            f"alflow stop {run_dir}      end it; alflow resume goes on",
            soft_wrap=True,
            markup=False,
        )
        return 0
    return resume(run_dir)
