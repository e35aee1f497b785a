"""Where things are in a run directory. No folder holds more than a thousand tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Final

WORKFLOW: Final = "workflow.yaml"
SITE: Final = "site.yaml"
JOURNAL: Final = "journal.jsonl"
TASKS: Final = "tasks"
LOCK: Final = "lock"
LOG: Final = "coordinator.log"
SUBMITTED: Final = "submitted.yaml"
"""The workflow as the user wrote it, with comments; `WORKFLOW` is what the run goes by."""
STOP: Final = "stop.request"
RESULT: Final = "result.json"
QUARANTINE: Final = "quarantine.jsonl"
"""Structures that no label could be bought of; what the journal says of them, for workers to read."""
AMENDMENTS: Final = "amendments.jsonl"
"""What users changed since the campaign was submitted; what the journal says of it, for workers to read."""
AMEND: Final = "amend-*.request"
"""Changes that a running coordinator is asked to make."""
TASK_LOG: Final = "log.txt"
HALT: Final = "halt"
FRAMES: Final = "frames.h5"
PARSL: Final = "parsl"
"""What Parsl writes; private."""
MONITORING: Final = "parsl/monitoring.db"
POTENTIAL: Final = "potential"
"""A link to the folder of the newest model."""
LAMMPS: Final = "lammps"
"""In the folder of a model: what LAMMPS needs to run it, if it can."""


def task_dir(task_id: str) -> Path:
    """The folder of a task, relative to the run directory: ``tasks/0-label/000/0-label-000017``."""
    family, _, number = task_id.rpartition("-")
    return Path(TASKS) / family / f"{int(number) // 1000:03d}" / task_id


def shard_path(stage: int, number: int) -> Path:
    """A sealed shard of the dataset, relative to the run directory."""
    return Path("dataset") / f"{stage}-{number:06d}.h5"


def model_dir(stage: int, loop: int, version: int) -> Path:
    """The folder of a model: manifest, members and gauge, relative to the run directory."""
    return Path("models") / f"{stage}-{loop}-v{version:04d}"
