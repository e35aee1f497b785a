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


def scripts(run: Path, **directives: str) -> None:
    folder = run / "parsl" / "000" / "submit_scripts"
    folder.mkdir(parents=True)
    for name, line in directives.items():
        (folder / name).write_text(f"#!/bin/bash\n\n{line}\n")


def test_names_are_those_of_the_scripts_with_who_knows_them(tmp_path):
    scripts(
        tmp_path,
        **{
            "parsl.label.block-0.1700000000.5": "#SBATCH --nodes=1",
            "parsl.label.block-0.1700000000.5.stdout": "#BSUB said by a job",
            "cmd_parsl.label.block-0.1700000000.5.sh": "python",
            "parsl.fit.block-2.1700000001.25.submit": "#BSUB -W 60",
            "parsl.all.block-1.3.sh": "#flux: --nodes=1",
        },
    )
    assert blocks.names(tmp_path) == {
        "parsl.label.block-0.1700000000.5": "squeue",
        "parsl.fit.block-2.1700000001.25": "bjobs",
        "parsl.all.block-1.3": "flux",
    }


SLURM = {"parsl.label.block-0.1700000000.5": "squeue", "parsl.fit.block-2.1700000001.25": "squeue"}


def test_only_jobs_of_the_run_are_cancelled(programs):
    programs("squeue", SQUEUE)
    folder = programs("scancel", SCANCEL)
    assert blocks.cancel(SLURM | {"parsl.gone.block-0.1": "squeue"}) == ["11", "13"]
    assert (folder / "calls").read_text().splitlines()[1] == "scancel 11 13"
    assert blocks.cancel({"parsl.gone.block-0.1": "squeue"}) == []


def test_without_blocks_or_schedulers_nothing_is_asked(programs):
    assert blocks.cancel(SLURM) == []
    folder = programs("squeue", SQUEUE)
    assert blocks.cancel({}) == []
    assert not (folder / "calls").exists()


def test_only_the_schedulers_of_the_run_are_asked(programs):
    """One that is installed beside them may be of no cluster."""
    programs("squeue", SILENT)
    programs("bjobs", "#!/bin/sh\necho '21                   parsl.label.block-0.1'\n")
    folder = programs("bkill", SCANCEL)
    assert blocks.cancel({"parsl.label.block-0.1": "bjobs"}) == ["21"]
    assert (folder / "calls").read_text() == "scancel 21\n"


def test_an_empty_queue_and_a_job_that_has_just_ended_are_no_failures(programs):
    programs("bjobs", "#!/bin/sh\necho 'No unfinished job found' >&2\nexit 255\n")
    assert blocks.cancel({"parsl.label.block-0.1": "bjobs"}) == []
    programs("bjobs", "#!/bin/sh\necho '21 parsl.label.block-0.1'\n")
    programs("bkill", "#!/bin/sh\necho 'Job <21>: Job has already finished' >&2\nexit 255\n")
    assert blocks.cancel({"parsl.label.block-0.1": "bjobs"}) == ["21"]


def test_a_scheduler_that_does_not_answer_is_said(programs):
    programs("squeue", SILENT)
    with pytest.raises(InfrastructureError, match=r"squeue: .*Unable to contact slurm controller"):
        blocks.cancel(SLURM)
