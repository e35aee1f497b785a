"""FIRE on potentials with known minima; each system on its own."""

import numpy as np
import pytest

from alflow.core.frames import Frames
from alflow.core.labels import Labels
from alflow.engines.batched_descent import FireBatch
from alflow.testing.toy_data import toy_frames
from alflow.testing.toy_physics import morse


def wells(stiffness):
    """Each atom tied to the origin; one stiffness a frame."""

    def predict(frames):
        k = stiffness[: len(frames)][frames.frame_of_atom, None]
        energy = np.add.reduceat((0.5 * k * frames.positions**2).sum(axis=1), frames.offsets[:-1])
        return Labels(energy, -k * frames.positions)

    return predict


def batch(n=3, seed=0):
    rng = np.random.default_rng(seed)
    sizes = (2, 5, 1)[:n]
    return Frames.concat([Frames.single([13] * m, rng.normal(size=(m, 3)), 9 * np.eye(3)) for m in sizes])


def test_it_finds_the_bottom_of_wells_of_any_stiffness():
    fire = FireBatch(batch(), wells(np.array([1.0, 30.0, 0.1])), 0.2)
    for _ in range(300):
        fire.step()
    assert np.abs(fire.frames.positions).max() < 1e-3
    assert (fire.energy < 1e-6).all()


def test_no_atom_moves_farther_than_the_cap():
    fire = FireBatch(batch(), wells(np.array([1.0, 3000.0, 0.1])), 0.05)
    for _ in range(50):
        before = fire.frames.positions
        fire.step()
        assert np.linalg.norm(fire.frames.positions - before, axis=1).max() <= 0.05 * (1 + 1e-12)


def test_a_relaxed_crystal_has_no_forces():
    fire = FireBatch(toy_frames(4, rattle_A=0.2), morse, 0.1)
    start = fire.energy
    for _ in range(300):
        fire.step()
    assert (fire.energy < start).all()
    assert np.abs(fire.forces).max() < 1e-3


def test_a_system_does_what_it_does_alone():
    frames, each = toy_frames(3, rattle_A=0.3), []
    together = FireBatch(frames, morse, 0.1)
    alone = [FireBatch(f, morse, 0.1) for f in frames]
    for step in range(30):
        if step == 10:
            together.take(np.array([0, 2]))
            del alone[1]
        together.step()
        for fire in alone:
            fire.step()
    each = np.concatenate([fire.frames.positions for fire in alone])
    np.testing.assert_allclose(together.frames.positions, each, atol=1e-9)


def test_where_there_is_no_force_nothing_moves():
    fire = FireBatch(batch(), wells(np.zeros(3)), 0.1)
    before = fire.frames.positions
    for _ in range(3):
        fire.step()
    np.testing.assert_array_equal(fire.frames.positions, before)


@pytest.mark.parametrize("lost", [0, 2])
def test_a_system_that_is_lost_stays_alone(lost):
    frames = batch()
    x = frames.positions.copy()
    x[frames.offsets[lost]] = np.nan
    fire = FireBatch(frames.moved(x), wells(np.ones(3)), 0.1)
    for _ in range(200):
        fire.step()
    assert np.isnan(fire.energy[lost])
    assert (np.delete(fire.energy, lost) < 1e-4).all()
