"""What every labeler must do. A test file subclasses `LabelerContract` and names its part; pytest does the rest."""

from __future__ import annotations

import json
import pickle
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np

from alflow.core.frames import Floats, Frames
from alflow.core.labels import Labels
from alflow.interfaces import Code, Labeler

_SEED = 20


def strained(frames: Frames, strain: Floats) -> Frames:
    """Cell and atoms deformed by ``1 + strain``; `strain` is symmetric, (3, 3)."""
    deform = np.eye(3) + strain
    return frames.moved(frames.positions @ deform, frames.cell @ deform)


def rotation(rng: np.random.Generator) -> Floats:
    """A random proper rotation, (3, 3)."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    proper: Floats = q * np.sign(np.linalg.det(q))
    return proper


class LabelerContract:
    """Subclass it, set `part`, `frames` and `failing`, and tolerances that follow from the method."""

    part: ClassVar[Labeler]
    code: ClassVar[Code | None] = None
    frames: ClassVar[Frames]
    """A few small periodic frames without symmetry, of different sizes."""
    failing: ClassVar[Frames | None] = None
    """One frame that must fail."""
    others: ClassVar[tuple[Labeler, ...]] = ()
    """The same labeler with other settings: each its own level of theory."""

    step_A: ClassVar[float] = 1e-4
    """Length of the finite-difference step of all coordinates together."""
    strain: ClassVar[float] = 1e-5
    gradient_rtol: ClassVar[float] = 1e-5
    """Of forces and stress against finite differences."""
    energy_atol_eV: ClassVar[float] = 1e-9
    """Of energies that must be equal but for rounding; forces and stress get a hundred times that."""
    invariance_atol_eV: ClassVar[float] = 1e-8
    """Of energies of frames that are equal by symmetry; forces and stress get a hundred times that."""

    def labels_of(self, frames: Frames) -> Labels:
        with TemporaryDirectory() as folder:
            labels, verdicts = self.part.label(frames, self.code, Path(folder))
        assert all(v.ok for v in verdicts), verdicts
        return labels

    @classmethod
    @cache
    def _reference(cls) -> Labels:
        return cls().labels_of(cls.frames)

    def _same(self, got: Labels, want: Labels, atol: float) -> None:
        np.testing.assert_allclose(got.energy, want.energy, rtol=1e-12, atol=atol)
        np.testing.assert_allclose(got.forces, want.forces, rtol=1e-9, atol=100 * atol)
        if want.stress is not None:
            assert got.stress is not None
            np.testing.assert_allclose(got.stress, want.stress, rtol=1e-9, atol=100 * atol)

    def _elements(self) -> frozenset[str]:
        from ase.data import chemical_symbols

        return frozenset(chemical_symbols[z] for z in self.frames.numbers)

    def test_check_accepts_what_can_be_labelled(self) -> None:
        self.part.check(self._elements(), self.code)

    def test_labels_fit_the_frames(self) -> None:
        labels = self._reference()
        assert len(labels) == len(self.frames)
        assert labels.forces.shape == (self.frames.n_atoms, 3)
        assert np.isfinite(labels.energy).all()
        assert np.isfinite(labels.forces).all()
        if labels.stress is not None:
            assert np.isfinite(labels.stress).all()
            np.testing.assert_allclose(labels.stress, labels.stress.transpose(0, 2, 1), rtol=0, atol=1e-12)

    def test_forces_are_minus_the_gradient(self) -> None:
        rng = np.random.default_rng(_SEED)
        which = self.frames.frame_of_atom
        direction = rng.normal(size=(self.frames.n_atoms, 3))
        direction /= np.sqrt(np.bincount(which, (direction**2).sum(axis=1)))[which, None]
        ends = [self.frames.moved(self.frames.positions + s * self.step_A * direction) for s in (1, -1)]
        up, down = (self.labels_of(f).energy for f in ends)
        forces = self._reference().forces
        along = np.bincount(which, (forces * direction).sum(axis=1))
        scale = np.sqrt(np.bincount(which, (forces**2).sum(axis=1)))
        np.testing.assert_allclose(
            (down - up) / (2 * self.step_A), along, rtol=0, atol=self.gradient_rtol * scale.max()
        )

    def test_stress_is_the_gradient_of_strain(self) -> None:
        stress = self._reference().stress
        if stress is None:
            return
        for seed in (_SEED, _SEED + 1):
            direction = np.random.default_rng(seed).normal(size=(3, 3))
            direction = (direction + direction.T) / np.linalg.norm(direction + direction.T)
            up, down = (self.labels_of(strained(self.frames, s * self.strain * direction)).energy for s in (1, -1))
            slope = (up - down) / (2 * self.strain) / self.frames.volumes
            want = np.einsum("fij,ij->f", stress, direction)
            np.testing.assert_allclose(slope, want, rtol=0, atol=self.gradient_rtol * np.abs(stress).max())

    def test_a_batch_equals_one_by_one(self) -> None:
        single = Labels.concat([self.labels_of(f) for f in self.frames])
        self._same(single, self._reference(), self.energy_atol_eV)

    def test_translation_and_lattice_vectors_change_nothing(self) -> None:
        rng = np.random.default_rng(_SEED)
        f = self.frames
        turns = rng.integers(-2, 3, (f.n_atoms, 3))
        shift = np.einsum("ai,aij->aj", turns, f.cell[f.frame_of_atom])
        moved = f.moved(f.positions + shift + rng.normal(size=(len(f), 3))[f.frame_of_atom])
        self._same(self.labels_of(moved), self._reference(), self.invariance_atol_eV)

    def test_rotation_turns_forces_and_stress(self) -> None:
        turn, want = rotation(np.random.default_rng(_SEED)), self._reference()
        got = self.labels_of(self.frames.moved(self.frames.positions @ turn, self.frames.cell @ turn))
        stress = None if want.stress is None else turn.T @ want.stress @ turn
        self._same(got, Labels(want.energy, want.forces @ turn, stress), self.invariance_atol_eV)

    def test_left_handed_cells_change_nothing(self) -> None:
        cell = self.frames.cell[:, [1, 0, 2]]
        self._same(
            self.labels_of(self.frames.moved(self.frames.positions, cell)), self._reference(), self.invariance_atol_eV
        )

    def test_permutation_permutes_forces(self) -> None:
        f, rng = self.frames, np.random.default_rng(_SEED)
        order = np.concatenate(
            [rng.permutation(np.arange(a, b)) for a, b in zip(f.offsets, f.offsets[1:], strict=False)]
        )
        got = self.labels_of(Frames(f.numbers[order], f.positions[order], f.cell, f.pbc, f.offsets))
        want = self._reference()
        self._same(got, Labels(want.energy, want.forces[order], want.stress), self.invariance_atol_eV)

    def test_a_second_call_computes_nothing(self, tmp_path: Path) -> None:
        def stamps() -> dict[Path, int]:
            return {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}

        first, verdicts = self.part.label(self.frames, self.code, tmp_path)
        before = stamps()
        again, verdicts_again = self.part.label(self.frames, self.code, tmp_path)
        assert before, "nothing was kept in the work folder"
        assert stamps() == before
        assert verdicts_again == verdicts
        np.testing.assert_array_equal(again.energy, first.energy)
        np.testing.assert_array_equal(again.forces, first.forces)

    def test_a_failed_frame_is_a_verdict_and_a_row_of_nan(self, tmp_path: Path) -> None:
        if self.failing is None:
            return
        frames = Frames.concat([self.frames[0], self.failing, self.frames[len(self.frames) - 1]])
        labels, verdicts = self.part.label(frames, self.code, tmp_path)
        assert [v.ok for v in verdicts] == [True, False, True]
        assert verdicts[1].reason
        assert not verdicts[1].log or Path(verdicts[1].log).is_file()
        assert np.isnan(labels.energy).tolist() == [False, True, False]
        np.testing.assert_array_equal(np.isnan(labels.forces).all(axis=1), frames.frame_of_atom == 1)
        assert np.isfinite(labels.forces[frames.frame_of_atom != 1]).all()
        if labels.stress is not None:
            assert np.isnan(labels.stress).all(axis=(1, 2)).tolist() == [False, True, False]

    def test_no_frames_are_nolabels_of(self, tmp_path: Path) -> None:
        labels, verdicts = self.part.label(Frames.empty(), self.code, tmp_path)
        assert len(labels) == len(verdicts) == 0

    def test_inputs_are_untouched(self, tmp_path: Path) -> None:
        before = self.frames[0].ids()
        frame = self.frames[0]
        self.part.label(frame, self.code, tmp_path)
        assert frame.ids() == before

    def test_theory_is_stable_and_plain(self) -> None:
        theory = self.part.theory(self.code)
        assert theory.fingerprint == self.part.theory(self.code).fingerprint
        assert json.loads(json.dumps(dict(theory.settings))) == dict(theory.settings)

    def test_other_settings_are_another_theory(self) -> None:
        prints = [p.theory(self.code).fingerprint for p in (self.part, *self.others)]
        assert len(set(prints)) == len(prints)

    def test_survives_pickling(self) -> None:
        again = pickle.loads(pickle.dumps(self.part))  # noqa: S301 -- our own bytes
        assert again == self.part
        assert again.theory(self.code).fingerprint == self.part.theory(self.code).fingerprint

    def test_writes_only_in_its_work_folder(self, tmp_path: Path, monkeypatch: Any) -> None:
        monkeypatch.chdir(tmp_path)
        self.part.label(self.frames[0], self.code, tmp_path / "work")
        assert [p.name for p in tmp_path.iterdir()] == ["work"]
