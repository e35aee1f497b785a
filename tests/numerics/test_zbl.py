"""The repulsion of nuclei: its own derivatives, and its smooth end. Equality with LAMMPS: tests of `snap`."""

import numpy as np
import pytest

from alflow.core.frames import Frames
from alflow.errors import DataError
from alflow.numerics.neighbors import neighbor_list
from alflow.numerics.zbl import COULOMB_eV_A, Zbl, evaluate, pair_energy
from alflow.testing.morse import morse_dataset

ZBL = Zbl(2.0, 3.5)


def energy_of(frames):
    return evaluate(ZBL, frames, neighbor_list(frames, 4.0))[0]


def test_close_nuclei_feel_bare_coulomb_and_far_ones_nothing():
    r = np.array([1e-4, 3.5 - 1e-5])
    z = np.full(2, 74.0)
    value, slope = pair_energy(ZBL, r, z, z)
    assert value[0] == pytest.approx(COULOMB_eV_A * 74**2 / 1e-4, rel=1e-2)
    assert value[1] == pytest.approx(0, abs=1e-12)
    assert slope[1] == pytest.approx(0, abs=1e-8)


def test_slope_is_the_derivative_on_both_sides_of_the_inner_cutoff():
    r = np.linspace(0.8, 3.4, 40)
    zi, zj, h = np.full(40, 13.0), np.full(40, 29.0), 1e-5
    up, down = (pair_energy(ZBL, r + s, zi, zj)[0] for s in (h, -h))
    np.testing.assert_allclose(pair_energy(ZBL, r, zi, zj)[1], (up - down) / (2 * h), rtol=1e-6, atol=1e-6)


def test_gradient_and_strain_are_derivatives_of_the_energy():
    frames, rng, h = morse_dataset(4, 2, (2, 6), (13, 29)).frames, np.random.default_rng(0), 1e-5
    _, grad, strain = evaluate(ZBL, frames, neighbor_list(frames, 4.0))
    d = rng.normal(size=frames.positions.shape)
    up, down = (energy_of(frames.moved(frames.positions + s * d)) for s in (h, -h))
    want = np.add.reduceat((grad * d).sum(1), frames.offsets[:-1])
    np.testing.assert_allclose((up - down) / (2 * h), want, rtol=1e-6, atol=1e-6)
    e = rng.normal(size=(3, 3))
    f = [np.eye(3) + s * e for s in (h, -h)]
    up, down = (energy_of(frames.moved(frames.positions @ x.T, frames.cell @ x.T)) for x in f)
    np.testing.assert_allclose((up - down) / (2 * h), np.einsum("fab,ab->f", strain, e), rtol=1e-5, atol=1e-5)


def test_what_makes_no_sense_is_refused_or_nan():
    for ends in ((3.0, 2.0), (0.0, 1.0), (1.0, np.inf)):
        with pytest.raises(DataError, match="inner_A"):
            Zbl(*ends)
    frames = morse_dataset(2, 2, (2, 3)).frames
    with pytest.raises(DataError, match=r"3\.5"):
        evaluate(ZBL, frames, neighbor_list(frames, 3.0))
    broken = frames.positions.copy()
    broken[0] = np.nan
    energy, grad, strain = evaluate(ZBL, frames.moved(broken), neighbor_list(frames.moved(broken), 4.0))
    assert np.isnan(energy).tolist() == [True, False]
    assert np.isfinite(grad[frames.offsets[1] :]).all()
    assert np.isfinite(strain[1]).all()
    apart = Frames.single([1, 1], [[0, 0, 0], [9, 0, 0]], np.eye(3), pbc=False)
    assert evaluate(ZBL, apart, neighbor_list(apart, 4.0))[0] == 0
