"""The parser against VASP's own output.

Neither pymatgen nor custodian ship outputs of VASP; ASE ships two vasprun.xml of VASP 6.3, of which one is static.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import ase
import ase.io
import numpy as np
import pytest

from alflow.core.frames import Frames
from alflow.core.labels import Cause, Labels
from alflow.engines.vasp_inputs import Settings, grid_of, right_handed, species_order, write
from alflow.engines.vasp_outputs import Refusal, read_label
from alflow.testing.fake_vasp import outputs, physics
from alflow.testing.fake_vasp.inputs import read
from alflow.testing.fake_vasp.library import Element, potcar

REAL = Path(ase.__file__).parent / "test" / "testdata" / "vasp" / "vasprun_pstress.xml"
needs_real = pytest.mark.skipif(not REAL.is_file(), reason="this ASE comes without its test data")
DIAMOND = Frames.single([6, 6], [[0, 0, 0], [0.8925, 0.8925, 0.8925]], 1.785 * (1 - np.eye(3)))
TITLES = ["PAW C 22Mar2012"]


@pytest.fixture
def real(tmp_path):
    (tmp_path / "vasprun.xml").write_text(REAL.read_text())
    (tmp_path / "INCAR").write_text("PSTRESS = 1\n")
    (tmp_path / "POSCAR").write_text("not looked into\n")
    (tmp_path / "KPOINTS").write_text("k\n0\nMonkhorst-Pack\n4 4 4\n")
    return tmp_path


@needs_real
def test_vasps_own_output_says_what_another_reader_says(real):
    label = read_label(real, DIAMOND, TITLES, "free")
    assert isinstance(label, Labels), label
    atoms = ase.io.read(REAL, format="vasp-xml")
    np.testing.assert_allclose(label.forces, atoms.get_forces(), atol=1e-12)
    np.testing.assert_allclose(label.stress[0], atoms.get_stress(voigt=False), rtol=1e-6)
    # this run has PSTRESS, which ASE takes out of the energy: compare with the text itself
    text = REAL.read_text().rpartition("<energy>")[2]
    energy = {k: float(v) for k, v in re.findall(r'name="(e_\w+)">\s*(\S+)', text)}
    assert label.energy[0] == energy["e_fr_energy"]
    sigma0 = read_label(real, DIAMOND, TITLES, "sigma0")
    assert sigma0.energy[0] == pytest.approx(energy["e_0_energy"], abs=2e-8)


@needs_real
@pytest.mark.parametrize(
    ("frame", "titles", "files", "words"),
    [
        (DIAMOND.moved(DIAMOND.positions + np.diag([0, 0, 1e-4])[1:]), TITLES, {}, "atoms are up to 0.0001 Å away"),
        (DIAMOND.moved(DIAMOND.positions, DIAMOND.cell * 1.001), TITLES, {}, "another structure: cell"),
        (replace(DIAMOND, numbers=np.array([6, 14])), TITLES, {}, "its species are C2"),
        (DIAMOND, ["PAW_PBE C 08Apr2002"], {}, "of other POTCARs: PAW C 22Mar2012"),
        (DIAMOND, TITLES, {"INCAR": "ENCUT = 500\n"}, "ENCUT is 400.0, asked was 500.0"),
        (DIAMOND, TITLES, {"KPOINTS": "k\n0\nMonkhorst-Pack\n14 4 4\n"}, "of other k-points"),
    ],
)
def test_vasps_own_output_of_something_else_is_refused(real, frame, titles, files, words):
    for name, text in files.items():
        (real / name).write_text(text)
    answer = read_label(real, frame, titles, "free")
    assert isinstance(answer, Refusal)
    assert answer.cause is Cause.OUTPUT
    assert words in answer.reason


@needs_real
def test_vasps_own_output_cut_anywhere_is_refused(real):
    text = REAL.read_text()
    for part in (0, 1, 100, 3000, len(text) // 2, text.index("<energy>"), len(text) - 12):
        (real / "vasprun.xml").write_text(text[:part])
        from custodian.utils import tracked_lru_cache

        tracked_lru_cache.tracked_cache_clear()
        answer = read_label(real, DIAMOND, TITLES, "free")
        assert isinstance(answer, Refusal), part
        assert answer.cause is Cause.OUTPUT
        assert "vasprun.xml is" in answer.reason
    (real / "vasprun.xml").unlink()
    assert "wrote no vasprun.xml" in read_label(real, DIAMOND, TITLES, "free").reason


@needs_real
def test_a_run_that_was_told_to_stop_has_not_converged(real):
    (real / "OUTCAR").write_text("...\nhard stop encountered!  aborting job ...\n")
    assert read_label(real, DIAMOND, TITLES, "free").cause is Cause.UNCONVERGED


# ---- the whole way, on the stand-in --------------------------------------------------------------------------------


def test_atoms_come_back_in_their_own_order(tmp_path):
    rng = np.random.default_rng(3)
    frame = Frames.single(rng.permutation([13] * 5 + [29] * 4), rng.random((9, 3)) * 6, np.diag([6, -6.5, 7.0]))
    grid = grid_of(frame.cell[0], 0.4)
    write(frame, Settings({"ENCUT": 300, "EDIFF": 1e-8}, {}, None, "gamma"), grid, tmp_path)
    (tmp_path / "POTCAR").write_text(potcar(Element("Al")) + potcar(Element("Cu")))
    inputs = read(tmp_path)
    assert inputs.grid == grid == (3, 3, 3)
    assert np.linalg.det(inputs.lattice) > 0
    result = physics.compute(inputs)
    outputs.write(outputs.Run(inputs, result, [result.free], converged=True), tmp_path)
    label = read_label(tmp_path, frame, [s.title for s in inputs.species], "free")
    assert isinstance(label, Labels), label
    np.testing.assert_allclose(label.forces[species_order(frame.numbers)], result.forces, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(label.stress[0], result.stress, atol=1e-10)
    turned = (inputs.fractions @ right_handed(frame.cell[0]) - frame.positions[species_order(frame.numbers)]) @ np.eye(
        3
    )
    np.testing.assert_allclose(
        turned @ np.linalg.inv(frame.cell[0]), np.round(turned @ np.linalg.inv(frame.cell[0])), atol=1e-12
    )


@pytest.mark.parametrize(
    ("cell", "spacing", "grid"),
    [
        (np.eye(3) * 4.05, 0.2, (8, 8, 8)),
        (np.diag([4.0, 8.0, 30.0]), 0.5, (4, 2, 1)),
        (np.eye(3) * 2 * np.pi, 0.5, (2, 2, 2)),  # exactly two, not three for rounding
        (np.eye(3) * 40, 0.2, (1, 1, 1)),
        (4.05 / 2 * (1 - np.eye(3)), 0.2, (14, 14, 14)),  # |b| = 2 pi sqrt(3) / a
        (np.array([[4, 0, 0], [0, 4, 0], [3.9, 0, 4]]), 0.4, (6, 4, 4)),  # of heights, not of lengths
    ],
)
def test_k_points_of_constant_density(cell, spacing, grid):
    assert grid_of(cell, spacing) == grid
    assert grid_of(-cell, spacing) == grid
