import numpy as np

from alflow.core.frames import Frames
from alflow.selectors.everything import Part
from alflow.testing.selector_contract import SelectorContract
from alflow.testing.toy_data import toy_frames


class TestEverything(SelectorContract):
    part = Part()


def test_the_order_of_the_pool_decides():
    pool, rng = toy_frames(6), np.random.default_rng(0)
    doubled = Frames.concat([pool.take([2, 0, 2]), pool.take([0, 5, 1])])
    chosen = Part().choose(doubled, np.arange(6.0), pool.take([5]), None, 9, rng)
    assert chosen.tolist() == [0, 1, 5]
    assert Part().choose(doubled, np.arange(6.0), pool.take([5]), None, 2, rng).tolist() == [0, 1]
