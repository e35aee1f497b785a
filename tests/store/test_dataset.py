import numpy as np
import pytest

from alflow.errors import DataError
from alflow.store.dataset import Dataset
from alflow.testing.toy_data import toy_dataset


def grouped():
    data = toy_dataset(40)
    columns = {"group": np.repeat(["fcc", "liquid", "melt", "slab"], 10), "run": np.arange(40) // 5}
    return Dataset(data.frames, data.labels, data.theory, columns)


def test_a_split_by_frames_loses_nothing_and_shares_nothing():
    data = grouped()
    parts = data.split({"train": 0.7, "valid": 0.1, "test": 0.2}, seed=1)
    assert {k: len(v) for k, v in parts.items()} == {"train": 28, "valid": 4, "test": 8}
    assert sorted(i for p in parts.values() for i in p.ids) == sorted(data.ids)
    for part in parts.values():
        for k, name in enumerate(part.ids):
            at = data.ids.index(name)
            assert part.labels.energy[k] == data.labels.energy[at]
            assert part.columns["run"][k] == data.columns["run"][at]
    assert [p.ids for p in data.split({"a": 0.5, "b": 0.5}, seed=2).values()] != [
        p.ids for p in data.split({"a": 0.5, "b": 0.5}, seed=3).values()
    ]


@pytest.mark.parametrize("column", ["group", "run"])
def test_a_split_by_a_column_keeps_equal_values_together(column):
    data = grouped()
    parts = data.split({"train": 0.75, "test": 0.25}, by=column, seed=5)
    assert {k: len(v) for k, v in parts.items()} == {"train": 30, "test": 10}
    assert not set(parts["train"].columns[column].tolist()) & set(parts["test"].columns[column].tolist())


def test_a_split_by_what_is_not_there_is_refused():
    with pytest.raises(DataError, match="no column 'gruop' to split by; there are: group, run"):
        grouped().split({"train": 0.5, "test": 0.5}, by="gruop")
    with pytest.raises(DataError, match="there are: none"):
        toy_dataset(3).split({"train": 1.0}, by="group")
    with pytest.raises(DataError, match="sum to 1"):
        grouped().split({"train": 0.5})


def test_batches_are_the_whole_in_order():
    data = grouped()
    for most in (1, 20, 10**6):
        batches = list(data.batches(most))
        assert all(f.n_atoms <= max(most, 8) for f, _ in batches)
        assert [i for f, _ in batches for i in f.ids()] == list(data.ids)
        assert np.array_equal(np.concatenate([b.forces for _, b in batches]), data.labels.forces)
