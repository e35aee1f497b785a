import itertools

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alflow.core.frames import Frames
from alflow.core.labels import Labels, Theory, Verdict
from alflow.errors import DataError
from alflow.store.dataset import Dataset
from alflow.store.files import digest, write_json, write_text, written_whole
from alflow.store.kept import kept
from alflow.store.shards import Shard, count_frames, read_shard, write_shard

THEORY = Theory("toy", {"a": 1, "b": [1.5, None], "c": {"d": "ü"}})


def made(sizes=(2, 1, 3), stress=True, seed=0, columns=True):
    rng = np.random.default_rng(seed)
    f = Frames.concat(
        [Frames.empty()]
        + [
            Frames.single(rng.integers(1, 90, n), rng.normal(size=(n, 3)), rng.normal(size=(3, 3)), rng.random(3) > 0.5)
            for n in sizes
        ]
    )
    m = len(f)
    labels = Labels(rng.normal(size=m), rng.normal(size=(f.n_atoms, 3)), rng.normal(size=(m, 3, 3)) if stress else None)
    cols = {
        "T_K": rng.normal(size=m),
        "n": np.arange(m),
        "ok": rng.random(m) > 0.5,
        "word": np.array([f"wört {i}" for i in range(m)], np.str_),
    }
    return Shard(f, cols if columns else {}, labels, THEORY)


def check_same(a, b):
    assert a.frames.ids() == b.frames.ids()
    assert set(a.columns) == set(b.columns)
    for name in a.columns:
        np.testing.assert_array_equal(a.columns[name], b.columns[name])
    assert (a.labels is None) == (b.labels is None)
    if a.labels is not None:
        np.testing.assert_array_equal(a.labels.energy, b.labels.energy)
        np.testing.assert_array_equal(a.labels.forces, b.labels.forces)
        assert (a.labels.stress is None) == (b.labels.stress is None)
        if a.labels.stress is not None:
            np.testing.assert_array_equal(a.labels.stress, b.labels.stress)
    assert (a.theory.fingerprint if a.theory else None) == (b.theory.fingerprint if b.theory else None)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 5), max_size=6), st.booleans(), st.booleans(), st.booleans(), st.data())
def test_what_is_written_is_read_to_the_last_bit(tmp_path, sizes, stress, bought, columns, data):
    shard = made(sizes, stress, columns=columns)
    shard = shard if bought else Shard(shard.frames, shard.columns)
    path = tmp_path / "s.h5"
    write_shard(path, shard)
    check_same(read_shard(path), shard)
    assert count_frames(path) == len(sizes)
    start = data.draw(st.integers(0, len(sizes)))
    stop = data.draw(st.integers(start, len(sizes)))
    check_same(read_shard(path, start, stop), shard.take(range(start, stop)))
    assert [p.name for p in tmp_path.iterdir()] == ["s.h5"]


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (2, 1), (0, 4), (4, None), (1, -1)])
def test_a_range_that_is_not_there_is_refused(tmp_path, start, stop):
    write_shard(tmp_path / "s.h5", made())
    with pytest.raises(DataError, match=r"s.h5: .*frames"):
        read_shard(tmp_path / "s.h5", start, stop)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"theory": None}, "labels and theory come together"),
        ({"labels": None}, "labels and theory come together"),
        ({"labels": made((2, 1)).labels}, "labels of 2 frames and 3 atoms, expected 3 frames and 6 atoms"),
        ({"columns": {"x": np.zeros(2)}}, "column 'x' has 2 rows, expected 3"),
        ({"columns": {"a/b": np.zeros(3)}}, "column 'a/b'"),
        ({"columns": {"x": np.array([{}, {}, {}])}}, "column 'x'"),
    ],
)
def test_a_shard_that_does_not_fit_is_refused_and_nothing_written(tmp_path, change, match):
    s = made()
    fields = {"frames": s.frames, "columns": s.columns, "labels": s.labels, "theory": s.theory, **change}
    with pytest.raises(DataError, match=match):
        write_shard(tmp_path / "s.h5", Shard(**fields))
    assert not list(tmp_path.iterdir())


def test_what_is_no_shard_is_refused_by_name(tmp_path):
    for name, make in (
        ("none", None),
        ("text", lambda p: p.write_text("no")),
        ("empty", lambda p: h5py.File(p, "w").close()),
    ):
        path = tmp_path / name
        if make:
            make(path)
        with pytest.raises(DataError, match=name):
            read_shard(path)
        with pytest.raises(DataError, match=name):
            count_frames(path)
    with h5py.File(tmp_path / "later", "w") as h:
        h.attrs["alflow_shard"] = 99
    with pytest.raises(DataError, match=r"schema 1, got .*99"):
        read_shard(tmp_path / "later")


def test_a_cut_file_is_refused(tmp_path):
    path = tmp_path / "s.h5"
    write_shard(path, made([5] * 40))
    whole = path.read_bytes()
    for share in (0.1, 0.5, 0.9, 0.999):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(DataError, match=r"s\.h5"):
            read_shard(path)


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "s.h5"
    write_shard(path, made())
    before = digest(path)
    with pytest.raises(DataError):
        write_shard(path, Shard(made().frames, {"x": np.zeros(1)}))
    assert digest(path) == before


# ---- datasets ------------------------------------------------------------------------------------------------------


def test_a_dataset_is_the_union_of_shards_in_order(tmp_path):
    a, b = made(seed=1), made((4, 2), seed=2)
    write_shard(tmp_path / "a", a)
    write_shard(tmp_path / "b", b)
    d = Dataset.open([tmp_path / "a", tmp_path / "b"])
    assert d.ids == a.frames.ids() + b.frames.ids()
    np.testing.assert_array_equal(d.labels.energy, np.concatenate([a.labels.energy, b.labels.energy]))
    d = Dataset.open([(tmp_path / "b", 1, 2), (tmp_path / "a", 0, 2)])
    assert d.ids == (b.frames.ids()[1], *a.frames.ids()[:2])
    np.testing.assert_array_equal(d.labels.forces, np.concatenate([b.labels.forces[4:], a.labels.forces[:3]]))


def test_a_frame_met_twice_is_kept_once_the_first(tmp_path):
    a = made(seed=1)
    write_shard(tmp_path / "a", a)
    extra = a.take([2, 0])
    write_shard(
        tmp_path / "b",
        Shard(
            extra.frames,
            extra.columns,
            Labels(extra.labels.energy + 1, extra.labels.forces, extra.labels.stress),
            THEORY,
        ),
    )
    d = Dataset.open([tmp_path / "a", tmp_path / "b"])
    assert d.ids == a.frames.ids()
    np.testing.assert_array_equal(d.labels.energy, a.labels.energy)


def test_two_theories_never_mix(tmp_path):
    a = made()
    write_shard(tmp_path / "a", a)
    write_shard(tmp_path / "b", Shard(a.frames, {}, a.labels, Theory("toy", {"a": 2})))
    with pytest.raises(DataError, match=r"2 levels of theory do not mix \(a: 2 there, 1 here"):
        Dataset.open([tmp_path / "a", tmp_path / "b"])
    write_shard(tmp_path / "c", Shard(a.frames))
    with pytest.raises(DataError, match="holds no labels"):
        Dataset.open([tmp_path / "c"])
    with pytest.raises(DataError, match="no shards"):
        Dataset.open([])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_failed_labels_never_enter_a_dataset(bad):
    s = made()
    for name in ("energy", "forces"):
        labels = Labels(s.labels.energy.copy(), s.labels.forces.copy(), s.labels.stress)
        getattr(labels, name).reshape(-1)[1] = bad
        with pytest.raises(DataError, match="NaN or infinite"):
            Dataset(s.frames, labels, THEORY)
    with pytest.raises(DataError, match="labels for 3 frames"):
        Dataset(s.frames, made((2, 1)).labels, THEORY)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 20))
def test_batches_cover_all_in_order_within_the_limit(sizes, most):
    s = made(sizes)
    d = Dataset(s.frames, s.labels, THEORY)
    parts = list(d.batches(most))
    assert Frames.concat([f for f, _ in parts]).ids() == d.ids
    np.testing.assert_array_equal(np.concatenate([b.energy for _, b in parts]), s.labels.energy)
    assert all(f.n_atoms <= most or len(f) == 1 for f, _ in parts)
    for (f, _), (g, _) in itertools.pairwise(parts):
        assert f.n_atoms + g.sizes[0] > most  # no batch could have held one more


# ---- files ---------------------------------------------------------------------------------------------------------


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "x.txt"
    write_text(path, "one")

    def interrupted():
        with written_whole(path) as draft:
            draft.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert path.read_text() == "one"
    assert [p.name for p in path.parent.iterdir()] == ["x.txt"]


def test_json_refuses_nan_and_keeps_floats(tmp_path):
    write_json(tmp_path / "a.json", {"x": [0.1, 1e-300]})
    assert (tmp_path / "a.json").read_text().count("0.1")
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert "0.1" in (tmp_path / "a.json").read_text()


def test_digest_is_of_content(tmp_path):
    import hashlib

    (tmp_path / "a").write_bytes(b"abc")
    assert digest(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()[:16]


# ---- kept labels ---------------------------------------------------------------------------------------------------


def test_kept_labels_are_made_once_and_go_on_after_an_interruption(tmp_path, monkeypatch):
    monkeypatch.setattr("alflow.store.kept._CHUNK", 4)
    frames, asked = made([1, 2, 3] * 4).frames, []

    def compute(chunk):
        asked.append(len(chunk))
        if len(asked) == 3:
            raise KeyboardInterrupt
        labels = Labels(np.arange(len(chunk)) + 10.0 * len(asked), chunk.positions * 2, None)
        labels.energy[1] = np.nan
        verdicts = [Verdict(i != 1, "" if i != 1 else "wörd", "", ({"a": i},) if i else ()) for i in range(len(chunk))]
        return labels, tuple(verdicts)

    with pytest.raises(KeyboardInterrupt):
        kept(frames, THEORY, tmp_path, compute)
    labels, verdicts = kept(frames, THEORY, tmp_path, compute)
    assert asked == [4, 4, 4, 4]
    again, verdicts_again = kept(frames, THEORY, tmp_path, compute)
    assert asked == [4, 4, 4, 4]
    assert verdicts == verdicts_again
    assert [v.ok for v in verdicts] == [True, False, True, True] * 3
    assert verdicts[1].reason == "wörd"
    assert verdicts[2].corrections == ({"a": 2},)
    np.testing.assert_array_equal(labels.energy, again.energy)
    np.testing.assert_array_equal(labels.forces, frames.positions * 2)
    kept(frames.take(range(4)), Theory("other"), tmp_path, compute)
    assert asked == [4] * 5
