"""Labels that are kept as they are made, so that an interrupted call does not make them again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from alflow.core.frames import Frames
from alflow.core.labels import Labels, Theory, Verdict
from alflow.store.shards import Shard, read_shard, write_shard

Labelled = tuple[Labels, tuple[Verdict, ...]]
_CHUNK: Final = 1000


def kept(frames: Frames, theory: Theory, folder: Path, compute: Callable[[Frames], Labelled]) -> Labelled:
    """Label `frames` in chunks; each finished chunk is a shard in `folder`, and is read if it is already there.

    For labels so cheap that a file for each would cost more than the label.
    """
    parts = []
    for start in range(0, len(frames), _CHUNK):
        chunk = frames.take(range(start, min(start + _CHUNK, len(frames))))
        key = hashlib.sha256("".join([theory.fingerprint, *chunk.ids()]).encode()).hexdigest()[:16]
        path = folder / f"labels-{key}.h5"
        if not path.exists():
            write_shard(path, _sealed(chunk, theory, compute(chunk)))
        parts.append(_opened(path))
    return Labels.concat([p[0] for p in parts]), tuple(v for p in parts for v in p[1])


def _sealed(frames: Frames, theory: Theory, labelled: Labelled) -> Shard:
    labels, verdicts = labelled
    columns = {
        "ok": np.array([v.ok for v in verdicts], np.bool_),
        "reason": np.array([v.reason for v in verdicts], np.str_),
        "log": np.array([v.log for v in verdicts], np.str_),
        "corrections": np.array([json.dumps([dict(c) for c in v.corrections]) for v in verdicts], np.str_),
    }
    return Shard(frames, columns, labels, theory)


def _opened(path: Path) -> Labelled:
    shard = read_shard(path)
    assert shard.labels is not None
    c = shard.columns
    rows = zip(c["ok"], c["reason"], c["log"], c["corrections"], strict=True)
    return shard.labels, tuple(Verdict(bool(o), str(r), str(g), tuple(json.loads(str(x)))) for o, r, g, x in rows)
