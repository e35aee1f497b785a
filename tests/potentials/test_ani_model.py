"""Ensembles of ANI nets against torchani, finite differences, and themselves one by one."""

import os

os.environ.setdefault("TORCHANI_NO_WARN_EXTENSIONS", "1")

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from alflow.core.frames import Frames
from alflow.errors import DataError
from alflow.interfaces import HasMembers
from alflow.numerics.aev import AevSettings
from alflow.potentials._ani_model import AniModel, Members
from alflow.testing.devices import DEVICES

SETTINGS = AevSettings.spaced(
    (29, 13), 5.5, 4.0, n_radial=10, n_angular=5, n_angles=6, eta_r=10.0, eta_a=4.0, zeta=12.0
)


def random_members(settings=SETTINGS, hidden=(20, 12), numbers=(0, 1, 2), seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    shape = Members(settings, hidden, numbers, torch.zeros(0), torch.zeros(0)).shape
    weights = np.stack([np.stack([shape.initial(rng).numpy() for _ in settings.species]) for _ in numbers])
    weights += rng.normal(0, 0.05, weights.shape)  # biases too
    shift = rng.normal(-50, 5, (len(numbers), len(settings.species)))
    return Members(settings, hidden, numbers, torch.from_numpy(weights * scale).float(), torch.from_numpy(shift))


def random_frames(seed=0, sizes=(1, 3, 8), species=(29, 13), pbc=True):
    rng, out = np.random.default_rng(seed), []
    for n in sizes:
        cell = np.eye(3) + rng.uniform(-0.2, 0.2, (3, 3))
        cell *= (n * 11 / abs(np.linalg.det(cell))) ** (1 / 3)
        side = int(np.ceil(n ** (1 / 3)))
        grid = np.stack(np.meshgrid(*[np.arange(side)] * 3), -1).reshape(-1, 3)[:n] + rng.uniform(-0.15, 0.15, (n, 3))
        out.append(Frames.single(rng.choice(species, n), grid / side @ cell, cell, pbc))
    return Frames.concat(out)


@pytest.fixture(scope="module")
def model():
    return AniModel(random_members())


def as_torchani(members, member):
    """One member as a torchani network container, and its AEV computer."""
    from torchani.aev import AEVComputer, ANIAngular, ANIRadial
    from torchani.nn import ANINetworks, AtomicNetwork

    s = members.settings
    computer = AEVComputer(
        ANIRadial(s.eta_r, s.shifts_r_A, s.radial_cutoff_A),
        ANIAngular(s.eta_a, s.zeta, s.shifts_a_A, s.angles_rad, s.angular_cutoff_A),
        s.n_species,
    )
    nets = {}
    for k, z in enumerate(s.species):
        net = AtomicNetwork((s.n_features, *members.hidden, 1), activation=torch.nn.CELU(0.1), bias=True)
        linear = [m for m in net.modules() if isinstance(m, torch.nn.Linear)]
        for layer, (w, b) in zip(linear, members.shape.views(members.weights[member, k]), strict=True):
            layer.weight.data, layer.bias.data = w.clone(), b.clone()
        nets["X" if z == 0 else {13: "Al", 29: "Cu"}[z]] = net
    return computer, ANINetworks(nets)


def test_energies_and_forces_of_torchani(model):
    members, frames = model.members, random_frames(1)
    found = model.predict_members(frames, forces=True)
    for i in range(len(frames)):
        frame, atoms = frames[i], frames.atoms_of([i])
        species = torch.as_tensor(members.settings.species_index(frame.numbers).astype(np.int64))[None]
        for m in range(model.n_members):
            computer, nets = (part.double() for part in as_torchani(members, m))
            x = torch.as_tensor(frame.positions)[None].requires_grad_()
            aevs = computer(species, x, torch.as_tensor(frame.cell[0]), torch.ones(3, dtype=torch.bool))
            energy = nets(species, aevs).sum()
            shift = members.shift_eV[m][species[0]].sum()
            np.testing.assert_allclose(found.energy[m, i], (energy.detach() + shift).item(), rtol=0, atol=2e-5)
            forces = -torch.autograd.grad(energy, x)[0][0].numpy()
            np.testing.assert_allclose(found.forces[m, atoms], forces, rtol=1e-4, atol=2e-5)


def test_the_mean_is_the_mean(model):
    assert isinstance(model, HasMembers)
    assert (model.n_members, model.cutoff_A) == (3, 5.5)
    frames = random_frames(2)
    found = model.predict_members(frames, forces=True, stress=True)
    assert found.energy.shape == (3, 3)
    assert found.forces.shape == (3, frames.n_atoms, 3)
    np.testing.assert_allclose(found.mean.energy, found.energy.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.mean.forces, found.forces.mean(0), atol=2e-6)
    short = model.predict_members(frames, forces=False)
    assert short.forces is None
    assert short.mean.stress is None
    np.testing.assert_array_equal(short.mean.forces, found.mean.forces)
    alone = model.predict(frames)
    np.testing.assert_array_equal(alone.stress, found.mean.stress)
    for m in range(3):
        single = Members(SETTINGS, (20, 12), (m,), model.members.weights[m : m + 1], model.members.shift_eV[m : m + 1])
        labels = AniModel(single).predict(frames, stress=False)
        np.testing.assert_allclose(labels.energy, found.energy[m], rtol=1e-7)
        np.testing.assert_allclose(labels.forces, found.forces[m], atol=2e-6)


def test_forces_and_stress_are_derivatives(model):
    """Of the energy, by central differences; tension is positive."""
    frames = random_frames(3, sizes=(4,))
    labels, rng, h = model.predict(frames), np.random.default_rng(0), 2e-3
    for _ in range(4):
        u = rng.normal(size=(4, 3))
        plus, minus = (model.predict(frames.moved(frames.positions + s * h * u)).energy[0] for s in (1, -1))
        np.testing.assert_allclose((plus - minus) / (2 * h), -(labels.forces * u).sum(), rtol=2e-3, atol=2e-3)
        e = rng.normal(size=(3, 3))
        e = (e + e.T) / 2
        energies = []
        for s in (1, -1):
            deform = np.eye(3) + s * h * e
            energies.append(model.predict(frames.moved(frames.positions @ deform.T, frames.cell @ deform.T)).energy[0])
        want = (labels.stress[0] * e).sum() * frames.volumes[0]
        np.testing.assert_allclose((energies[0] - energies[1]) / (2 * h), want, rtol=2e-3, atol=2e-3)


def test_stress_is_symmetric_and_only_of_full_periodicity(model):
    found = model.predict(random_frames(4)).stress
    np.testing.assert_allclose(found, found.transpose(0, 2, 1), atol=1e-6)
    assert np.isnan(model.predict(random_frames(4, pbc=(True, True, False))).stress).all()


def test_batch_is_one_by_one(model):
    frames = random_frames(5, sizes=(3, 5, 1))
    together = model.predict(frames)
    for i in range(len(frames)):
        alone = model.predict(frames[i])
        np.testing.assert_allclose(alone.energy, together.energy[i : i + 1], rtol=1e-8)
        np.testing.assert_allclose(alone.forces, together.forces[frames.atoms_of([i])], atol=3e-6)


def test_same_bits_in_any_batch_and_on_any_number_of_threads(model):
    """A trajectory must not depend on what else runs, or where."""
    frames = random_frames(5, sizes=(7, 30, 1, 12))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = model.predict_members(frames, forces=True)
        torch.set_num_threads(2)
        two = model.predict_members(frames, forces=True)
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(one.energy, two.energy)
    np.testing.assert_array_equal(one.forces, two.forces)
    for i in range(len(frames)):
        alone = AniModel(model.members).predict_members(frames[i], forces=True)
        np.testing.assert_array_equal(alone.energy[:, 0], one.energy[:, i])
        np.testing.assert_array_equal(alone.mean.forces, one.mean.forces[frames.atoms_of([i])])


def test_a_trajectory_with_a_skin_is_that_of_fresh_lists(model):
    rng, frames = np.random.default_rng(6), random_frames(6)
    for _ in range(30):
        frames = frames.moved(frames.positions + rng.normal(0, 0.05, frames.positions.shape))
        np.testing.assert_allclose(
            model.predict(frames).energy, AniModel(model.members).predict(frames).energy, rtol=1e-8
        )
    assert model._cache.builds < 25


def test_nan_is_a_verdict_and_spoils_no_other_frame(model):
    good = random_frames(7, sizes=(4,))
    broken = good.positions.copy()
    broken[2, 1] = np.nan
    frames = Frames.concat([good, good.moved(broken), good.moved(good.positions, good.cell * 1e-3), good])
    found = model.predict_members(frames, forces=True, stress=True)
    bad, atoms = [1, 2], frames.atoms_of([1, 2])
    for of_frames, of_atoms in ((found.mean.energy[:, None], found.mean.forces), (found.energy.T, found.forces[1])):
        assert np.isnan(of_frames[bad]).all()
        assert np.isfinite(of_frames[[0, 3]]).all()
        assert np.isnan(of_atoms[atoms]).all()
        assert np.isfinite(of_atoms[frames.atoms_of([0, 3])]).all()
    assert np.isnan(found.mean.stress[bad]).all()
    want = model.predict(good)
    np.testing.assert_allclose(found.mean.energy[[0, 3]], [want.energy[0]] * 2, rtol=1e-8)


def test_no_frames(model):
    found = model.predict_members(Frames.empty(), forces=True, stress=True)
    assert found.energy.shape == (3, 0)
    assert found.forces.shape == (3, 0, 3)
    assert found.mean.stress.shape == (0, 3, 3)


@pytest.mark.parametrize("device", DEVICES)
def test_the_torch_path_says_the_same(model, device):
    """What runs on a GPU, here on the CPU too, along a trajectory whose elements change places."""
    elsewhere = AniModel(model.members, device=device)
    frames = random_frames(8)
    for step in (frames, frames.moved(frames.positions + 0.05), replace(frames, numbers=frames.numbers[::-1].copy())):
        want = model.predict_members(step, forces=True, stress=True)
        got = elsewhere.predict_members(step, forces=True, stress=True)
        np.testing.assert_allclose(got.energy, want.energy, rtol=0, atol=2e-5)
        np.testing.assert_allclose(got.forces, want.forces, atol=2e-5)
        np.testing.assert_allclose(got.mean.stress, want.mean.stress, atol=1e-6)


class TestFiles:
    """Groups of members on disk."""

    def test_groups_join_in_order(self, tmp_path, model):
        whole, files = model.members, []
        for numbers in ((2,), (0, 1)):
            pick = list(numbers)
            part = Members(SETTINGS, (20, 12), numbers, whole.weights[pick], whole.shift_eV[pick])
            files.append(tmp_path / f"{numbers[0]}.pt")
            part.save(files[-1])
        joined = AniModel.load(files, device="cpu")
        assert joined.members.numbers == (0, 1, 2)
        frames = random_frames(9)
        want, got = (m.predict_members(frames, forces=False) for m in (model, joined))
        np.testing.assert_array_equal(got.energy, want.energy)
        np.testing.assert_array_equal(got.mean.forces, want.mean.forces)

    def test_survives_pickling(self, model):
        frames = random_frames(10)
        copy = pickle.loads(pickle.dumps(model))
        np.testing.assert_array_equal(copy.predict(frames).energy, model.predict(frames).energy)

    @pytest.mark.parametrize(
        ("other", "match"),
        [
            (random_members(AevSettings.spaced((29, 13)), numbers=(3,)), r"b\.pt.*differ"),
            (random_members(hidden=(20, 13), numbers=(3,)), r"b\.pt.*differ"),
            (random_members(numbers=(1, 5)), "two files"),
        ],
        ids=["settings", "nets", "twice"],
    )
    def test_groups_that_do_not_belong_together(self, tmp_path, model, other, match):
        model.members.save(tmp_path / "a.pt")
        other.save(tmp_path / "b.pt")
        with pytest.raises(DataError, match=match):
            AniModel.load([tmp_path / "a.pt", tmp_path / "b.pt"])

    def test_no_files(self):
        with pytest.raises(DataError, match="got none"):
            AniModel.load([])

    def test_damage(self, tmp_path, model):
        path = tmp_path / "a.pt"
        with pytest.raises(DataError, match="cannot be read"):
            AniModel.load([path])
        model.members.save(path)
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(DataError, match="cannot be read"):
            AniModel.load([path])
        torch.save({"alflow_ani": 99}, path)
        with pytest.raises(DataError, match="schema 1, got 99"):
            AniModel.load([path])

    def test_shapes_are_checked(self, tmp_path, model):
        m = model.members
        Members(m.settings, m.hidden, (0, 1), m.weights, m.shift_eV).save(tmp_path / "a.pt")
        with pytest.raises(DataError, match="expected weights"):
            AniModel.load([tmp_path / "a.pt"])
