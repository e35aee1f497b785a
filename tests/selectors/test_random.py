import numpy as np
import pytest

from alflow.core.frames import Frames
from alflow.selectors.random import Part
from alflow.testing.selector_contract import SelectorContract
from alflow.testing.toy_data import toy_frames


class TestRandom(SelectorContract):
    part = Part()


def test_every_candidate_is_as_likely():
    pool, rng = toy_frames(6), np.random.default_rng(0)
    doubled = Frames.concat([pool, pool.take([0, 0, 0])])  # repeats must not make a frame likelier
    count = np.zeros(len(doubled))
    for _ in range(2000):
        chosen = Part().choose(doubled, np.zeros(9), Frames.empty(), None, 2, rng)
        assert (np.diff(chosen) > 0).all()
        count[chosen] += 1
    assert count[:6] == pytest.approx(2000 / 3, abs=5 * np.sqrt(2000 * 2 / 9))
    assert not count[6:].any()
