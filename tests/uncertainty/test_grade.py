import numpy as np
import pytest

from alflow.core.frames import Frames
from alflow.errors import DataError, InputError, UnphysicalError
from alflow.numerics.maxvol import TOLERANCE
from alflow.potentials import snap
from alflow.store.dataset import Dataset
from alflow.testing.toy_data import toy_dataset, toy_frames, toy_model
from alflow.testing.toy_physics import morse
from alflow.testing.uncertainty_contract import UncertaintyContract
from alflow.uncertainty import grade
from alflow.uncertainty.grade import Part


class TestPerAtom(UncertaintyContract):
    part = Part()


class TestPerFrame(UncertaintyContract):
    part = Part(per="frame")

    @pytest.fixture
    def data(self):
        return toy_dataset(40)


class TestOfSnap(UncertaintyContract):
    """A real potential with features, and predictions from the same pass."""

    part = Part()

    @pytest.fixture
    def data(self):
        return toy_dataset(12)

    @pytest.fixture
    def model(self, tmp_path, data):
        potential = snap.Part(twojmax=4, cutoff_A=4.7)
        report = potential.fit(data, range(1), 0, tmp_path / "snap")
        return potential.load([tmp_path / "snap" / name for name in report.files])

    def test_an_atom_without_neighbours_is_new(self, model, data, gauge_of):
        gauge, _ = gauge_of(self.part, data, model)
        lone = Frames.single([13], [[0.0, 0.0, 0.0]], np.eye(3) * 12)
        assert gauge.evaluate(lone)[1].per_frame[0] > 2


class TestWithoutRoomForRows(UncertaintyContract):
    part = Part(memory_GB=0, tolerance=0.1, device="cpu")


@pytest.fixture
def gauge_of(tmp_path):
    """Calibrates first: `load` reads what `calibrate` wrote."""

    def make(part, data, model=None):
        model = model or toy_model(tmp_path / "model", 25)
        out = tmp_path / "gauge"
        out.mkdir(exist_ok=True)
        figures = part.calibrate(model, data, out)
        return part.load(model, out), figures

    return make


@pytest.mark.parametrize("per", ["atom", "frame"])
@pytest.mark.parametrize("memory", [0.0, 2.0])
def test_the_training_set_does_not_extrapolate(gauge_of, monkeypatch, per, memory):
    monkeypatch.setattr(grade, "_BATCH_ATOMS", 50)
    data = toy_dataset(40)
    gauge, figures = gauge_of(Part(per=per, memory_GB=memory), data)
    score = gauge.evaluate(data.frames)[1].per_frame
    assert score.max() <= 1 + TOLERANCE + 1e-9
    assert figures["dominant"] == 1
    assert figures["active_filled"] + figures["active_unfilled"] == 13
    active = gauge.sets.sets[0]
    assert active.filled.sum() == figures["active_filled"] > 10
    owners = np.unique(active.source[active.filled])
    np.testing.assert_allclose(score[owners], 1, atol=TOLERANCE)  # a frame that owns a row has grade one


def test_grades_are_those_of_a_plain_solve(gauge_of):
    data = toy_dataset(30)
    gauge, _ = gauge_of(Part(), data)
    frames = toy_frames(4, seed=8, rattle_A=0.8)
    rows = gauge.model.features(frames)
    want = np.abs(np.linalg.solve(gauge.sets.sets[0].rows.T, rows.T)).max(axis=0)
    _, scores = gauge.evaluate(frames)
    np.testing.assert_allclose(scores.per_atom, want, rtol=1e-7)
    np.testing.assert_allclose(scores.per_frame, want.reshape(4, -1).max(axis=1), rtol=1e-7)
    outside = (want > 1 + TOLERANCE).reshape(4, -1).sum(axis=1)
    assert scores.detail["extrapolating_atoms"].tolist() == outside.tolist()


@pytest.mark.parametrize("per", ["atom", "frame"])
def test_unknown_ground_scores_high_until_it_is_known(gauge_of, per):
    data = toy_dataset(40)
    gauge, _ = gauge_of(Part(per=per), data)
    frames = toy_frames(5, seed=8)
    dense = frames.moved(frames.positions * 0.7, frames.cell * 0.7)
    before = gauge.evaluate(dense)[1].per_frame
    assert (before > 3).all()
    wiser = gauge.extended(dense)
    assert (wiser.evaluate(dense)[1].per_frame <= 1 + TOLERANCE + 1e-9).all()
    assert gauge.evaluate(dense)[1].per_frame.tolist() == before.tolist()  # the first is as it was
    between = frames.moved(frames.positions * 0.85, frames.cell * 0.85)
    assert wiser.evaluate(between)[1].per_frame.max() < gauge.evaluate(between)[1].per_frame.max()


def test_each_element_has_its_own_ground(gauge_of):
    frames = toy_frames(20)
    numbers = np.where(np.arange(frames.n_atoms) % 2, 13, 29)
    mixed = Frames(numbers, frames.positions, frames.cell, frames.pbc, frames.offsets)
    data = Dataset(mixed, morse(mixed), toy_dataset(1).theory)
    gauge, figures = gauge_of(Part(), data)
    assert gauge.sets.numbers == (13, 29)
    assert figures["active_filled"] + figures["active_unfilled"] == 26
    silver = Frames(
        np.full(8, 47), *(getattr(toy_frames(1, seed=3), k) for k in ("positions", "cell", "pbc", "offsets"))
    )
    assert gauge.evaluate(silver)[1].per_frame[0] > 1e5
    assert gauge.extended(silver).evaluate(silver)[1].per_frame[0] <= 1 + TOLERANCE + 1e-9


def test_few_frames_leave_places_unfilled_and_say_so(gauge_of):
    gauge, figures = gauge_of(Part(per="frame"), toy_dataset(4))
    assert figures["active_filled"] == 4
    assert figures["active_unfilled"] == 9
    assert (gauge.evaluate(toy_frames(3, seed=9))[1].per_frame > 100).all()


class Odd:
    """A toy model whose features are spoilt."""

    def __init__(self, model, spoil):
        self.model, self.spoil, self.cutoff_A, self.asked = model, spoil, 5.0, 0

    def predict(self, frames, *, stress=True):
        return self.model.predict(frames, stress=stress)

    def features(self, frames):
        self.asked += 1
        return self.spoil(self.model.features(frames))


def test_collinear_constant_and_empty_columns_do_not_hurt(gauge_of, tmp_path):
    model = toy_model(tmp_path / "plain", 25)
    data, frames = toy_dataset(30), toy_frames(4, seed=8)
    plain, _ = gauge_of(Part(), data, model)
    want = plain.evaluate(frames)[1].per_frame
    odd = Odd(model, lambda f: np.column_stack([f, 3 * f[:, 2], f[:, 3] + f[:, 4], np.zeros(len(f)), np.ones(len(f))]))
    gauge, figures = gauge_of(Part(), data, odd)
    assert figures["active_unfilled"] >= 4
    score = gauge.evaluate(frames)[1].per_frame
    assert np.isfinite(score).all()
    assert gauge.evaluate(data.frames)[1].per_frame.max() <= 1 + TOLERANCE
    assert score == pytest.approx(want, rel=0.5)  # another dominant set of the same space


def test_a_model_that_gives_both_from_one_pass_is_asked_once(gauge_of, tmp_path):
    class Both(Odd):
        def predict_features(self, frames, *, stress=False):
            return self.model.predict(frames, stress=stress), self.model.features(frames)

        def predict(self, frames, *, stress=True):
            raise AssertionError("not needed")

    model = Both(toy_model(tmp_path / "plain"), lambda f: f)
    gauge, _ = gauge_of(Part(), toy_dataset(12), model)
    before = model.asked
    labels, scores = gauge.evaluate(toy_frames(2, seed=5), stress=True)
    assert model.asked == before
    assert labels.stress is not None
    assert (scores.per_frame > 0).all()


def test_training_frames_with_nan_features_are_passed_over(gauge_of, tmp_path):
    def spoil(features):
        features = features.copy()
        features[:3] = np.nan
        return features

    gauge, figures = gauge_of(Part(), toy_dataset(30), Odd(toy_model(tmp_path / "plain"), spoil))
    assert np.isfinite(gauge.sets.sets[0].rows).all()
    assert figures["active_filled"] > 10


def test_what_cannot_be_calibrated_or_read_is_said(tmp_path):
    model, data, part = toy_model(tmp_path / "m"), toy_dataset(5), Part()
    with pytest.raises(UnphysicalError, match="no training frames"):
        part.calibrate(model, data.take([]), tmp_path)
    with pytest.raises(UnphysicalError, match="NaN on every"):
        part.calibrate(Odd(model, lambda f: np.nan * f), data, tmp_path)
    with pytest.raises(InputError, match="needs a model with features"):
        part.calibrate(object(), data, tmp_path)
    with pytest.raises(DataError, match="calibrate again"):
        part.load(model, tmp_path)
    assert not (tmp_path / "grade.npz").exists()
    part.calibrate(model, data, tmp_path)
    with pytest.raises(DataError, match="per atom, asked for one per frame"):
        Part(per="frame").load(model, tmp_path)
    (tmp_path / "grade.npz").write_bytes(b"PK torn")
    with pytest.raises(DataError, match="calibrate again"):
        part.load(model, tmp_path)


def test_what_is_written_names_the_frames_of_the_active_rows(tmp_path):
    model, data = toy_model(tmp_path / "m"), toy_dataset(30)
    Part().calibrate(model, data, tmp_path)
    with np.load(tmp_path / "grade.npz") as h:
        names, source = h["frame0"], h["source0"]
    assert [n for n in names if n] == [data.ids[s] for s in source if s >= 0]
