from __future__ import annotations

import stat
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from alflow.core.frames import Frames
from alflow.core.labels import Cause
from alflow.errors import InfrastructureError, InputError, ResourceError
from alflow.interfaces import Code, Limits
from alflow.labelers.vasp import Part
from alflow.testing.fake_vasp import Element, write_library
from alflow.testing.labeler_contract import LabelerContract

ELEMENTS = {"Al": "Al", "Cu": Element("Cu", enmax_eV=300), "Al_lda": Element("Al", lexch="CA")}
FAKE = (sys.executable, "-m", "alflow.testing.vasp_std")
SYMBOLS = {"Al": "Al", "Cu": "Cu"}


def vasp(library: Path, mode: str = "", **more) -> Code:
    settings = {"potcars": str(library), **more.pop("settings", {})}
    return Code("vasp", command=(*FAKE, mode), settings=settings, **more)


def labeler(**fields) -> Part:
    return Part(**{"potcar_symbols": SYMBOLS, "encut_eV": 300, "kpoints": (2, 2, 2), **fields})


def cell(seed, numbers=(13,) * 8, size=2):
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(size)] * 3), axis=-1).reshape(-1, 3) * 2.9
    lattice = np.diag([5.8, 5.9, 6.0]) * size / 2 + rng.normal(scale=0.1, size=(3, 3))
    return Frames.single(numbers, grid + rng.normal(scale=0.1, size=grid.shape), lattice)


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    return write_library(tmp_path_factory.mktemp("potcars"), ELEMENTS)


@pytest.fixture(scope="module")
def plain(library, tmp_path_factory):
    """The label of the first cell where nothing goes wrong."""
    return labeler().label(cell(1), vasp(library), tmp_path_factory.mktemp("plain"))[0]


MIXED = (13, 29, 13, 29, 29, 13, 13, 29)


class TestContract(LabelerContract):
    @pytest.fixture(autouse=True, scope="class")
    @staticmethod
    def _program(request, library):
        request.cls.code = vasp(library)

    part = labeler(kpoints="gamma")
    frames = Frames.concat(
        [cell(1), cell(2, MIXED), Frames.single([29, 13], [[0.1, 0, 0], [2.0, 1.9, 1.7]], np.diag([3.9, 4.0, 4.1]))]
    )
    failing = Frames.single([26], [[0, 0, 0]], np.eye(3) * 3)
    others = (
        labeler(),
        labeler(kpoints="gamma", encut_eV=301),
        labeler(kpoints="gamma", xc="PBEsol"),
        labeler(kpoints="gamma", energy="sigma0"),
        labeler(kpoints="gamma", sigma_eV=0.1),
        labeler(kpoints="gamma", ismear=0),
        labeler(kpoints="gamma", ediff_eV=1e-7),
        labeler(kpoints="gamma", moments_muB={"Cu": 1.0}),
        labeler(kpoints="gamma", dispersion="dftd3"),
        labeler(kpoints="gamma", monkhorst_pack=True),
        labeler(kpoints=None, kspacing_per_A=0.3),
        labeler(kpoints="gamma", incar={"LREAL": "Auto"}),
    )
    # vasprun.xml has eight decimals: energies are known to 1e-8 eV, so that steps must be long
    step_A = 2e-3
    strain = 1e-3
    gradient_rtol = 2e-4
    energy_atol_eV = 3e-8
    invariance_atol_eV = 3e-8


@pytest.mark.parametrize(
    ("mode", "fields", "changes"),
    [
        ("unconverged", {}, {"ALGO": [None, "All"], "ISEARCH": [None, 1]}),
        ("unconverged", {"incar": {"ALGO": "VeryFast"}}, {"ALGO": ["Normal", "All"], "ISEARCH": [None, 1]}),
        ("edddav", {}, {"ALGO": [None, "All"], "ISEARCH": [None, 1]}),
        ("zheev", {}, {"ALGO": [None, "All"], "ISEARCH": [None, 1]}),
        ("eddrmm", {"incar": {"ALGO": "Fast"}}, {"ALGO": ["Fast", "Normal"]}),
        ("pssyevx", {"incar": {"ALGO": "Fast"}}, {"ALGO": ["Fast", "Normal"]}),
        ("positive_energy", {"incar": {"ALGO": "Fast"}}, {"ALGO": ["Fast", "Normal"]}),
        ("brmix", {}, {"IMIX": [None, 1]}),
        ("amin", {}, {"AMIN": [None, 0.01]}),
        ("too_few_bands", {}, {"NBANDS": [None, 18]}),
        ("nbands_not_sufficient", {"incar": {"NBANDS": 14}}, {"NBANDS": [14, 17]}),
        ("real_optlay", {"incar": {"LREAL": "Auto"}}, {"LREAL": ["Auto", False]}),
        ("subspacematrix", {"incar": {"LREAL": "Auto"}}, {"LREAL": ["Auto", False]}),
        ("out_of_memory", {"incar": {"KPAR": 2}}, {"KPAR": [2, 1]}),
    ],
)
def test_a_safe_correction_is_made_and_kept_with_the_label(library, plain, tmp_path, mode, fields, changes):
    mode = f"{mode}:NBANDS=17" if mode == "nbands_not_sufficient" else mode
    labels, (verdict,) = labeler(**fields).label(cell(1), vasp(library, mode), tmp_path / "work")
    assert verdict.ok, verdict
    assert verdict.theory is None
    assert verdict.corrections[-1]["changes"] == changes
    np.testing.assert_allclose(labels.energy, plain.energy, atol=1e-7)
    np.testing.assert_allclose(labels.forces, plain.forces, atol=1e-7)


@pytest.mark.parametrize(
    ("mode", "fields", "refused"),
    [
        ("tet", {}, ["ISMEAR", "SIGMA"]),
        ("inv_rot_mat", {}, ["SYMPREC"]),
        ("rhosyg", {}, ["SYMPREC"]),
        ("posmap", {}, ["SYMPREC"]),
        ("bravais", {}, ["SYMPREC"]),
        ("point_group", {"incar": {"ISYM": 2}}, ["ISYM"]),
        ("zpotrf", {"incar": {"ISYM": 2}}, ["ISYM"]),
        ("dentet", {}, ["KPOINTS"]),
        ("aliasing", {}, ["NGX", "NGY", "NGZ"]),
    ],
)
def test_a_correction_that_changes_the_label_is_taken_back_unless_allowed(library, tmp_path, mode, fields, refused):
    labels, (verdict,) = labeler(**fields).label(cell(1), vasp(library, mode), tmp_path / "refused")
    assert verdict.cause is Cause.LABEL_CHANGING
    assert all(name in verdict.reason for name in refused)
    assert verdict.corrections[-1]["refused"] == refused
    assert np.isnan(labels.energy).all()
    (folder,) = (tmp_path / "refused").glob("vasp-*")
    assert "SYMPREC" not in (folder / "INCAR").read_text()  # the inputs are as they were

    free = labeler(**fields, allow=refused)
    labels, (verdict,) = free.label(cell(1), vasp(library, mode), tmp_path / "allowed")
    if mode == "dentet":  # more k-points do not help this one; the smearing is not allowed
        assert verdict.cause is Cause.LABEL_CHANGING
        return
    assert verdict.ok, verdict
    assert np.isfinite(labels.energy).all()
    own = free.theory(vasp(library))
    assert verdict.theory.code == "vasp"
    assert verdict.theory.fingerprint != own.fingerprint
    assert sorted(verdict.theory.settings["changed"]) == refused
    assert {k: v for k, v in verdict.theory.settings.items() if k != "changed"} == own.settings


@pytest.mark.parametrize(
    ("mode", "fields", "cause", "words"),
    [
        ("unconverged:never", {}, Cause.UNCONVERGED, "Unconverged"),
        ("", {"nelm": 4}, Cause.UNCONVERGED, "Unconverged"),
        ("eddrmm:never", {}, Cause.PROGRAM, "eddrmm: no correction is known"),
        ("brmix:never", {}, Cause.LABEL_CHANGING, "brmix"),
        ("zpotrf:never", {}, Cause.PROGRAM, "zpotrf: no correction is known"),
        ("core_wf", {}, Cause.PROGRAM, "set_core_wf"),
        ("", {"incar": {"NBANDS": 11}}, Cause.PROGRAM, "nbands_not_sufficient"),
        ("segfault", {}, Cause.PROGRAM, "signal 11"),
        ("killed", {}, Cause.MEMORY, "killed"),
        ("out_of_memory", {}, Cause.MEMORY, "out_of_memory"),
        ("no_output", {}, Cause.PROGRAM, "status 1"),
        ("truncated", {}, Cause.OUTPUT, "vasprun.xml is cut off"),
        ("zero_byte", {}, Cause.OUTPUT, "vasprun.xml is empty"),
        ("other_structure", {}, Cause.OUTPUT, "of another structure: cell or atoms are up to"),
        ("other_settings", {}, Cause.OUTPUT, "of other settings: ENCUT is 350.0, asked was 300.0"),
        ("stars", {}, Cause.VALUE, "no finite energy and forces"),
    ],
)
def test_what_cannot_be_mended_is_a_verdict_with_its_cause_and_log(library, tmp_path, mode, fields, cause, words):
    labels, (verdict,) = labeler(**fields).label(cell(1), vasp(library, mode), tmp_path)
    assert not verdict.ok
    assert verdict.cause is cause, verdict
    assert words in verdict.reason
    assert Path(verdict.log).is_file()
    assert Path(verdict.log).is_relative_to(tmp_path)
    assert np.isnan(labels.energy).all()
    assert np.isnan(labels.forces).all()


def test_a_label_may_be_large_the_gate_after_it_judges(library, tmp_path):
    labels, (verdict,) = labeler().label(cell(1), vasp(library, "huge_forces"), tmp_path)
    assert verdict.ok
    assert np.abs(labels.forces).max() > 1e4


def test_a_positive_energy_is_asked_again_of_the_safe_algorithm_which_is_believed(library, tmp_path):
    labels, (verdict,) = labeler().label(cell(1), vasp(library, "positive_energy:never"), tmp_path)
    assert verdict.ok
    assert labels.energy[0] > 0


def test_a_large_entropy_is_of_the_theory_unless_the_smearing_may_change(library, tmp_path):
    _, (verdict,) = labeler().label(cell(1), vasp(library, "large_sigma"), tmp_path / "1")
    assert verdict.ok
    assert not verdict.corrections
    _, (verdict,) = labeler(allow=["SIGMA"]).label(cell(1), vasp(library, "large_sigma"), tmp_path / "2")
    assert verdict.ok
    assert verdict.theory.settings["changed"]["SIGMA"] < 0.1


def test_a_program_that_hangs_is_ended_and_started_otherwise(library, tmp_path, monkeypatch):
    monkeypatch.setattr("alflow.engines.custody._MONITOR_S", 0.5)
    fast = labeler(frozen_s=1.0, incar={"ALGO": "Fast"})
    _, (verdict,) = fast.label(cell(1), vasp(library, "frozen"), tmp_path / "1")
    assert verdict.ok, verdict
    assert verdict.corrections[0]["changes"] == {"ALGO": ["Fast", "Normal"]}
    _, (verdict,) = fast.label(cell(1), vasp(library, "frozen:never"), tmp_path / "2")
    assert verdict.cause is Cause.TIME
    assert "Frozen job" in verdict.reason


def test_time_is_limited_and_what_was_reached_is_gone_on_from(library, plain, tmp_path, monkeypatch):
    monkeypatch.setattr("alflow.engines.custody._LOOK_EVERY", 2)
    monkeypatch.setattr("alflow.labelers.vasp._GRACE", (0.5, 30.0))
    slow = vasp(library, "slow:0.3")  # 10 steps
    _, (verdict,) = labeler().label(cell(1), slow, tmp_path, Limits(seconds=4.0))
    assert verdict.cause is Cause.TIME
    assert verdict.reason == f"ran out of time after {verdict.seconds:.0f} s"
    assert verdict.seconds < 4.0
    assert Path(verdict.log).read_text().count("DAV") < 10
    slow = vasp(library, "slow:0.01", scratch=tmp_path / "scratch")  # another node
    watched = Code(slow.name, ("/bin/sh", "-c", f"{' '.join(FAKE)} | tee {tmp_path}/out"), settings=slow.settings)
    labels, (verdict,) = labeler().label(cell(1), watched, tmp_path, Limits(seconds=60))
    assert verdict.ok, verdict
    assert (tmp_path / "out").read_text().count("DAV") == 6  # where the charge density is there, of 10
    np.testing.assert_allclose(labels.energy, plain.energy, atol=1e-7)
    assert not list(tmp_path.glob("vasp-*"))


def test_the_shorter_of_two_limits_holds(library, tmp_path):
    impatient = labeler(max_seconds=1.0)
    _, (verdict,) = impatient.label(cell(1), vasp(library, "slow:5"), tmp_path, Limits(seconds=60))
    assert verdict.cause is Cause.TIME
    assert verdict.seconds < 5


def test_a_halt_leaves_what_it_has_and_no_verdict(library, tmp_path):
    with pytest.raises(ResourceError, match="told to stop"):
        labeler().label(cell(1), vasp(library, "slow:0.3"), tmp_path, Limits(halt=lambda: True))
    assert list(tmp_path.glob("vasp-*.density"))
    assert not list(tmp_path.rglob("POTCAR"))
    _, (verdict,) = labeler().label(cell(1), vasp(library), tmp_path)
    assert verdict.ok


# ---- licensed files ------------------------------------------------------------------------------------------------


def everything_in(folder: Path) -> bytes:
    """All bytes of all files below, those packed in archives included."""
    found = b""
    for path in folder.rglob("*"):
        if path.name.endswith(".tar.gz"):
            with tarfile.open(path) as archive:
                found += b"".join(archive.extractfile(m).read() for m in archive if m.isfile())
        elif path.is_file():
            found += path.read_bytes()
    return found


@pytest.mark.parametrize(
    ("mode", "scratch"),
    [("", False), ("", True), ("brmix:never", False), ("brmix", True), ("segfault", True), ("truncated", False)],
)
def test_no_potcar_stays_anywhere_whatever_happens(library, tmp_path, mode, scratch):
    code = vasp(library, mode, scratch=tmp_path / "scratch" if scratch else None)
    _, (verdict,) = labeler().label(cell(1), code, tmp_path / "work")
    body = (library / "Al" / "POTCAR").read_text().partition("local part\n")[2].splitlines()[0]
    assert body.strip()
    content = everything_in(tmp_path)
    assert body.encode() not in content
    assert b"END of PSCTR" not in content
    assert not list(tmp_path.rglob("POTCAR*"))
    left = list((tmp_path / "scratch").rglob("*")) if scratch else []
    assert not left
    assert verdict.ok or Path(verdict.log).is_file()
    assert not list(tmp_path.rglob("CHGCAR"))


def test_a_calculation_runs_in_a_private_folder(library, tmp_path):
    seen = tmp_path / "modes"
    look = f"stat -c %a . POTCAR > {seen}; pwd >> {seen}; exec {' '.join(FAKE)}"
    code = Code(
        "vasp", ("/bin/sh", "-c", look), settings={"potcars": str(library)}, scratch=tmp_path / "node" / "local"
    )
    _, (verdict,) = labeler().label(cell(1), code, tmp_path / "work")
    assert verdict.ok
    folder, potcar, where = seen.read_text().split()
    assert (folder, potcar) == ("700", "600")
    assert Path(where).parent == tmp_path / "node" / "local"


def test_what_an_interrupted_run_left_is_cleared_away(library, tmp_path):
    labeler().label(cell(1), vasp(library, "segfault"), tmp_path)
    (folder,) = tmp_path.glob("vasp-*")
    (folder / "POTCAR").write_text("left by a killed worker")
    for shard in tmp_path.glob("*.h5"):
        shard.unlink()
    _, (verdict,) = labeler().label(cell(1), vasp(library, "truncated"), tmp_path)
    assert verdict.cause is Cause.OUTPUT
    assert not (folder / "POTCAR").exists()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_what_a_killed_worker_left_on_scratch_is_cleared_away(library, tmp_path):
    script = f"""
import os, pathlib
from alflow.engines.vasp_care import VaspProgram
from alflow.labelers.vasp import Part
from alflow.interfaces import Code
from alflow.core.frames import Frames
run = VaspProgram.run
VaspProgram.run = lambda self, directory: (run(self, directory), os.kill(os.getpid(), 9))
code = Code("vasp", {FAKE!r}, settings={{"potcars": {str(library)!r}}}, scratch=pathlib.Path({str(tmp_path)!r}) / "s")
frame = Frames.single([13], [[0, 0, 0]], [[0, 2, 2], [2, 0, 2], [2, 2, 0]])
part = Part(potcar_symbols={{"Al": "Al", "Cu": "Cu"}}, encut_eV=300, kpoints=(2, 2, 2))
part.label(frame, code, pathlib.Path({str(tmp_path)!r}) / "w")
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    assert list(tmp_path.rglob("POTCAR"))
    frame = Frames.single([13], [[0, 0, 0]], [[0, 2, 2], [2, 0, 2], [2, 2, 0]])
    _, (verdict,) = labeler().label(frame, vasp(library, scratch=tmp_path / "s"), tmp_path / "w")
    assert verdict.ok
    assert not list(tmp_path.rglob("POTCAR"))


# ---- inputs and energies -------------------------------------------------------------------------------------------


def inputs_of(code_part, frame, library, tmp_path) -> tuple[dict, str]:
    """INCAR and KPOINTS as they are written, from a calculation that fails."""
    from pymatgen.io.vasp import Incar

    code_part.label(frame, vasp(library, "segfault"), tmp_path)
    (folder,) = tmp_path.glob("vasp-*")
    return dict(Incar.from_file(folder / "INCAR")), (folder / "KPOINTS").read_text()


def test_inputs_are_what_was_asked(library, tmp_path):
    asked = labeler(
        encut_eV=410,
        kpoints=None,
        kspacing_per_A=0.5,
        ismear=-1,
        sigma_eV=0.1,
        xc="revPBE",
        dispersion="dftd3",
        moments_muB={"Cu": 2.0},
        incar={"ncore": 4, "ALGO": "Fast", "LDAU": True, "LDAUL": {"Cu": 2}, "LDAUU": {"Cu": 4}, "LDAUJ": {}},
    )
    frame = Frames.single([29, 13], [[0, 0, 0], [2, 2, 2]], np.diag([4.0, 8.0, 30.0]))
    incar, kpoints = inputs_of(asked, frame, library, tmp_path)
    assert (incar["ENCUT"], incar["ISMEAR"], incar["SIGMA"], incar["NSW"]) == (410, -1, 0.1, 0)
    assert (incar["GGA"].upper(), incar["NCORE"], incar["ALGO"], incar["ISYM"]) == ("RP", 4, "Fast", 0)
    assert (incar["IVDW"], incar["ISPIN"], list(incar["MAGMOM"])) == (11, 2, [0.0, 2.0])  # Al first
    assert (list(incar["LDAUU"]), list(incar["LDAUL"])) == ([0, 4], [0, 2])
    assert (incar["IBRION"], incar["ISIF"]) == (-1, 2)  # with exact exchange VASP would leave out the stress
    assert kpoints.split()[-6:-3] == ["4", "2", "1"] or "4 2 1" in kpoints  # 2 pi / a / 0.5 = 3.14, 1.57, 0.42


def test_large_cells_get_gamma_alone_and_its_own_program(library, tmp_path):
    sparse = labeler(kpoints=None, kspacing_per_A=0.5)
    gamma = tmp_path / "vasp_gam"
    gamma.write_text(f"#!/bin/sh\ntouch {tmp_path}/gamma\nexec {' '.join(FAKE)}\n")
    gamma.chmod(0o755)
    code = vasp(library, settings={"gamma_command": str(gamma)})
    _, (verdict,) = sparse.label(cell(1), code, tmp_path / "small")
    assert verdict.ok
    assert not (tmp_path / "gamma").exists()
    frame = cell(1, (13,) * 125, size=5)
    labels, (verdict,) = sparse.label(frame, code, tmp_path / "large")
    assert verdict.ok
    assert (tmp_path / "gamma").exists()
    explicit, _ = labeler(kpoints="gamma").label(frame, vasp(library), tmp_path / "explicit")
    np.testing.assert_array_equal(labels.energy, explicit.energy)


def test_the_energy_is_the_one_that_was_chosen(library, tmp_path):
    frame = cell(1)
    free, _ = labeler(sigma_eV=1.0).label(frame, vasp(library), tmp_path)
    sigma0, _ = labeler(sigma_eV=1.0, energy="sigma0").label(frame, vasp(library), tmp_path)
    gauss, _ = labeler(sigma_eV=1.0, energy="sigma0", ismear=0).label(frame, vasp(library), tmp_path)
    cold, _ = labeler(sigma_eV=1e-4).label(frame, vasp(library), tmp_path)
    difference = sigma0.energy - free.energy
    assert difference[0] > 1e-3
    np.testing.assert_allclose(gauss.energy - free.energy, 1.5 * difference, rtol=1e-5)  # 1/2 of T S, not 1/3
    np.testing.assert_array_equal(sigma0.forces, free.forces)
    assert abs(sigma0.energy - cold.energy)[0] > 1e-6


def test_frames_that_vasp_cannot_take(library, tmp_path):
    good = cell(1)
    open_cell = Frames(good.numbers, good.positions, good.cell, np.array([[True, True, False]]), good.offsets)
    nan = good.moved(np.where(np.arange(24).reshape(8, 3) == 5, np.nan, good.positions))
    frames = Frames.concat([open_cell, nan, cell(2, (26,) * 8), good])
    _, verdicts = labeler().label(frames, vasp(library), tmp_path)
    assert [v.ok for v in verdicts] == [False, False, False, True]
    assert {v.cause for v in verdicts[:3]} == {Cause.STRUCTURE}
    assert "periodic" in verdicts[0].reason
    assert "finite" in verdicts[1].reason
    assert "no POTCAR is named for Fe" in verdicts[2].reason


def test_a_log_that_is_no_text_hides_no_label(library, plain, tmp_path):
    script = f"printf 'caf\\351\\n'; exec {' '.join(FAKE)}"
    code = Code("vasp", command=("/bin/sh", "-c", script), settings={"potcars": str(library)})
    labels, (verdict,) = labeler().label(cell(1), code, tmp_path)
    assert verdict.ok, verdict
    assert labels.energy == plain.energy


def test_what_time_or_memory_may_mend_is_tried_again_the_rest_is_not(library, tmp_path):
    for mode, again in (("killed", True), ("segfault", False)):
        labeler().label(cell(1), vasp(library, mode), tmp_path / mode)
        _, (verdict,) = labeler().label(cell(1), vasp(library), tmp_path / mode)
        assert verdict.ok is again


def test_a_full_disk_is_not_the_structures_fault(library, tmp_path):
    words = ("/bin/sh", "-c", "echo 'forrtl: No space left on device'; exit 1")
    code = Code("vasp", command=words, settings={"potcars": str(library)})
    with pytest.raises(InfrastructureError, match=r"No space left on device, see .*vasp\.out"):
        labeler().label(cell(1), code, tmp_path)
    assert not list(tmp_path.glob("*.h5"))
    assert not list(tmp_path.rglob("POTCAR"))


def test_a_machine_that_cannot_start_vasp_is_not_the_structures_fault(library, tmp_path):
    broken = tmp_path / "vasp_std"
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)
    with pytest.raises(InfrastructureError, match="cannot be started"):
        labeler().label(cell(1), Code("vasp", (str(broken),), settings={"potcars": str(library)}), tmp_path / "work")


@pytest.mark.slow
def test_a_fifth_that_fails_in_mixed_ways_fails_the_same_way_again(library, tmp_path):
    frames = Frames.concat([cell(seed) for seed in range(16)])
    code = vasp(library, "fails:0.4,mends:0.4")
    labels, verdicts = labeler(kpoints="gamma").label(frames, code, tmp_path / "1")
    bad = [not v.ok for v in verdicts]
    assert 3 <= sum(bad) <= 12
    assert len({v.cause for v in verdicts}) > 3
    assert any(v.ok and v.corrections for v in verdicts)
    assert np.isnan(labels.energy).tolist() == bad
    pick = np.flatnonzero(bad)[:2]
    _, again = labeler(kpoints="gamma").label(frames.take(pick), code, tmp_path / "2")
    assert [v.reason for v in again] == [verdicts[i].reason for i in pick]


# ---- settings ------------------------------------------------------------------------------------------------------


def test_the_theory_is_what_decides_the_numbers(library, tmp_path):
    plain = labeler().theory(vasp(library))
    assert plain.code == "vasp"
    assert plain.settings["potcars"]["Al"]["title"] == "PAW_PBE Al 01Apr2000"
    assert len(plain.settings["potcars"]["Al"]["sha256"]) == 64
    path = {"NCORE": 8, "ALGO": "Fast", "AMIX": 0.1, "NELMIN": 6, "NBANDS": 40}
    assert labeler(incar=path, nelm=60, max_seconds=9).theory(vasp(library)) == plain
    other = write_library(tmp_path, {"Al": Element("Al", rows=21), "Cu": ELEMENTS["Cu"]})
    assert labeler().theory(vasp(other)).fingerprint != plain.fingerprint
    packed = write_library(tmp_path / "packed", ELEMENTS, "pymatgen")
    assert labeler().theory(vasp(packed)) == plain


def test_check_finds_what_is_wrong_before_anything_runs(library, tmp_path):
    al = labeler(potcar_symbols={"Al": "Al"})
    al.check(frozenset({"Al"}), vasp(library))
    for incar, words in {"ADDGRIDD": "no INCAR tag", "ADDGRID": "true or false", "NCORE": "a whole number"}.items():
        with pytest.raises(InputError, match=words) as caught:
            labeler(incar={incar: "maybe"}).check(frozenset({"Al"}), vasp(library))
        assert caught.value.where == f"incar.{incar}"
    labeler(incar={"ADDGRID": ".TRUE.", "BRAND_NEW": 1, "VDW_S8": 1}).check(frozenset({"Al"}), vasp(library))
    with pytest.raises(InputError, match="has no entry for Cu"):
        al.check(frozenset({"Al", "Cu"}), vasp(library))
    with pytest.raises(InputError, match=r"codes\.vasp: is not in the site file"):
        al.check(frozenset({"Al"}), None)
    with pytest.raises(InputError, match=r"codes\.vasp\.potcars: is not in the site file"):
        al.check(frozenset({"Al"}), Code("vasp", command=("true",)))
    with pytest.raises(InputError, match="no-such-vasp"):
        al.check(frozenset({"Al"}), Code("vasp", command=("no-such-vasp",), settings={"potcars": str(library)}))
    with pytest.raises(InputError, match="no-such-mpirun"):
        al.check(frozenset({"Al"}), vasp(library, launcher=("/no-such-mpirun",)))
    with pytest.raises(InputError, match="no-such-gam"):
        al.check(frozenset({"Al"}), vasp(library, settings={"gamma_command": "no-such-gam"}))
    with pytest.raises(InputError, match="there is no folder"):
        al.check(frozenset({"Al"}), vasp(tmp_path / "nowhere"))
    for symbol, words in {
        "Al_GW": "there is no POTCAR 'Al_GW'",
        "Cu": "is a POTCAR of Cu, not of Al",
        "Al_lda": "is a POTCAR for LDA",
    }.items():
        with pytest.raises(InputError, match=words) as caught:
            labeler(potcar_symbols={"Al": symbol}).check(frozenset({"Al"}), vasp(library))
        assert caught.value.where == "potcar_symbols.Al"
    with pytest.raises(InputError, match="is a POTCAR for PBE"):
        labeler(potcar_symbols={"Al": "Al"}, xc="LDA").check(frozenset({"Al"}), vasp(library))
    labeler(potcar_symbols={"Al": "Al_lda"}, xc="LDA").check(frozenset({"Al"}), vasp(library))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kpoints": None}, "either kpoints or kspacing_per_A"),
        ({"kspacing_per_A": 0.2}, "either"),
        ({"incar": {"encut": 3}}, r"incar\.ENCUT: is set by the other keys"),
        ({"incar": {"ICHARG": 11}}, "is set by the other keys"),
        ({"incar": {"ALGO": "None"}}, "does not look for the self-consistent ground state"),
        ({"incar": {"LDAUU": 4}}, "give it by element"),
        ({"incar": {"LDAUU": {"Cu": 4}, "LDAUL": {"Cu": 2}}}, "no effect without LDAU"),
        ({"incar": {"LDAU": True, "LDAUU": {"Cu": 4}}}, r"incar\.LDAUL: is missing"),
        ({"incar": {"LDAU": ".TRUE.", "LDAUL": {"Cu": 2}, "LDAUU": {"Cu": 0}}}, r"LDAUU\.Cu: should be above 0"),
        ({"incar": {"LDAU": True, "LDAUL": {"Cu": 2.5}, "LDAUU": {"Cu": 4}}}, r"LDAUL\.Cu: should be -1, 0"),
        ({"incar": {"LDAU": True, "LDAUL": {"Fe": 2}, "LDAUU": {"Fe": 4}}}, "Fe is an element that potcar_symbols"),
        ({"incar": {"SYMPREC": {"Al": 1}}}, "give one value"),
        ({"potcar_symbols": {}}, "is empty"),
        ({"moments_muB": {"Fe": 5}}, r"moments_muB\.Fe"),
    ],
)
def test_settings_that_cannot_be(fields: Mapping, words):
    with pytest.raises(InputError, match=words):
        labeler(**fields)


@pytest.mark.parametrize("fields", [{"xc": "B3LYQ"}, {"allow": ["POSCAR"]}, {"dispersion": "d3"}, {"energy": "total"}])
def test_words_that_are_none_are_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        labeler(**fields)
