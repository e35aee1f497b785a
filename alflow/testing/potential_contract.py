"""What every potential keeps. A test file subclasses `PotentialContract` and sets `part`, small and quick to fit.

Such as:

class TestMine(PotentialContract):
    part = Part(...)
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from alflow.core.frames import Floats, Frames
from alflow.core.labels import Labels
from alflow.errors import AlflowError, DataError, ResourceError, UnphysicalError
from alflow.interfaces import Capability, FitReport, HasFeatures, HasMembers, Model, Potential, PredictsWithFeatures
from alflow.numerics.statistics import label_errors
from alflow.store.dataset import Dataset
from alflow.testing.morse import morse_dataset

SEED = 11
STEP = 2e-3


class PotentialContract:
    """Subclass with `part`; override `data` if Morse aluminium in cells of 3 to 7 atoms will not do.

    Attributes:
        part: the potential, with two members at least if it has any, so small that a fit takes about a second.
        tolerance: of forces and stress against finite differences, relative to their root mean square.
        same: of energies (per atom) and forces against the same structure seen another way, in eV and eV/angstrom.
        halts: at which of its questions a fit is told to halt: one of all members, and one of one.
    """

    part: ClassVar[Potential]
    tolerance: ClassVar[float] = 2e-3
    same: ClassVar[float] = 1e-4
    halts: ClassVar[tuple[int, int]] = (40, 30)

    @pytest.fixture(scope="class")
    @classmethod
    def data(cls) -> Dataset:
        return morse_dataset(14, 5, (3, 7))

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return tmp_path_factory.mktemp("fit")

    @pytest.fixture(scope="class")
    @classmethod
    def report(cls, data: Dataset, folder: Path) -> FitReport:
        return cls.part.fit(data, range(cls.part.members), SEED, folder)

    @pytest.fixture(scope="class")
    @classmethod
    def files(cls, report: FitReport, folder: Path) -> list[Path]:
        return [folder / name for name in report.files]

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, files: list[Path]) -> Model:
        return cls.part.load(files)

    @property
    def everyone(self) -> range:
        return range(self.part.members)

    def fitted(
        self, data: Dataset, out: Path, members: range | None = None, seed: int = SEED, start: Sequence[Path] = ()
    ) -> Model:
        """The model of one more fit."""
        report = self.part.fit(data, members or self.everyone, seed, out, start)
        return self.part.load([out / name for name in report.files])

    # ---- what a fit says and leaves behind ---------------------------------------------------------------------

    def test_the_report_is_plain_json_with_a_figure_for_each_member(self, report: FitReport, folder: Path) -> None:
        assert report.members == tuple(self.everyone)
        assert report.files
        for name in report.files:
            assert not Path(name).is_absolute()
            assert (folder / name).is_file()
        assert all(len(v) == len(report.members) for v in report.metrics.values())
        json.dumps([report.files, report.members, dict(report.metrics), report.epochs], allow_nan=False)

    def test_it_learns(self, model: Model, data: Dataset) -> None:
        errors = label_errors(data.frames, model.predict(data.frames), data.labels)
        forces, energy = data.labels.forces, data.labels.energy / data.frames.sizes
        assert errors["force_rmse_meV_A"] < 0.7 * 1000 * np.sqrt((forces**2).mean())
        assert errors["energy_rmse_meV_atom"] < 1000 * energy.std()

    def test_it_writes_in_its_folder_only(self, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        elsewhere, out = tmp_path / "elsewhere", tmp_path / "out"
        elsewhere.mkdir()
        monkeypatch.chdir(elsewhere)
        self.part.fit(data, range(1), SEED, out)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["elsewhere", "out"]
        assert not list(elsewhere.iterdir())

    def test_the_data_are_left_as_they_were(self, data: Dataset, tmp_path: Path) -> None:
        before = pickle.dumps((data.frames, data.labels))
        self.fitted(data, tmp_path, range(1))
        assert pickle.dumps((data.frames, data.labels)) == before

    def test_it_is_a_function_of_its_seed(self, model: Model, data: Dataset, tmp_path: Path) -> None:
        first = model.predict(data.frames)
        again = self.fitted(data, tmp_path / "same").predict(data.frames)
        other = self.fitted(data, tmp_path / "other", seed=SEED + 1).predict(data.frames)
        assert (first.energy == again.energy).all()
        assert (first.forces == again.forces).all()
        if self.part.members > 1:
            assert (first.energy != other.energy).any()

    def test_a_member_does_not_know_its_group(self, model: Model, data: Dataset, tmp_path: Path) -> None:
        if self.part.members == 1:
            pytest.skip("one member only")
        files = []
        for k, group in enumerate((self.everyone[:1], self.everyone[1:])):
            report = self.part.fit(data, group, SEED, tmp_path / str(k))
            files += [tmp_path / str(k) / name for name in report.files]
        together, apart = model.predict(data.frames), self.part.load(files).predict(data.frames)
        assert (together.energy == apart.energy).all()
        assert (together.forces == apart.forces).all()

    def test_a_model_is_usable_without_all_of_its_files(self, files: list[Path], data: Dataset) -> None:
        some = self.part.load(files[-1:]).predict(data.frames)
        assert np.isfinite(some.energy).all()

    # ---- interruptions and starts ------------------------------------------------------------------------------

    def test_an_interrupted_fit_ends_like_an_undisturbed_one(
        self, model: Model, report: FitReport, data: Dataset, tmp_path: Path
    ) -> None:
        interruptions = 0
        while True:
            try:
                got = self.part.fit(data, self.everyone, SEED, tmp_path, halt=_after(self.halts[0]))
                break
            except ResourceError:
                interruptions += 1
                assert interruptions < 1000, "a fit that is halted again and again never ends"
        again = self.part.load([tmp_path / name for name in got.files]).predict(data.frames)
        first = model.predict(data.frames)
        assert interruptions
        assert got.epochs == report.epochs
        assert (first.energy == again.energy).all()
        assert (first.forces == again.forces).all()

    def test_a_halted_fit_raises_and_another_fit_in_its_folder_ignores_what_it_left(
        self, data: Dataset, tmp_path: Path
    ) -> None:
        with pytest.raises(ResourceError):
            self.part.fit(data, range(1), SEED, tmp_path / "a", halt=_after(self.halts[1]))
        here = self.fitted(data, tmp_path / "a", range(1), seed=SEED + 7).predict(data.frames)
        there = self.fitted(data, tmp_path / "b", range(1), seed=SEED + 7).predict(data.frames)
        assert (here.energy == there.energy).all()

    def test_a_warm_start_goes_on_from_where_the_other_ended(
        self, model: Model, files: list[Path], data: Dataset, tmp_path: Path
    ) -> None:
        warm = self.fitted(data, tmp_path, start=files)
        errors = [label_errors(data.frames, m.predict(data.frames), data.labels) for m in (model, warm)]
        assert errors[1]["force_rmse_meV_A"] < 1.1 * errors[0]["force_rmse_meV_A"]

    def test_a_damaged_start_is_named(self, files: list[Path], data: Dataset, tmp_path: Path) -> None:
        bad = tmp_path / files[0].name
        bad.write_bytes(files[0].read_bytes()[:100])
        with pytest.raises(DataError, match=bad.name):
            self.part.load([bad])
        with pytest.raises(DataError, match=bad.name):
            self.part.fit(data, self.everyone, SEED, tmp_path / "out", start=[bad])

    def test_nothing_to_fit_is_said(self, data: Dataset, tmp_path: Path) -> None:
        with pytest.raises(UnphysicalError):
            self.part.fit(data.take([]), self.everyone, SEED, tmp_path)
        with pytest.raises(AlflowError):
            self.part.load([])

    def test_one_frame_can_be_fitted(self, data: Dataset, tmp_path: Path) -> None:
        one = data.take([0])
        assert np.isfinite(self.fitted(one, tmp_path, range(1)).predict(one.frames).energy).all()

    # ---- what a model predicts ---------------------------------------------------------------------------------

    def test_forces_are_minus_the_gradient(self, model: Model, data: Dataset) -> None:
        frames, rng = data.frames.take([0, 1, 2, 3]), np.random.default_rng(0)
        forces = model.predict(frames).forces
        for _ in range(4):
            d = rng.normal(size=forces.shape)
            d /= np.sqrt(np.add.reduceat((d**2).sum(1), frames.offsets[:-1]))[frames.frame_of_atom, None]
            slope = _slope(lambda h, d=d: model.predict(frames.moved(frames.positions + h * d)).energy)  # type: ignore[misc]
            want = -np.add.reduceat((forces * d).sum(1), frames.offsets[:-1])
            np.testing.assert_allclose(slope, want, atol=self.tolerance * float(np.sqrt((forces**2).mean())))

    def test_stress_is_the_derivative_by_strain(self, model: Model, data: Dataset) -> None:
        frames, rng = data.frames.take([0, 1, 2, 3]), np.random.default_rng(1)
        stress = model.predict(frames).stress
        assert stress is not None
        np.testing.assert_allclose(stress, stress.transpose(0, 2, 1), atol=self.same)
        for _ in range(3):
            e = rng.normal(size=(3, 3))
            e = (e + e.T) / np.linalg.norm(e + e.T) / 3

            def energy(h: float, e: Floats = e) -> Floats:
                f = np.eye(3) + h * e
                return model.predict(frames.moved(frames.positions @ f, frames.cell @ f)).energy

            want = np.einsum("fab,ab->f", stress, e) * frames.volumes
            scale = float(np.sqrt((stress**2).mean()) * frames.volumes.max())
            np.testing.assert_allclose(_slope(energy), want, atol=self.tolerance * scale)

    def test_a_batch_is_its_frames_one_by_one(self, model: Model, data: Dataset) -> None:
        whole = model.predict(data.frames)
        self._equal(data.frames, whole, Labels.concat([model.predict(f) for f in data.frames]))
        assert len(model.predict(Frames.empty())) == 0

    def test_energy_does_not_depend_on_how_a_structure_is_written(self, model: Model, data: Dataset) -> None:
        frames, rng = data.frames, np.random.default_rng(2)
        want = model.predict(frames)
        turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        turned = model.predict(frames.moved(frames.positions @ turn, frames.cell @ turn))
        assert turned.stress is not None
        back = Labels(turned.energy, turned.forces @ turn.T, turn @ turned.stress @ turn.T)
        self._equal(frames, want, back)
        self._equal(frames, want, model.predict(frames.moved(frames.positions + rng.normal(size=3))))
        hops = rng.integers(-2, 3, (frames.n_atoms, 3))[:, None] @ frames.cell[frames.frame_of_atom]
        self._equal(frames, want, model.predict(frames.moved(frames.positions + hops[:, 0])))

    def test_energy_does_not_depend_on_the_order_of_atoms(self, model: Model, data: Dataset) -> None:
        one = data.frames[0]
        order = np.random.default_rng(3).permutation(one.n_atoms)
        mixed = Frames.single(one.numbers[order], one.positions[order], one.cell[0])
        want, got = model.predict(one), model.predict(mixed)
        assert got.energy[0] / one.n_atoms == pytest.approx(want.energy[0] / one.n_atoms, abs=self.same)
        np.testing.assert_allclose(got.forces, want.forces[order], atol=self.same)

    @pytest.mark.parametrize("pbc", [True, False])
    def test_one_atom_feels_no_force(self, model: Model, data: Dataset, pbc: bool) -> None:
        atom = Frames.single(data.frames.numbers[:1], np.zeros((1, 3)), np.eye(3) * 3.1, pbc)
        got = model.predict(atom)
        assert np.isfinite(got.energy).all()
        np.testing.assert_allclose(got.forces, 0, atol=self.same)

    def test_frames_are_left_as_they_were_and_nan_is_answered_with_nan(self, model: Model, data: Dataset) -> None:
        frames = data.frames.take([0, 1])
        before = pickle.dumps(frames)
        model.predict(frames)
        assert pickle.dumps(frames) == before
        broken = frames.positions.copy()
        broken[0] = np.nan
        got = model.predict(frames.moved(broken))
        assert np.isnan(got.energy[0])
        assert np.isfinite(got.energy[1])

    def test_stress_is_left_out_on_demand(self, model: Model, data: Dataset) -> None:
        assert model.predict(data.frames[0], stress=False).stress is None

    def test_part_and_model_survive_pickling(self, model: Model, data: Dataset) -> None:
        again = pickle.loads(pickle.dumps(model))  # noqa: S301  # our own bytes
        assert (again.predict(data.frames).energy == model.predict(data.frames).energy).all()
        assert pickle.loads(pickle.dumps(self.part)) == self.part  # noqa: S301

    def test_members_average_to_the_prediction(self, model: Model, data: Dataset) -> None:
        if Capability.MEMBERS not in self.part.provides:
            pytest.skip("no ensemble")
        assert isinstance(model, HasMembers)
        assert model.n_members == self.part.members
        got, want = model.predict_members(data.frames, forces=True, stress=True), model.predict(data.frames)
        assert got.forces is not None
        assert got.energy.shape == (model.n_members, len(data))
        assert got.forces.shape == (model.n_members, data.frames.n_atoms, 3)
        self._equal(data.frames, want, got.mean)
        self._equal(data.frames, want, Labels(got.energy.mean(0), got.forces.mean(0), want.stress))
        assert model.predict_members(data.frames, forces=False).forces is None

    def test_members_differ_more_where_no_data_were(self, model: Model, data: Dataset) -> None:
        if Capability.MEMBERS not in self.part.provides or self.part.members == 1:
            pytest.skip("no ensemble")
        assert isinstance(model, HasMembers)
        squeezed = data.frames.moved(data.frames.positions * 0.75, data.frames.cell * 0.75)
        known, strange = (model.predict_members(f, forces=False).energy.std(0) for f in (data.frames, squeezed))
        assert np.median(strange) > np.median(known)

    def test_features_are_rows_of_atoms_and_come_with_predictions(self, model: Model, data: Dataset) -> None:
        """Every atom has a row; a frame's rows do not depend on its batch; one pass gives what two give."""
        if Capability.FEATURES not in self.part.provides:
            pytest.skip("no features")
        assert isinstance(model, HasFeatures)
        rows = model.features(data.frames)
        assert rows.shape == (data.frames.n_atoms, model.features(Frames.empty()).shape[1])
        alone = np.concatenate([model.features(f) for f in data.frames])
        np.testing.assert_allclose(alone, rows, rtol=1e-7, atol=1e-9)
        if isinstance(model, PredictsWithFeatures):
            labels, same = model.predict_features(data.frames, stress=True)
            np.testing.assert_allclose(same, rows, rtol=1e-9, atol=1e-12)
            self._equal(data.frames, model.predict(data.frames), labels)
            assert model.predict_features(data.frames)[0].stress is None

    def _equal(self, frames: Frames, want: Labels, got: Labels) -> None:
        np.testing.assert_allclose(got.energy / frames.sizes, want.energy / frames.sizes, atol=self.same)
        np.testing.assert_allclose(got.forces, want.forces, atol=self.same)
        if want.stress is not None and got.stress is not None:
            np.testing.assert_allclose(got.stress, want.stress, atol=self.same)


def _slope(energy: Callable[[float], Floats]) -> Floats:
    """Derivative at zero by the five-point rule: single precision wants a wide step."""
    h = STEP
    slope: Floats = (8 * (energy(h) - energy(-h)) - (energy(2 * h) - energy(-2 * h))) / (12 * h)
    return slope


def _after(n: int) -> Callable[[], bool]:
    """A halt that says stop when it is asked for the n-th time."""
    asked = iter(range(1, n))
    return lambda: next(asked, None) is None
