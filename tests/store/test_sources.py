import gzip

import numpy as np
import pytest

from alflow.core.frames import Frames
from alflow.core.labels import Labels, Theory
from alflow.errors import InputError
from alflow.store.convert import write_file
from alflow.store.shards import Shard, write_shard
from alflow.store.sources import read_set
from alflow.testing.toy_data import toy_frames
from alflow.testing.toy_physics import morse


def shard(count, seed=0, *, group="", theory="toy", labelled=True):
    frames = toy_frames(count, seed)
    columns = {"group": np.full(count, group)} if group else {}
    return Shard(frames, columns, morse(frames) if labelled else None, Theory(theory) if labelled else None)


def test_a_shard_a_folder_of_shards_and_a_run_directory(tmp_path):
    write_shard(tmp_path / "run" / "dataset" / "0-000000.h5", shard(3, 0))
    write_shard(tmp_path / "run" / "dataset" / "0-000001.h5", shard(4, 1))
    write_shard(tmp_path / "run" / "tasks" / "candidates.h5", shard(2, 2))
    want = toy_frames(3, 0).ids() + toy_frames(4, 1).ids()
    for place in ("run", "run/dataset"):
        found = read_set(tmp_path / place)
        assert found.frames.ids() == want
        assert np.array_equal(found.labels.energy, morse(found.frames).energy)
    assert read_set(tmp_path / "run" / "dataset" / "0-000001.h5").frames.ids() == want[3:]


@pytest.mark.parametrize("name", ["set.extxyz", "set.xyz", "set.extxyz.gz", "set.xyz.gz"])
def test_extxyz_plain_and_compressed(tmp_path, name):
    made = shard(5, group="melt")
    plain = tmp_path / name.removesuffix(".gz")
    write_file(plain, made)
    if name.endswith(".gz"):
        with gzip.open(tmp_path / name, "wb") as file:
            file.write(plain.read_bytes())
        plain.unlink()
    found = read_set(tmp_path / name)
    assert found.frames.ids() == made.frames.ids()
    assert found.columns["group"].tolist() == ["melt"] * 5
    assert np.array_equal(found.labels.energy, made.labels.energy)
    assert np.array_equal(found.labels.forces, made.labels.forces)


def test_a_frame_that_comes_twice_counts_once(tmp_path):
    first = shard(3)
    write_shard(tmp_path / "a.h5", first)
    write_shard(tmp_path / "b.h5", first.take([2, 2, 0]))
    assert read_set(tmp_path).frames.ids() == first.frames.ids()


def test_labels_of_two_theories_or_of_some_only_are_none(tmp_path):
    write_shard(tmp_path / "a.h5", shard(2, 0))
    assert read_set(tmp_path).labels is not None
    write_shard(tmp_path / "b.h5", shard(2, 1, theory="other"))
    assert read_set(tmp_path).labels is None
    write_shard(tmp_path / "b.h5", shard(2, 1, labelled=False))
    assert read_set(tmp_path).labels is None


def test_a_group_that_some_lack_is_empty_there(tmp_path):
    write_shard(tmp_path / "a.h5", shard(2, 0, group="bulk"))
    write_shard(tmp_path / "b.h5", shard(1, 1))
    assert read_set(tmp_path).columns["group"].tolist() == ["bulk", "bulk", ""]


def test_what_is_no_dataset_is_one_message(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no structures here\n")
    (tmp_path / "torn.h5").write_bytes(b"\x89HDF torn")
    (tmp_path / "torn.extxyz.gz").write_bytes(b"\x1f\x8b torn")
    (tmp_path / "nothing.extxyz").write_text("")
    write_shard(tmp_path / "none.h5", Shard(Frames.empty(), {}, Labels(np.zeros(0), np.zeros((0, 3))), Theory("toy")))
    for name, words in {
        "nowhere": "no such file or folder",
        "empty": "holds no shards",
        "notes.txt": "cannot be read as a dataset",
        "torn.h5": "cannot be read as a dataset",
        "torn.extxyz.gz": "cannot be read as a dataset",
        "nothing.extxyz": "cannot be read as a dataset",
        "none.h5": "holds no frames",
    }.items():
        with pytest.raises(InputError, match=words) as caught:
            read_set(tmp_path / name)
        assert caught.value.where == str(tmp_path / name)
        assert "run directory" in caught.value.hint
