"""The fit of `ani`: its gradient against autograd through the descriptors, its files, and all that can go wrong."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from alflow.core.frames import Frames
from alflow.core.labels import Labels
from alflow.errors import DataError, InputError, ResourceError, UnphysicalError
from alflow.numerics import aev_torch
from alflow.numerics.geometry_torch import Geometry, tensors
from alflow.numerics.neighbors import neighbor_list
from alflow.numerics.splits import split
from alflow.numerics.statistics import label_errors
from alflow.potentials import _ani_data
from alflow.potentials._ani_data import Descriptors
from alflow.potentials._ani_model import AniModel, Members
from alflow.potentials._nets import ALPHA, Shape
from alflow.potentials._nets_data import SLOTS, Targets, Weights
from alflow.potentials._nets_fit import folded, unfolded
from alflow.potentials._nets_passes import Net, Problem
from alflow.potentials._nets_state import BETA1, BETA2, Member, Progress, Schedule, read_checkpoint, write_checkpoint
from alflow.potentials.ani import Part
from alflow.store.dataset import Dataset
from alflow.testing.morse import morse_dataset

PART = Part(
    radial_cutoff_A=5.0,
    angular_cutoff_A=4.0,
    n_radial=8,
    n_angular=3,
    n_angles=4,
    hidden=(16, 12),
    members=2,
    batch=4,
    lr=5e-3,
    patience=10,
    max_epochs=12,
    device="cpu",
)
DATA = morse_dataset(12, 1, (3, 6))
NO_STRESS = Weights(1.0, 0.5, 0.0)
BOTH = range(2)


def problem_of(data=DATA, weights=NO_STRESS, part=PART, cache_bytes=1e9):
    settings = part.descriptors(data.frames.numbers)
    targets = Targets.of(
        data.frames, data.labels, settings.species, settings.species_index(data.frames.numbers), weights
    )
    descriptors = Descriptors(settings, data.frames, cache_bytes, targets.virial is not None)
    return Problem(descriptors, targets, weights, Shape((settings.n_features, *part.hidden, 1)))


def random_weights(problem, seed=0):
    rng = np.random.default_rng(seed)
    return torch.cat([problem.shape.initial(rng) for _ in problem.targets.shift]).float()


# ---- the gradient --------------------------------------------------------------------------------------------------


def loss_by_autograd(problem, flat, pick, weights, scale):
    """Equation 1 with nothing clever: torch descriptors of positions and strain, differentiated twice."""
    d, settings = problem.descriptors, problem.descriptors.settings
    frames = problem.frames.take(pick)
    geometry = Geometry.of(settings, frames, neighbor_list(frames, settings.radial_cutoff_A))
    x, cell = tensors(frames, torch.float64)
    strain = torch.zeros((len(frames), 3, 3), dtype=torch.float64, requires_grad=True)
    x.requires_grad_()
    features = aev_torch.features(settings, geometry, x, cell, strain)
    h = (features - torch.from_numpy(d.mean)) / torch.from_numpy(d.width)
    atomic = torch.zeros(len(h), dtype=torch.float64)
    species = torch.from_numpy(settings.species_index(frames.numbers).astype(np.int64))
    for s in range(len(settings.species)):
        rows = (species == s).nonzero()[:, 0]
        y = h[rows]
        for w, b in problem.layers(flat, s)[:-1]:
            z = y @ w.T + b
            y = torch.where(z > 0, z, ALPHA * torch.expm1(z / ALPHA))
        w, b = problem.layers(flat, s)[-1]
        atomic = atomic.index_add(0, rows, (y @ w.T + b)[:, 0])
    owner = torch.from_numpy(frames.frame_of_atom)
    energy = torch.zeros(len(frames), dtype=torch.float64).index_add(0, owner, atomic)
    grad, virial = torch.autograd.grad(energy.sum(), [x, strain], create_graph=True)
    labels = scale.labels.take(scale.frames, pick)
    t = problem.targets
    shift = np.add.reduceat(t.shift[t.species[problem.frames.atoms_of(pick)]], frames.offsets[:-1])
    dE = energy - torch.from_numpy((labels.energy - shift) / t.scale)
    dF = -grad - torch.from_numpy(labels.forces / t.scale)
    dS = virial - torch.from_numpy(labels.stress * frames.volumes[:, None, None] / t.scale)
    square = torch.zeros(len(frames), dtype=torch.float64).index_add(0, owner, dF.square().sum(1))
    loss = weights.energy**2 * dE**2 + weights.force_A**2 * square
    return (loss + weights.stress**2 * dS.square().sum((1, 2))) / torch.from_numpy(frames.sizes)


def force_form(monkeypatch, form):
    """Make every Jacobian that is kept dense or sparse, whatever takes less memory."""
    told = {"dense": np.inf, "sparse": 0.0}[form]
    monkeypatch.setattr(_ani_data, "jacobian_bytes", lambda settings, frames, near: np.full(len(frames), told))


@pytest.mark.parametrize(("cache_bytes", "form"), [(1e9, "dense"), (1e9, "sparse"), (0, "dense"), (20e3, "dense")])
@pytest.mark.parametrize("z", [(13,), (13, 29)])
@pytest.mark.parametrize("stress", [0.0, 0.4])
def test_the_gradient_is_that_of_differentiating_twice(z, stress, cache_bytes, form, monkeypatch):
    force_form(monkeypatch, form)
    data = morse_dataset(5, 2, (2, 5), z)
    weights = Weights(0.7, 0.5, stress)
    problem = problem_of(data, weights, cache_bytes=cache_bytes)
    nets = [random_weights(problem, k) for k in range(2)]
    pick = np.array([0, 1, 3, 4])
    use = np.array([[1, 1, 1, 0, 1], [0, 1, 0, 1, 1]], np.bool_)
    got = [Net(k, w, use[k], 0.25 + k, torch.zeros_like(w)) for k, w in enumerate(nets)]
    sums = problem.visit(got, pick)
    for k, flat in enumerate(nets):
        leaf = flat.double().requires_grad_()
        counted = pick[use[k][pick]]
        loss = loss_by_autograd(problem, leaf, counted, weights, data)
        (want,) = torch.autograd.grad((0.25 + k) * loss.sum(), leaf)
        assert sums.loss[k] == pytest.approx(float(loss.detach().sum()), rel=1e-4)
        assert sums.frames[k] == len(counted)
        error = (got[k].gradient - want).abs().max() / want.abs().max()
        assert error < 1e-4, error


def test_some_jacobians_are_kept_when_there_is_room_for_some():
    sizes = DATA.frames.sizes
    problem = problem_of(cache_bytes=float(4 * (3 * sizes[:5] * sizes[:5]).sum() * 20))
    assert problem.descriptors.settings.n_features == 20
    assert problem.descriptors.n_cached == 5


def rattled(seed, layers, z=(13,)):
    """A simple cubic crystal of 16 `layers` atoms, displaced and sheared."""
    rng, repeats = np.random.default_rng(seed), np.array([4, 4, layers])
    sites = np.stack(np.meshgrid(*map(np.arange, repeats), indexing="ij"), -1).reshape(-1, 3)
    strained = 2.6 * (np.eye(3) + 0.05 * rng.normal(size=(3, 3)))
    positions = sites @ strained + 0.15 * rng.normal(size=sites.shape)
    return Frames.single(np.resize(z, len(sites)), positions, repeats[:, None] * strained)


@pytest.mark.parametrize("z", [(13,), (13, 29)])
@pytest.mark.parametrize("strains", [False, True])
def test_large_frames_take_the_sparse_form_and_its_products_are_those_of_the_dense_one(z, strains, monkeypatch):
    frames = Frames.concat([rattled(0, 4, z), rattled(1, 5, z), rattled(2, 4, z)])
    settings = PART.descriptors(frames.numbers)
    chosen = Descriptors(settings, frames, 1e9, strains)
    force_form(monkeypatch, "dense")
    dense = Descriptors(settings, frames, 1e9, strains)
    assert chosen.n_cached == dense.n_cached == len(frames)
    assert dense.nbytes == 4 * settings.n_features * ((3 * frames.sizes + 6 * strains) * frames.sizes).sum()
    assert chosen.nbytes < dense.nbytes / 2
    pick, rng = np.array([1, 2]), np.random.default_rng(2)
    atoms = frames.sizes[pick].sum()
    g, u, bend = (
        torch.from_numpy(rng.normal(size=(2 * SLOTS, *shape)).astype(np.float32))
        for shape in ((atoms, settings.n_features), (atoms, 3), (len(pick), 3, 3))
    )
    bend = bend + bend.transpose(2, 3) if strains else None
    empty = [1, SLOTS + 3]
    for t in (g, u, bend):
        if t is not None:
            t[empty] = 0.0

    def products(of, rows=slice(None)):
        return *of.pull(pick, g[rows]), of.push(pick, u[rows], bend if bend is None else bend[rows])

    for got, want in zip(products(chosen), products(dense), strict=True):
        assert (got is None) == (want is None)
        if got is not None:
            assert not got[empty].any()
            np.testing.assert_allclose(got, want, atol=3e-6 * float(want.abs().max()))
    for whole, half in zip(products(chosen), products(chosen, slice(SLOTS, None)), strict=True):
        assert whole is half is None or (whole[SLOTS:] == half).all()


def test_each_frame_takes_the_form_that_takes_less_memory(monkeypatch):
    small, large = morse_dataset(1, 1, (4, 4)).frames, rattled(0, 4)
    settings = PART.descriptors([13])

    def bytes_of(frames, cache=1e9):
        return Descriptors(settings, frames, cache, False).nbytes

    of_small, of_large = bytes_of(small), bytes_of(large)
    mixed = Frames.concat([small, large, small])
    assert bytes_of(mixed) == 2 * of_small + of_large
    assert bytes_of(mixed, of_small + of_large + 100) == of_small + of_large
    force_form(monkeypatch, "dense")
    assert bytes_of(small) == of_small
    assert bytes_of(large) > of_large
    force_form(monkeypatch, "sparse")
    assert bytes_of(small) > of_small
    assert bytes_of(large) == of_large


def test_stress_may_be_missing_here_and_there_but_not_everywhere():
    stress = DATA.labels.stress.copy()
    stress[::2] = np.nan
    half = Dataset(DATA.frames, Labels(DATA.labels.energy, DATA.labels.forces, stress), DATA.theory)
    weights = Weights(1.0, 0.5, 0.3)
    problem = problem_of(half, weights)
    net = Net(0, random_weights(problem), np.ones(len(half), np.bool_), 1.0, torch.zeros(problem.shape.count))
    assert np.isfinite(problem.visit([net], np.arange(len(half))).loss).all()
    assert torch.isfinite(net.gradient).all()
    none = Dataset(DATA.frames, Labels(DATA.labels.energy, DATA.labels.forces), DATA.theory)
    with pytest.raises(UnphysicalError, match="stress_weight"):
        problem_of(none, weights)


# ---- files ---------------------------------------------------------------------------------------------------------


def test_folding_into_bare_descriptors_and_back(tmp_path):
    data = morse_dataset(6, 4, (3, 6), (13, 29))
    problem = problem_of(data)
    flat = random_weights(problem)
    w, shift = folded(flat, problem)
    torch.testing.assert_close(unfolded(w, shift, problem), flat, rtol=1e-5, atol=1e-6)
    settings, hidden = problem.descriptors.settings, problem.shape.widths[1:-1]
    model = AniModel(Members(settings, hidden, (0,), w[None].float(), shift[None]))
    net = Net(0, flat, np.ones(len(data), np.bool_))
    sums = problem.visit([net], np.arange(len(data)))
    errors = label_errors(data.frames, model.predict(data.frames), data.labels)
    scale = problem.targets.scale * 1000
    assert np.sqrt(sums.energy / sums.frames)[0] * scale == pytest.approx(errors["energy_rmse_meV_atom"], rel=1e-4)
    assert np.sqrt(sums.force / sums.atoms / 3)[0] * scale == pytest.approx(errors["force_rmse_meV_A"], rel=1e-4)


def test_reported_errors_are_those_of_the_saved_members(tmp_path):
    report = PART.fit(DATA, BOTH, 3, tmp_path)
    for k, name in enumerate(report.files):
        predicted = PART.load([tmp_path / name]).predict(DATA.frames)
        sides = split(DATA.ids, k)
        for side in ("train", "valid"):
            pick = np.flatnonzero(getattr(sides, side))
            frames = DATA.frames.take(pick)
            want = label_errors(frames, predicted.take(DATA.frames, pick), DATA.labels.take(DATA.frames, pick))
            for figure in ("energy_rmse_meV_atom", "force_rmse_meV_A"):
                assert report.metrics[f"{side}_{figure}"][k] == pytest.approx(want[figure], rel=1e-3)


def test_history_and_checkpoint(tmp_path):
    report = PART.fit(DATA, BOTH, 3, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *("history-000.csv", "history-001.csv", "member-000.pt", "member-001.pt")
    ]
    rows = (tmp_path / "history-001.csv").read_text().splitlines()
    assert rows[0] == "epoch,lr,train_loss,valid_loss"
    assert len(rows) == 1 + report.epochs[1]
    first, last = (float(r.split(",")[2]) for r in (rows[1], rows[-1]))
    assert last < first


@pytest.mark.parametrize("sizes", [(10, 14), (24, 28)], ids=["dense", "sparse"])
def test_threads_change_no_bit(tmp_path, sizes):
    before, found, data = torch.get_num_threads(), [], morse_dataset(720 // sizes[0], 1, sizes)
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            report = replace(PART, batch=60, max_epochs=3).fit(data, BOTH, 3, tmp_path / str(n))
            assert torch.get_num_threads() == n
            found.append(torch.cat([Members.open(tmp_path / str(n) / f).weights for f in report.files]))
    finally:
        torch.set_num_threads(before)
    assert (found[0] == found[1]).all()


# ---- schedules -----------------------------------------------------------------------------------------------------


def test_the_rate_is_halved_on_a_plateau_and_the_best_weights_are_kept():
    member = Member(0, torch.zeros(2), 0.1)
    for loss in (5.0, 4.0, 4.5, 4.6, 4.7, 3.0, 3.5, 3.5, 3.5, 3.5, 3.5, 3.5):
        member.weights.fill_(loss)
        member.judge(0.0, loss, Schedule("plateau", 4, 2, 0.03, 99, None, 1.0))
    assert member.best.tolist() == [3.0, 3.0]
    assert [row[0] for row in member.history] == [0.1] * 5 + [0.05] * 4 + [0.025] * 3
    assert not member.running


def test_a_cosine_ends_at_the_least_rate():
    member, schedule = Member(0, torch.zeros(2), 0.1), Schedule("cosine", 4, 2, 0.02, 10, None, 1.0)
    while member.running:
        member.judge(0.0, 1.0, schedule)
    rates = [row[0] for row in member.history]
    assert len(rates) == 10
    assert rates[5] == pytest.approx(0.06)
    assert member.lr == pytest.approx(0.02)


def test_adam_is_torchs():
    start = torch.randn(7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    member, peer = Member(0, start.clone(), 1e-2), start.clone().requires_grad_()
    optimiser = torch.optim.Adam([peer], lr=1e-2, betas=(BETA1, BETA2))
    for _ in range(20):
        for weights in (member.weights, peer):
            gradient = (weights.detach() - 1) ** 3
            if weights is peer:
                peer.grad = gradient
                optimiser.step()
            else:
                member.step(gradient)
    torch.testing.assert_close(member.weights, peer.detach(), rtol=1e-12, atol=1e-12)


def test_a_time_budget_ends_a_fit(tmp_path):
    part = replace(PART, max_epochs=10**6, patience=10**6, max_seconds=0.5)
    report = part.fit(DATA, BOTH, 3, tmp_path)
    assert all(e < 10**4 for e in report.epochs)


# ---- failures ------------------------------------------------------------------------------------------------------


def test_a_member_that_diverges_begins_again_slower(tmp_path):
    report = replace(PART, lr=1e7).fit(DATA, range(1), 3, tmp_path)
    assert report.members == (0,)
    assert 1 <= report.metrics["restarts"][0] <= 3
    assert report.metrics["lr_end"][0] < 1e7


def test_all_members_diverging_is_unphysical(tmp_path, monkeypatch):
    monkeypatch.setattr("alflow.potentials._nets_trainer.MAX_RESTARTS", 0)
    with pytest.raises(UnphysicalError, match="diverged"):
        replace(PART, lr=1e37).fit(DATA, BOTH, 3, tmp_path)
    assert not list(tmp_path.glob("member*"))


def test_a_member_that_fails_is_left_out(tmp_path, monkeypatch):
    judge = Member.judge

    def spoil(self, *args, **kwargs):
        judge(self, *args, **kwargs)
        if self.index == 1:
            self.weights.fill_(np.nan)

    monkeypatch.setattr(Member, "judge", spoil)
    report = PART.fit(DATA, BOTH, 3, tmp_path)
    assert report.members == (0,)
    assert report.files == ("member-000.pt",)
    assert all(np.isfinite(v).all() and len(v) == 1 for v in report.metrics.values())


def test_checkpoints_that_are_damaged_or_of_other_fits_are_ignored(tmp_path):
    path = tmp_path / "c"
    progress = Progress([Member(3, torch.arange(4.0), 0.1)], epoch=2, batch=1, seconds=1.5, train=[[1.0, 2.0]])
    progress.members[0].step(torch.ones(4))
    write_checkpoint(path, "mine", progress)
    back = read_checkpoint(path, "mine")
    assert (back.epoch, back.batch, back.seconds, back.train) == (2, 1, 1.5, [[1.0, 2.0]])
    for name in ("weights", "mean", "square", "first", "best"):
        assert (getattr(back.members[0], name) == getattr(progress.members[0], name)).all()
    assert read_checkpoint(path, "yours") is None
    assert read_checkpoint(tmp_path / "nothing", "mine") is None
    whole = path.read_bytes()
    for cut in (0, 10, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert read_checkpoint(path, "mine") is None


def test_a_checkpoint_belongs_to_data_settings_and_seed(tmp_path):
    def stopped(out, part=PART, data=DATA, seed=3):
        asked = iter(range(12))
        with pytest.raises(ResourceError):
            part.fit(data, BOTH, seed, out, halt=lambda: next(asked, None) is None)

    fresh = PART.fit(DATA, BOTH, 3, tmp_path / "fresh")
    others = {
        "settings": {"part": replace(PART, lr=4e-3)},
        "data": {"data": DATA.take(range(11))},
        "seed": {"seed": 4},
    }
    for name, other in others.items():
        out = tmp_path / name
        stopped(out, **other)
        assert list(out.glob("*.checkpoint"))
        report = PART.fit(DATA, BOTH, 3, out)
        for f in report.files:
            a, b = Members.open(out / f), Members.open(tmp_path / "fresh" / f)
            assert (a.weights == b.weights).all(), name
        assert report.epochs == fresh.epochs


def test_checkpoints_are_written_while_it_runs(tmp_path):
    seen = []

    def look():
        seen.append(bool(list(tmp_path.glob("*.checkpoint"))))
        return False

    replace(PART, checkpoint_s=1e-9).fit(DATA, BOTH, 3, tmp_path, halt=look)
    assert any(seen)
    assert not list(tmp_path.glob("*.checkpoint"))


def test_a_warm_start_of_another_architecture_is_refused(tmp_path):
    report = PART.fit(DATA, range(1), 3, tmp_path / "a")
    start = [tmp_path / "a" / f for f in report.files]
    for other, data in (
        (replace(PART, hidden=(16, 8)), DATA),
        (replace(PART, zeta=18.0), DATA),
        (PART, morse_dataset(6, 1, (3, 6), (13, 29))),
    ):
        with pytest.raises(DataError, match=r"member-000\.pt.*warm_start"):
            other.fit(data, range(1), 3, tmp_path / "b", start)
        assert not (tmp_path / "b").exists()
    replace(PART, hidden=(16, 8), warm_start=False).fit(DATA, range(1), 3, tmp_path / "b", start)


def test_a_member_without_a_predecessor_starts_fresh(tmp_path):
    report = PART.fit(DATA, range(1), 3, tmp_path / "a")
    start = [tmp_path / "a" / f for f in report.files]
    PART.fit(DATA, BOTH, 5, tmp_path / "warm", start)
    PART.fit(DATA, BOTH, 5, tmp_path / "cold")
    same = [
        bool((Members.open(tmp_path / "warm" / f).weights == Members.open(tmp_path / "cold" / f).weights).all())
        for f in ("member-000.pt", "member-001.pt")
    ]
    assert same == [False, True]


def test_groups_stay_together(tmp_path):
    columns = {"run": np.repeat(["a", "b", "c", "d"], 3)}
    data = Dataset(DATA.frames, DATA.labels, DATA.theory, columns)
    report = replace(PART, split_group="run", max_epochs=2).fit(data, BOTH, 3, tmp_path / "a")
    plain = replace(PART, max_epochs=2).fit(data, BOTH, 3, tmp_path / "b")
    assert report.metrics != plain.metrics
    with pytest.raises(DataError, match=r"no column 'walk', only \['run'\]"):
        replace(PART, split_group="walk").fit(data, BOTH, 3, tmp_path / "c")


def test_labels_without_spread_can_be_fitted(tmp_path):
    atom = Frames.concat([Frames.single([13], np.zeros((1, 3)), np.eye(3) * 4.0)] * 2)
    data = Dataset(atom, Labels(np.full(2, -3.5), np.zeros((2, 3))), DATA.theory)
    report = PART.fit(data, range(1), 3, tmp_path)
    assert PART.load([tmp_path / report.files[0]]).predict(atom).energy == pytest.approx([-3.5, -3.5], abs=0.2)


# ---- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "where"),
    [
        ("angular_cutoff_A", 9.0, "angular_cutoff_A"),
        ("r_start_A", 4.5, "angular_cutoff_A"),
        ("hidden", (), "hidden"),
        ("hidden", (8, 0), "hidden"),
        ("lr", 0.0, "lr"),
        ("members", 0, "members"),
        ("stress_weight", -1.0, "stress_weight"),
        ("min_lr", 1.0, "min_lr"),
        ("elements", ("Xx",), "elements"),
        ("elements", ("Al", "Al"), "elements"),
        ("elements", ("Cu",), "elements"),
        ("batch", 0, "batch"),
    ],
)
def test_what_cannot_work_is_refused_with_its_field(field, value, where):
    with pytest.raises(InputError) as refused:
        replace(PART, **{field: value}).check(frozenset({"Al"}))
    assert refused.value.where == where


def test_defaults_are_ani_al():
    part = Part()
    part.check(frozenset({"Al"}))
    settings = part.descriptors([13])
    assert settings.n_features == 96
    assert settings.shifts_r_A[-1] == pytest.approx(6.8203125)
    assert (settings.eta_r, settings.eta_a, settings.zeta) == (43.9, 6.5, 69.4)
    assert Shape((96, *part.hidden, 1)).count == 24897
    assert part.members_per_task == part.members == 8
    assert replace(part, members_per_task=3).members_per_task == 3


def test_widths_follow_the_spacing_unless_given():
    coarse = replace(Part(), n_radial=16, n_angular=4, n_angles=4).descriptors([13])
    assert (coarse.eta_r, coarse.eta_a, coarse.zeta) == pytest.approx((43.9 / 4, 6.5 / 4, 69.4 / 4))
    given = replace(Part(), n_radial=16, eta_radial_per_A2=20.0, eta_angular_per_A2=5.0, zeta=32.0).descriptors([13])
    assert (given.eta_r, given.eta_a, given.zeta) == (20.0, 5.0, 32.0)


def test_elements_fix_the_descriptors_whatever_the_data():
    part = replace(PART, elements=("Cu", "Al"))
    assert part.descriptors([13, 13]).species == (13, 29)
    assert PART.descriptors([29, 13]).species == (13, 29)
    with pytest.raises(DataError, match="elements"):
        part.descriptors([13, 47])


def test_a_missing_gpu_is_said(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(InputError, match="cuda"):
        replace(PART, device="cuda").fit(DATA, BOTH, 3, tmp_path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_what_the_cpu_gives(tmp_path):
    models = []
    for device in ("cpu", "cuda"):
        out: Path = tmp_path / device
        report = replace(PART, device=device, max_epochs=2, stress_weight=0.2).fit(DATA, BOTH, 3, out)
        models.append(AniModel.load([out / f for f in report.files], "cpu").predict(DATA.frames))
    np.testing.assert_allclose(models[1].energy, models[0].energy, atol=1e-3)
