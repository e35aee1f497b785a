from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from alflow.cli import doctor
from alflow.cli.app import run
from alflow.cli.programs import Case, Mark, labels
from alflow.interfaces import Code
from alflow.labelers.lammps import Part as Lammps
from alflow.spec.site import Lane, Site, load_site
from alflow.testing.toys import ToyLabeler


def site(codes=None, **lane):
    return Site(name="here", lanes={v: Lane(**lane) for v in ("sample", "label", "fit")}, codes=codes or {})


def test_this_machine_is_well(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    status = run(["doctor", "--run", str(tmp_path / "runs")])
    out = capsys.readouterr().out
    wrong = [line for line in out.splitlines() if line.startswith("  wrong")]
    assert (status, wrong) == (0, [])
    assert "Al, 4 displaced atoms" in out, "it computes for real"
    assert list(tmp_path.iterdir()) == [], "it leaves nothing behind"


def test_a_lane_that_asks_for_more_than_there_is():
    found = {f.what: f for f in doctor.machine(site(cores_per_node=4096, cores_per_task=2))}
    assert found["lane sample"].mark is Mark.WRONG
    assert "lower lanes.sample.cores_per_node" in found["lane sample"].words
    many = {f.what: f for f in doctor.machine(site(gpus_per_node=64, gpus_per_task=32))}
    assert many["lane fit"].mark is Mark.WRONG
    assert "64 GPUs" in many["lane fit"].words


@pytest.mark.parametrize("name", ["sierra_lsf", "flux", "slurm"])
def test_a_scheduler_that_is_not_here(name, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    (found,) = doctor.schedulers(load_site(name))
    assert found.mark is Mark.WRONG
    assert "no command" in found.words


def test_a_scheduler_that_does_not_answer(tmp_path, monkeypatch):
    for name, text in {
        "sbatch": "",
        "squeue": "",
        "scancel": "",
        "sinfo": "echo slurmctld is down >&2; exit 1",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (found,) = doctor.schedulers(site(scheduler="slurm", launcher="srun"))
    assert found.mark is Mark.WRONG
    assert "slurmctld is down" in found.words


def test_a_run_directory_that_cannot_be_used(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (found,) = doctor.disk(tmp_path / "file" / "runs", site())
    assert found.mark is Mark.WRONG
    shared = [f for f in doctor.disk(Path("/tmp/x"), site(scheduler="slurm", launcher="srun")) if f.what == "shared"]
    assert shared[0].mark is Mark.WRONG
    monkeypatch.setattr(doctor, "_LEAST_FREE_GB", 1e9)
    assert [f.mark for f in doctor.disk(tmp_path, site())] == [Mark.OK, Mark.WRONG]


def test_a_labeler_that_fails_says_why(tmp_path):
    bad = Lammps(pair_style="eam/fs", pair_coeff=("* * no-such-file.eam.fs Al",))
    (found,) = labels([Case("lammps", bad)], site(), tmp_path)
    assert found.mark is Mark.WRONG
    assert "no-such-file" in found.words
    (found,) = labels([Case("toy", ToyLabeler(fail_every=1))], site(), tmp_path)
    assert found.mark is Mark.WRONG
    assert "toy failure" in found.words
    (found,) = labels([Case("lammps", Lammps(), frozenset({"Cu"}))], site(), tmp_path)
    assert found.mark is Mark.WRONG
    assert "Cu" in found.words


def test_a_wrong_answer_is_wrong(tmp_path, monkeypatch):
    labelled = ToyLabeler.label

    def pulled(self, frames, code, workdir, limits):
        labels, verdicts = labelled(self, frames, code, workdir, limits)
        labels.forces[0] += 0.2
        return labels, verdicts

    assert next(labels([Case("toy", ToyLabeler())], site(), tmp_path / "a")).mark is Mark.OK
    monkeypatch.setattr(ToyLabeler, "label", pulled)
    assert next(labels([Case("toy", ToyLabeler())], site(), tmp_path / "b")).mark is Mark.WRONG


def test_programs_are_run_on_nodes_only(tmp_path, monkeypatch):
    class Dft:
        code = "dft"

    remote = site({"dft": Code("dft", ("true",))}, scheduler="slurm", launcher="srun")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    (found,) = labels([Case("dft", Dft())], remote, tmp_path)
    assert (found.mark, "inside a slurm job" in found.words) == (Mark.SKIPPED, True)
    (found,) = labels([Case("dft", Dft())], site(), tmp_path)
    assert (found.mark, found.words) == (Mark.SKIPPED, "the site file has no codes.dft")


def test_packages_that_are_missing(monkeypatch):
    monkeypatch.setattr(doctor, "PACKAGES", {"numpy": "numpy", "alflow_not_there": "alflow-not-there"})
    good, bad = doctor.packages()
    assert (good.mark, bad.mark) == (Mark.OK, Mark.WRONG)
    assert "pip install" in bad.words
