import numpy as np

from alflow.core.frames import Frames
from alflow.selectors.top import Part
from alflow.testing.selector_contract import SelectorContract
from alflow.testing.toy_data import toy_frames


class TestTop(SelectorContract):
    part = Part()


def test_highest_first_ties_by_order_nan_last():
    pool, rng = toy_frames(7), np.random.default_rng(0)
    scores = np.array([1.0, np.nan, 3.0, 3.0, np.inf, np.nan, -np.inf])
    order = [4, 2, 3, 0, 6, 1, 5]
    assert Part().choose(pool, scores, Frames.empty(), None, 7, rng).tolist() == order
    assert Part().choose(pool, scores, Frames.empty(), None, 3, rng).tolist() == order[:3]
    assert Part().choose(pool, scores, pool.take([4, 2]), None, 2, rng).tolist() == [3, 0]
