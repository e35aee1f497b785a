import numpy as np
import pytest

from alflow.core.frames import Frames
from alflow.testing.morse import CUTOFF_A, R0_A, DEPTH_eV, morse_dataset, morse_labels


def test_a_dimer_is_on_the_formula():
    r = 3.0
    frames = Frames.single([13, 13], [[0, 0, 0], [0, 0, r]], np.eye(3) * 30, pbc=False)
    x = r / CUTOFF_A
    y = np.exp(-1.1646 * (r - R0_A))
    want = DEPTH_eV * (y**2 - 2 * y) * (1 - x) ** 3 * (1 + 3 * x + 6 * x**2)
    assert morse_labels(frames).energy[0] == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("z", [(13,), (13, 29)])
def test_forces_and_stress_are_derivatives(z):
    data = morse_dataset(2, 3, (4, 5), z)
    frames, labels, h = data.frames, data.labels, 1e-5
    rng = np.random.default_rng(0)
    d = rng.normal(size=frames.positions.shape)
    up, down = (morse_labels(frames.moved(frames.positions + s * h * d)).energy for s in (1, -1))
    work = np.add.reduceat((labels.forces * d).sum(1), frames.offsets[:-1])
    np.testing.assert_allclose(-(up - down) / (2 * h), work, rtol=1e-6, atol=1e-8)
    eps = rng.normal(size=(3, 3))
    eps = eps + eps.T
    ends = []
    for s in (1, -1):
        f = np.eye(3) + s * h * eps
        ends.append(morse_labels(frames.moved(frames.positions @ f, frames.cell @ f)).energy)
    want = np.einsum("fab,ab->f", labels.stress, eps) * frames.volumes
    np.testing.assert_allclose((ends[0] - ends[1]) / (2 * h), want, rtol=1e-6, atol=1e-8)


def test_a_supercell_is_eight_times_the_cell():
    one = morse_dataset(1, 5).frames
    shifts = np.array([[i, j, k] for i in range(2) for j in range(2) for k in range(2)]) @ one.cell[0]
    big = Frames.single(np.tile(one.numbers, 8), (shifts[:, None] + one.positions).reshape(-1, 3), 2 * one.cell[0])
    a, b = morse_labels(one), morse_labels(big)
    assert b.energy[0] == pytest.approx(8 * a.energy[0], rel=1e-12)
    np.testing.assert_allclose(b.stress, a.stress, atol=1e-13)


def test_the_dataset_is_a_function_of_its_seed_and_has_no_close_contacts():
    a, b, c = morse_dataset(5, 1), morse_dataset(5, 1), morse_dataset(5, 2)
    assert a.ids == b.ids
    assert a.ids != c.ids
    assert np.abs(a.labels.forces).max() < 20
