"""Lanes as Parsl sees them, and the scripts that it would hand to a scheduler."""

import subprocess
import sys
from pathlib import Path

import pytest

from alflow.errors import RunError, SpecError
from alflow.runtime.parsl_site import parsl_config, submit_scripts
from alflow.spec.site import Lane, Site

GOLDEN = Path(__file__).parent / "data"

SLURM = Lane(
    scheduler="slurm",
    launcher="srun",
    nodes_per_block=2,
    min_blocks=1,
    max_blocks=4,
    walltime="04:00:00",
    cores_per_node=32,
    cores_per_task=8,
    gpus_per_node=4,
    gpus_per_task=1,
    account="project",
    partition="gpu",
    qos="high",
    options=("#SBATCH --constraint=a100",),
    worker_init="module load cuda",
    address="ib0",
)
LSF = Lane(
    scheduler="lsf",
    launcher="jsrun",
    nodes_per_block=4,
    walltime="12:00:00",
    cores_per_node=40,
    cores_per_task=10,
    gpus_per_node=4,
    gpus_per_task=1,
    account="project",
    partition="pbatch",
    address="10.1.1.1",
)
LSF_MPI = Lane(
    scheduler="lsf",
    nodes_per_block=2,
    walltime="36:00:00",
    cores_per_node=40,
    ranks_per_task=20,
    partition="pbatch",
    address="10.1.1.1",
)
FLUX = Lane(
    scheduler="flux",
    launcher="flux",
    nodes_per_block=2,
    walltime="08:00:00",
    cores_per_node=64,
    cores_per_task=16,
    gpus_per_node=4,
    gpus_per_task=1,
    account="bank",
    partition="pbatch",
    address="10.1.1.1",
)


def test_run_directory_with_blanks_is_refused(here, tmp_path):
    with pytest.raises(RunError, match="blanks, quotes"):
        parsl_config(here(), tmp_path / "my run")
    assert not (tmp_path / "my run").exists()


@pytest.mark.parametrize(
    ("name", "lane"), [("slurm", SLURM), ("lsf", LSF), ("lsf_mpi", LSF_MPI), ("flux", FLUX)], ids=lambda x: str(x)[:8]
)
def test_submit_scripts_are_as_they_were(only, name, lane):
    """After a wanted change: write `text` to the golden file, and read the difference."""
    scripts = submit_scripts(only(lane))
    assert set(scripts) == {"one"}
    text = scripts["one"].replace(sys.executable, "PYTHON")
    text = "\n".join(line.rstrip() for line in text.rstrip().splitlines()) + "\n"
    assert text == (GOLDEN / f"{name}.sh").read_text()
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0


def test_local_lanes_have_no_submit_script(here):
    assert submit_scripts(here()) == {}


def test_nothing_is_submitted_even_where_a_scheduler_is(only, tmp_path, monkeypatch):
    for program in ("sbatch", "bsub", "flux", "sacct", "squeue"):
        fake = tmp_path / program
        fake.write_text(f"#!/bin/sh\ntouch {tmp_path}/called\n")
        fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for lane in (LSF, FLUX):
        assert submit_scripts(only(lane))
    assert not (tmp_path / "called").exists()


def test_lanes_become_executors(tmp_path):
    lane = Lane(cores_per_node=2)
    site = Site(name="s", lanes={"sample": lane, "label": Lane(gpus_per_node=2, gpus_per_task=1), "fit": lane})
    config = parsl_config(site, tmp_path)
    assert sorted(e.label for e in config.executors) == ["fit", "label", "sample"]
    by_name = {e.label: e for e in config.executors}
    assert by_name["label"].available_accelerators == ["0", "1"]
    assert by_name["sample"].max_workers_per_node == 2
    assert {e.address for e in config.executors} == {"127.0.0.1"}
    assert all(e.encrypted for e in config.executors)
    assert config.retries == 0


@pytest.mark.parametrize(
    ("lane", "place"),
    [
        (Lane(scheduler="slurm", address="no_such_interface0"), "lanes.one.address"),
        (Lane(scheduler="lsf", qos="high"), "lanes.one.qos"),
        (Lane(scheduler="flux", qos="high"), "lanes.one.qos"),
    ],
)
def test_what_a_scheduler_does_not_know_is_refused(only, lane, place, tmp_path):
    with pytest.raises(SpecError, match=place):
        parsl_config(only(lane), tmp_path)


def test_address_of_an_interface_is_found(only, tmp_path):
    (pools,) = parsl_config(only(Lane(scheduler="slurm", address="lo")), tmp_path).executors
    assert pools.address == "127.0.0.1"
