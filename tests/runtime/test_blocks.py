"""Batch jobs that nobody could give back are found by name; the schedulers here are stand-ins for real ones.

The real Slurm is in test_slurm.py.
"""

from pathlib import Path

import pytest

from alflow.errors import InfrastructureError
from alflow.runtime import blocks

SQUEUE = """#!/bin/sh
echo "squeue $*" >> "$(dirname "$0")/calls"
printf '11 parsl.label.block-0.1700000000.5\\n12 mine but other\\n13 parsl.fit.block-2.1700000001.25\\n14\\n'
"""
SCANCEL = """#!/bin/sh
echo "scancel $*" >> "$(dirname "$0")/calls"
"""
SILENT = """#!/bin/sh
echo "slurm_load_jobs error: Unable to contact slurm controller (connect failure)" >&2
exit 1
"""


@pytest.fixture
def programs(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr("shutil.which", lambda name: str(folder / name) if (folder / name).exists() else None)
    monkeypatch.setattr("time.sleep", lambda _: None)

    def put(name, text):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
        return folder

    return put


def scripts(run: Path, *names: str) -> None:
    folder = run / "parsl" / "000" / "submit_scripts"
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text("#!/bin/bash\n")


def test_names_are_those_of_the_scripts(tmp_path):
    scripts(
        tmp_path,
        "parsl.label.block-0.1700000000.5",
        "parsl.label.block-0.1700000000.5.stdout",
        "cmd_parsl.label.block-0.1700000000.5.sh",
        "parsl.fit.block-2.1700000001.25.submit",
        "parsl.all.block-1.3.sh",
    )
    assert blocks.names(tmp_path) == {
        "parsl.label.block-0.1700000000.5",
        "parsl.fit.block-2.1700000001.25",
        "parsl.all.block-1.3",
    }


def test_only_jobs_of_the_run_are_cancelled(programs, tmp_path):
    programs("squeue", SQUEUE)
    folder = programs("scancel", SCANCEL)
    jobs = frozenset({"parsl.label.block-0.1700000000.5", "parsl.fit.block-2.1700000001.25", "parsl.gone.block-0.1"})
    assert blocks.cancel(jobs) == ["11", "13"]
    assert (folder / "calls").read_text().splitlines()[1] == "scancel 11 13"
    assert blocks.cancel(frozenset({"parsl.gone.block-0.1"})) == []


def test_without_blocks_or_schedulers_nothing_is_asked(programs):
    assert blocks.cancel(frozenset({"parsl.label.block-0.1"})) == []
    folder = programs("squeue", SQUEUE)
    assert blocks.cancel(frozenset()) == []
    assert not (folder / "calls").exists()


def test_a_scheduler_that_does_not_answer_is_said(programs):
    programs("squeue", SILENT)
    with pytest.raises(InfrastructureError, match=r"squeue: .*Unable to contact slurm controller"):
        blocks.cancel(frozenset({"parsl.label.block-0.1"}))
