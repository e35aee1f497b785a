"""Entropy rises or falls to local optima; batches, guides, other sets and frames that cannot be."""

from pathlib import Path

import numpy as np
import pytest

from alflow.builders.random_cell import Part as RandomCell
from alflow.core.frames import Frames
from alflow.core.labels import Labels
from alflow.interfaces import Guide, Scores, Stop, Thresholds
from alflow.numerics.entropy_potential import EntropyPotential
from alflow.samplers.entropy import Part
from alflow.store.convert import write_file
from alflow.store.shards import Shard
from alflow.testing.sampler_contract import same_harvest

CELLS = RandomCell(
    species={"W": 1}, edge_A=(3, 6.5), angles_deg=(60, 120), density_g_cm3=(15, 22), min_distance_A=1.9, n_atoms=(2, 12)
)
QUICK = {"anneal_steps": 30, "max_steps": 40}


@pytest.fixture(scope="module")
def start():
    return CELLS.build(10, np.random.default_rng(3))


def sample(part, start, guide=None, seed=1, **words):
    return part.run(start, guide, np.random.default_rng(seed), Path(), **words)


def entropy_of(part, frames):
    """S of frames as they are."""
    from alflow.numerics.neighbors import neighbor_list

    V = part.potential(frames)
    return V.evaluate(frames, neighbor_list(frames, part.cutoff_A), np.ones(len(frames)), part.reach_A(frames)).S


def test_half_becomes_diverse_and_half_ordered(start):
    part = Part(method="minimize", max_steps=60)
    h, before = sample(part, start), entropy_of(part, start)
    diverse = h.columns["K_eV"] > 0
    assert diverse.sum() == 5
    assert (h.columns["entropy"][diverse] > before[h.origin][diverse]).mean() > 0.7
    assert (h.columns["entropy"][~diverse] < before[h.origin][~diverse] - 1).all()
    np.testing.assert_allclose(h.columns["entropy"], entropy_of(part, h.candidates), atol=1e-6)
    assert ((np.abs(h.columns["K_eV"]) >= 0.02) & (np.abs(h.columns["K_eV"]) <= 0.1)).all()
    assert (h.columns["min_distance_A"] > 1.8).all()


@pytest.mark.parametrize(("fraction", "want"), [(0.0, 0), (0.3, 3), (1.0, 10)])
def test_the_fraction_is_kept_within_one(start, fraction, want):
    for seed in range(3):
        h = sample(Part(method="minimize", max_steps=1, maximize_fraction=fraction), start, seed=seed)
        assert abs((h.columns["K_eV"] > 0).sum() - want) <= (0 < fraction < 1)


def test_single_starts_are_of_both_kinds(start):
    part = Part(method="minimize", max_steps=1)
    signs = [sample(part, start[0], seed=s).columns["K_eV"][0] > 0 for s in range(40)]
    assert 10 < sum(signs) < 30


def test_a_small_cell_is_ordered_to_the_floor():
    part = Part(maximize_fraction=0.0, K_eV=(0.05, 0.05), anneal_steps=150)
    two = CELLS.build(40, np.random.default_rng(0))
    h = sample(part, two.take(np.flatnonzero(two.sizes == 4)[:3]))
    assert (h.columns["entropy"] < -7).all()  # 5 ln 0.1 + ln V_5 + psi(4) - psi(1) = -8.02


def test_a_trajectory_does_not_depend_on_its_batch(start):
    part = Part(**QUICK)
    whole = sample(part, start)
    few = sample(part, start.take(np.arange(4)))
    pick = np.flatnonzero(whole.origin < 4)
    assert whole.candidates.take(pick).ids() == few.candidates.ids()
    np.testing.assert_array_equal(whole.lengths[:4], few.lengths)


def test_optima_have_converged(start):
    part = Part(method="minimize", max_steps=400)
    h = sample(part, start)
    done = h.columns["converged"] == 1
    assert done.mean() > 0.5
    assert [d == "" for d in h.detail] == [bool(c) for c in done]
    assert (h.lengths[h.origin][done] < 400).any()
    again = sample(part, h.candidates.take(np.flatnonzero(done)), seed=2)
    assert len(again.candidates) == done.sum()


def test_annealing_goes_deeper_than_descent(start):
    ordered = {"maximize_fraction": 0.0, "K_eV": (0.05, 0.05)}
    quick = sample(Part(method="minimize", max_steps=200, **ordered), start)
    slow = sample(Part(anneal_steps=200, **ordered), start)
    assert slow.columns["entropy"].mean() < quick.columns["entropy"].mean()


def test_known_environments_are_avoided(start, tmp_path):
    part = Part(method="minimize", maximize_fraction=1.0, max_steps=60)
    first = sample(part, start)
    write_file(tmp_path / "old.extxyz", Shard(first.candidates, {}))
    careful = Part(method="minimize", maximize_fraction=1.0, max_steps=60, avoid=tmp_path / "old.extxyz")
    again = sample(careful, start)
    # those who know the old set look at it: at its own frames every atom has a twin
    assert (entropy_of(careful, first.candidates) < entropy_of(part, first.candidates) - 5).all()
    assert (
        entropy_of(careful, again.candidates).mean()
        > entropy_of(careful, sample(part, start, seed=1).candidates).mean()
    )


def test_across_the_batch_environments_differ(start):
    words = {"method": "minimize", "maximize_fraction": 1.0, "max_steps": 60, "K_eV": (0.05, 0.05)}
    same = Frames.concat([start[0]] * 4)
    rattled = same.moved(same.positions + np.random.default_rng(0).normal(scale=0.05, size=same.positions.shape))
    together, apart = sample(Part(across_batch=True, **words), rattled), sample(Part(**words), rattled)
    assert pooled(together.candidates) > pooled(apart.candidates)


def pooled(frames):
    """Entropy of all environments as of one configuration."""
    from alflow.numerics.bispectrum import features
    from alflow.numerics.entropy import entropies
    from alflow.numerics.neighbors import neighbor_list

    V = Part().potential(frames)
    rows = features(V.descriptors, frames, neighbor_list(frames, 4.73)) @ V.metric
    return entropies(rows, np.array([0, len(rows)]), frames.numbers, 0.1, np.ones(1)).S[0]


class Choosy:
    """A model and gauge that knows small frames only, and cannot evaluate those of three atoms."""

    cutoff_A = 4.0

    def predict(self, frames, *, stress=True):
        bad = frames.sizes == 3
        return Labels(np.where(bad, np.nan, -8.0 * frames.sizes), np.zeros((frames.n_atoms, 3)))

    def evaluate(self, frames, *, stress=False):
        score = np.where(frames.sizes == 3, np.nan, frames.sizes.astype(float))
        return self.predict(frames, stress=stress), Scores(score, {"size": score})

    def extended(self, frames):
        return self


@pytest.mark.parametrize("keep", ["all", "unknown"])
def test_a_model_judges_the_optima(keep):
    part = Part(method="minimize", max_steps=5, keep=keep)
    n = [2, 3, 5, 8]
    frames = CELLS.build(200, np.random.default_rng(0))
    start = frames.take([int(np.flatnonzero(frames.sizes == k)[0]) for k in n])
    judge = Choosy()
    h = sample(part, start, Guide(judge, judge, Thresholds(select=4, stop=6)))
    assert h.stops == (Stop.COMPLETED, Stop.UNPHYSICAL, Stop.COMPLETED, Stop.EXTRAPOLATED)
    assert h.detail[1] == "the model gives no number"
    assert h.origin.tolist() == ([2, 3] if keep == "unknown" else [0, 2, 3])
    assert h.scores.tolist() == h.columns["size"].tolist() == [n[i] for i in h.origin]
    assert (h.columns["energy_eV_atom"] == -8).all()
    assert len(h.products) == (1 if keep == "unknown" else 0)


def test_a_model_without_gauge_only_refuses_what_it_cannot_evaluate(start):
    h = sample(Part(method="minimize", max_steps=2, keep="unknown"), start, Guide(Choosy(), None, Thresholds(1, 1)))
    assert len(h.candidates) == (start.sizes != 3).sum()
    assert np.isnan(h.scores).all()


def test_frames_that_cannot_be_end_at_once(start):
    x, cell = start.positions.copy(), start.cell.copy()
    x[0] = np.nan
    cell[2] = 0.0
    broken = start.moved(x, cell)
    h = sample(Part(maximize_fraction=1.0, **QUICK), broken)
    assert [h.stops[i] for i in (0, 2)] == [Stop.UNPHYSICAL] * 2
    assert h.lengths[[0, 2]].tolist() == [0, 0]
    assert h.origin.tolist() == [i for i in range(10) if i not in {0, 2}]
    whole = sample(Part(maximize_fraction=1.0, **QUICK), start)
    assert h.candidates.ids() == whole.candidates.take(np.flatnonzero(~np.isin(whole.origin, [0, 2]))).ids()


@pytest.mark.parametrize("method", ["anneal", "minimize"])
def test_a_batch_that_is_lost_whole_ends(start, method):
    x = start.positions.copy()
    x[0] = np.nan
    bad = start.moved(x)[0]
    flat = Frames.single([74, 74], np.zeros((2, 3)), np.zeros((3, 3)))
    h = sample(Part(method=method, **QUICK), Frames.concat([bad, flat]))
    assert h.stops == (Stop.UNPHYSICAL,) * 2
    assert set(h.detail) == {"the cell has no volume, or is denser than any matter"}
    assert h.lengths.tolist() == [0, 0]
    assert len(h.candidates) == 0


@pytest.mark.parametrize(
    ("method", "after"),
    [("minimize", 3), ("minimize", 25), ("anneal", 5), ("anneal", 30), ("anneal", 51), ("anneal", 60)],
)
@pytest.mark.parametrize("size", [None, 8])
def test_what_is_lost_on_the_way_leaves_the_others_alone(start, monkeypatch, method, after, size):
    """At the first steps, in the softening, the dynamics and the descent; some of the batch or all of it."""
    part, calls, evaluate = Part(method=method, **QUICK), iter(range(10**6)), EntropyPotential.evaluate
    doomed = np.arange(10) if size is None else np.array([1, 4])
    whole = sample(part, start)

    def failing(self, frames, *rest):
        said = evaluate(self, frames, *rest)
        if next(calls) >= after:
            said.energy[np.isin(frames.volumes, start.volumes[doomed])] = np.inf
        return said

    monkeypatch.setattr(EntropyPotential, "evaluate", failing)
    h = sample(part, start)
    lost = [i for i, s in enumerate(h.stops) if s is Stop.UNPHYSICAL]
    early = np.flatnonzero(whole.lengths < after)
    assert lost == [i for i in doomed if i not in early]
    assert all("infinite or NaN" in h.detail[i] for i in lost)
    stay = ~np.isin(whole.origin, lost)
    assert h.candidates.ids() == whole.candidates.take(np.flatnonzero(stay)).ids()
    np.testing.assert_array_equal(np.delete(h.lengths, lost), np.delete(whole.lengths, lost))


def test_dynamics_that_explode_are_called_so(start):
    h = sample(Part(timestep_fs=1e3, T_K=(1e6, 1e6), friction_per_ps=1e-3, repulsion_eV=1e6, **QUICK), start)
    flew = [i for i, words in enumerate(h.detail) if words.startswith("atoms flew apart")]
    assert flew
    assert all(h.stops[i] is Stop.UNPHYSICAL for i in flew)
    assert all(h.lengths[i] > 20 for i in flew)
    assert not any("denser" in words for words in h.detail)


def test_contacts_are_not_brought_home(start):
    h = sample(Part(method="minimize", max_steps=1, min_distance_A=3.5, repulsion_A=1.0), start)
    assert len(h.candidates) == 0
    assert set(h.stops) == {Stop.UNPHYSICAL}
    assert set(h.detail) == {"a pair of atoms is closer than its limit"}


def test_overlapping_atoms_part():
    frames = Frames.single([74] * 4, [[0, 0, 0], [0, 0, 0], [2, 2, 2], [0, 2.5, 2.5]], 5 * np.eye(3))
    h = sample(Part(anneal_steps=60, max_steps=100), frames)
    assert h.stops == (Stop.COMPLETED,)
    assert h.columns["min_distance_A"][0] > 2


def test_alone_and_far_apart_atoms_come_home():
    one = Frames.single([74], [[0, 0, 0]], 3 * np.eye(3))
    far = Frames.single([74, 74], [[0, 0, 0], [9, 0, 0]], 30 * np.eye(3), pbc=False)
    h = sample(Part(method="minimize", max_steps=60), Frames.concat([one, far]))
    assert h.stops == (Stop.COMPLETED,) * 2
    assert np.isnan(h.columns["entropy"][0])
    assert (h.columns["converged"] == 1).all()


def test_halted_midway_it_brings_home_what_has_ended(start):
    calls = iter(range(10**6))
    part = Part(method="minimize", max_steps=200)
    whole = sample(part, start)
    when = int(np.median(whole.lengths))
    h = sample(part, start, halt=lambda: next(calls) > when)
    assert set(h.stops) == {Stop.COMPLETED, Stop.HALTED}
    same = [i for i, s in enumerate(h.stops) if s is Stop.COMPLETED]
    assert h.origin.tolist() == same
    assert h.candidates.ids() == whole.candidates.take(np.flatnonzero(np.isin(whole.origin, same))).ids()


def test_alloys_keep_their_elements_apart():
    alloy = RandomCell(species={"Ni": 1, "Al": 1}, edge_A=(4, 6), density_g_cm3=(4, 6), min_distance_A=1.9)
    part = Part(weights={"Ni": 1.0, "Al": 0.7}, cutoff_A=4.2, **QUICK)
    start = alloy.build(4, np.random.default_rng(0))
    h = sample(part, start)
    assert set(h.stops) == {Stop.COMPLETED}
    assert part.potential(start).descriptors.weights == (0.7, 1.0)
    same_harvest(h, sample(part, start))


def test_what_elements_others_have_does_not_matter():
    pure = RandomCell(species={"Al": 1}, edge_A=(4, 5), density_g_cm3=(2, 2.5), min_distance_A=2.2)
    mixed = RandomCell(species={"Ni": 1, "Al": 1}, edge_A=(3, 5), density_g_cm3=(3, 4.5), min_distance_A=1.9)
    start = Frames.concat([b.build(2, np.random.default_rng(0)) for b in (pure, mixed)])
    part = Part(weights={"Ni": 1.0, "Al": 0.7}, cutoff_A=4.2, **QUICK)
    assert sample(part, start).candidates.ids()[:2] == sample(part, start.take([0, 1])).candidates.ids()
