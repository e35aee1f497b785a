import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from alflow.builders.random_cell import Part as RandomCell
from alflow.core.frames import Frames
from alflow.core.labels import Cause
from alflow.core.units import EV_A3_GPa
from alflow.errors import InfrastructureError, InputError, ResourceError
from alflow.interfaces import Limits
from alflow.labelers import lammps as module
from alflow.labelers.lammps import Part
from alflow.testing.labeler_contract import LabelerContract

FCC = np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
SHIPPED = module._shipped_potentials()


def spread_out(rng, n, cell, least):
    """Random positions in any cell, no two atoms closer than `least`; None if they do not fit."""
    images = (np.array(list(np.ndindex(3, 3, 3))) - 1) @ cell
    placed = []
    for p in rng.random((3000, 3)) @ cell:
        if all(np.linalg.norm(p - q + images, axis=1).min() > least for q in placed):
            placed.append(p)
        if len(placed) == n:
            return np.array(placed)
    return None


def triclinic(seed, n, size=6.5, numbers=13):
    """A random cell of any shape and handedness, atoms at least 2.3 Å apart."""
    rng, positions = np.random.default_rng(seed), None
    while positions is None:
        cell = np.eye(3) * size + rng.normal(size=(3, 3))
        positions = spread_out(rng, n, cell, 2.3)
    return Frames.single(np.broadcast_to(numbers, n), positions, cell)


def crystal(a_A, strain=None):
    cell = FCC * a_A @ (np.eye(3) + (0 if strain is None else strain))
    return Frames.single([13], [[0, 0, 0]], cell)


def labels_of(part, frames):
    labels, verdicts = part._label(frames)
    assert all(v.ok for v in verdicts), verdicts
    return labels


class TestMendelev(LabelerContract):
    part = Part()
    frames = Frames.concat([triclinic(1, 9), triclinic(2, 4, 5.0), triclinic(3, 14, 8.0), crystal(4.1)])
    failing = Frames.single([13, 13], [[0, 0, 0], [0.01, 0, 0]], np.eye(3) * 6)
    others = (
        Part(pair_style="lj/cut 6.0", pair_coeff=("1 1 0.2 2.6",)),
        Part(pair_style="lj/cut 6.5", pair_coeff=("1 1 0.2 2.6",)),
        Part(pair_style="eam/alloy", pair_coeff=("* * Al_zhou.eam.alloy Al",)),
    )


class TestSnap(LabelerContract):
    """A machine-learned pair style with two files and a hybrid partner."""

    part = Part(
        pair_style="snap", pair_coeff=("* * Mo_Chen_PRM2017.snapcoeff Mo_Chen_PRM2017.snapparam Mo",), elements=("Mo",)
    )
    frames = Frames.concat([triclinic(1, 6, 6.0, 42), triclinic(2, 3, 5.0, 42)])
    others = (Part(pair_style="zero 5.0", pair_coeff=("* *",), elements=("Mo",)),)
    step_A = 1e-3
    strain = 1e-4
    energy_atol_eV = 1e-8


# ---- against an independent implementation -------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_energy_and_forces_equal_ases_eam(seed):
    from ase import Atoms
    from ase.calculators.eam import EAM

    f = triclinic(seed, 1 + 2 * seed, 5.0 + 0.4 * seed)
    if seed % 2:
        f = f.moved(f.positions, f.cell[:, [1, 0, 2]])  # left-handed
    if seed == 4:
        f = Frames(f.numbers, f.positions, f.cell, np.array([[True, False, True]]), f.offsets)
    if seed == 5:
        f = Frames(f.numbers, f.positions, np.zeros((1, 3, 3)), np.zeros((1, 3), bool), f.offsets)
    atoms = Atoms(f.numbers, f.positions, cell=f.cell[0], pbc=f.pbc[0])
    atoms.calc = EAM(potential=str(SHIPPED / "Al_mm.eam.fs"))
    labels = labels_of(Part(max_force_eV_A=1e4), f)
    # ASE's spline differs from LAMMPS' between the knots, most where the embedding function starts like a square root
    assert labels.energy[0] == pytest.approx(atoms.get_potential_energy(), abs=1e-4 if seed == 5 else 1e-7)
    np.testing.assert_allclose(labels.forces, atoms.get_forces(), atol=3e-3 if seed == 5 else 1e-4)
    assert np.isfinite(labels.stress).all() == bool(f.pbc.all())


def test_lennard_jones_pair_in_a_large_box_is_the_closed_form():
    part = Part(pair_style="lj/cut 8.0", pair_coeff=("1 1 0.25 2.5",))
    r = 2.9
    f = Frames.single([13, 13], [[1, 1, 1], [1, 1 + r, 1]], np.eye(3) * 20)
    labels = labels_of(part, f)
    x = (2.5 / r) ** 6
    force = 24 * 0.25 * (2 * x * x - x) / r
    assert labels.energy[0] == pytest.approx(4 * 0.25 * (x * x - x), rel=1e-12)
    np.testing.assert_allclose(labels.forces, [[0, -force, 0], [0, force, 0]], atol=1e-12)
    want = np.zeros((3, 3))
    want[1, 1] = -force * r / 8000  # repulsion is compression: negative
    np.testing.assert_allclose(labels.stress[0], want, atol=1e-15)


def test_two_elements_keep_their_types():
    part = Part(pair_style="lj/cut 8.0", pair_coeff=("1 1 0.1 2", "2 2 0.2 2", "1 2 0.3 2"), elements=("Al", "Cu"))
    pairs = [
        Frames.single(z, [[0, 0, 0], [2.2, 0, 0]], np.eye(3) * 20) for z in ([13, 13], [29, 29], [13, 29], [29, 13])
    ]
    x = (2 / 2.2) ** 6
    np.testing.assert_allclose(
        labels_of(part, Frames.concat(pairs)).energy, 4 * np.array([0.1, 0.2, 0.3, 0.3]) * (x * x - x), rtol=1e-12
    )


# ---- published figures ---------------------------------------------------------------------------------------------


def test_aluminium_lattice_parameter_energy_and_elastic_constants():
    part, a = Part(), np.linspace(4.03, 4.06, 31)
    energy = labels_of(part, Frames.concat([crystal(x) for x in a])).energy
    fit = np.polynomial.Polynomial.fit(a, energy, 4)
    a0 = float(next(r.real for r in fit.deriv().roots() if abs(r.imag) < 1e-9 and 4.03 < r.real < 4.06))
    assert a0 == pytest.approx(4.0453, abs=2e-4)
    assert fit(a0) == pytest.approx(-3.4107, abs=1e-4)

    h = 0.01
    stretch, shear = np.zeros((3, 3)), np.zeros((3, 3))
    stretch[0, 0], shear[1, 2], shear[2, 1] = h, h / 2, h / 2
    pairs = Frames.concat([crystal(a0, s * x) for x in (stretch, shear) for s in (1, -1)])
    s = labels_of(part, pairs).stress * EV_A3_GPa
    c11, c12, c44 = (s[0] - s[1])[0, 0] / 2 / h, (s[0] - s[1])[1, 1] / 2 / h, (s[2] - s[3])[1, 2] / 2 / h
    assert [c11, c12, c44] == pytest.approx([111.8, 63.0, 32.6], rel=0.025)  # the table's own noise at 1 % strain


# ---- any cell ------------------------------------------------------------------------------------------------------


def test_a_primitive_cell_equals_its_supercell():
    rng = np.random.default_rng(0)
    cell = FCC * 4.1 + rng.normal(size=(3, 3)) * 0.1
    corners = np.array(list(np.ndindex(3, 2, 4))) @ cell
    big = Frames.single([13] * 24, corners, np.diag([3, 2, 4]) @ cell)
    labels = labels_of(Part(), Frames.concat([Frames.single([13], [[0.3, 0, 0]], cell), big]))
    assert labels.energy[1] == pytest.approx(24 * labels.energy[0], rel=1e-12)
    np.testing.assert_allclose(labels.stress[0], labels.stress[1], atol=1e-12)
    np.testing.assert_allclose(labels.forces, 0, atol=1e-9)


def test_skewed_descriptions_of_one_lattice_agree():
    f = triclinic(5, 5)
    shears = [np.array([[1, 0, 0], [4, 1, 0], [-7, 3, 1]]), np.array([[1, -2, 0], [0, 1, 0], [5, 0, -1]])]
    cells = [f.cell[0], *(m @ f.cell[0] for m in shears)]
    labels = labels_of(Part(), Frames.concat([f.moved(f.positions, c[None]) for c in cells]))
    np.testing.assert_allclose(labels.energy, labels.energy[0], atol=1e-9)
    for s in labels.stress[1:]:
        np.testing.assert_allclose(s, labels.stress[0], atol=1e-10)


def test_an_open_cluster_equals_one_in_a_large_cell():
    f = triclinic(5, 11, 7.0)
    open_ = Frames(f.numbers, f.positions, np.zeros((1, 3, 3)), np.zeros((1, 3), bool), f.offsets)
    labels = labels_of(Part(), Frames.concat([open_, f.moved(f.positions, 60 * np.eye(3)[None])]))
    assert labels.energy[0] == pytest.approx(labels.energy[1], abs=1e-10)
    np.testing.assert_allclose(labels.forces[:11], labels.forces[11:], atol=1e-9)


def test_an_open_slab_equals_one_in_a_tall_cell():
    f = triclinic(7, 6)
    tall = f.cell.copy()
    normal = np.cross(tall[0, 0], tall[0, 1])
    tall[0, 2] = 60 * normal / np.linalg.norm(normal)
    inside = f.positions + 20 * normal / np.linalg.norm(normal)
    slab = Frames(f.numbers, inside, f.cell, np.array([[True, True, False]]), f.offsets)
    labels = labels_of(Part(), Frames.concat([slab, f.moved(inside, tall)]))
    assert labels.energy[0] == pytest.approx(labels.energy[1], abs=1e-9)
    np.testing.assert_allclose(labels.forces[:6], labels.forces[6:], atol=1e-8)
    assert np.isnan(labels.stress[0]).all()


# ---- failures are verdicts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "cause", "reason"),
    [
        (Frames.single([13, 13], [[0, 0, 0], [0, 0, 0]], np.eye(3) * 6), Cause.VALUE, "atoms overlap"),
        (Frames.single([13, 13], [[0, 0, 0], [0.3, 0, 0]], np.eye(3) * 6), Cause.VALUE, "more than 100: atoms overlap"),
        (Frames.single([13], [[np.nan, 0, 0]], np.eye(3) * 6), Cause.STRUCTURE, "not finite"),
        (Frames.single([13], [[0, 0, 0]], np.full((3, 3), np.inf)), Cause.STRUCTURE, "not finite"),
        (Frames.single([13], [[0, 0, 0]], np.zeros((3, 3))), Cause.STRUCTURE, "span no volume"),
        (Frames.single([29], [[0, 0, 0]], np.eye(3) * 6), Cause.STRUCTURE, "does not know Cu"),
    ],
)
def test_bad_frames_get_a_reason_and_leave_the_others_alone(tmp_path, frame, cause, reason):
    good = TestMendelev.frames
    labels, verdicts = Part().label(Frames.concat([good[0], frame, good[1]]), None, tmp_path)
    assert [v.ok for v in verdicts] == [True, False, True]
    assert (verdicts[1].cause, reason in verdicts[1].reason) == (cause, True)
    want = TestMendelev._reference().energy[:2]
    np.testing.assert_allclose(labels.energy, [want[0], np.nan, want[1]], rtol=1e-12)


def test_lammps_own_errors_are_verdicts():
    part = Part(pair_style="tersoff", pair_coeff=("* * Si.tersoff Si",), elements=("Si",))
    crowded = Frames.single([14] * 4000, np.random.default_rng(0).random((4000, 3)), np.eye(3))
    _, verdicts = part._label(Frames.concat([crowded, Frames.single([14], [[0, 0, 0]], np.eye(3) * 2.4)]))
    assert [v.ok for v in verdicts] == [False, True]
    assert verdicts[0].reason.startswith(("LAMMPS", "ERROR", "largest", "energy"))


def test_a_crash_is_put_down_to_its_frame_and_the_rest_goes_on(monkeypatch):
    part = Part(pair_style="lj/cut 5.0", pair_coeff=("1 1 0.21 2.5",))
    process = part._process()
    frames, killed = Frames.concat([crystal(4.0 + 0.01 * i) for i in range(6)]), []

    def killing(answer, rotation, pbc, original=module.LammpsProcess.answers.__globals__["_turned_back"]):
        if not killed:
            process._child.kill()
            killed.append(process._child.wait())
        return original(answer, rotation, pbc)

    monkeypatch.setattr("alflow.engines.lammps._turned_back", killing)
    _, verdicts = part._label(frames)
    lost = [v for v in verdicts if not v.ok]
    assert len(lost) <= 1  # none if all answers were already on their way
    assert all("crashed: exit status -9" in v.reason for v in lost)
    assert all(v.cause is Cause.MEMORY for v in lost)
    assert killed == [-9]
    assert labels_of(part, frames).energy.shape == (6,)


def test_who_is_ended_from_outside_is_not_blamed_on_the_structure(tmp_path, monkeypatch):
    part = Part()
    labels_of(part, crystal(4.05))
    real = part._process()._send

    def ended(message):
        part._process()._child.terminate()
        part._process()._child.wait()
        real(message)

    with monkeypatch.context() as patched:
        patched.setattr(part._process(), "_send", ended)
        with pytest.raises(InfrastructureError, match="from outside by signal 15"):
            part.label(crystal(4.05), None, tmp_path)
    assert list(tmp_path.iterdir()) == []
    labels_of(part, crystal(4.05))


def test_a_potential_that_takes_for_ever_to_load_can_be_halted(monkeypatch):
    process = module.LammpsProcess(("pair_style lj/cut 5.0", "pair_coeff 1 1 0.21 2.5"), 1)
    process._spawn()
    process._child.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(ResourceError, match="halted"):
        process.start(lambda: time.monotonic() > began + 0.7)
    assert process.start() == ""
    process.close()
    process._spawn()
    process._child.send_signal(signal.SIGSTOP)
    monkeypatch.setattr("alflow.engines.lammps._START_S", 0.3)
    assert "said nothing for 0.3 s" in process.start()
    process.close()


def test_a_file_that_only_the_place_or_the_environment_has_is_refused(tmp_path, monkeypatch):
    (tmp_path / "mine.eam.fs").write_bytes((SHIPPED / "Al_mm.eam.fs").read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAMMPS_POTENTIALS", str(tmp_path))
    with pytest.raises(InputError, match=r"mine\.eam\.fs"):
        Part(pair_coeff=("* * mine.eam.fs Al",)).check(frozenset({"Al"}), None)
    Part(pair_coeff=("* * mine.eam.fs Al",), files=(tmp_path / "mine.eam.fs",)).check(frozenset({"Al"}), None)


def test_a_frame_that_takes_too_long_runs_out_of_time():
    part = Part(max_seconds=0.5)
    labels_of(Part(), crystal(4.05))
    part._process()._child.send_signal(signal.SIGSTOP)
    _, verdicts = part._label(Frames.concat([crystal(4.05), crystal(4.06)]))
    assert [v.ok for v in verdicts] == [False, True]
    assert "ran out of time: no answer within 0.5 s" in verdicts[0].reason


def test_what_more_time_may_mend_is_not_kept(tmp_path):
    part, frames = Part(), Frames.concat([crystal(4.05), crystal(4.06)])
    labels_of(part, frames)
    part._process()._child.send_signal(signal.SIGSTOP)
    _, verdicts = part.label(frames, None, tmp_path, Limits(seconds=0.3))
    assert [v.cause for v in verdicts] == [Cause.TIME, None]
    assert list(tmp_path.iterdir()) == []
    _, verdicts = part.label(frames, None, tmp_path)
    assert all(v.ok for v in verdicts)


def test_halt_ends_a_frame_that_takes_long(tmp_path):
    part, frame = Part(), crystal(4.05)
    labels_of(part, frame)
    part._process()._child.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(ResourceError, match="halted"):
        part.label(frame, None, tmp_path, Limits(halt=lambda: time.monotonic() > began + 0.7))
    assert time.monotonic() - began < 10
    labels_of(part, frame)


def test_a_potential_that_vanished_is_the_machines_fault(tmp_path):
    file = tmp_path / "mine.eam.fs"
    file.write_bytes((SHIPPED / "Al_mm.eam.fs").read_bytes())
    part = Part(pair_coeff=("* * mine.eam.fs Al",), files=(file,))
    process = module.LammpsProcess(["pair_style eam/fs", f"pair_coeff * * {tmp_path / 'gone'} Al"], 1)
    with pytest.raises(InfrastructureError, match=r"LAMMPS does not start: .*gone"):
        list(process.answers(crystal(4.05), np.array([1]), 10))
    assert labels_of(part, crystal(4.05)).energy[0] == labels_of(Part(), crystal(4.05)).energy[0]


def test_an_abandoned_batch_does_not_leak_into_the_next():
    part = Part()
    process, frames = part._process(), Frames.concat([crystal(4.0 + 0.01 * i) for i in range(10)])
    answers = process.answers(frames, np.ones(10, np.int64), 10)
    next(answers)
    answers.close()
    np.testing.assert_allclose(labels_of(part, frames[7]).energy, labels_of(part, frames).energy[7], rtol=1e-14)


# ---- theory and settings -------------------------------------------------------------------------------------------


def test_theory_knows_the_content_of_files_not_their_place(tmp_path):
    parts = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        file = tmp_path / name / "mine.fs"
        file.write_bytes((SHIPPED / "Al_mm.eam.fs").read_bytes())
        parts.append(Part(pair_coeff=("* * mine.fs Al",), files=(file,)))
    first, second = (p.theory(None) for p in parts)
    assert first.fingerprint == second.fingerprint
    assert str(tmp_path) not in str(first)
    (tmp_path / "b" / "mine.fs").write_text("other")
    assert parts[1].theory(None).fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("fields", "elements", "match"),
    [
        ({}, {"Al", "Cu"}, "elements: has no Cu, only Al"),
        ({"pair_style": "eam/fsx"}, {"Al"}, "pair_style: LAMMPS refuses it: .*eam/fsx"),
        ({"pair_coeff": ("* * nowhere.eam.fs Al",)}, {"Al"}, "pair_style: LAMMPS refuses it: .*nowhere.eam.fs"),
        ({"pair_coeff": ("* * Al_mm.eam.fs Xx",)}, {"Al"}, "pair_style: LAMMPS refuses it"),
        ({"pair_coeff": ()}, {"Al"}, "pair_style: LAMMPS refuses it"),
        ({"files": (Path("nowhere.fs"),)}, {"Al"}, "files: .*nowhere.fs does not exist"),
        ({"elements": ("Alu",)}, {"Alu"}, "elements: 'Alu' is not a chemical symbol"),
    ],
)
def test_bad_settings_are_refused(fields, elements, match):
    with pytest.raises(InputError, match=match):
        Part(**fields).check(frozenset(elements), None)


def _energy_in_child(queue):
    queue.put((os.getpid(), float(Part()._label(crystal(4.05))[0].energy[0])))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_worker_has_a_lammps_of_its_own():
    want = labels_of(Part(), crystal(4.05)).energy[0]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_energy_in_child, args=(queue,))
    child.start()
    pid, energy = queue.get(timeout=30)
    child.join(30)
    assert pid != os.getpid()
    assert energy == want
    assert labels_of(Part(), crystal(4.05)).energy[0] == want


def test_a_thousand_small_frames_take_seconds():
    cells = RandomCell(species={"Al": 1}, edge_A=(4, 6), density_g_cm3=(1.8, 2.7), min_distance_A=2.2)
    frames = cells.build(1000, np.random.default_rng(0))
    Part()._label(frames[0])
    start = time.perf_counter()
    labels_of(Part(), frames)
    assert time.perf_counter() - start < 10  # a process for each would take minutes
