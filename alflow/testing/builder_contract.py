"""What every builder must do. A test file subclasses `BuilderContract` and names its part; pytest does the rest."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from alflow.core.frames import Floats, Frames
from alflow.interfaces import Builder


def closest_pair_A(frame: Frames) -> float:
    """Smallest distance in one frame in angstrom, periodic images of an atom included; by brute force over images."""
    cell, pbc = frame.cell[0], frame.pbc[0]
    heights = frame.volumes[0] / np.linalg.norm(np.cross(np.roll(cell, -1, 0), np.roll(cell, -2, 0)), axis=1)
    # wrapped, the nearest image of a near pair lies at most one cell away along a height of the pair's distance
    reach = np.where(pbc, np.ceil(4.0 / heights) + 1, 0).astype(int)
    inside = frame.positions @ np.linalg.inv(cell) if pbc.any() else frame.positions
    wrapped = (inside - np.floor(inside) * pbc) @ cell if pbc.any() else frame.positions
    best = np.inf
    for shift in np.ndindex(*(2 * reach + 1)):
        offset: Floats = (np.array(shift) - reach) @ cell
        d = np.linalg.norm(wrapped[:, None] - wrapped[None] + offset, axis=-1)
        if np.array_equal(shift, reach):
            np.fill_diagonal(d, np.inf)
        best = min(best, float(d.min()))
    return best


class BuilderContract:
    """Subclass it, set `part`, and where it applies `source` and `min_distance_A`."""

    part: ClassVar[Builder]
    source: ClassVar[Frames | None] = None
    min_distance_A: ClassVar[float] = 0.0
    """No two atoms may be closer than this."""
    random: ClassVar[bool] = True
    """Whether another seed must give other frames."""
    count: ClassVar[int] = 5

    def _build(self, seed: int = 1, count: int | None = None) -> Frames:
        rng = np.random.default_rng(seed)
        return self.part.build(self.count if count is None else count, rng, self.source)

    def test_check_accepts_what_can_be_built(self) -> None:
        self.part.check()

    def test_count_is_honoured(self) -> None:
        for count in (0, 1, self.count):
            assert len(self._build(count=count)) == count

    def test_same_rng_gives_same_frames(self) -> None:
        assert self._build(1).ids() == self._build(1).ids()

    def test_another_rng_gives_other_frames(self) -> None:
        if self.random:
            assert self._build(1).ids() != self._build(2).ids()

    def test_frames_are_physical(self) -> None:
        frames = self._build()
        assert np.isfinite(frames.positions).all()
        assert np.isfinite(frames.cell).all()
        assert (frames.volumes[frames.pbc.all(axis=1)] > 0).all()
        assert (frames.numbers > 0).all()

    def test_no_atoms_are_too_close(self) -> None:
        if self.min_distance_A > 0:
            closest = [closest_pair_A(f) for f in self._build()]
            assert min(closest) >= self.min_distance_A * (1 - 1e-12)

    def test_elements_cover_what_is_built(self) -> None:
        from ase.data import chemical_symbols

        built = {chemical_symbols[z] for z in self._build().numbers}
        assert not self.part.elements() or built <= self.part.elements()

    def test_survives_pickling(self) -> None:
        again = pickle.loads(pickle.dumps(self.part))  # noqa: S301 -- our own bytes
        assert again == self.part
        assert again.build(2, np.random.default_rng(3), self.source).ids() == self._build(3, 2).ids()

    def test_source_is_untouched(self) -> None:
        if self.source is not None:
            before = self.source.ids()
            self._build()
            assert self.source.ids() == before

    def test_writes_no_files(self, tmp_path: Path, monkeypatch: Any) -> None:
        monkeypatch.chdir(tmp_path)
        self._build()
        assert not list(tmp_path.iterdir())
