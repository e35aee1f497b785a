"""Descriptors against torchani, closed forms, finite differences and invariances."""

import os

os.environ.setdefault("TORCHANI_NO_WARN_EXTENSIONS", "1")

import numpy as np
import pytest
import torch

from alflow.core.frames import Frames
from alflow.errors import DataError
from alflow.numerics import aev, aev_torch
from alflow.numerics.geometry_torch import Geometry, tensors
from alflow.numerics.neighbors import neighbor_list

ONE = aev.AevSettings.spaced((13,))
TWO = aev.AevSettings.spaced((29, 13), 6.0, 4.2, n_radial=9, n_angular=5, n_angles=6, eta_r=12.0, eta_a=4.0, zeta=14.1)
THREE = aev.AevSettings.spaced(
    (8, 1, 6), 4.6, 3.1, n_radial=5, n_angular=3, n_angles=4, eta_r=16.0, eta_a=8.0, zeta=8.0
)


def random_frames(rng, species, sizes=(1, 2, 5, 12), volume=8.0, pbc=True, skew=0.35):
    """Random triclinic cells at about the density of a solid, most of them smaller than the cutoff."""
    parts = []
    for n in sizes:
        cell = np.eye(3) + rng.uniform(-skew, skew, (3, 3)) * ~np.eye(3, dtype=bool)
        cell *= (n * volume / abs(np.linalg.det(cell))) ** (1 / 3)
        parts.append(Frames.single(rng.choice(species, n), spread(rng, n, cell), cell, pbc))
    return Frames.concat(parts)


def spread(rng, n, cell):
    """Positions on a jittered grid of fractional coordinates, so that no two atoms touch; some outside the cell."""
    side = int(np.ceil(n ** (1 / 3)))
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)
    chosen = rng.permutation(len(grid))[:n]
    return ((grid[chosen] + rng.uniform(-0.2, 0.2, (n, 3))) / side + rng.integers(-1, 2, (n, 3))) @ cell


def torchani_features(settings, frame):
    """What torchani makes of one frame, in double precision."""
    from torchani.aev import AEVComputer, ANIAngular, ANIRadial

    radial = ANIRadial(settings.eta_r, settings.shifts_r_A, settings.radial_cutoff_A)
    angular = ANIAngular(
        settings.eta_a, settings.zeta, settings.shifts_a_A, settings.angles_rad, settings.angular_cutoff_A
    )
    computer = AEVComputer(radial, angular, settings.n_species).double()
    species = torch.as_tensor(settings.species_index(frame.numbers).astype(np.int64))[None]
    pbc = torch.as_tensor(frame.pbc[0])
    periodic = (torch.as_tensor(frame.cell[0]), pbc) if pbc.any() else (None, None)
    return computer(species, torch.as_tensor(frame.positions)[None], *periodic)[0].numpy()


@pytest.mark.parametrize("settings", [ONE, TWO, THREE], ids=["one", "two", "three"])
@pytest.mark.parametrize("pbc", [True, False, (True, False, True)], ids=["periodic", "open", "slab"])
def test_equals_torchani(settings, pbc):
    # torchani wraps atoms along the Cartesian axes where only some directions are periodic: no skewed slabs
    skew = 0.35 if isinstance(pbc, bool) else 0.0
    frames = random_frames(np.random.default_rng(1), settings.species, pbc=pbc, skew=skew)
    pairs = neighbor_list(frames, settings.radial_cutoff_A + 0.5)
    double = aev.features(settings, frames, pairs, dtype=np.float64)
    single = aev.features(settings, frames, pairs)
    assert double.shape == (frames.n_atoms, settings.n_features)
    assert single.dtype == np.float32
    for i in range(len(frames)):
        want = torchani_features(settings, frames[i])
        atoms = frames.atoms_of([i])
        # torchani keeps its parameters in single precision; so 1e-6 and not 1e-12
        np.testing.assert_allclose(double[atoms], want, rtol=2e-6, atol=1e-6)
        np.testing.assert_allclose(single[atoms], want, rtol=2e-6, atol=1e-6)
    assert np.abs(double).max() > (0.05 if np.any(pbc) else 0.0)


@pytest.mark.parametrize("settings", [ONE, TWO, THREE], ids=["one", "two", "three"])
def test_equals_torch_to_the_last_digit(settings):
    frames = random_frames(np.random.default_rng(2), settings.species)
    pairs = neighbor_list(frames, settings.radial_cutoff_A)
    geometry = Geometry.of(settings, frames, pairs)
    want = aev_torch.features(settings, geometry, *tensors(frames, torch.float64)).numpy()
    np.testing.assert_allclose(aev.features(settings, frames, pairs, np.float64), want, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("settings", [ONE, TWO, THREE], ids=["one", "two", "three"])
class TestDerivatives:
    """Of the compiled kernels in double precision, and what single precision makes of them."""

    @pytest.fixture
    def case(self, settings):
        rng = np.random.default_rng(3)
        frames = random_frames(rng, settings.species, sizes=(1, 2, 6))
        pairs = neighbor_list(frames, settings.radial_cutoff_A + 0.3)
        g = rng.normal(size=(3, frames.n_atoms, settings.n_features))
        u, strain = rng.normal(size=(3, frames.n_atoms, 3)), rng.normal(size=(3, len(frames), 3, 3))
        return frames, pairs, g, u, strain

    def test_vjp_and_jvp_are_transposes(self, settings, case):
        frames, pairs, g, u, strain = case
        grad, virial = aev.vjp(settings, frames, pairs, g, dtype=np.float64)
        change = aev.jvp(settings, frames, pairs, u, strain, dtype=np.float64)
        left = np.einsum("mna,lna->ml", grad, u) + np.einsum("mfab,lfab->ml", virial, strain)
        right = np.einsum("mnf,lnf->ml", g, change)
        np.testing.assert_allclose(left, right, rtol=1e-11, atol=1e-11 * np.abs(right).max())

    def test_jvp_is_the_finite_difference(self, settings, case):
        frames, pairs, _, u, strain = case

        def at(step):
            deform = np.eye(3) + step * strain[0]
            moved = frames.positions + step * u[0]
            positions = np.einsum("nab,nb->na", deform[frames.frame_of_atom], moved)
            cell = np.einsum("fab,fkb->fka", deform, frames.cell)
            return aev.features(settings, frames.moved(positions, cell), pairs, dtype=np.float64)

        h = 2e-5  # fourth order, so that truncation and rounding are both below 1e-8 of the largest
        want = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
        got = aev.jvp(settings, frames, pairs, u, strain, dtype=np.float64)[0]
        np.testing.assert_allclose(got, want, rtol=1e-7, atol=1e-8 * np.abs(want).max())

    def test_no_strain_is_zero_strain(self, settings, case):
        frames, pairs, _, u, strain = case
        without, zero = (aev.jvp(settings, frames, pairs, u, e) for e in (None, 0 * strain))
        np.testing.assert_array_equal(without, zero)

    def test_single_precision(self, settings, case):
        frames, pairs, g, u, strain = case
        for single, double in (
            (aev.vjp(settings, frames, pairs, g)[0], aev.vjp(settings, frames, pairs, g, np.float64)[0]),
            (aev.vjp(settings, frames, pairs, g)[1], aev.vjp(settings, frames, pairs, g, np.float64)[1]),
            (aev.jvp(settings, frames, pairs, u, strain), aev.jvp(settings, frames, pairs, u, strain, np.float64)),
        ):
            np.testing.assert_allclose(single, double, rtol=1e-5, atol=2e-6 * np.abs(double).max())

    def test_torch_gradient_is_the_same(self, settings, case):
        frames, pairs, g, _, _ = case
        geometry = Geometry.of(settings, frames, pairs)
        x, cell = tensors(frames, torch.float64)
        x, strain = x.requires_grad_(), torch.zeros(len(frames), 3, 3, dtype=torch.float64, requires_grad=True)
        out = (aev_torch.features(settings, geometry, x, cell, strain) * torch.as_tensor(g[0])).sum()
        grad, virial = torch.autograd.grad(out, [x, strain])
        got = aev.vjp(settings, frames, pairs, g[:1], dtype=np.float64)
        np.testing.assert_allclose(got[0][0], grad.numpy(), rtol=1e-9, atol=1e-11 * grad.abs().max())
        np.testing.assert_allclose(got[1][0], virial.numpy(), rtol=1e-9, atol=1e-11 * virial.abs().max())


def test_two_atoms_by_hand():
    settings = aev.AevSettings(4.0, 3.0, 2.0, (1.0, 2.0), 3.0, 5.0, (1.5,), (0.7,), (6,))
    r = 2.3
    frame = Frames.single([6, 6], [[0, 0, 0], [0, 0, r]], np.eye(3), pbc=False)
    got = aev.features(settings, frame, neighbor_list(frame, 4.0), np.float64)
    fc = 0.5 * np.cos(np.pi * r / 4.0) + 0.5
    want = [0.25 * np.exp(-2.0 * (r - 1.0) ** 2) * fc, 0.25 * np.exp(-2.0 * (r - 2.0) ** 2) * fc, 0.0]
    np.testing.assert_allclose(got, [want, want], rtol=1e-14)


def test_three_atoms_by_hand():
    settings = aev.AevSettings(4.0, 3.0, 2.0, (1.0,), 3.0, 5.0, (1.5, 2.0), (0.7, 1.9), (6,))
    a, b, angle = 1.2, 1.9, 1.1
    frame = Frames.single([6] * 3, [[0, 0, 0], [a, 0, 0], [b * np.cos(angle), b * np.sin(angle), 0]], np.eye(3), False)
    got = aev.features(settings, frame, neighbor_list(frame, 4.0), np.float64)[0, 1:]
    theta, fc = np.arccos(0.95 * np.cos(angle)), [0.5 * np.cos(np.pi * r / 3.0) + 0.5 for r in (a, b)]
    want = [
        2 * ((1 + np.cos(theta - z)) / 2) ** 5 * np.exp(-3 * ((a + b) / 2 - s) ** 2) * fc[0] * fc[1]
        for s in (1.5, 2.0)  # shift outer, angle inner
        for z in (0.7, 1.9)
    ]
    np.testing.assert_allclose(got, want, rtol=1e-13)


def test_atoms_in_line_and_at_the_cutoff():
    """Where arccos and the ratio fc' / fc are singular the derivatives stay finite."""
    x = [[0, 0, 0], [2.0, 0, 0], [4.0, 0, 0], [0, np.nextafter(5.0, 0), 0], [0, -np.nextafter(7.0, 0), 0]]
    frame = Frames.single([13] * 5, x, np.eye(3), pbc=False)
    for dtype in (np.float32, np.float64):
        g = np.ones((1, 5, ONE.n_features), dtype)
        grad, virial = aev.vjp(ONE, frame, neighbor_list(frame, 7.5), g, dtype)
        assert np.isfinite(grad).all()
        assert np.isfinite(virial).all()
        assert np.abs(grad).max() > 0.1


def test_batch_order_and_skin_do_not_matter():
    """The descriptors of a frame are the same bits alone, in a batch, and from a longer list."""
    frames = random_frames(np.random.default_rng(5), ONE.species, sizes=(7, 3, 12))
    rng = np.random.default_rng(6)
    g = rng.normal(size=(2, frames.n_atoms, ONE.n_features)).astype(np.float32)
    pairs = neighbor_list(frames, 7.0)
    together, grads = aev.features(ONE, frames, pairs), aev.vjp(ONE, frames, pairs, g)[0]
    for i in range(len(frames)):
        alone, atoms = frames[i], frames.atoms_of([i])
        np.testing.assert_array_equal(aev.features(ONE, alone, neighbor_list(alone, 7.0)), together[atoms])
        np.testing.assert_array_equal(aev.vjp(ONE, alone, neighbor_list(alone, 7.0), g[:, atoms])[0], grads[:, atoms])
    np.testing.assert_allclose(aev.features(ONE, frames, neighbor_list(frames, 8.0)), together, rtol=1e-5, atol=1e-6)


def test_rotation_and_permutation():
    rng = np.random.default_rng(7)
    frame = random_frames(rng, TWO.species, sizes=(9,))
    q = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    order = rng.permutation(9)
    turned = Frames.single(frame.numbers[order], frame.positions[order] @ q, frame.cell[0] @ q)
    want = aev.features(TWO, frame, neighbor_list(frame, 6.0), np.float64)[order]
    got = aev.features(TWO, turned, neighbor_list(turned, 6.0), np.float64)
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)


def test_crowded_atoms_fill_many_chunks():
    """More triples than one chunk holds, and more neighbours than one row of lanes."""
    frame = random_frames(np.random.default_rng(8), ONE.species, sizes=(10,), volume=3.0)
    pairs = neighbor_list(frame, 7.0)
    assert np.diff(pairs.start).max() > 300
    want = torchani_features(ONE, frame)
    np.testing.assert_allclose(aev.features(ONE, frame, pairs, np.float64), want, rtol=3e-6, atol=1e-6)


def test_ani_al_is_the_default():
    assert ONE.n_features == 96
    assert ONE.shifts_r_A[:2] == (1.25, 1.4296875)
    assert ONE.shifts_r_A[-1] == 6.8203125
    assert ONE.shifts_a_A == (1.25, 1.71875, 2.1875, 2.65625, 3.125, 3.59375, 4.0625, 4.53125)
    np.testing.assert_allclose(ONE.angles_rad, np.pi / 16 + np.arange(8) * np.pi / 8)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"angular_cutoff_A": 8.0}, "angular_cutoff_A"),
        ({"n_radial": 0}, "n_radial"),
        ({"species": ()}, "species"),
        ({"species": (13, 13)}, "once"),
        ({"eta_r": -1.0}, "positive"),
        ({"zeta": 0.5}, "zeta"),
    ],
)
def test_bad_settings_are_refused(changes, match):
    with pytest.raises(DataError, match=match):
        aev.AevSettings.spaced(**({"species": (13,)} | changes))


def test_strange_species_and_short_lists_are_refused():
    frame = Frames.single([29], [[0, 0, 0]], np.eye(3) * 3)
    with pytest.raises(DataError, match=r"13.*29"):
        aev.features(ONE, frame, neighbor_list(frame, 7.0))
    frame = Frames.single([13], [[0, 0, 0]], np.eye(3) * 3)
    with pytest.raises(DataError, match=r"7\.0 Å, got one of 1 to 6\.9"):
        aev.features(ONE, frame, neighbor_list(frame, 6.9))
