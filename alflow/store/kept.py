"""Labels that are kept as they are made, so that an interrupted call does not make them again."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from alflow.core.frames import Frames
from alflow.core.labels import AGAIN, Cause, Labels, Theory, Verdict
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
            made = compute(chunk)
            if not all(map(_lasting, made[1])):
                parts.append(made)
                continue
            write_shard(path, _sealed(chunk, theory, made))
        parts.append(_opened(path))
    return Labels.concat([p[0] for p in parts]), tuple(v for p in parts for v in p[1])


def kept_each(frames: Frames, theory: Theory, folder: Path, compute: Callable[[Frames], Labelled]) -> Labelled:
    """The same for labels that are dear: one shard a frame; what more time or memory may mend is not kept."""
    parts = [kept(frame, theory, folder, compute) for frame in frames]
    labels = Labels.concat([p[0] for p in parts]) if parts else Labels.missing(frames)
    return labels, tuple(v for p in parts for v in p[1])


def _lasting(verdict: Verdict) -> bool:
    return verdict.cause not in AGAIN


def _sealed(frames: Frames, theory: Theory, labelled: Labelled) -> Shard:
    labels, verdicts = labelled
    return Shard(frames, {"verdict": np.array([json.dumps(_plain(v)) for v in verdicts], np.str_)}, labels, theory)


def _opened(path: Path) -> Labelled:
    shard = read_shard(path)
    assert shard.labels is not None
    return shard.labels, tuple(_verdict(json.loads(str(text))) for text in shard.columns["verdict"])


def _plain(v: Verdict) -> dict[str, Any]:
    theory = None if v.theory is None else {"code": v.theory.code, "settings": dict(v.theory.settings)}
    seconds = None if math.isnan(v.seconds) else round(v.seconds, 3)
    corrections = [dict(c) for c in v.corrections]
    return {
        "ok": v.ok,
        "reason": v.reason,
        "log": v.log,
        "corrections": corrections,
        "cause": v.cause,
        "theory": theory,
        "seconds": seconds,
    }


def _verdict(value: dict[str, Any]) -> Verdict:
    return Verdict(
        ok=value["ok"],
        reason=value["reason"],
        log=value["log"],
        corrections=tuple(value["corrections"]),
        cause=value["cause"] and Cause(value["cause"]),
        theory=value["theory"] and Theory(**value["theory"]),
        seconds=math.nan if value["seconds"] is None else value["seconds"],
    )
