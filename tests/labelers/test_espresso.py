import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from alflow.core.frames import Frames
from alflow.core.labels import Cause
from alflow.errors import InputError
from alflow.interfaces import Code
from alflow.labelers.espresso import Part, _vacuum_A
from alflow.testing.labeler_contract import LabelerContract

PSEUDO_DIR = Path(os.environ.get("ALFLOW_TEST_PSEUDO_DIR", "/usr/share/espresso/pseudo"))
AL = {"Al": "Al.pz-vbc.UPF"}
ENV = {"OMPI_MCA_ess_singleton_isolated": "1"}  # a single process needs no daemon of Open MPI
CODE = Code("espresso", ("pw.x",), env=ENV, settings={"pseudo_dir": str(PSEUDO_DIR)})
NEEDS_PW = [pytest.mark.requires_program("pw.x"), pytest.mark.slow]

LOOSE = Part(pseudopotentials=AL, ecutwfc_Ry=12, kpoints="gamma", degauss_Ry=0.05, conv_thr_Ry=1e-4, max_seconds=120)
ONE = Frames.single([13], [[0, 0, 0]], [[0, 2, 2], [2, 0, 2], [2, 2, 0]])
TWO = Frames.single([13, 13], [[0, 0, 0], [1.9, 2.0, 2.2]], [[4.0, 0, 0.1], [0, 4.1, 0], [0.3, 0, 4.2]])
HEADER = '<UPF version="2.0.1">\n<PP_HEADER\nelement="{}"\nfunctional="{}"\n/>\n</UPF>\n'


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


def written(part, frame, folder):
    """The input that pw.x gets."""
    return part._input(frame, part._pseudos(with_command("sh", pseudo_dir=str(folder))), "scratch")


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
    # ase reads what is printed, which has eight decimals in Ry and bohr
    np.testing.assert_allclose(labels.forces, atoms.get_forces(), rtol=2e-7, atol=2e-7)
    np.testing.assert_allclose(labels.stress[0], atoms.get_stress(voigt=False), rtol=2e-7, atol=6e-7)


@pytest.mark.slow
@pytest.mark.requires_program("pw.x")
def test_success_leaves_small_files_and_no_scratch(tmp_path):
    LOOSE.label(ONE, CODE, tmp_path)
    folder = tmp_path / ONE.ids()[0]
    assert sorted(p.name for p in folder.iterdir()) == ["pw.in", "pw.out"]
    assert folder.stat().st_mode & 0o777 == 0o700
    scratch = tmp_path / "fast"
    LOOSE.label(TWO, replace(CODE, scratch=scratch), tmp_path)
    assert not list(scratch.iterdir())


@pytest.mark.slow
@pytest.mark.requires_program("pw.x")
def test_the_same_frame_twice_is_computed_once_and_other_theories_anew(tmp_path):
    both = Frames.concat([ONE, ONE])
    labels, _ = LOOSE.label(both, CODE, tmp_path)
    assert labels.energy[0] == labels.energy[1]
    assert len([p for p in tmp_path.iterdir() if p.is_dir()]) == 1
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
    while caller.poll() is None and len(list(tmp_path.glob("w/labels-*.h5"))) < 2:
        time.sleep(0.02)
    caller.send_signal(signal.SIGKILL)
    caller.wait()
    done = {p: p.stat().st_mtime_ns for p in tmp_path.glob("w/labels-*.h5")}
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
    two = replace(CODE, launcher=launcher, env=env)
    labels, verdicts = LOOSE.label(TWO, two, tmp_path / "2")
    want, _ = LOOSE.label(TWO, CODE, tmp_path / "1")
    assert verdicts[0].ok, verdicts
    assert "2 processors" in next((tmp_path / "2").glob("*/pw.out")).read_text()
    np.testing.assert_allclose(labels.energy, want.energy, atol=1e-3)  # each is converged to 1e-4 Ry only
    np.testing.assert_allclose(labels.forces, want.forces, atol=5e-2)


# ---- what comes before pw.x ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kspacing", "mesh"), [(0.3, "6 5 2"), (0.5, "4 3 2"), (2 * np.pi / 12, "3 3 1"), (10.0, "gamma")]
)
def test_k_points_keep_their_density(tmp_path, pseudos, kspacing, mesh):
    frame = Frames.single([13], [[0, 0, 0]], np.diag([4.0, 5.0, 12.0]))
    part = Part(pseudopotentials={"Al": "Al.UPF"}, ecutwfc_Ry=20, kspacing_per_A=kspacing)
    text = written(part, frame, pseudos).split("K_POINTS ")[1]
    got = "gamma" if text.startswith("gamma") else " ".join(text.split()[1:4])
    assert got == mesh
    b = 2 * np.pi / np.array([4, 5, 12])
    if got != "gamma":
        assert (b / np.array(got.split(), float) <= kspacing * (1 + 1e-9)).all()


def test_left_handed_cells_are_written_right_handed(tmp_path, pseudos):
    part = Part(pseudopotentials={"Al": "Al.UPF"}, ecutwfc_Ry=20, kpoints=(2, 2, 2))
    text = written(part, TWO.moved(TWO.positions, TWO.cell[:, [1, 0, 2]]), pseudos)
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
    words = written(part, frame, pseudos).replace(" ", "")
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
        ({"family": "."}, {"Al"}, "pseudopotentials: and family exclude each other"),
        ({"pseudopotentials": {}, "family": "."}, {"Al"}, "elements: is empty"),
        ({"elements": ("Al",)}, {"Al"}, "elements: belongs to family only"),
        (
            {"pseudopotentials": {}, "family": ".", "elements": ("Al",)},
            {"Cu"},
            r"elements: has none for the element Cu\n.*has for Cu: Cu.UPF",
        ),
        (
            {"pseudopotentials": {}, "family": "SSSP", "elements": ("Al",)},
            {"Al"},
            r"family: the folder .*SSSP does not exist\n.*codes.espresso.pseudo_dir",
        ),
        (
            {"pseudopotentials": {}, "family": ".", "elements": ("Al",), "ecutwfc_Ry": None},
            {"Al"},
            r"ecutwfc_Ry: .* recommends none for Al",
        ),
        ({"ecutwfc_Ry": None}, {"Al"}, "ecutwfc_Ry: is missing"),
        ({"allow": ("degauss",), "occupations": "fixed"}, {"Al"}, "allow: degauss has no meaning"),
        ({"mixing_beta": 0}, {"Al"}, "mixing_beta: expected a number above 0"),
        ({"electron_maxstep": 0}, {"Al"}, "electron_maxstep: expected a number >= 1"),
        ({"namelists": {"electrons": {"scf_must_converge": False}}}, {"Al"}, "namelists.electrons: sets scf_must_conv"),
        ({"kpoints": None}, {"Al"}, "kpoints: give either"),
        ({"kspacing_per_A": 0.2}, {"Al"}, "kpoints: give either"),
        ({"kpoints": (0, 1, 1)}, {"Al"}, "kpoints: expected numbers >= 1"),
        ({"ecutwfc_Ry": 0}, {"Al"}, "ecutwfc_Ry: expected a number > 0"),
        ({"degauss_Ry": -1}, {"Al"}, "degauss_Ry: expected a number > 0"),
        ({"namelists": {"system": {"ecutwfc": 3}}}, {"Al"}, "namelists.system: sets ecutwfc"),
        ({"namelists": {"system": {"starting_magnetization(1)": 3}}}, {"Al"}, "namelists.system: sets starting_mag"),
        ({"starting_magnetization": {"Fe": 0.5}}, {"Al"}, r"starting_magnetization\.Fe: is of an element"),
        ({"starting_magnetization": {"Al": 2}}, {"Al"}, r"starting_magnetization\.Al: expected a number from -1 to 1"),
        ({"namelists": {"system": {"vdw_corr": "dft-d4"}}}, {"Al"}, r"system\.vdw_corr: pw.x knows no 'dft-d4'"),
        ({"namelists": {"ions": {}}}, {"Al"}, "namelists.ions: is no namelist"),
    ],
)
def test_bad_settings_are_refused(pseudos, fields, elements, match):
    part = Part(**{"pseudopotentials": {"Al": "Al.UPF"}, "ecutwfc_Ry": 20, "kpoints": "gamma", **fields})
    with pytest.raises(InputError, match=match):
        part.check(frozenset(elements), with_command("sh", pseudo_dir=str(pseudos)))


def test_good_settings_are_accepted(pseudos):
    part = Part(pseudopotentials={"Al": "Al.UPF", "Si": "Si_lda.UPF"}, ecutwfc_Ry=20, kpoints="gamma")
    with pytest.raises(InputError, match="different functionals"):
        part.check(frozenset({"Al"}), with_command("sh", pseudo_dir=str(pseudos)))
    # headers of version 1 name PBE as a fifth word
    part = Part(pseudopotentials={"Al": "Al.UPF", "Cu": "Cu.UPF", "W": "W.UPF"}, ecutwfc_Ry=20, kpoints="gamma")
    part.check(frozenset({"Al", "Cu"}), with_command("sh", pseudo_dir=str(pseudos)))


def test_a_family_is_found_in_the_sites_folder_or_anywhere(tmp_path, pseudos):
    relative = Part(family="pseudos", elements=("Al", "Cu"), ecutwfc_Ry=20, kpoints="gamma")
    absolute = replace(relative, family=str(pseudos))
    site = with_command("sh", pseudo_dir=str(tmp_path))
    relative.check(frozenset({"Al"}), site)
    assert relative.theory(site) == absolute.theory(Code("espresso", ("sh",)))
    assert set(relative.theory(site).settings["pseudopotentials"]) == {"Al", "Cu"}
    named = Part(pseudopotentials={"Al": "Al.UPF", "Cu": "Cu.UPF"}, ecutwfc_Ry=20, kpoints="gamma")
    assert named.theory(with_command("sh", pseudo_dir=str(pseudos))) == relative.theory(site)  # the same numbers


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


def test_theory_holds_what_decides_the_numbers_and_no_more(pseudos):
    site = with_command("sh", pseudo_dir=str(pseudos))
    part = Part(pseudopotentials={"Al": "Al.UPF"}, ecutwfc_Ry=20, kpoints="gamma")
    theory = part.theory(site)
    assert theory.settings["functional"] == "PBE"
    assert str(pseudos) not in json.dumps(dict(theory.settings))
    same = [
        {"mixing_beta": 0.2},
        {"electron_maxstep": 7},
        {"max_seconds": 5.0},
        {"allow": ("degauss",)},
        {"ecutrho_Ry": 80.0},
        {"namelists": {"electrons": {"Diagonalization": "cg", "mixing_ndim": 4}, "control": {"verbosity": "high"}}},
    ]
    other = [
        {"conv_thr_Ry": 1e-6},
        {"ecutrho_Ry": 90.0},
        {"degauss_Ry": 0.01},
        {"namelists": {"system": {"vdw_corr": "dft-d3"}}},
        {"starting_magnetization": {"Al": 0.1}},
        {"kpoints": None, "kspacing_per_A": 0.2},
        {"occupations": "fixed"},
    ]
    assert {replace(part, **fields).theory(site).fingerprint for fields in same} == {theory.fingerprint}
    prints = [replace(part, **fields).theory(site).fingerprint for fields in other]
    assert len({theory.fingerprint, *prints}) == 1 + len(other)


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
    part = Part(pseudopotentials={"Al": "Al.UPF"}, ecutwfc_Ry=20, kpoints="gamma")
    _, verdicts = part.label(frame, with_command("no-such-program", pseudo_dir=str(pseudos)), tmp_path / "w")
    assert reason in verdicts[0].reason
    assert verdicts[0].cause is Cause.STRUCTURE
    assert not [p for p in (tmp_path / "w").iterdir() if p.is_dir()]


def test_slabs_are_seen():
    def vacuum(height, shift=0.0):
        frame = Frames.single([13, 13], [[0, 0, shift], [1.4, 1.4, shift + 2]], np.diag([2.8, 2.8, height]))
        return _vacuum_A(frame)

    assert vacuum(4.0) == pytest.approx(2.0)
    assert vacuum(12.0) == pytest.approx(10.0)
    assert vacuum(12.0, shift=-1.0) == pytest.approx(10.0)


@pytest.mark.slow
@pytest.mark.requires_program("pw.x")
def test_a_site_can_be_tried_without_a_workflow(tmp_path):
    part, symbol = Part.trial(CODE)
    assert symbol == "Al"
    _, verdicts = part.label(ONE, CODE, tmp_path)
    assert verdicts[0].ok, verdicts


def test_a_site_without_pseudopotentials_cannot(tmp_path):
    with pytest.raises(InputError, match="has no pseudopotential to try"):
        Part.trial(with_command("pw.x", pseudo_dir=str(tmp_path)))
