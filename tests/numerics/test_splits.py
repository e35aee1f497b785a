import numpy as np
import pytest

from alflow.errors import DataError
from alflow.numerics.splits import partition, shuffled, split

KEYS = [f"frame-{i}" for i in range(4000)]


def test_shares_are_those_of_the_paper():
    s = split(KEYS, 0)
    assert (s.train ^ s.valid ^ s.test).all()
    n = np.array([s.train.sum(), s.valid.sum(), s.test.sum()]) / len(KEYS)
    np.testing.assert_allclose(n, [13 / 16, 2 / 16, 1 / 16], atol=0.02)


def test_a_frame_keeps_its_side_in_any_order_and_as_the_set_grows():
    few, many = split(KEYS[:200], 3), split(KEYS, 3)
    back = split(KEYS[::-1], 3)
    for side in ("train", "valid", "test"):
        assert (getattr(few, side) == getattr(many, side)[:200]).all()
        assert (getattr(back, side)[::-1] == getattr(many, side)).all()


def test_members_hold_out_different_frames():
    a, b = split(KEYS, 0).valid, split(KEYS, 1).valid
    assert (a & b).sum() / a.sum() == pytest.approx(2 / 16, abs=0.05)


def test_a_group_stays_together():
    groups = [f"run-{i // 10}" for i in range(1000)]
    side = split(groups, 0).train.reshape(-1, 10)
    assert (side.all(1) | ~side.any(1)).all()
    assert 0 < side.all(1).sum() < 100


@pytest.mark.parametrize("n", range(1, 12))
def test_tiny_sets_have_something_to_train_on_and_to_stop_by(n):
    for member in range(50):
        s = split(KEYS[:n], member)
        assert s.train.sum() >= (n + 1) // 2
        assert s.valid.sum() >= 1
        if n > 1:
            assert (s.train.astype(int) + s.valid + s.test == 1).all()


def test_other_shares():
    s = split(KEYS, 0, (0.5, 0.5, 0.0))
    assert not s.test.any()
    with pytest.raises(DataError, match="sum to 1"):
        split(KEYS, 0, (0.5, 0.6, 0.0))
    with pytest.raises(DataError, match="keys"):
        split([], 0)


def test_shuffles_are_permutations_that_differ_by_epoch_and_seed():
    a, b, c = shuffled(100, 1, 0), shuffled(100, 1, 1), shuffled(100, 2, 0)
    assert sorted(a) == list(range(100))
    assert not (a == b).all()
    assert not (a == c).all()
    assert (a == shuffled(100, 1, 0)).all()


def test_a_partition_by_frames_meets_its_shares_to_a_frame():
    part = partition(KEYS, (0.7, 0.1, 0.2), seed=3)
    assert np.bincount(part).tolist() == [2800, 400, 800]
    assert (part == partition(KEYS, (0.7, 0.1, 0.2), seed=3)).all()
    assert (part != partition(KEYS, (0.7, 0.1, 0.2), seed=4)).mean() > 0.3
    order = np.random.default_rng(0).permutation(len(KEYS))
    assert (partition([KEYS[i] for i in order], (0.7, 0.1, 0.2), seed=3) == part[order]).all()


def test_a_partition_by_groups_keeps_each_whole():
    sizes = [1, 2, 300, 50, 50, 50, 80, 7, 60, 100, 90, 110, 40, 30, 30]
    groups = np.repeat([f"group {i}" for i in range(len(sizes))], sizes)
    for seed in range(20):
        part = partition(groups, (0.8, 0.2), seed)
        for name in set(groups):
            assert len(set(part[groups == name].tolist())) == 1
        assert 0.5 <= (part == 0).mean() < 1
    assert len({tuple(partition(groups, (0.8, 0.2), seed)) for seed in range(20)}) > 10
    assert set(partition(["one"] * 9, (0.5, 0.5), 0).tolist()) == {0}


@pytest.mark.parametrize(("keys", "shares"), [([], (1.0,)), (["a"], ()), (["a"], (0.5, 0.6)), (["a"], (1.5, -0.5))])
def test_a_partition_that_cannot_be_is_refused(keys, shares):
    with pytest.raises(DataError, match="partition: expected keys and shares"):
        partition(keys, shares, 0)
