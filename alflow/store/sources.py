"""Datasets as they come: run directories, folders of shards, shards, and files of structures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from alflow.core.frames import Frames
from alflow.core.labels import Labels
from alflow.errors import DataError, InputError
from alflow.store.convert import read_file
from alflow.store.shards import Column, Shard, read_shard

_SHARD: Final = ".h5"
_HINT: Final = "give a run directory, a folder of shards (.h5), a shard, or a file that ase reads (extxyz, also .gz)"


def read_set(path: Path) -> Shard:
    """All frames of a dataset, each once, with the columns and labels that all of its parts have.

    Of a run directory, the shards of its dataset. Where parts have no labels, or labels of several levels of theory,
    the shard has none; a column ``group`` that some parts lack is empty there.

    Raises:
        InputError: nothing there, or nothing that can be read as frames.
    """
    try:
        parts = [read_shard(p) if p.suffix == _SHARD else read_file(p) for p in _files(path)]
    except DataError as exc:
        raise InputError(str(path), f"cannot be read as a dataset: {exc}", _HINT) from exc
    frames = Frames.concat([p.frames for p in parts])
    if not len(frames):
        raise InputError(str(path), "holds no frames", _HINT)
    whole = Shard(frames, _columns(parts), *_labels(parts))
    _, first = np.unique(np.array(frames.ids()), return_index=True)
    return whole if len(first) == len(frames) else whole.take(np.sort(first))


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(str(path), "no such file or folder", _HINT)
    folder = path / "dataset" if (path / "dataset").is_dir() else path
    found = sorted(folder.glob(f"*{_SHARD}"))
    if not found:
        raise InputError(str(path), f"is no dataset: {folder} holds no shards", _HINT)
    return found


def _labels(parts: Sequence[Shard]) -> tuple[Labels | None, None]:
    """Labels without their theory: whoever compares sets, compares numbers of several theories knowingly."""
    theories = {p.theory.fingerprint if p.theory else "" for p in parts}
    if len(theories) > 1 or any(p.labels is None for p in parts):
        return None, None
    return Labels.concat([p.labels for p in parts if p.labels is not None]), None


def _columns(parts: Sequence[Shard]) -> dict[str, Column]:
    names = set.intersection(*(set(p.columns) for p in parts))
    columns = {n: np.concatenate([p.columns[n] for p in parts]) for n in sorted(names)}
    if any("group" in p.columns for p in parts):
        groups = [p.columns.get("group", np.full(len(p.frames), "")) for p in parts]
        columns["group"] = np.concatenate([np.asarray(g, np.str_) for g in groups])
    return columns
