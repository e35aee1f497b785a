import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from alflow.core.frames import Frames
from alflow.errors import DataError

FINITE = st.floats(-1e6, 1e6)


@st.composite
def frames(draw, most=5):
    sizes = draw(st.lists(st.integers(1, 4), max_size=most))
    n, m = sum(sizes), len(sizes)
    return Frames(
        draw(hnp.arrays(np.int64, n, elements=st.integers(1, 94))),
        draw(hnp.arrays(np.float64, (n, 3), elements=FINITE)),
        draw(hnp.arrays(np.float64, (m, 3, 3), elements=FINITE)),
        draw(hnp.arrays(np.bool_, (m, 3))),
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
    )


def same(a, b):
    return all(np.array_equal(getattr(a, n), getattr(b, n)) for n in ("numbers", "positions", "cell", "pbc", "offsets"))


@given(frames())
def test_concat_of_its_frames_is_the_batch(f):
    assert same(Frames.concat(list(f)), f)
    assert same(f.take(range(len(f))), f)
    assert len(list(f)) == len(f)


@given(frames(), st.data())
def test_take_gives_the_frames_asked_for_in_order(f, data):
    pick = data.draw(st.lists(st.integers(0, len(f) - 1), max_size=6)) if len(f) else []
    assert same(f.take(pick), Frames.concat([f[i] for i in pick]))
    assert f.take(pick).ids() == tuple(f.ids()[i] for i in pick)
    np.testing.assert_array_equal(f.take(pick).numbers, f.numbers[f.atoms_of(pick)])


@given(frames())
def test_sizes_and_frame_of_atom_agree(f):
    assert f.sizes.sum() == f.n_atoms == len(f.frame_of_atom)
    np.testing.assert_array_equal(np.bincount(f.frame_of_atom, minlength=len(f)), f.sizes)


@given(frames(), st.data())
def test_an_id_changes_with_every_array_and_with_nothing_else(f, data):
    if not len(f):
        assert f.ids() == ()
        return
    i = data.draw(st.integers(0, len(f) - 1))
    atom = int(f.offsets[i])
    before = f.ids()
    for name, at in (("numbers", atom), ("positions", (atom, 1)), ("cell", (i, 2, 0)), ("pbc", (i, 1))):
        arrays = {n: getattr(f, n).copy() for n in ("numbers", "positions", "cell", "pbc", "offsets")}
        value = arrays[name][at]
        arrays[name][at] = (
            not value if name == "pbc" else value + 1 if name == "numbers" else np.nextafter(value, np.inf)
        )
        after = Frames(**arrays).ids()
        assert [a != b for a, b in zip(after, before, strict=True)] == [k == i for k in range(len(f))]
    assert (
        Frames(*(np.asfortranarray(getattr(f, n)) for n in ("numbers", "positions", "cell", "pbc", "offsets"))).ids()
        == before
    )


def test_ids_are_the_same_for_ever():
    """Runs on disk name things by them."""
    f = Frames.single([13, 29], [[0, 0.5, 1], [1.25, 2, 3]], np.diag([4.0, 5, 6]), [True, False, True])
    assert f.ids() == ("4bf2fea352bdad2c",)


def test_negative_index_and_out_of_range():
    f = Frames.concat([Frames.single([k], [[0, 0, 0]], np.eye(3)) for k in (1, 2, 3)])
    assert f[-1].numbers.tolist() == [3]
    with pytest.raises(IndexError):
        f[3]


def test_results_are_copies():
    f = Frames.single([13], [[0, 0, 0]], np.eye(3))
    for other in (f[0], f.take([0]), Frames.concat([f])):
        other.positions[0, 0] = 7
        other.cell[0, 0, 0] = 7
    assert f.positions[0, 0] == 0
    assert f.cell[0, 0, 0] == 1


def test_volumes_do_not_depend_on_handedness():
    cell = np.diag([2.0, 3, 4])
    f = Frames.concat([Frames.single([1], [[0, 0, 0]], c) for c in (cell, cell[[1, 0, 2]], -cell)])
    np.testing.assert_allclose(f.volumes, 24)
    assert Frames.empty().volumes.shape == (0,)


def test_moved_keeps_the_atoms():
    f = Frames.single([13, 29], np.zeros((2, 3)), np.eye(3), [True, False, False])
    g = f.moved(f.positions + 1, f.cell * 2)
    assert (g.positions == 1).all()
    assert (g.cell[0] == 2 * np.eye(3)).all()
    assert (g.pbc == f.pbc).all()
    with pytest.raises(DataError, match="positions has shape"):
        f.moved(np.zeros((3, 3)))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"positions": np.zeros((2, 2))}, r"positions has shape \(2, 2\), expected \(2, 3\)"),
        ({"numbers": np.zeros(3, np.int64)}, r"Frames.positions has shape"),
        ({"cell": np.zeros((2, 3, 3))}, r"cell has shape \(2, 3, 3\), expected \(1, 3, 3\)"),
        ({"pbc": np.zeros((1, 2), bool)}, "pbc has shape"),
        ({"offsets": np.array([0, 1])}, "offsets must rise from 0 to n_atoms=2"),
        ({"offsets": np.array([1, 2])}, "offsets must rise"),
        (
            {"offsets": np.array([0, 2, 2]), "cell": np.zeros((2, 3, 3)), "pbc": np.zeros((2, 3), bool)},
            "offsets must rise",
        ),
        (
            {"offsets": np.array([0, 3, 2]), "cell": np.zeros((2, 3, 3)), "pbc": np.zeros((2, 3), bool)},
            "offsets must rise",
        ),
        (
            {"offsets": np.zeros(0, np.int64), "cell": np.zeros((0, 3, 3)), "pbc": np.zeros((0, 3), bool)},
            "Frames",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change, match):
    good = {
        "numbers": np.array([13, 13]),
        "positions": np.zeros((2, 3)),
        "cell": np.zeros((1, 3, 3)),
        "pbc": np.zeros((1, 3), bool),
        "offsets": np.array([0, 2]),
    }
    Frames(**good)
    with pytest.raises(DataError, match=match):
        Frames(**{**good, **change})


@settings(max_examples=20)
@given(st.lists(frames(3), max_size=4))
def test_concat_lays_end_to_end(parts):
    whole = Frames.concat(parts)
    assert len(whole) == sum(map(len, parts))
    assert whole.ids() == tuple(i for p in parts for i in p.ids())
    assert whole.numbers.dtype == np.int64
    assert whole.offsets.dtype == np.int64
