"""The nets of the tungsten entropy paper: their sizes, their protocol, their gradients, and LAMMPS."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from alflow.core.frames import Frames
from alflow.core.labels import Labels
from alflow.engines.lammps import LammpsProcess
from alflow.engines.lammps_external import ExternalModel
from alflow.errors import DataError, InputError, UnphysicalError
from alflow.numerics import bispectrum, bispectrum_torch
from alflow.numerics.geometry_torch import Geometry, tensors
from alflow.numerics.neighbors import neighbor_list
from alflow.numerics.splits import split
from alflow.numerics.statistics import label_errors
from alflow.potentials import _snap_nn_data
from alflow.potentials._nets import Shape
from alflow.potentials._nets_data import SLOTS, Targets, Weights
from alflow.potentials._nets_passes import Net, Problem
from alflow.potentials._nets_state import Member, Schedule
from alflow.potentials._snap_nn_data import LEAST, Descriptors
from alflow.potentials._snap_nn_model import Members, SnapNnModel
from alflow.potentials.snap_nn import Part, hidden_layers
from alflow.store.dataset import Dataset
from alflow.testing.devices import DEVICES
from alflow.testing.morse import THEORY, morse_dataset

PART = Part(twojmax=4, cutoff_A=4.5, batch=4, lr=2e-2, max_epochs=12)
TWO = replace(PART, weights={"Al": 1.0, "Cu": 0.7}, radii={"Cu": 0.45})
DATA = morse_dataset(12, 1, (3, 6))


def part_of(z):
    return TWO if len(z) > 1 else PART


def problem_of(data, weights, part, cache_bytes=1e9):
    settings = part.descriptors(data.frames.numbers)
    species = settings.species_index(data.frames.numbers)
    targets = Targets.of(data.frames, data.labels, settings.numbers, species, weights)
    descriptors = Descriptors(settings, data.frames, cache_bytes, targets.virial is not None)
    shape = Shape((settings.n_features, *part.widths, 1), part.activation)
    return Problem(descriptors, targets, weights, shape)


def random_weights(problem, seed=0):
    rng = np.random.default_rng(seed)
    return torch.cat([problem.shape.initial(rng) for _ in problem.targets.shift]).float()


# ---- the paper -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("twojmax", "architecture", "count"), [(6, "A1", 383), (6, "B1", 3965)])
def test_the_nets_of_the_paper_have_its_degrees_of_freedom(twojmax, architecture, count):
    part = Part(twojmax=twojmax, architecture=architecture)
    shape = part.recipe(DATA.frames, lambda: False).shape
    assert shape.activation == "softplus"
    assert shape.count == count


def test_architectures_step_down_or_expand_then_contract():
    assert [hidden_layers(f"A{k}") for k in (1, 2, 3)] == [(10, 6), (14, 10, 6), (18, 14, 10, 6)]
    assert [hidden_layers(f"B{k}") for k in (1, 2, 3)] == [(64, 30), (96, 64, 30), (128, 96, 64, 30)]
    for k in range(1, 6):
        assert (np.diff((30, *hidden_layers(f"A{k}"), 1)) < 0).all()
        steps = np.diff((30, *hidden_layers(f"B{k}"), 1))
        assert steps[0] > 0
        assert (steps[1:] < 0).all()


def test_the_protocol_of_the_paper_is_the_default():
    part = Part()
    schedule = part.recipe(DATA.frames, lambda: False).schedule
    assert part.shares == (0.7, 0.1, 0.2)
    assert (part.force_weight_A, part.stress_weight, part.cutoff_A) == (0, 0, 4.73)
    assert (schedule.kind, schedule.patience, schedule.change, schedule.max_epochs) == ("plateau", 50, 1e-4, 800)


def test_the_plateau_rule_is_that_of_torch():
    rng = np.random.default_rng(0)
    losses = [float(x) for x in 0.1 + np.exp(-np.arange(300) / 30) + 1e-3 * rng.normal(size=300)]
    member, schedule = Member(0, torch.zeros(2), 0.1), Schedule("plateau", 4, 5, 1e-9, 10**6, None, 1.0, 1e-2)
    peer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    rule = torch.optim.lr_scheduler.ReduceLROnPlateau(peer, factor=0.5, patience=5, threshold=1e-2, eps=0)
    for loss in losses:
        member.judge(0.0, loss, schedule)
        rule.step(loss)
        assert member.lr == peer.param_groups[0]["lr"]
    assert member.lr < 0.1 / 8
    assert member.best_loss == min(losses)


def test_a_rate_is_halved_although_the_loss_still_creeps_down():
    member, schedule = Member(0, torch.zeros(2), 0.1), Schedule("plateau", 4, 50, 1e-9, 10**6, None, 1.0, 1e-4)
    for k in range(53):
        member.judge(0.0, 1.0 - 1e-6 * k, schedule)
        member.weights += 1
    assert [row[0] for row in member.history] == [0.1] * 52 + [0.05]
    assert member.best[0] == 52


def test_seventy_ten_twenty(tmp_path):
    data = morse_dataset(60, 3, (2, 2))
    part = replace(PART, max_epochs=2, batch=16)
    report = part.fit(data, range(1), 3, tmp_path)
    model, sides = part.load([tmp_path / f for f in report.files]), split(data.ids, 0, (0.7, 0.1, 0.2))
    for side in ("train", "valid", "test"):
        pick = np.flatnonzero(getattr(sides, side))
        frames = data.frames.take(pick)
        want = label_errors(frames, model.predict(frames), data.labels.take(data.frames, pick))
        got = report.metrics[f"{side}_energy_rmse_meV_atom"][0]
        assert got == pytest.approx(want["energy_rmse_meV_atom"], rel=1e-4)
    assert not [name for name in report.metrics if "force" in name]


# ---- training ------------------------------------------------------------------------------------------------------


def bent(frames, settings):
    """A target that bispectrum components decide, and no linear function of them does."""
    b = bispectrum.features(settings, frames, neighbor_list(frames, settings.cutoff_A))
    u = (b - b.mean(0)) / b.std(0)
    atomic = -3.0 + 0.4 * np.tanh(u[:, 0]) + 0.2 * u[:, 1] * u[:, 2] / (1 + u[:, 1] ** 2)
    return np.add.reduceat(atomic, frames.offsets[:-1])


def test_energies_alone_are_learnt_and_no_descriptor_is_differentiated(tmp_path, monkeypatch):
    def never(*_):
        raise AssertionError

    monkeypatch.setattr(_snap_nn_data, "Jacobian", never)
    monkeypatch.setattr(Descriptors, "pull", never)
    frames, part = morse_dataset(240, 7, (2, 4)).frames, replace(PART, batch=16, max_epochs=150, twojmax=2)
    settings = part.descriptors([13])
    missing = Labels(bent(frames, settings), np.zeros((frames.n_atoms, 3)))
    report = part.fit(Dataset(frames, missing, THEORY), range(1), 3, tmp_path)
    spread = 1000 * (missing.energy / frames.sizes).std()
    assert report.metrics["test_energy_rmse_meV_atom"][0] < 0.1 * spread


def loss_by_autograd(problem, flat, pick, weights, data):
    """The loss with nothing clever: torch descriptors of positions and strain, differentiated twice."""
    d, t = problem.descriptors, problem.targets
    frames, labels = problem.frames.take(pick), data.labels.take(data.frames, pick)
    geometry = Geometry.of(d.settings, frames, neighbor_list(frames, d.settings.cutoff_A))
    x, cell = tensors(frames, torch.float64)
    strain = torch.zeros((len(frames), 3, 3), dtype=torch.float64, requires_grad=True)
    b = bispectrum_torch.features(d.settings, geometry, x.requires_grad_(), cell, strain)
    h = (b - torch.from_numpy(d.mean)) / torch.from_numpy(d.width)
    atomic = torch.zeros(len(h), dtype=torch.float64)
    species = torch.from_numpy(d.settings.species_index(frames.numbers).astype(np.int64))
    for s in range(len(d.settings.numbers)):
        rows = (species == s).nonzero()[:, 0]
        y, layers = h[rows], problem.layers(flat, s)
        for w, bias in layers[:-1]:
            y = torch.logaddexp(y @ w.T + bias, torch.zeros((), dtype=y.dtype))
        atomic = atomic.index_add(0, rows, (y @ layers[-1][0].T + layers[-1][1])[:, 0])
    owner = torch.from_numpy(frames.frame_of_atom)
    energy = torch.zeros(len(frames), dtype=torch.float64).index_add(0, owner, atomic)
    grad, virial = torch.autograd.grad(energy.sum(), [x, strain], create_graph=True)
    shift = np.add.reduceat(t.shift[t.species[problem.frames.atoms_of(pick)]], frames.offsets[:-1])
    dE = energy - torch.from_numpy((labels.energy - shift) / t.scale)
    dF = -grad - torch.from_numpy(labels.forces / t.scale)
    dS = virial - torch.from_numpy(labels.stress * frames.volumes[:, None, None] / t.scale)
    square = torch.zeros(len(frames), dtype=torch.float64).index_add(0, owner, dF.square().sum(1))
    loss = weights.energy**2 * dE**2 + weights.force_A**2 * square
    return (loss + weights.stress**2 * dS.square().sum((1, 2))) / torch.from_numpy(frames.sizes)


@pytest.mark.parametrize("kept", [5, 2, 0])
@pytest.mark.parametrize(("z", "weights"), [((13,), Weights(0.7, 0.5, 0.0)), ((13, 29), Weights(0.7, 0.5, 0.4))])
def test_the_gradient_is_that_of_differentiating_twice(z, weights, kept):
    data = morse_dataset(5, 2, (2, 5), z)
    room = problem_of(data.take(range(kept)), weights, part_of(z)).descriptors.nbytes if kept else 0
    problem = problem_of(data, weights, part_of(z), room)
    assert problem.descriptors.n_cached == kept
    nets = [random_weights(problem, k) for k in range(2)]
    pick = np.array([0, 1, 3, 4])
    use = np.array([[1, 1, 1, 0, 1], [0, 1, 0, 1, 1]], np.bool_)
    got = [Net(k, w, use[k], 0.25 + k, torch.zeros_like(w)) for k, w in enumerate(nets)]
    sums = problem.visit(got, pick)
    for k, flat in enumerate(nets):
        leaf = flat.double().requires_grad_()
        loss = loss_by_autograd(problem, leaf, pick[use[k][pick]], weights, data)
        (want,) = torch.autograd.grad((0.25 + k) * loss.sum(), leaf)
        assert sums.loss[k] == pytest.approx(float(loss.detach().sum()), rel=1e-4)
        assert (got[k].gradient - want).abs().max() / want.abs().max() < 1e-4


def test_products_are_those_of_the_derivatives_and_rows_alone_are_rows_beside_others():
    frames = morse_dataset(6, 2, (1, 5), (13, 29)).frames
    settings, rng, pick = TWO.descriptors([13, 29]), np.random.default_rng(0), np.array([1, 2, 4, 5])
    d = Descriptors(settings, frames, 1e9, strains=True)
    some, atoms = frames.take(pick), int(frames.sizes[pick].sum())
    near = neighbor_list(some, settings.cutoff_A)
    g, u, bend = (
        torch.from_numpy(rng.normal(size=(2 * SLOTS, *shape)).astype(np.float32))
        for shape in ((atoms, settings.n_features), (atoms, 3), (len(pick), 3, 3))
    )
    bend += bend.transpose(2, 3).clone()
    for t in (g, u, bend):
        t[[1, SLOTS + 3]] = 0.0
    down, virial = d.pull(pick, g)
    for m in (0, 1, 5):
        grad, strain = bispectrum.vjp(settings, some, near, g[m].numpy() / d.width)
        np.testing.assert_allclose(down[m], grad, atol=1e-5 * max(np.abs(grad).max(), 1))
        np.testing.assert_allclose(
            virial[m], (strain + strain.transpose(0, 2, 1)) / 2, atol=1e-5 * np.abs(strain).max()
        )
    change = d.push(pick, u, bend)
    one, other = (change * g).sum((1, 2)), (down * u).sum((1, 2)) + (virial * bend).sum((1, 2, 3))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)
    assert not change[1].any()
    assert (d.push(pick, u[SLOTS:], bend[SLOTS:]) == change[SLOTS:]).all()
    assert (d.pull(pick, g[SLOTS:])[0] == down[SLOTS:]).all()


def test_forces_that_nobody_computed_are_refused_or_left_out(tmp_path):
    forces = DATA.labels.forces.copy()
    forces[DATA.frames.atoms_of(np.array([1, 4]))] = 0.0
    groups = np.array(["a", "b"] * 6)
    some = Dataset(DATA.frames, Labels(DATA.labels.energy, forces, DATA.labels.stress), THEORY, {"group": groups})
    part = replace(PART, max_epochs=2, force_weight_A=0.5)
    with pytest.raises(UnphysicalError, match=r"forces of 2 frames \(1 of 6 in group 'a', 1 of 6 in group 'b'\).*skip"):
        part.fit(some, range(1), 3, tmp_path)
    replace(part, force_weight_A=0.0).fit(some, range(1), 3, tmp_path)
    weights = Weights(1.0, 0.5, 0.3)
    without = np.zeros((12, 2), np.bool_)
    without[[1, 4]] = True
    species = np.zeros(DATA.frames.n_atoms, np.int32)
    got, whole = (
        Targets.of(some.frames, labels, (13,), species, weights, mask)
        for labels, mask in ((some.labels, without), (DATA.labels, without))
    )
    assert got.scale == whole.scale
    assert (got.forces == whole.forces).all()
    assert not got.has_virial[[1, 4]].any()
    problem = problem_of(DATA, weights, part)
    masked = Problem(problem.descriptors, got, weights, problem.shape)
    flat, everyone = random_weights(problem), np.ones(12, np.bool_)
    sums = masked.visit([Net(0, flat, everyone)], np.arange(12))
    energies = Problem(problem.descriptors, got, Weights(1.0, 0.0, 0.0), problem.shape)
    kept = np.delete(np.arange(12), [1, 4])
    want = (
        masked.visit([Net(0, flat, everyone)], kept).loss
        + energies.visit([Net(0, flat, everyone)], np.array([1, 4])).loss
    )
    np.testing.assert_allclose(sums.loss, want, rtol=1e-6)
    assert sums.atoms[0] == DATA.frames.sizes[kept].sum()
    report = replace(part, zero_labels="skip").fit(some, range(1), 3, tmp_path)
    assert np.isfinite(report.metrics["train_force_rmse_meV_A"]).all()
    replace(part, zero_labels="fit").fit(some, range(1), 3, tmp_path)


@pytest.mark.parametrize("kept", [0, 1])
def test_sides_without_forces_that_count_are_no_divergence(kept, tmp_path):
    forces = DATA.labels.forces.copy()
    forces[DATA.frames.offsets[kept] :] = 0.0
    data = Dataset(DATA.frames, Labels(DATA.labels.energy, forces), THEORY)
    assert not split(data.ids, 0, PART.shares).valid[:kept].any()
    report = replace(PART, max_epochs=1, force_weight_A=0.5, zero_labels="skip").fit(data, range(1), 3, tmp_path)
    assert "valid_energy_rmse_meV_atom" in report.metrics
    assert "valid_force_rmse_meV_A" not in report.metrics
    assert ("train_force_rmse_meV_A" in report.metrics) == (kept > 0)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("activation", "gelu", "activation of celu, softplus, tanh, got 'gelu'"),
        ("weights", float("nan"), "damaged"),
        ("shift_eV", float("inf"), "damaged"),
    ],
)
def test_a_file_that_no_fit_can_have_written_is_refused(field, value, said, tmp_path):
    path = tmp_path / replace(PART, max_epochs=1).fit(DATA, range(1), 3, tmp_path).files[0]
    content = torch.load(path, weights_only=True)
    content[field] = value if field == "activation" else content[field] * value
    torch.save(content, path)
    with pytest.raises(DataError, match=rf"member-000\.pt.*{said}"):
        PART.load([path])


@pytest.mark.parametrize("size", [2.0**-100, 64.0])
def test_only_ratios_of_weights_matter(size, tmp_path):
    part = replace(PART, max_epochs=2, energy_weight=0.25, force_weight_A=0.5, stress_weight=0.1)
    other = replace(part, energy_weight=0.25 * size, force_weight_A=0.5 * size, stress_weight=0.1 * size)
    found = []
    for k, p in enumerate((part, other)):
        found.append(Members.open(tmp_path / str(k) / p.fit(DATA, range(1), 3, tmp_path / str(k)).files[0]).weights)
    assert (found[0] == found[1]).all()


def test_stresses_of_open_cells_do_not_count(tmp_path):
    frames = Frames(
        DATA.frames.numbers, DATA.frames.positions, DATA.frames.cell, DATA.frames.pbc.copy(), DATA.frames.offsets
    )
    frames.pbc[::2, 1] = False
    zeros = np.where(np.arange(12)[:, None, None] % 2, DATA.labels.stress, 0.0)
    data = Dataset(frames, Labels(DATA.labels.energy, DATA.labels.forces, zeros), THEORY)
    species = np.zeros(frames.n_atoms, np.int32)
    targets = Targets.of(frames, data.labels, (13,), species, Weights(1.0, 0.5, 0.3))
    assert targets.has_virial.tolist() == [False, True] * 6
    replace(PART, max_epochs=1, force_weight_A=0.5, stress_weight=0.3).fit(data, range(1), 3, tmp_path)


def test_memory_for_jacobians_is_bounded_and_known_beforehand():
    settings = PART.descriptors([13])
    whole = Descriptors(settings, DATA.frames, 1e9, strains=True)
    half = Descriptors(settings, DATA.frames, whole.nbytes / 2, strains=True)
    assert whole.n_cached == len(DATA)
    assert 0 < half.n_cached < len(DATA)
    assert half.nbytes <= whole.nbytes / 2
    assert Descriptors(settings, DATA.frames, 0, strains=True).nbytes == 0


def test_components_are_standardised_and_those_that_hardly_vary_do_not_shout():
    settings = PART.descriptors([13])
    d = Descriptors(settings, DATA.frames, 0, strains=False)
    np.testing.assert_allclose(d.x.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(d.x.std(0, correction=0), 1, rtol=1e-5)
    crystal = Frames.single([13], np.zeros((1, 3)), 2.86 * np.array([[1, 1, 0], [1, 0, 1], [0, 1, 1]]) / 2**0.5)
    d = Descriptors(settings, Frames.concat([crystal, crystal]), 0, strains=False)
    np.testing.assert_allclose(d.width, LEAST * np.abs(d.mean), rtol=1e-6)
    assert not d.x.any()
    alone = Descriptors(settings, Frames.single([13], np.zeros((1, 3)), 20 * np.eye(3)), 0, strains=False)
    assert (alone.width == 1).all()


def test_a_frame_without_descriptors_is_named(tmp_path):
    flat = Frames.single([13], np.zeros((1, 3)), np.zeros((3, 3)))
    frames = Frames.concat([DATA.frames[0], flat])
    data = Dataset(frames, Labels(np.zeros(2), np.zeros((frames.n_atoms, 3))), THEORY)
    with pytest.raises(UnphysicalError, match="frame 1 of the dataset"):
        PART.fit(data, range(1), 3, tmp_path)


def test_threads_change_no_bit(tmp_path):
    before, found, data = torch.get_num_threads(), [], morse_dataset(60, 1, (8, 12))
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            part = replace(PART, batch=60, max_epochs=2, force_weight_A=0.5)
            report = part.fit(data, range(1), 3, tmp_path / str(n))
            found.append(torch.cat([Members.open(tmp_path / str(n) / f).weights for f in report.files]))
    finally:
        torch.set_num_threads(before)
    assert (found[0] == found[1]).all()


def test_a_warm_start_of_another_activation_is_refused(tmp_path):
    part = replace(PART, max_epochs=2)
    start = [tmp_path / "a" / f for f in part.fit(DATA, range(1), 3, tmp_path / "a").files]
    for other in (replace(part, activation="tanh"), replace(part, architecture="A2"), replace(part, rfac0=0.9)):
        with pytest.raises(DataError, match=r"member-000\.pt.*warm_start"):
            other.fit(DATA, range(1), 3, tmp_path / "b", start)


# ---- the model -----------------------------------------------------------------------------------------------------


def model_of(z=(13,), members=2, seed=0, **settings):
    """Nets with random weights whose energies and forces have the size of real ones."""
    part = replace(part_of(z), **settings)
    data = morse_dataset(6, 4, (3, 6), z)
    problem = problem_of(data, Weights(1.0, 0.0, 0.0), part, 0)
    rng, d = np.random.default_rng(seed), problem.descriptors
    shape = problem.shape
    flat = torch.from_numpy(rng.normal(0, 0.5, (members, len(z), shape.count)))
    for member in flat:
        for net in member:
            w, b = shape.views(net)[0]
            w /= torch.from_numpy(d.width)
            b -= w @ torch.from_numpy(d.mean)
    shift = torch.from_numpy(rng.normal(-3, 1, (members, len(z))))
    hidden = shape.widths[1:-1]
    return SnapNnModel(Members(d.settings, hidden, tuple(range(members)), flat, shift, part.activation)), data


@pytest.mark.parametrize("activation", ["softplus", "tanh"])
@pytest.mark.parametrize("z", [(13,), (13, 29)])
def test_forces_and_stress_are_slopes_to_ten_digits(z, activation):
    model, data = model_of(z, activation=activation)
    frames, h, rng = data.frames, 1e-5, np.random.default_rng(1)
    got = model.predict(frames)

    def energy(t, d, e):
        f = np.eye(3) + t * e
        return model.predict(frames.moved((frames.positions + t * d) @ f, frames.cell @ f)).energy

    for _ in range(3):
        d, e = rng.normal(size=frames.positions.shape), 0.1 * rng.normal(size=(3, 3))
        e += e.T
        slope = (energy(h, d, e) - energy(-h, d, e)) / (2 * h)
        want = -np.add.reduceat((got.forces * d).sum(1), frames.offsets[:-1])
        want += np.einsum("fab,ab->f", got.stress, e) * frames.volumes
        np.testing.assert_allclose(slope, want, rtol=1e-7, atol=1e-7 * np.abs(want).max())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("z", [(13,), (13, 29)])
def test_the_torch_path_says_the_same(z, device):
    """What runs on a GPU, here on the CPU too; with a frame that has gone wrong, and one in which nothing is near."""
    model, data = model_of(z)
    positions = data.frames.positions.copy()
    positions[data.frames.atoms_of([1])[0], 2] = np.nan
    lone = Frames.single([13], [[0.0, 0.0, 0.0]], np.eye(3) * 20)
    frames = Frames.concat([data.frames.moved(positions), lone])
    want = model.predict_members(frames, forces=True, stress=True)
    elsewhere = pickle.loads(pickle.dumps(SnapNnModel(model.members, device)))
    for _ in range(2):  # the second time its tensors are there
        got = elsewhere.predict_members(frames, forces=True, stress=True)
        for have, expected in (
            (got.energy, want.energy),
            (got.forces, want.forces),
            (got.mean.forces, want.mean.forces),
            (got.mean.stress, want.mean.stress),
        ):
            largest = np.nanmax(np.abs(expected))
            np.testing.assert_allclose(have, expected, rtol=0, atol=1e-11 * largest)
    assert np.isnan(want.energy).sum() == len(want.energy)


def test_small_calls_stay_on_the_cpu(monkeypatch):
    model, data = model_of()
    n = data.frames.n_atoms
    asked = []
    monkeypatch.setattr(SnapNnModel, "_on_device", lambda self, *args: asked.append(self) or self._on_cpu(*args))
    for least in (n, n + 1):
        SnapNnModel(model.members, "cpu:0", least).predict(data.frames)
    assert [m.least_atoms for m in asked] == [n]


def test_features_are_the_components():
    model, data = model_of()
    want = bispectrum.features(model.settings, data.frames, neighbor_list(data.frames, 6.0))
    rows = model.features(data.frames)
    assert (rows[:, 0] == 1).all()
    np.testing.assert_allclose(rows[:, 1:], want, rtol=1e-12, atol=1e-12)
    assert model.features(Frames.empty()).shape == (0, 15)


# ---- LAMMPS --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("z", "members", "hidden"), [((13,), 1, ()), ((13,), 3, (7, 5, 4)), ((13, 29), 2, (6,))])
def test_lammps_runs_nets_of_tanh(z, members, hidden, tmp_path):
    model, data = model_of(z, members, hidden=hidden, activation="tanh")
    folder = tmp_path / "a folder"
    folder.mkdir()
    lines = model.pair_style(folder)
    want = model.predict(data.frames)
    lammps = LammpsProcess(lines, len(z))
    try:
        assert not lammps.start()
        types = model.settings.species_index(data.frames.numbers) + 1
        answers = list(lammps.answers(data.frames, types, 60.0))
    finally:
        lammps.close()
    assert not [a.problem for a in answers if a.problem]
    np.testing.assert_allclose([a.energy for a in answers], want.energy, rtol=1e-10)
    np.testing.assert_allclose(np.concatenate([a.forces for a in answers]), want.forces, atol=1e-9)
    np.testing.assert_allclose([a.stress for a in answers], want.stress, atol=1e-10)


def test_lammps_does_not_know_softplus_and_the_way_round_it_is_named(tmp_path):
    model, _ = model_of()
    with pytest.raises(InputError, match="softplus") as caught:
        model.pair_style(tmp_path)
    assert "activation: tanh" in caught.value.hint
    assert ExternalModel.__name__ in caught.value.hint
    assert not list(tmp_path.iterdir())


# ---- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ({"twojmax": -1}, "twojmax"),
        ({"twojmax": 200}, "twojmax"),
        ({"cutoff_A": -1.0}, "cutoff_A"),
        ({"rmin0_A": 5.0}, "rmin0_A"),
        ({"rfac0": 1.5}, "rfac0"),
        ({"radii": {"W": -1.0}}, "radii"),
        ({"weights": {"Al": float("inf")}}, "weights"),
        ({"stress_weight": float("inf")}, "stress_weight"),
        ({"lr": float("inf")}, "lr"),
        ({"members_per_task": -1}, "members_per_task"),
        ({"max_seconds": 0.0}, "max_seconds"),
        ({"hidden": (4, 0)}, "hidden"),
        ({"shares": (0.7, 0.1, 0.1)}, "shares"),
        ({"shares": (0.0, 0.5, 0.5)}, "shares"),
        ({"plateau_change": 1.0}, "plateau_change"),
        ({"energy_weight": 0.0}, "energy_weight"),
        ({"force_weight_A": -1.0}, "force_weight_A"),
        ({"min_lr": 1.0}, "min_lr"),
        ({"elements": ("Xx",)}, "elements"),
        ({"elements": ("Cu",)}, "elements"),
        ({"elements": ("Al", "Cu")}, "weights"),
        ({"radii": {"Q": 0.5}}, "radii"),
        ({"batch": 0}, "batch"),
    ],
)
def test_what_cannot_work_is_refused(settings, place):
    with pytest.raises(InputError) as caught:
        replace(PART, **settings).check(frozenset({"Al"}))
    assert caught.value.where == place


def test_sensible_settings_pass():
    Part().check(frozenset())
    Part(architecture="B5", force_weight_A=0.1, members=8).check(frozenset({"W"}))
    TWO.check(frozenset({"Al", "Cu"}))


def test_elements_without_weights_are_refused_by_a_fit(tmp_path):
    with pytest.raises(DataError, match="weights"):
        PART.fit(morse_dataset(4, 2, (2, 5), (13, 29)), range(1), 3, tmp_path)
