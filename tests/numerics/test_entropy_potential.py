"""Forces and stress by finite differences, closed forms of the repulsion, invariances, frames that cannot be."""

import numpy as np
import pytest
from scipy.stats import special_ortho_group

from alflow.core.frames import Frames
from alflow.numerics.bispectrum import BispectrumSettings, features
from alflow.numerics.entropy import Known, entropies
from alflow.numerics.entropy_metric import metric, reference
from alflow.numerics.entropy_potential import EntropyPotential, metered
from alflow.numerics.neighbors import neighbor_list

CUTOFF_A = 4.0
ONE = BispectrumSettings((74,), 2, CUTOFF_A, (0.5,), (1.0,))
TWO = BispectrumSettings((4, 74), 2, CUTOFF_A, (0.5, 0.5), (0.6, 1.0))


def random_frames(seed=0, sizes=(1, 2, 7, 16), species=(74,), volume=12.0):
    """Skewed cells, most of them smaller than the cutoff, atoms anywhere."""
    rng, parts = np.random.default_rng(seed), []
    for n in sizes:
        cell = np.eye(3) + rng.uniform(-0.3, 0.3, (3, 3))
        cell *= (n * volume / abs(np.linalg.det(cell))) ** (1 / 3)
        parts.append(Frames.single(rng.choice(species, n), rng.random((n, 3)) @ cell, cell))
    return Frames.concat(parts)


def potential(settings=ONE, **words):
    ruler = metric("whitened", settings.twojmax, CUTOFF_A)
    return EntropyPotential(settings, ruler, **{"floor": 0.1, "height_eV": 5.0, **words})


def told(V, frames, K, reach=1.0):
    K = np.broadcast_to(np.asarray(K, float), len(frames))
    return V.evaluate(frames, neighbor_list(frames, CUTOFF_A), K, np.full(frames.n_atoms, reach))


def along(V, frames, K, h=1e-5):
    """Central differences of V along one displacement of all atoms and one strain, with what the gradients say."""
    rng = np.random.default_rng(9)
    u, e = rng.normal(size=frames.positions.shape), rng.normal(size=(3, 3)) / 3
    said, first = told(V, frames, K), frames.offsets[:-1]

    def at(a, b):
        grow = np.eye(3) + b * e
        return told(V, frames.moved((frames.positions + a * u) @ grow.T, frames.cell @ grow.T), K).energy

    moved = (at(h, 0) - at(-h, 0)) / (2 * h)
    strained = (at(0, h) - at(0, -h)) / (2 * h)
    by_hand = np.add.reduceat((said.gradient * u).sum(axis=1), first), (said.strain * e).sum(axis=(1, 2))
    return (moved, by_hand[0]), (strained, by_hand[1])


@pytest.mark.parametrize("K", [0.3, -0.3])
@pytest.mark.parametrize("settings", [ONE, TWO], ids=["one", "two"])
def test_forces_and_stress_are_slopes(settings, K):
    frames = random_frames(1, species=settings.numbers)
    for numeric, said in along(potential(settings), frames, K):
        np.testing.assert_allclose(said, numeric, atol=2e-6 * np.abs(numeric).max())


def test_forces_with_known_environments_and_across_the_batch():
    frames = random_frames(2)
    seen = random_frames(3, (20,))
    rows = metered(features(ONE, seen, neighbor_list(seen, CUTOFF_A)), metric("whitened", 2, CUTOFF_A))
    for words in ({"known": Known(rows, seen.numbers)}, {"across": True}):
        V, K = potential(**words), [0.2, 0.3, -0.1, 0.1]
        (moved, by_hand), (strained, virial) = along(V, frames, K)
        np.testing.assert_allclose(by_hand.sum(), moved.sum(), rtol=1e-5)
        np.testing.assert_allclose(virial.sum(), strained.sum(), rtol=1e-5)


def test_energy_is_the_repulsion_less_N_K_S():
    frames = random_frames(4)
    said, none = told(potential(), frames, 0.2), told(potential(), frames, 0.0)
    rows = features(ONE, frames, neighbor_list(frames, CUTOFF_A)) @ metric("whitened", 2, CUTOFF_A)
    S = entropies(rows, frames.offsets, frames.numbers, 0.1, np.ones(len(frames))).S
    np.testing.assert_allclose(said.S, S)
    np.testing.assert_array_equal(said.repulsion, none.energy)
    np.testing.assert_allclose(said.energy, none.energy - 0.2 * frames.sizes * np.nan_to_num(S))
    assert np.isnan(said.S[0])  # one atom
    assert np.isfinite(said.energy).all()


def test_repulsion_in_closed_form():
    cell = 9 * np.eye(3)
    for r, want in ((1.0, 5.0), (1.6, 5 * 0.25**2), (2.0, 0.0), (2.5, 0.0)):
        pair = Frames.single([74, 74], [[8.5, 0, 0], [8.5 + r, 0, 0]], cell)
        said = told(potential(), pair, 0.0)
        assert said.repulsion[0] == pytest.approx(want, abs=1e-12)
        slope = -10 * (2 / r - 1) * 2 / r**2 if r < 2 else 0.0
        assert said.gradient[:, 0] == pytest.approx([-slope, slope], abs=1e-12)
    image = Frames.single([74], [[0.0, 0, 0]], np.diag([1.6, 9, 9]))
    assert told(potential(), image, 0.0).repulsion[0] == pytest.approx(5 * 0.25**2)


def test_what_does_not_change_it():
    frames, rng = random_frames(5), np.random.default_rng(0)
    said, turn = told(potential(), frames, 0.3), special_ortho_group.rvs(3, random_state=0)
    turned = told(potential(), frames.moved(frames.positions @ turn.T, frames.cell @ turn.T), 0.3)
    np.testing.assert_allclose(turned.energy, said.energy, rtol=1e-9)
    np.testing.assert_allclose(turned.gradient, said.gradient @ turn.T, atol=1e-8)
    shift = rng.normal(size=(len(frames), 3))[frames.frame_of_atom]
    np.testing.assert_allclose(told(potential(), frames.moved(frames.positions + shift), 0.3).energy, said.energy)
    order = np.concatenate(
        [rng.permutation(np.arange(a, b)) for a, b in zip(frames.offsets, frames.offsets[1:], strict=False)]
    )
    mixed = Frames(frames.numbers[order], frames.positions[order], frames.cell, frames.pbc, frames.offsets)
    np.testing.assert_allclose(told(potential(), mixed, 0.3).energy, said.energy)
    np.testing.assert_allclose(np.add.reduceat(said.gradient, frames.offsets[:-1]), 0, atol=1e-9)


def test_a_crystal_has_no_forces_and_the_lowest_entropy():
    bcc = Frames.single([74] * 2, [[0, 0, 0], [1.6, 1.6, 1.6]], 3.2 * np.eye(3))
    said = told(potential(), bcc, -0.3)
    np.testing.assert_allclose(said.gradient, 0, atol=1e-10)
    assert said.S[0] == pytest.approx(
        entropies(np.zeros((2, 5)), np.array([0, 2]), np.zeros(2, int), 0.1, np.ones(1)).S[0]
    )


def test_atoms_that_see_nobody():
    apart = Frames.single([74] * 3, [[0, 0, 0], [10, 0, 0], [20, 0, 0]], 30 * np.eye(3), pbc=False)
    said = told(potential(), apart, 0.3)
    assert np.isfinite(said.energy).all()
    np.testing.assert_array_equal(said.gradient, 0)


def test_overlapping_atoms_are_pushed_with_a_finite_force():
    frames = Frames.single([74] * 3, [[0, 0, 0], [0, 0, 0], [1e-9, 0, 2.5]], 5 * np.eye(3))
    said = told(potential(), frames, 0.3)
    assert np.isfinite(said.energy).all()
    assert np.isfinite(said.gradient).all()
    assert said.repulsion[0] > 1e6


@pytest.mark.parametrize("what", ["nan", "flat"])
def test_frames_that_cannot_be_do_not_touch_others(what):
    frames = random_frames(6, (8, 8))
    x, cell = frames.positions.copy(), frames.cell.copy()
    if what == "nan":
        x[3] = np.nan
    else:
        cell[0, 2] = cell[0, 0] + cell[0, 1]
    said = told(potential(), frames.moved(x, cell), 0.3)
    assert np.isnan(said.energy[0])
    alone = told(potential(), frames[1], 0.3)
    np.testing.assert_array_equal(said.energy[1], alone.energy[0])
    np.testing.assert_array_equal(said.gradient[8:], alone.gradient)


@pytest.mark.parametrize("kind", ["whitened", "scaled", "raw"])
def test_metrics_have_unit_spread_on_the_reference(kind):
    rows = reference(2, CUTOFF_A) @ metric(kind, 2, CUTOFF_A)
    variance = rows.var(axis=0, ddof=1)
    assert variance.mean() == pytest.approx(1)
    if kind == "whitened":
        np.testing.assert_allclose(np.cov(rows, rowvar=False), np.eye(5), atol=1e-9)
    if kind == "scaled":
        np.testing.assert_allclose(variance, 1)
