import json

import numpy as np
import pytest

from alflow.core.frames import Frames
from alflow.core.labels import Theory
from alflow.errors import InputError
from alflow.numerics.bispectrum import features
from alflow.numerics.neighbors import neighbor_list
from alflow.science import compare as module
from alflow.science.compare import NO_GROUP, OTHERS, Descriptor, compare, portrait, summary
from alflow.store.shards import Shard
from alflow.testing.toy_data import toy_frames
from alflow.testing.toy_physics import morse

SMALL = Descriptor(twojmax=4, cutoff_A=4.0)


def shard(frames, **columns):
    return Shard(frames, {k: np.array(v) for k, v in columns.items()}, morse(frames), Theory("toy"))


def narrow(count=30, seed=0):
    return toy_frames(count, seed, rattle_A=0.15)


def broad(count=30, seed=1):
    return toy_frames(count, seed, rattle_A=0.7)


def rows_of(frames):
    return features(SMALL.settings([13]), frames, neighbor_list(frames, 4.0))


def plain(a, b):
    return summary(compare(a, b, SMALL), SMALL, ("one", "two"))


def test_it_is_the_plain_calculation(monkeypatch):
    monkeypatch.setattr(module, "_BATCH_ATOMS", 50)
    a, b = broad(), narrow()
    found = plain(shard(a), shard(b))
    x, y = rows_of(a), rows_of(b)
    values, vectors = np.linalg.eigh(np.cov(y.T, ddof=0))
    white = (x - y.mean(axis=0)) @ (vectors / np.sqrt(values)) @ vectors.T
    side = found["elements"]["Al"]["A_in_B"]
    variances = white.var(axis=0)
    np.testing.assert_allclose(side["variance_along_axes"], variances, rtol=1e-6)
    principal = np.linalg.eigvalsh(np.cov(white.T, ddof=0))[::-1]
    np.testing.assert_allclose(side["variance_along_principal_axes"], principal, rtol=1e-6)
    assert side["rms_distance_per_dimension"] == pytest.approx(np.sqrt((white**2).mean()))
    assert side["dimensions"] == side["rank"] == 14
    for key, v in (("axes", variances), ("principal_axes", principal)):
        assert side[key]["broader"] == (v > 1).sum()
        assert side[key]["broader_5x_variance"] == (v >= 5).sum()
        assert side[key]["broader_5x_deviation"] == (v >= 25).sum()
        assert side[key]["narrower"] == (v < 1).sum()
    assert side["axes"]["broader"] > 10  # the broad set is the broader one
    assert found["elements"]["Al"]["B_in_A"]["axes"]["narrower"] > 10
    mean = found["elements"]["Al"]["components"]["A"]
    np.testing.assert_allclose(mean["mean"], x.mean(axis=0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(mean["max"], x.max(axis=0))
    assert mean["atoms"] == 240


def test_a_set_is_as_broad_as_itself():
    found = plain(shard(narrow()), shard(narrow()))
    for side in ("A_in_B", "B_in_A"):
        counts = found["elements"]["Al"][side]
        assert counts["axes"]["broader"] == counts["axes"]["narrower"] == 0
        assert counts["principal_axes"]["broader"] == counts["dimensions_only_here"] == 0
        assert counts["rms_distance_per_dimension"] == pytest.approx(1)


def test_energies_and_groups():
    a, b = Frames.concat([narrow(6), broad(10)]), narrow(12, 3)
    found = plain(shard(a, group=["fcc"] * 6 + ["melt"] * 10), shard(b))
    energy = morse(a).energy / a.sizes
    told = found["sets"]["A"]["energy_eV_atom"]
    assert told["mean"] == pytest.approx(energy.mean())
    assert (told["p0"], told["p100"], told["frames"]) == (energy.min(), energy.max(), 16)
    melt, fcc = found["sets"]["A"]["groups"]  # the largest first
    assert (melt["group"], melt["frames"], melt["atoms"]) == ("melt", 10, 80)
    assert fcc["energy_eV_atom"]["mean"] == pytest.approx(energy[:6].mean())
    assert melt["rms_distance_per_dimension"] > 1.5 * fcc["rms_distance_per_dimension"]
    y = rows_of(b)
    white = (rows_of(a.take(range(6))) - y.mean(axis=0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(y.T, ddof=0))).T
    assert fcc["rms_distance_per_dimension"] == pytest.approx(np.sqrt((white**2).mean()), rel=1e-6)
    (only,) = found["sets"]["B"]["groups"]
    assert only["group"] == NO_GROUP
    json.dumps(found, allow_nan=False)


def test_many_groups_are_lumped(monkeypatch):
    monkeypatch.setattr(module, "_MOST_GROUPS", 2)
    names = ["a"] * 3 + ["b"] * 4 + ["c", "d", ""]
    groups = plain(shard(narrow(10), group=names), shard(narrow(5)))["sets"]["A"]["groups"]
    assert {g["group"]: g["frames"] for g in groups} == {"a": 3, "b": 4, OTHERS: 3}


def test_sets_without_labels_have_no_energies():
    found = plain(Shard(narrow()), shard(broad()))
    assert found["sets"]["A"]["energy_eV_atom"] is None
    assert found["sets"]["B"]["energy_eV_atom"] is not None


def test_each_element_is_compared_with_itself():
    def mixed(frames):
        return Frames(
            np.where(np.arange(frames.n_atoms) % 2, 13, 29), frames.positions, frames.cell, frames.pbc, frames.offsets
        )

    found = plain(shard(mixed(broad())), shard(mixed(narrow())))
    assert list(found["elements"]) == ["Al", "Cu"]
    assert found["elements"]["Cu"]["components"]["A"]["atoms"] == 120


def test_an_element_that_one_set_lacks_is_named_and_the_others_are_compared():
    """An alloy against an element: what both have is compared, with all neighbours seen."""
    alloy = broad()
    alloy.numbers[::4] = 29
    found = plain(shard(alloy), shard(narrow()))
    assert found["elements"]["Al"]["A_in_B"]["principal_axes"]["broader"] > 10
    copper = found["elements"]["Cu"]
    assert copper["A_in_B"] == {"problem": "the other set has no atoms of Cu"}
    assert copper["B_in_A"] == {"problem": "this set has no atoms of Cu"}
    assert copper["components"]["A"]["atoms"] == 60
    assert copper["components"]["B"] == {"atoms": 0}
    assert all(g["rms_distance_per_dimension"] for s in "AB" for g in found["sets"][s]["groups"])


def test_a_set_of_one_environment_is_no_frame_but_can_be_looked_at():
    crystal = Frames.single([13], [[0, 0, 0]], 2.5 * np.eye(3))
    found = plain(shard(Frames.concat([crystal, crystal.moved(crystal.positions + 0.1)])), shard(narrow()))
    element = found["elements"]["Al"]
    assert "no frame" in element["B_in_A"]["problem"]
    assert element["A_in_B"]["axes"]["narrower"] == 14
    (group,) = found["sets"]["B"]["groups"]
    assert group["rms_distance_per_dimension"] is None


def test_few_environments_have_a_frame_of_few_dimensions():
    found = plain(shard(narrow()), shard(toy_frames(1, 4, n_atoms=6)))
    element = found["elements"]["Al"]
    assert element["A_in_B"]["rank"] == 5
    assert element["A_in_B"]["dimensions_only_here"] == 9
    assert element["B_in_A"]["rank"] == 14


def test_frames_without_descriptors_are_counted_and_left_out():
    frames = narrow(4)
    spoilt = frames.moved(np.where(np.arange(32)[:, None] == 9, np.nan, frames.positions))
    whole = portrait(Shard(frames.take([0, 2, 3])), SMALL.settings([13]), "x").clouds[13].whole
    found = portrait(Shard(spoilt), SMALL.settings([13]), "x")
    assert found.lost == 1
    np.testing.assert_allclose(found.clouds[13].whole.mean, whole.mean)
    with pytest.raises(InputError, match="no frame has descriptors"):
        compare(Shard(frames.moved(np.nan * frames.positions)), Shard(frames), SMALL)


def test_what_cannot_be_compared_is_refused():
    copper = narrow()
    copper.numbers[:] = 29
    with pytest.raises(InputError, match="no element in common: Al and Cu"):
        compare(Shard(narrow()), Shard(copper), SMALL)
    with pytest.raises(InputError, match="--twojmax, --cutoff"):
        compare(Shard(narrow()), Shard(narrow()), Descriptor(4, -1.0))
