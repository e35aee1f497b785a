"""Sealed HDF5 shards: written once, renamed into place, never appended.

One format serves a builder's batch, a sampler's candidates and a labeller's dataset: ragged `Frames`, columns of
figures per frame (scores, temperatures, provenance), and, if they were bought, `Labels` and their `Theory`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from h5py import h5d, h5g, h5s
from numpy.typing import NDArray

from alflow.core.frames import Floats, Frames
from alflow.core.labels import Labels, Theory
from alflow.errors import DataError
from alflow.store.files import written_whole

SCHEMA: Final = 1
Column = NDArray[Any]
_FRAMES: Final = ("numbers", "positions", "cell", "pbc", "offsets")


@dataclass(frozen=True, slots=True, eq=False)
class Shard:
    """What a shard holds.

    Attributes:
        frames: the structures.
        columns: figures or words per frame, each (n_frames,).
        labels: what was bought, or None.
        theory: the level of theory of `labels`, or None.
    """

    frames: Frames
    columns: Mapping[str, Column] = field(default_factory=dict)
    labels: Labels | None = None
    theory: Theory | None = None

    def take(self, indices: NDArray[np.int64] | list[int] | range) -> Shard:
        """The frames at `indices` with their columns and labels."""
        pick = np.asarray(indices, np.int64)
        return Shard(
            self.frames.take(pick),
            {k: v[pick] for k, v in self.columns.items()},
            None if self.labels is None else self.labels.take(self.frames, pick),
            self.theory,
        )


def write_shard(path: Path, shard: Shard) -> None:
    """Write a shard, whole or not at all.

    Raises:
        DataError: a column or a label does not fit the frames, or labels come without a theory.
    """
    f, labels = shard.frames, shard.labels
    if (labels is None) != (shard.theory is None):
        raise DataError(f"{path}: labels and theory come together or not at all")
    if labels is not None and (len(labels) != len(f) or len(labels.forces) != f.n_atoms):
        raise DataError(
            f"{path}: labels of {len(labels)} frames and {len(labels.forces)} atoms, "
            f"expected {len(f)} frames and {f.n_atoms} atoms"
        )
    for name, column in shard.columns.items():
        if len(column) != len(f):
            raise DataError(f"{path}: column {name!r} has {len(column)} rows, expected {len(f)}")
        if not name or "/" in name or np.asarray(column).dtype.kind not in "biufUS" or np.ndim(column) != 1:
            raise DataError(f"{path}: column {name!r}: expected a name without '/' and one number or word per frame")
    with written_whole(path) as draft, h5py.File(draft, "w") as h:
        h.attrs["alflow_shard"] = SCHEMA
        if shard.theory is not None:
            h.attrs["theory"] = json.dumps({"code": shard.theory.code, "settings": dict(shard.theory.settings)})
        for name in _FRAMES:
            h[name] = getattr(f, name)
        h["positions"].attrs["unit"] = h["cell"].attrs["unit"] = "angstrom"
        if labels is not None:
            h["energy"], h["forces"] = labels.energy, labels.forces
            h["energy"].attrs["unit"], h["forces"].attrs["unit"] = "eV", "eV/angstrom"
            if labels.stress is not None:
                h["stress"] = labels.stress
                h["stress"].attrs["unit"] = "eV/angstrom^3"
        group = h.create_group("columns")
        for name, column in shard.columns.items():
            values = np.asarray(column)
            words = values.dtype.kind in "UOS"
            group.create_dataset(
                name, data=values.astype(object) if words else values, dtype=h5py.string_dtype() if words else None
            )


def read_shard(path: Path, start: int = 0, stop: int | None = None) -> Shard:
    """Read frames `start:stop` of a shard with their columns and labels.

    Raises:
        DataError: not there, not a shard, of a later schema, damaged, or with fewer frames than asked for.
    """
    try:
        with h5py.File(path, "r") as h:
            if h.attrs.get("alflow_shard") != SCHEMA:
                raise DataError(
                    f"{path}: expected an alflow shard of schema {SCHEMA}, got {h.attrs.get('alflow_shard')!r}"
                )
            n = int(h["cell"].shape[0])
            if not 0 <= start <= (n if stop is None else stop) <= n:
                raise DataError(f"{path}: holds {n} frames, asked for {start} to {stop}")
            return _read(h, start, stop)
    except (OSError, KeyError, RuntimeError) as exc:
        raise DataError(f"{path}: cannot be read as a shard: {exc}") from exc


def count_frames(path: Path) -> int:
    """How many frames a shard holds, without reading them."""
    try:
        with h5py.File(path, "r") as h:
            return int(h["cell"].shape[0])
    except (OSError, KeyError) as exc:
        raise DataError(f"{path}: cannot be read as a shard: {exc}") from exc


def _read(h: h5py.File, start: int, stop: int | None) -> Shard:
    top = h.id
    stop = h5d.open(top, b"cell").shape[0] if stop is None else stop
    offsets = _rows(top, b"offsets", start, stop + 1)
    first, last = int(offsets[0]), int(offsets[-1])
    frames = Frames(
        _rows(top, b"numbers", first, last),
        _rows(top, b"positions", first, last),
        _rows(top, b"cell", start, stop),
        _rows(top, b"pbc", start, stop),
        offsets - first,
    )
    group = h5g.open(top, b"columns")
    columns = {name.decode(): _rows(group, name, start, stop) for name in group}
    labels = theory = None
    if b"energy" in top:
        stress: Floats | None = _rows(top, b"stress", start, stop) if b"stress" in top else None
        labels = Labels(_rows(top, b"energy", start, stop), _rows(top, b"forces", first, last), stress)
        theory = Theory(**json.loads(h.attrs["theory"]))
    return Shard(frames, columns, labels, theory)


def _rows(group: Any, name: bytes, start: int, stop: int) -> Column:
    """Rows start:stop of a data set, words as numpy words.

    By HDF5's own calls: h5py's objects take twice the time, and thousands of small shards are read at a time.
    """
    data = h5d.open(group, name)
    shape = data.shape
    found: Column = np.empty((stop - start, *shape[1:]), data.dtype)
    if stop - start == shape[0] and found.size:
        data.read(h5s.ALL, h5s.ALL, found)
    elif found.size:
        rows = data.get_space()
        rows.select_hyperslab((start, *(0 for _ in shape[1:])), found.shape)
        data.read(h5s.create_simple(found.shape), rows, found)
    return np.array([word.decode() for word in found], np.str_) if found.dtype.kind == "O" else found
