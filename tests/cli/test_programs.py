"""The site's programs are tried for real; those that fail are scripts, launchers that are wrong start the real one."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from alflow.cli import programs
from alflow.cli.programs import Case, Mark, cases, labels, scratch
from alflow.interfaces import Code, HasTrial
from alflow.labelers.espresso import Part as Espresso
from alflow.labelers.vasp import Part as Vasp
from alflow.spec.site import Lane, Site
from alflow.testing.fake_vasp.library import Element, write_library

PSEUDO_DIR = Path("/usr/share/espresso/pseudo")
ENV = {"OMP_NUM_THREADS": "1", "OMPI_MCA_ess_singleton_isolated": "1"}
NEEDS_PW = pytest.mark.requires_program("pw.x")


def site(code: Code, **lane) -> Site:
    lanes = {v: Lane(**{"cores_per_node": 4, **lane}) for v in ("sample", "label", "fit")}
    return Site(name="here", lanes=lanes, codes={code.name: code})


def program(folder: Path, text: str, name: str = "program") -> str:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def pseudos(tmp_path):
    """A folder with a readable and a damaged pseudopotential."""
    folder = tmp_path / "pseudo"
    folder.mkdir()
    (folder / "README").write_text("not one")
    (folder / "Al.broken.UPF").write_text("<UPF><PP_HEADER element='Al'")  # comes first, and is passed over
    shutil.copy(PSEUDO_DIR / "Si.pz-vbc.UPF", folder)
    return folder


def espresso(command, launcher=(), pseudo_dir=PSEUDO_DIR, scratch=None, env=ENV):
    settings = {"pseudo_dir": str(pseudo_dir)}
    return Code("espresso", (command,), tuple(launcher), env=env, settings=settings, scratch=scratch)


def tried(code, folder, **lane):
    """What is found of the one labeler that runs `code`."""
    where = site(code, **lane)
    found = list(labels([c for c in cases("", where) if c.kind == code.name], where, folder / "runs"))
    assert not (folder / "runs").exists()
    assert not [p for p in folder.iterdir() if p.name.startswith(".alflow-doctor")], "it leaves nothing behind"
    return found[-1]


# ---- programs that work --------------------------------------------------------------------------------------------


@NEEDS_PW
def test_quantum_espresso_is_tried_with_what_the_site_has(tmp_path, pseudos):
    assert issubclass(Espresso, HasTrial)
    place = tmp_path / "scratch"
    code = espresso("pw.x", pseudo_dir=pseudos, scratch=place)
    where = site(code)
    first, found = labels([c for c in cases("", where) if c.kind == "espresso"], where, tmp_path)
    assert (first.what, first.mark) == ("espresso: scratch", Mark.OK)
    assert found.mark is Mark.OK, found
    assert found.words.startswith("Si, 8 displaced atoms: ")
    assert found.words.endswith(", 1 MPI rank")
    assert list(place.iterdir()) == []


@NEEDS_PW
@pytest.mark.requires_program("mpirun")
def test_ranks_that_work_together(tmp_path):
    launcher = (shutil.which("mpirun"), "--allow-run-as-root", "--oversubscribe", "-np", "{ranks}")
    found = tried(espresso("pw.x", launcher, env={"OMP_NUM_THREADS": "1"}), tmp_path, ranks_per_task=2)
    assert (found.mark, found.words.endswith("2 MPI ranks")) == (Mark.OK, True), found


def test_vasp_is_tried_with_what_the_library_has(tmp_path):
    assert issubclass(Vasp, HasTrial)
    library = write_library(tmp_path / "potcars", {"Cu": Element("Cu", lexch="CA", enmax_eV=210)})
    code = Code("vasp", (sys.executable, "-m", "alflow.testing.vasp_std"), settings={"potcars": str(library)})
    found = tried(code, tmp_path)
    assert found.mark is Mark.OK, found
    assert found.words.startswith("Cu, 4 displaced atoms: ")
    assert "1 MPI rank" in found.words
    found = tried(code, tmp_path, ranks_per_task=4)
    assert "runs on 1 MPI rank, lanes.label.ranks_per_task is 4: it has no launcher" in found.words


@NEEDS_PW
def test_programs_that_the_workflow_does_not_use_are_tried_too(tmp_path):
    where = site(espresso("pw.x"))
    found = list(labels(cases("al_quick", where), where, tmp_path))
    assert [(f.what, f.mark) for f in found] == [("disorder: lammps", Mark.OK), ("espresso", Mark.OK)], found


# ---- wrong launchers -----------------------------------------------------------------------------------------------


@NEEDS_PW
def test_a_launcher_of_another_mpi(tmp_path):
    """It starts every rank, but none hears of the others, as MPICH's launcher does with a program of Open MPI."""
    twice = program(tmp_path, '"$@" & "$@"; wait', "launcher")
    found = tried(espresso("pw.x", (twice,)), tmp_path, ranks_per_task=2)
    assert found.mark is Mark.WRONG
    assert "2 processes were started that each think they are alone" in found.words
    assert f"codes.espresso.launcher ({twice})" in found.words


@NEEDS_PW
def test_fewer_ranks_than_the_lane_says(tmp_path):
    found = tried(espresso("pw.x"), tmp_path, ranks_per_task=2)
    assert found.mark is Mark.WRONG
    assert "runs on 1 MPI rank, lanes.label.ranks_per_task is 2: it has no launcher" in found.words


def test_a_launcher_that_is_not_there(tmp_path):
    found = tried(espresso(program(tmp_path, "exit 0"), ("/opt/mpi/bin/mpirun",)), tmp_path)
    assert found.mark is Mark.WRONG
    assert "codes.espresso.launcher: the program '/opt/mpi/bin/mpirun' is not there" in found.words


@pytest.mark.requires_program("mpirun")
@pytest.mark.skipif(os.getuid() != 0, reason="only root is refused")
def test_a_launcher_that_refuses_root(tmp_path):
    found = tried(espresso(program(tmp_path, "exit 0"), (shutil.which("mpirun"),)), tmp_path)
    assert (found.mark, "refuses to run as root" in found.words) == (Mark.WRONG, True), found


# ---- wrong programs ------------------------------------------------------------------------------------------------

LOADER = "pw.x: error while loading shared libraries: libmpi.so.40: cannot open shared object file: No such file"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"echo '{LOADER}'; exit 127", "the library libmpi.so.40 is missing: load its module"),
        ('echo "./pw.x: /lib/libc.so.6: version \\`GLIBC_2.38\' not found"; exit 1', "built for a newer system"),
        ("echo 'srun: error: Unable to create step: Invalid account' >&2; exit 1", "srun says: Unable to create step"),
        ("echo reading input; echo 'forrtl: severe (174)'; kill -SEGV $$", "  | forrtl: severe (174)"),
    ],
)
def test_a_program_that_fails_says_why(tmp_path, text, words):
    found = tried(espresso(program(tmp_path, text)), tmp_path)
    assert found.mark is Mark.WRONG
    assert words in found.words


def test_a_program_that_hangs(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "_TRIAL_S", 1.5)
    found = tried(espresso(program(tmp_path, "echo '     Program PWSCF v.7.2 starts'; sleep 600")), tmp_path)
    assert found.mark is Mark.WRONG
    assert "out of time" in found.words
    assert "another MPI" in found.words
    assert "Program PWSCF v.7.2" in found.words


@pytest.mark.parametrize(
    ("files", "words"),
    [({}, "no pseudopotential"), ({"Al.UPF": "<UPF><PP_HEADER element='Al'"}, "Al.UPF: is not a pseudopotential")],
)
def test_pseudopotentials_that_cannot_be_read(tmp_path, files, words):
    (tmp_path / "upf").mkdir()
    for name, text in files.items():
        (tmp_path / "upf" / name).write_text(text)
    found = tried(espresso("sh", pseudo_dir=tmp_path / "upf"), tmp_path)
    assert (found.mark, words in found.words) == (Mark.WRONG, True), found
    found = tried(espresso("sh", pseudo_dir=tmp_path / "nowhere"), tmp_path)
    assert (found.mark, "does not exist" in found.words) == (Mark.WRONG, True), found


def test_a_library_without_potcars(tmp_path):
    (tmp_path / "potcars").mkdir()
    found = tried(Code("vasp", ("sh",), settings={"potcars": str(tmp_path / "potcars")}), tmp_path)
    assert (found.mark, "POTCAR" in found.words) == (Mark.WRONG, True), found


# ---- scratch -------------------------------------------------------------------------------------------------------


def test_scratch_that_cannot_be_used(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (found,) = scratch(espresso("sh", scratch=tmp_path / "file" / "x"))
    assert (found.mark, "change codes.espresso.scratch" in found.words) == (Mark.WRONG, True)
    monkeypatch.setattr(programs, "_LEAST_SCRATCH_GB", 1e9)
    (found,) = scratch(espresso("sh", scratch=tmp_path))
    assert (found.mark, "GB free, want 1e+09" in found.words) == (Mark.WRONG, True)
    assert list(scratch(espresso("sh"))) == []


def test_scratch_that_nodes_share(tmp_path):
    mounts, place = tmp_path / "mounts", tmp_path / "a b"
    escaped = str(tmp_path.resolve()).replace(" ", "\\040")
    mounts.write_text(
        f"/dev/sda / ext4 rw 0 0\nserver:/x {escaped} nfs4 rw 0 0\ntmpfs {escaped}/a\\040b tmpfs rw 0 0\n"
    )
    (found,) = scratch(espresso("sh", scratch=place), mounts)
    assert (found.mark, found.words.endswith(", tmpfs")) == (Mark.OK, True)
    (found,) = scratch(espresso("sh", scratch=tmp_path / "other"), mounts)
    assert (found.mark, "nodes share (nfs4)" in found.words) == (Mark.NOTE, True)


def test_a_program_that_no_labeler_runs(tmp_path):
    where = site(Code("gpaw", ("python3",)))
    found = list(labels([Case("model", None, why="has no settings")], where, tmp_path))
    assert [f.mark for f in found] == [Mark.SKIPPED, Mark.SKIPPED]
    assert found[1].what == "gpaw"
