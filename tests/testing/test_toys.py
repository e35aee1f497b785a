import pickle

import numpy as np
import pytest

from alflow.core.frames import Frames
from alflow.errors import ResourceError, UnphysicalError
from alflow.interfaces import Capability, Guide, HasFeatures, HasMembers, Stop, Thresholds
from alflow.store.dataset import Dataset
from alflow.testing.toy_physics import morse
from alflow.testing.toys import ToyLabeler, ToyPotential, ToySampler


def random_frames(count, seed=0, n=10, edge=6.4):
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), -1).reshape(-1, 3)[:n] * edge / 3
    cell = np.diag([edge, edge, edge + 0.5]) + np.tril(rng.uniform(-0.4, 0.4, (3, 3)), -1)
    parts = [Frames.single(np.full(n, 13), grid + rng.uniform(-0.4, 0.4, (n, 3)), cell) for _ in range(count)]
    return Frames.concat(parts)


def dataset(count, seed=0):
    frames = random_frames(count, seed)
    labels, _ = ToyLabeler().label(frames, None, pytest.tmp)
    return Dataset(frames, labels, ToyLabeler().theory(None))


@pytest.fixture(autouse=True)
def _tmp(tmp_path, monkeypatch):
    monkeypatch.setattr(pytest, "tmp", tmp_path / "labels", raising=False)


def numerical(frames, energy, h=1e-4):
    forces = np.zeros((frames.n_atoms, 3))
    for i in range(frames.n_atoms):
        for a in range(3):
            shift = np.zeros_like(frames.positions)
            shift[i, a] = h
            up, down = frames.moved(frames.positions + shift), frames.moved(frames.positions - shift)
            forces[i, a] = -(energy(up)[0] - energy(down)[0]) / (2 * h)
    return forces


def numerical_stress(frames, energy, h=1e-5):
    stress = np.zeros((3, 3))
    for a in range(3):
        for b in range(3):
            strain = np.zeros((3, 3))
            strain[a, b] += h / 2
            strain[b, a] += h / 2
            values = []
            for sign in (1, -1):
                f = np.eye(3) + sign * strain
                values.append(energy(frames.moved(frames.positions @ f, frames.cell @ f))[0])
            stress[a, b] = (values[0] - values[1]) / (2 * h) / frames.volumes[0]
    return stress


def test_the_morse_dimer_has_its_closed_form():
    cell, r = np.eye(3) * 30, 3.0
    dimer = Frames.single([13, 13], [[29.0, 1, 1], [2.0, 1, 1]], cell)  # across the boundary
    e = np.exp(-1.16 * (r - 3.25))
    assert morse(dimer).energy[0] == pytest.approx(0.27 * (e**2 - 2 * e), rel=1e-12)
    assert morse(Frames.single([13, 13], [[0, 0, 0], [r, 0, 0]], np.zeros((3, 3)), pbc=False)).energy[0] == (
        pytest.approx(morse(dimer).energy[0], rel=1e-12)
    )


def test_morse_forces_and_stress_are_derivatives():
    frame = random_frames(1)
    labels = morse(frame)
    assert np.abs(labels.forces - numerical(frame, lambda f: morse(f).energy)).max() < 1e-5
    assert np.abs(labels.stress[0] - numerical_stress(frame, lambda f: morse(f).energy)).max() < 1e-7


def test_a_larger_cell_has_the_same_energy_per_atom():
    frame = random_frames(1)
    images = np.stack(np.meshgrid(*[np.arange(2)] * 3, indexing="ij"), -1).reshape(-1, 3) @ frame.cell[0]
    big = Frames.single(
        np.tile(frame.numbers, 8), (frame.positions + images[:, None]).reshape(-1, 3), 2 * frame.cell[0]
    )
    assert morse(big).energy[0] == pytest.approx(8 * morse(frame).energy[0], rel=1e-12)


def test_labels_are_bought_once_and_counted(tmp_path):
    frames, ledger = random_frames(5), tmp_path / "ledger"
    labeler = ToyLabeler(fail_every=3, ledger=str(ledger))
    first, verdicts = labeler.label(frames, None, tmp_path / "work")
    again, same = labeler.label(frames, None, tmp_path / "work")
    assert ledger.read_text().split() == list(frames.ids())
    assert verdicts == same
    bad = [int(i, 16) % 3 == 0 for i in frames.ids()]
    assert [not v.ok for v in verdicts] == bad == list(np.isnan(first.energy))
    assert np.array_equal(first.energy, again.energy, equal_nan=True)
    assert np.array_equal(first.forces, again.forces, equal_nan=True)
    reference = morse(frames)
    assert np.array_equal(first.energy[~np.array(bad)], reference.energy[~np.array(bad)])


def test_the_fit_learns_and_unseen_distances_disagree(tmp_path):
    part, data = ToyPotential(), dataset(30)
    report = part.fit(data, range(4), 7, tmp_path / "fit")
    model = part.load([tmp_path / "fit" / f for f in report.files])
    assert isinstance(model, HasMembers)
    assert isinstance(model, HasFeatures)
    assert part.provides == {Capability.MEMBERS, Capability.FEATURES}
    assert max(report.metrics["valid_energy_rmse_meV_atom"]) < 5
    fresh = random_frames(5, seed=9)
    known = model.predict_members(fresh, forces=False).energy.std(axis=0)
    squeezed = fresh.moved(fresh.positions * 0.6, fresh.cell * 0.6)
    assert (model.predict_members(squeezed, forces=False).energy.std(axis=0) > 20 * known).all()


def test_the_model_is_the_mean_and_derivative_of_its_members(tmp_path):
    part = ToyPotential()
    report = part.fit(dataset(6), range(4), 7, tmp_path)
    model = part.load([tmp_path / f for f in report.files])
    frames = random_frames(2, seed=3)
    out = model.predict_members(frames, forces=True, stress=True)
    assert np.allclose(out.energy.mean(axis=0), out.mean.energy)
    assert np.allclose(out.forces.mean(axis=0), out.mean.forces)
    one = frames[1]
    labels = model.predict(one)
    assert np.abs(labels.forces - numerical(one, lambda f: model.predict(f).energy)).max() < 1e-5
    assert np.abs(labels.stress[0] - numerical_stress(one, lambda f: model.predict(f).energy)).max() < 1e-7
    assert labels.energy[0] == pytest.approx(out.mean.energy[1], abs=1e-12)
    rows = model.features(one).sum(axis=0)
    assert rows @ model._weights.mean(axis=0) == pytest.approx(labels.energy[0], abs=1e-10)


def test_a_member_does_not_depend_on_its_group(tmp_path):
    part, data = ToyPotential(), dataset(6)
    part.fit(data, range(4), 7, tmp_path / "a")
    part.fit(data, range(2, 3), 7, tmp_path / "b")
    name = "member-002.json"
    assert (tmp_path / "a" / name).read_text() == (tmp_path / "b" / name).read_text()
    part.fit(data, range(2, 3), 8, tmp_path / "b")
    assert (tmp_path / "a" / name).read_text() != (tmp_path / "b" / name).read_text()


def test_a_halted_fit_goes_on(tmp_path):
    part, data, asked = ToyPotential(), dataset(6), []

    def halt():
        asked.append(1)
        return len(asked) > 2

    with pytest.raises(ResourceError, match="before member 2"):
        part.fit(data, range(4), 7, tmp_path / "a", halt=halt)
    before = (tmp_path / "a" / "member-001.json").stat().st_mtime_ns
    report = part.fit(data, range(4), 7, tmp_path / "a")
    assert (tmp_path / "a" / "member-001.json").stat().st_mtime_ns == before
    assert report == part.fit(data, range(4), 7, tmp_path / "b")


def test_nothing_cannot_be_fitted(tmp_path):
    empty = dataset(1).take([])
    with pytest.raises(UnphysicalError, match="no frames"):
        ToyPotential().fit(empty, range(2), 0, tmp_path)


class Spread:
    """The least gauge."""

    def __init__(self, model):
        self.model = model

    def evaluate(self, frames, *, stress=False):
        from alflow.interfaces import Scores

        out = self.model.predict_members(frames, forces=False)
        return out.mean, Scores(out.energy.std(axis=0) / np.sqrt(frames.sizes))


def test_the_walk_ends_where_the_model_ends(tmp_path):
    part = ToyPotential()
    report = part.fit(dataset(20), range(4), 7, tmp_path)
    model = part.load([tmp_path / f for f in report.files])
    start = random_frames(4, seed=5)
    guide = Guide(model, Spread(model), Thresholds(0.01, 0.01))
    sampler = ToySampler(T_K=3000, steps=100, step_A=0.1)
    harvest = sampler.run(start, guide, np.random.default_rng(1), tmp_path)
    again = pickle.loads(pickle.dumps(sampler)).run(start, guide, np.random.default_rng(1), tmp_path)
    assert harvest.candidates.ids() == again.candidates.ids()
    assert len(harvest.candidates) == harvest.stops.count(Stop.EXTRAPOLATED) > 0
    assert (harvest.scores > 0.01).all()
    assert np.allclose(guide.gauge.evaluate(harvest.candidates)[1].per_frame, harvest.scores)
    assert min(harvest.lengths) > 0
    halted = sampler.run(start, guide, np.random.default_rng(1), tmp_path, lambda: True)
    assert set(halted.stops) == {Stop.HALTED}
    assert not len(halted.candidates)
