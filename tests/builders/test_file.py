import numpy as np
import pytest

from alflow.builders.file import Part
from alflow.builders.resample import Part as Resample
from alflow.core.frames import Frames
from alflow.errors import InputError, UnphysicalError
from alflow.store.convert import write_file
from alflow.store.shards import Shard
from alflow.testing.builder_contract import BuilderContract


def cells(n):
    rng = np.random.default_rng(0)
    return Frames.concat(
        [Frames.single([13, 29], rng.random((2, 3)) + np.array([[0], [2]]), np.eye(3) * (4 + i)) for i in range(n)]
    )


@pytest.fixture
def made(tmp_path):
    path = tmp_path / "cells.extxyz"
    write_file(path, Shard(cells(7)))
    return path


class TestFile(BuilderContract):
    min_distance_A = 1.0

    @pytest.fixture(autouse=True)
    def _part(self, tmp_path_factory):
        path = tmp_path_factory.mktemp("given") / "cells.extxyz"
        write_file(path, Shard(cells(7)))
        type(self).part = Part(path=path)


class TestResample(BuilderContract):
    part = Resample(from_stage="first")
    source = cells(7)


def test_in_order_it_gives_the_file_back(made):
    part = Part(path=made, shuffle=False)
    assert part.build(7, np.random.default_rng(0)).ids() == cells(7).ids()
    assert part.build(9, np.random.default_rng(0)).ids() == (*cells(7).ids(), *cells(7).ids()[:2])


@pytest.mark.parametrize("part", [Resample(from_stage="a"), None])
def test_draws_are_without_replacement_until_all_are_drawn(part, made):
    part = part or Part(path=made)
    ids = part.build(17, np.random.default_rng(3), cells(7)).ids()
    assert set(ids[:7]) == set(ids[7:14]) == set(cells(7).ids())
    assert len(set(ids[14:])) == 3
    assert ids[:7] != cells(7).ids()


def test_index_picks(made):
    assert Part(path=made, index="2", shuffle=False).build(1, np.random.default_rng(0)).ids() == cells(7)[2].ids()
    assert len(set(Part(path=made, index="::3").build(9, np.random.default_rng(0)).ids())) == 3
    assert Part(path=made).elements() == {"Al", "Cu"}


@pytest.mark.parametrize(
    ("name", "index", "match"),
    [
        ("none.xyz", ":", "none.xyz: no such file"),
        ("bad.xyz", ":", "bad.xyz: cannot be read as structures"),
        ("cells.extxyz", "99", "cannot be read as structures"),
        ("cells.extxyz", "9:", "holds no structures"),
        ("odd.weird", ":", "odd.weird: cannot be read as structures"),
    ],
)
def test_what_cannot_be_read_is_named(made, name, index, match):
    (made.parent / "bad.xyz").write_text("three\nnonsense\n")
    (made.parent / "odd.weird").write_text("nonsense\n")
    with pytest.raises(InputError, match=f"path: .*{match}"):
        Part(path=made.parent / name, index=index).check()


def test_a_stage_without_frames_is_named():
    for source in (None, Frames.empty()):
        with pytest.raises(UnphysicalError, match="'first' has no frames"):
            Resample(from_stage="first").build(1, np.random.default_rng(0), source)
