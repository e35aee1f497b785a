from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest
from pymatgen.io.vasp import Incar, Oszicar, Outcar, Potcar, Vasprun

from alflow.testing.fake_vasp import Element, failures, physics
from alflow.testing.fake_vasp.inputs import Inputs, Species
from alflow.testing.fake_vasp.library import potcar

POSCAR = """x
1.0
4.1 0 0
0.1 4.0 0
0 0 4.2
Al Cu
2 2
Direct
0.01 0 0
0 0.5 0.5
0.5 0 0.52
0.5 0.5 0
"""
INPUTS = {
    "INCAR": "ENCUT = 300 ; ISMEAR = 1 # comment\nSIGMA = 0.2\nEDIFF = 1E-6\nLREAL = .FALSE.\nALGO = Fast\n",
    "POSCAR": POSCAR,
    "KPOINTS": "k\n0\nGamma\n2 2 3\n",
    "POTCAR": potcar(Element("Al")) + potcar(Element("Cu")),
}


@pytest.fixture
def vasp(tmp_path):
    def run(*words, **changed):
        for name, text in {**INPUTS, **changed}.items():
            if text is not None:
                (tmp_path / name).write_text(text)
        ran = subprocess.run(
            [sys.executable, "-m", "alflow.testing.vasp_std", *words], cwd=tmp_path, capture_output=True, text=True
        )
        return ran.returncode, ran.stdout

    return run


def test_pymatgen_reads_all_it_writes(vasp, tmp_path):
    assert vasp()[0] == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen does not know these POTCARs
        run = Vasprun(tmp_path / "vasprun.xml")
        assert Potcar.from_file(tmp_path / "POTCAR").symbols == ["Al", "Cu"]
    outcar, oszicar = Outcar(tmp_path / "OUTCAR"), Oszicar(tmp_path / "OSZICAR")
    assert run.converged
    assert run.incar == {**Incar.from_str(INPUTS["INCAR"])}
    assert run.kpoints.kpts[0] == (2, 2, 3)
    assert len(run.actual_kpoints) == 12
    assert sum(run.actual_kpoints_weights) == pytest.approx(1, abs=1e-6)
    assert run.potcar_symbols == ["PAW_PBE Al 01Apr2000", "PAW_PBE Cu 01Apr2000"]
    assert run.final_structure.formula == "Al2 Cu2"
    assert run.parameters["ENMAX"] == 300
    free = run.ionic_steps[-1]["e_fr_energy"]
    assert outcar.final_fr_energy == free
    assert outcar.final_energy == pytest.approx(run.final_energy, abs=2e-8)
    assert oszicar.ionic_steps[-1]["F"] == pytest.approx(free, rel=1e-8)
    assert oszicar.ionic_steps[-1]["E0"] == pytest.approx(float(run.final_energy), rel=1e-8)
    assert len(oszicar.electronic_steps[0]) == len(run.ionic_steps[-1]["electronic_steps"])
    assert (outcar.nelect, outcar.data["nbands"]) == (28, 18)
    assert free < run.final_energy < run.ionic_steps[-1]["e_wo_entrp"]
    assert (run.final_energy - free) * 3 == pytest.approx(run.ionic_steps[-1]["e_wo_entrp"] - free, abs=1e-7)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"POTCAR": potcar(Element("Cu")) + potcar(Element("Al"))}, "POSCAR and POTCAR are incompatible"),
        ({"POTCAR": potcar(Element("Al")) + potcar(Element("Cu", lexch="CA"))}, "LEXCH"),
        ({"POTCAR": potcar(Element("Al"))}, "incompatible"),
        ({"POTCAR": "nothing"}, "problem reading the POTCAR"),
        ({"POTCAR": None}, "No POTCAR found"),
        ({"KPOINTS": ""}, "No KPOINTS found"),
        ({"INCAR": "ENCUT = many\n"}, "Error reading item ENCUT"),
        ({"INCAR": "ISMEAR = 1.5\n"}, "Error reading item ISMEAR"),
        ({"INCAR": "GGA = XX\n"}, "unknown GGA"),
        ({"INCAR": "NBANDS = 5\n"}, "number of bands is not sufficient"),
        ({"POSCAR": POSCAR.replace("4.1 0 0", "-4.1 0 0")}, "triple product"),
        ({"POSCAR": POSCAR.replace("0.5 0.5 0\n", "")}, "problem reading the POSCAR"),
        ({"KPOINTS": "k\n0\nGamma\n2 2\n"}, "problem reading the KPOINTS"),
    ],
)
def test_it_refuses_what_vasp_refuses(vasp, tmp_path, changed, words):
    status, said = vasp(**changed)
    assert status == 1
    assert words in said
    assert not (tmp_path / "vasprun.xml").exists()


def test_a_failure_that_is_none_is_refused(vasp):
    assert vasp("gremlins")[0] == 1


def test_failures_are_named_by_the_environment_too(vasp, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_VASP", "zero_byte:ENCUT=500.0")
    assert vasp()[0] == 0
    assert not (tmp_path / "vasprun.xml").stat().st_size
    assert vasp(INCAR="ENCUT = 500\n")[0] == 0
    assert (tmp_path / "vasprun.xml").stat().st_size


def inputs(scale=1.0, shift=0.0, element="Al", a=4.05, **tags) -> Inputs:
    species = Species(element, f"PAW_PBE {element} 01Apr2000", "PE", 3, 250, 27)
    fractions = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    fractions = fractions + shift * np.arange(12).reshape(4, 3) / 100
    return Inputs(
        {"ENCUT": 5000.0, "SIGMA": 1e-6, **tags},
        scale * a * np.eye(3),
        fractions,
        (species,),
        (4,),
        (99, 99, 99),
        "Gamma",
    )


@pytest.mark.parametrize(
    ("element", "a", "cohesive"), [("Al", 4.050, 3.339), ("Cu", 3.615, 3.544), ("Ni", 3.523, 4.435)]
)
def test_cohesive_energy_and_lattice_are_the_published_ones(element, a, cohesive):
    """Cleri and Rosato fitted both; the shorter range here is worth a few per cent."""
    energy = {s: physics.compute(inputs(s, element=element, a=a)).free / 4 for s in (0.98, 0.99, 1.0, 1.01, 1.02)}
    assert energy[1.0] == pytest.approx(-cohesive, rel=0.03)
    assert min(energy, key=energy.get) in {0.99, 1.0, 1.01}


def test_forces_and_stress_are_derivatives_of_the_free_energy():
    here = inputs(shift=1.0, SIGMA=1.0)
    result, h = physics.compute(here), 1e-5
    for atom, axis in ((0, 0), (2, 1), (3, 2)):
        ends = []
        for sign in (1, -1):
            moved = here.fractions.copy()
            moved[atom, axis] += sign * h / here.lattice[axis, axis]
            ends.append(
                physics.compute(Inputs(here.incar, here.lattice, moved, here.species, (4,), here.grid, "Gamma"))
            )
        assert (ends[1].free - ends[0].free) / (2 * h) == pytest.approx(result.forces[atom, axis], rel=1e-6, abs=1e-8)
    strain = np.array([[1, 0.3, 0], [0.3, -0.5, 0.2], [0, 0.2, 0.7]])
    up, down = (
        physics.compute(
            Inputs(
                here.incar,
                here.lattice @ (np.eye(3) + s * h * strain),
                here.fractions,
                here.species,
                (4,),
                here.grid,
                "Gamma",
            )
        ).free
        for s in (1, -1)
    )
    volume = np.linalg.det(here.lattice)
    assert (up - down) / (2 * h) / volume == pytest.approx((result.stress * strain).sum(), rel=1e-6)


def test_settings_bend_the_energy_smoothly_and_differently():
    plain = physics.compute(inputs())
    for tags in ({"ENCUT": 300.0}, {"SIGMA": 0.2}, {"GGA": "PS"}, {"IVDW": 11}, {"ISPIN": 2, "MAGMOM": [1.0]}):
        other = physics.compute(inputs(**tags))
        assert 0 < abs(other.free - plain.free) < 0.1 * abs(plain.free), tags
    converging = [physics.compute(inputs(ENCUT=e)).free for e in (200.0, 300.0, 400.0, 500.0)]
    assert np.diff(converging).tolist() == sorted(np.diff(converging).tolist())  # falls, ever more slowly
    assert max(np.diff(converging)) < 0


def test_a_share_of_structures_fails_each_in_its_own_way_and_always_the_same():
    rng = np.random.default_rng(1)
    cells = [inputs(scale) for scale in 1 + 0.1 * rng.random(2000)]
    drawn = [failures._drawn("fails", 0.2, c) for c in cells]
    assert drawn == [failures._drawn("fails", 0.2, c) for c in cells]
    share = sum(map(bool, drawn)) / len(cells)
    assert share == pytest.approx(0.2, abs=0.03)  # three standard deviations
    assert {name for names in drawn for name in names} == set(failures.FATAL)
    assert [bool(failures._drawn("fails", 1.0, c)) for c in cells] == [True] * len(cells)
    for words in (*failures.FATAL, *failures.MENDED, *failures.FAILURES):
        failures._named(words)
