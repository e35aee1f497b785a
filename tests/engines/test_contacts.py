import numpy as np
import pytest

from alflow.core.frames import Frames
from alflow.engines.contacts import ContactWatch, closest_A
from alflow.testing.toy_data import toy_frames
from alflow.testing.toy_physics import pairs_within


def closest_by_hand(frames, cutoff_A):
    return np.array([pairs_within(f, cutoff_A).r.min() for f in frames])


def test_closest_pair():
    frames = Frames.concat([toy_frames(4), Frames.single([13], [[0, 0, 0]], np.diag([8.5, 9, 9.5]))])
    assert closest_A(frames) == pytest.approx(closest_by_hand(frames, 9.0))
    assert np.isinf(closest_A(Frames.single([13], [[0, 0, 0]], np.eye(3) * 4, pbc=False))).all()


@pytest.mark.parametrize("strained", [False, True])
def test_the_watch_is_exact_at_every_step_and_searches_rarely(strained):
    frames, rng, limit = toy_frames(3, rattle_A=0.1), np.random.default_rng(2), 1.9
    watch = ContactWatch(frames, np.full(frames.n_atoms, limit / 2))
    seen = set()
    for step in range(2000):
        x, cell = frames.positions + rng.normal(0, 0.03, frames.positions.shape), frames.cell
        if strained:
            a, b = np.sin(step / 9), np.sin(step / 7)
            F = np.eye(3) + 0.002 * np.array([[a, 0.5, 0], [0.5, -0.5, 0], [0, 0, -b]])
            x, cell = x @ F, cell @ F
        frames = frames.moved(x, cell)
        want = closest_by_hand(frames, 3.0) < limit
        assert watch.too_close(frames).tolist() == want.tolist()
        seen.update(want.tolist())
        if want.all():
            break
        if want.any():
            keep = np.flatnonzero(~want)
            frames = frames.take(keep)
            watch.take(keep)
    assert seen == {True, False}
    assert step > 20
    assert watch.searches < 0.7 * step


def test_limits_follow_the_elements():
    frames = Frames.concat([Frames.single([13, z], [[0, 0, 0], [0, 0, 1.5]], np.eye(3) * 9) for z in (13, 1)])
    reach = np.where(frames.numbers == 13, 0.8, 0.3)
    assert ContactWatch(frames, reach).too_close(frames).tolist() == [True, False]


def test_nan_is_too_close():
    frames = toy_frames(3)
    watch = ContactWatch(frames, np.full(frames.n_atoms, 0.5))
    x = frames.positions.copy()
    x[12] = np.nan
    assert watch.too_close(frames.moved(x)).tolist() == [False, True, False]
