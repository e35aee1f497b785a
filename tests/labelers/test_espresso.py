import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from alflow.core.frames import Frames
from alflow.errors import InfrastructureError, InputError
from alflow.interfaces import Code
from alflow.labelers.espresso import Part
from alflow.testing.labeler_contract import LabelerContract

PSEUDO_DIR = Path(os.environ.get("ALFLOW_TEST_PSEUDO_DIR", "/usr/share/espresso/pseudo"))
AL = {"Al": "Al.pz-vbc.UPF"}
CODE = Code("espresso", ("pw.x",), settings={"pseudo_dir": str(PSEUDO_DIR)})
NEEDS_PW = [pytest.mark.requires_program("pw.x"), pytest.mark.slow]

LOOSE = Part(pseudopotentials=AL, ecutwfc_Ry=12, kpoints="gamma", degauss_Ry=0.05, conv_thr_Ry=1e-4, max_seconds=120)
ONE = Frames.single([13], [[0, 0, 0]], [[0, 2, 2], [2, 0, 2], [2, 2, 0]])
TWO = Frames.single([13, 13], [[0, 0, 0], [1.9, 2.0, 2.2]], [[4.0, 0, 0.1], [0, 4.1, 0], [0.3, 0, 4.2]])
HEADER = '<UPF version="2.0.1">\n<PP_HEADER\nelement="{}"\nfunctional="{}"\n/>\n'


def several():
    """Eight frames, far enough apart to be told apart by the energy."""
    return Frames.concat([TWO.moved(TWO.positions + np.array([[0.0], [0.05 * i]])) for i in range(8)])


def with_command(*words, **settings):
    return Code("espresso", words, settings={**CODE.settings, **settings})


@pytest.fixture
def pseudos(tmp_path):
    """A folder of pseudopotential headers: enough for all that happens before pw.x runs."""
    folder = tmp_path / "pseudos"
    folder.mkdir()
    (folder / "Al.UPF").write_text(HEADER.format("Al", "SLA PW PBX PBC"))
    (folder / "Cu.UPF").write_text(HEADER.format("cu ", "SLA  PW  PBX PBC"))
    (folder / "Si_lda.UPF").write_text(HEADER.format("Si", "SLA PZ NOGX NOGC"))
    (folder / "W.UPF").write_text(
        "<PP_HEADER>\n   0   Version Number\n  W    Element\n  NC   Norm\n"
        " SLA  PW   PBX  PBC   PBE  Exchange-Correlation functional\n</PP_HEADER>\n"
    )
    (folder / "bad.UPF").write_text("<UPF/>")
    return folder


def script(folder, text):
    """An executable that stands where pw.x should: for what the real one cannot be made to do."""
    path = folder / "program"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


# ---- the real pw.x -------------------------------------------------------------------------------------------------


class TestEspresso(LabelerContract):
    pytestmark = NEEDS_PW
    part = Part(
        pseudopotentials=AL,
        ecutwfc_Ry=30,  # finite strain at fixed cutoff has a Pulay stress that the analytic one has not
        kpoints=(2, 2, 2),
        smearing="gaussian",
        degauss_Ry=0.1,
        conv_thr_Ry=1e-11,
        max_seconds=120,
    )
    code = CODE
    frames = Frames.concat([TWO, Frames.single([13], [[0, 0, 0]], [[0.1, 2, 2.1], [2, 0, 2], [2, 2.2, 0]])])
    failing = Frames.single([13, 13], [[0, 0, 0], [0, 0, 0]], np.eye(3) * 4)
    others = (
        Part(pseudopotentials=AL, ecutwfc_Ry=12, kpoints="gamma"),
        Part(pseudopotentials=AL, ecutwfc_Ry=13, kpoints="gamma"),
        Part(pseudopotentials=AL, ecutwfc_Ry=12, ecutrho_Ry=60, kpoints="gamma"),
        Part(pseudopotentials=AL, ecutwfc_Ry=12, kpoints=(2, 2, 2)),
        Part(pseudopotentials=AL, ecutwfc_Ry=12, kpoints="gamma", degauss_Ry=0.1),
        Part(pseudopotentials=AL, ecutwfc_Ry=12, kpoints="gamma", smearing="gaussian"),
        Part(pseudopotentials=AL, ecutwfc_Ry=12, kpoints="gamma", starting_magnetization={"Al": 0.5}),
        Part(pseudopotentials=AL, ecutwfc_Ry=12, kpoints="gamma", namelists={"system": {"tot_charge": 1}}),
    )
    step_A = 0.01
    strain = 0.002
    gradient_rtol = 0.02
    energy_atol_eV = 1e-6
    invariance_atol_eV = 1e-5


@pytest.mark.slow
@pytest.mark.requires_program("pw.x")
def test_output_equals_what_ase_reads(tmp_path):
    from ase.io import read

    labels, verdicts = LOOSE.label(TWO, CODE, tmp_path)
    assert verdicts[0].ok
    atoms = read(next(tmp_path.glob("*/pw.out")), format="espresso-out")
    assert labels.energy[0] == pytest.approx(atoms.get_potential_energy(), rel=2e-7)  # ase has CODATA 2006
    np.testing.assert_allclose(labels.forces, atoms.get_forces(), rtol=2e-7)
    np.testing.assert_allclose(labels.stress[0], atoms.get_stress(voigt=False), rtol=2e-7)


@pytest.mark.slow
@pytest.mark.requires_program("pw.x")
def test_success_leaves_small_files_and_no_scratch(tmp_path):
    LOOSE.label(ONE, CODE, tmp_path)
    folder = tmp_path / ONE.ids()[0]
    assert sorted(p.name for p in folder.iterdir()) == ["label.json", "pw.in", "pw.out"]
    scratch = tmp_path / "fast"
    LOOSE.label(TWO, Code("espresso", ("pw.x",), settings=CODE.settings, scratch=scratch), tmp_path)
    assert not list(scratch.iterdir())


@pytest.mark.slow
@pytest.mark.requires_program("pw.x")
def test_no_convergence_is_a_verdict_with_its_log(tmp_path):
    part = Part(pseudopotentials=AL, ecutwfc_Ry=12, kpoints="gamma", electron_maxstep=2, conv_thr_Ry=1e-12)
    labels, verdicts = part.label(TWO, CODE, tmp_path)
    assert verdicts[0].reason == "not self-consistent after 2 cycles"
    assert "convergence NOT achieved" in Path(verdicts[0].log).read_text()
    assert np.isnan(labels.energy).all()


@pytest.mark.slow
@pytest.mark.requires_program("pw.x")
def test_the_same_frame_twice_is_computed_once_and_other_theories_anew(tmp_path):
    both = Frames.concat([ONE, ONE])
    labels, _ = LOOSE.label(both, CODE, tmp_path)
    assert labels.energy[0] == labels.energy[1]
    assert len(list(tmp_path.iterdir())) == 1
    finer, _ = Part(pseudopotentials=AL, ecutwfc_Ry=16, kpoints="gamma", degauss_Ry=0.05).label(ONE, CODE, tmp_path)
    assert finer.energy[0] < labels.energy[0] - 1e-4  # the variational principle


@pytest.mark.slow
@pytest.mark.requires_program("pw.x")
def test_a_killed_call_goes_on_where_it_was(tmp_path):
    frames = several()
    text = (
        "import sys; sys.path.insert(0, sys.argv[1]); from test_espresso import *\n"
        "LOOSE.label(several(), CODE, Path(sys.argv[2]))"
    )
    caller = subprocess.Popen([sys.executable, "-c", text, str(Path(__file__).parent), str(tmp_path / "w")])
    while caller.poll() is None and len(list(tmp_path.glob("w/*/label.json"))) < 2:
        time.sleep(0.02)
    caller.send_signal(signal.SIGKILL)
    caller.wait()
    done = {p: p.stat().st_mtime_ns for p in tmp_path.glob("w/*/label.json")}
    assert 2 <= len(done) < 8
    labels, verdicts = LOOSE.label(frames, CODE, tmp_path / "w")
    assert all(v.ok for v in verdicts)
    assert {p: p.stat().st_mtime_ns for p in done} == done
    want, _ = LOOSE.label(frames, CODE, tmp_path / "fresh")
    np.testing.assert_array_equal(labels.energy, want.energy)
    np.testing.assert_array_equal(labels.forces, want.forces)


@pytest.mark.slow
@pytest.mark.requires_program("pw.x", "mpirun.openmpi")
def test_two_ranks_give_the_same_label(tmp_path):
    env = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    launcher = (shutil.which("mpirun.openmpi"), "--oversubscribe", "--bind-to", "none", "-np", "2")
    two = Code("espresso", ("pw.x",), launcher, env, CODE.settings)
    labels, verdicts = LOOSE.label(TWO, two, tmp_path / "2")
    want, _ = LOOSE.label(TWO, CODE, tmp_path / "1")
    assert verdicts[0].ok, verdicts
    assert "2 processors" in next((tmp_path / "2").glob("*/pw.out")).read_text()
    np.testing.assert_allclose(labels.energy, want.energy, atol=1e-3)  # each is converged to 1e-4 Ry only
    np.testing.assert_allclose(labels.forces, want.forces, atol=5e-2)


@pytest.mark.slow
@pytest.mark.requires_program("pw.x")
def test_a_calculation_out_of_time_is_a_verdict_and_leaves_no_process(tmp_path):
    big = Frames.single([13] * 40, np.random.default_rng(0).random((40, 3)) * 10, np.eye(3) * 10)
    part = Part(pseudopotentials=AL, ecutwfc_Ry=30, kpoints=(3, 3, 3), max_seconds=1)
    _, verdicts = part.label(big, CODE, tmp_path)
    assert verdicts[0].reason.startswith("ran out of time after 1")
    assert "Program PWSCF" in Path(verdicts[0].log).read_text()
    assert not [p for p in psutil.process_iter(["cwd"]) if (p.info["cwd"] or "").startswith(str(tmp_path))]
    assert not list(tmp_path.glob("*/label.json"))  # another try may have more time


# ---- what comes before pw.x ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kspacing", "mesh"), [(0.3, "6 5 2"), (0.5, "4 3 2"), (2 * np.pi / 12, "3 3 1"), (10.0, "gamma")]
)
def test_k_points_keep_their_density(tmp_path, pseudos, kspacing, mesh):
    frame = Frames.single([13], [[0, 0, 0]], np.diag([4.0, 5.0, 12.0]))
    part = Part(pseudopotentials={"Al": "Al.UPF"}, ecutwfc_Ry=20, kspacing_per_A=kspacing)
    text = part._input(frame, pseudos, tmp_path).split("K_POINTS ")[1]
    got = "gamma" if text.startswith("gamma") else " ".join(text.split()[1:4])
    assert got == mesh
    b = 2 * np.pi / np.array([4, 5, 12])
    if got != "gamma":
        assert (b / np.array(got.split(), float) <= kspacing * (1 + 1e-9)).all()


def test_left_handed_cells_are_written_right_handed(tmp_path, pseudos):
    part = Part(pseudopotentials={"Al": "Al.UPF"}, ecutwfc_Ry=20, kpoints=(2, 2, 2))
    text = part._input(TWO.moved(TWO.positions, TWO.cell[:, [1, 0, 2]]), pseudos, tmp_path)
    cell = np.array(text.split("CELL_PARAMETERS angstrom")[1].split()[:9], float).reshape(3, 3)
    assert np.linalg.det(cell) == pytest.approx(abs(np.linalg.det(TWO.cell[0])))
    assert "2 2 2  0 0 0" in text


def test_spin_and_further_words_reach_the_input(tmp_path, pseudos):
    part = Part(
        pseudopotentials={"Al": "Al.UPF", "Cu": "Cu.UPF"},
        ecutwfc_Ry=20,
        kpoints="gamma",
        starting_magnetization={"Cu": 0.4},
        namelists={"system": {"vdw_corr": "dft-d3"}},
    )
    frame = Frames.single([13, 29], [[0, 0, 0], [2, 2, 2]], np.eye(3) * 4)
    words = part._input(frame, pseudos, tmp_path).replace(" ", "")
    assert "nspin=2" in words
    assert "vdw_corr='dft-d3'" in words
    assert "starting_magnetization(2)=0.4" in words


@pytest.mark.parametrize(
    ("fields", "elements", "match"),
    [
        ({}, {"Al", "Cu"}, r"pseudopotentials: has none for the element Cu\n.*has for Cu: Cu.UPF"),
        (
            {"pseudopotentials": {"Al": "Al2.UPF"}},
            {"Al"},
            r"pseudopotentials.Al: .*Al2.UPF does not exist\n.*Al: Al.UPF",
        ),
        ({"pseudopotentials": {"Al": "Cu.UPF"}}, {"Al"}, r"pseudopotentials.Al: .* is for the element Cu"),
        ({"pseudopotentials": {"Al": "bad.UPF"}}, {"Al"}, r"pseudopotentials.Al: .*bad.UPF: is not a pseudopotential"),
        ({"pseudopotentials": {"Al": "Al.UPF", "Si": "Si_lda.UPF"}}, {"Al"}, "pseudopotentials: are of different func"),
        ({"pseudopotentials": {}}, {"Al"}, "pseudopotentials: is empty"),
        ({"kpoints": None}, {"Al"}, "kpoints: give either"),
        ({"kspacing_per_A": 0.2}, {"Al"}, "kpoints: give either"),
        ({"kpoints": (0, 1, 1)}, {"Al"}, "kpoints: expected numbers >= 1"),
        ({"ecutwfc_Ry": 0}, {"Al"}, "ecutwfc_Ry: expected a number > 0"),
        ({"degauss_Ry": -1}, {"Al"}, "degauss_Ry: expected a number > 0"),
        ({"namelists": {"system": {"ecutwfc": 3}}}, {"Al"}, "namelists.system: sets ecutwfc"),
        ({"namelists": {"system": {"starting_magnetization(1)": 3}}}, {"Al"}, "namelists.system: sets starting_mag"),
        ({"namelists": {"ions": {}}}, {"Al"}, "namelists.ions: is no namelist"),
    ],
)
def test_bad_settings_are_refused(pseudos, fields, elements, match):
    part = Part(**{"pseudopotentials": {"Al": "Al.UPF"}, "ecutwfc_Ry": 20, "kpoints": "gamma", **fields})
    with pytest.raises(InputError, match=match):
        part.check(frozenset(elements), with_command("sh", pseudo_dir=str(pseudos)))


def test_good_settings_are_accepted(pseudos):
    part = Part(pseudopotentials={"Al": "Al.UPF", "Cu": "Cu.UPF", "W": "W.UPF"}, ecutwfc_Ry=20, kpoints="gamma")
    with pytest.raises(InputError, match="different functionals"):  # version 1 headers name PBE as a fifth word
        part.check(frozenset({"Al"}), with_command("sh", pseudo_dir=str(pseudos)))
    part = Part(pseudopotentials={"Al": "Al.UPF", "Cu": "Cu.UPF"}, ecutwfc_Ry=20, kpoints="gamma")
    part.check(frozenset({"Al", "Cu"}), with_command("sh", pseudo_dir=str(pseudos)))


@pytest.mark.parametrize(
    ("code", "match"),
    [
        (None, "codes: the site file has no entry 'espresso'"),
        (with_command("no-such-pw.x"), "codes.espresso.command: the program 'no-such-pw.x'"),
        (Code("espresso", ("sh",)), "codes.espresso.pseudo_dir: is missing"),
        (with_command("sh", pseudo_dir="/no/where"), "codes.espresso.pseudo_dir: the folder /no/where does not exist"),
    ],
)
def test_a_site_without_espresso_is_refused(code, match):
    with pytest.raises(InputError, match=match):
        LOOSE.check(frozenset({"Al"}), code)


def test_theory_is_the_content_of_pseudopotentials(tmp_path, pseudos):
    part = Part(pseudopotentials={"Al": "Al.UPF"}, ecutwfc_Ry=20, kpoints="gamma")
    first = part.theory(with_command("sh", pseudo_dir=str(pseudos)))
    moved = shutil.move(pseudos, tmp_path / "elsewhere")
    assert part.theory(with_command("sh", pseudo_dir=str(moved))).fingerprint == first.fingerprint
    (moved / "Al.UPF").write_text(HEADER.format("Al", "SLA PW PBX PBC") + "<!-- other -->")
    assert part.theory(with_command("sh", pseudo_dir=str(moved))).fingerprint != first.fingerprint


# ---- programs that misbehave ---------------------------------------------------------------------------------------


def label_with(tmp_path, pseudos, text, frame=ONE, **fields):
    part = Part(**{"pseudopotentials": {"Al": "Al.UPF"}, "ecutwfc_Ry": 20, "kpoints": "gamma", **fields})
    code = with_command(script(tmp_path, text), pseudo_dir=str(pseudos))
    return part.label(frame, code, tmp_path / "w")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("echo Program PWSCF; exit 1", "pw.x ended before its end"),
        ("echo Program PWSCF; kill -9 $$", "pw.x ended before its end: ended by signal 9"),
        ("echo Program PWSCF; echo JOB DONE.", "output lacks energy, 1 forces or stress"),
        ("echo Program PWSCF; printf ' Error in routine cdiaghg (55):\\n problems computing\\n'; exit 1", "cdiaghg"),
    ],
)
def test_broken_outputs_are_verdicts(tmp_path, pseudos, text, reason):
    labels, verdicts = label_with(tmp_path, pseudos, text)
    assert not verdicts[0].ok
    assert reason in verdicts[0].reason
    assert Path(verdicts[0].log).is_file()
    assert np.isnan(labels.energy).all()


@pytest.mark.parametrize("text", ["echo mpirun: no slots; exit 1", "exit 127", ""])
def test_a_launcher_that_fails_is_the_machines_fault(tmp_path, pseudos, text):
    with pytest.raises(InfrastructureError, match=r"pw.x did not start .*pw.out"):
        label_with(tmp_path, pseudos, text)


def test_threads_and_environment_are_the_sites(tmp_path, pseudos, monkeypatch):
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    label_with(tmp_path, pseudos, "echo Program PWSCF; env; cat")
    said = next(tmp_path.glob("w/*/pw.out")).read_text()
    assert "OMP_NUM_THREADS=1\n" in said
    assert "PMI_RANK" not in said


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (Frames.single([29], [[0, 0, 0]], np.eye(3) * 4), "no pseudopotential for Cu"),
        (Frames.single([13], [[0, 0, 0]], np.eye(3) * 4, [True, True, False]), "periodic cells only"),
        (Frames.single([13], [[np.nan, 0, 0]], np.eye(3) * 4), "not finite"),
        (Frames.single([13], [[0, 0, 0]], np.zeros((3, 3))), "span no volume"),
    ],
)
def test_frames_that_pw_cannot_compute_are_verdicts_and_cost_nothing(tmp_path, pseudos, frame, reason):
    _, verdicts = label_with(tmp_path, pseudos, "touch ran", frame)
    assert reason in verdicts[0].reason
    assert not (tmp_path / "w").exists()


def test_a_damaged_label_is_computed_again(tmp_path, pseudos):
    text = "echo x >> $(dirname $0)/runs; echo Program PWSCF; echo ' Error in routine a (1):'; echo ' b'"
    for _ in range(2):
        label_with(tmp_path, pseudos, text)
    assert (tmp_path / "runs").read_text() == "x\n"
    next(tmp_path.glob("w/*/label.json")).write_text('{"theory": ')
    label_with(tmp_path, pseudos, text)
    assert (tmp_path / "runs").read_text() == "x\nx\n"
    assert "error in a (1):" in json.loads(next(tmp_path.glob("w/*/label.json")).read_text())["problem"]
