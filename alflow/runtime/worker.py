"""Do one task. `execute` is the only function that ever travels to a compute node."""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alflow import registry
from alflow.campaign.model import FailureKind, Verb
from alflow.core.frames import Floats, Frames
from alflow.core.labels import AGAIN, Cause, Labels, Verdict
from alflow.core.rng import task_rng, task_seed
from alflow.errors import InfrastructureError, ResourceError
from alflow.interfaces import Code, Guide, Halt, Limits, Model, Stop
from alflow.runtime import lanes, layout
from alflow.runtime.lammps_files import write_lammps
from alflow.runtime.runner import failure_kind
from alflow.spec.amend import amended
from alflow.spec.groups import GROUP, groups_of
from alflow.spec.site import Site, code_of, load_site
from alflow.spec.workflow import Stage, Workflow, load
from alflow.store.dataset import Dataset
from alflow.store.files import check_digest, digest, discard_drafts, write_json, written_whole
from alflow.store.shards import Column, Shard, read_shard, write_shard

HALT_POLL_S = 0.5
SMALL_SHARD = 16 * 2**20
"""Bytes of a file that a worker may keep in memory between two tasks."""


@dataclass(frozen=True, slots=True)
class _Context:
    """What a verb needs besides its args."""

    id: str
    verb: Verb
    root: Path
    here: Path
    workflow: Workflow
    site: Site
    stage: Stage

    @property
    def rng(self) -> np.random.Generator:
        return task_rng(self.workflow.seed, self.id)

    @property
    def code(self) -> Code | None:
        return code_of(self.site, self.stage.labeler.code, self.verb)

    def relative(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def execute(task: Mapping[str, Any], root: str) -> dict[str, Any]:
    """Do `task` unless it has been done; return its small result.

    Everything large goes to the task's folder; ``result.json`` appears there last, by rename. Of two workers given the
    same task, after a crash of the coordinator, the second waits for the first and returns its result.

    Returns:
        The verb's result with ``started``, ``ended`` (seconds since the epoch), or ``{"failure": kind, "detail": words,
        "log": path, "started": ...}``: what a task raises never crosses a process border as an exception.
    """
    top = Path(root)
    here = top / layout.task_dir(task["id"])
    here.mkdir(parents=True, exist_ok=True)
    with _alone(here), (here / layout.TASK_LOG).open("a", buffering=1) as log, _captured(log):
        if (done := finished(top, task["id"])) is not None:
            return done
        started = time.time()
        try:
            result = _do(task, top, here)
            result |= {"started": round(started, 3), "ended": round(time.time(), 3)}
            write_json(here / layout.RESULT, result)
        except Exception as exc:  # noqa: BLE001  the border: a failure is data
            traceback.print_exc()
            detail = "".join(traceback.format_exception_only(exc)).strip()
            kind = failure_kind(exc)
            if kind is FailureKind.RESOURCE and _block_ends():
                kind = FailureKind.HALTED
            log_path = str(here / layout.TASK_LOG)
            return {"failure": kind, "detail": detail, "log": log_path, "started": round(started, 3)}
        return result


def finished(root: Path, task_id: str) -> dict[str, Any] | None:
    """The result of a task that has ended well, wherever and whenever that was; a damaged one is none."""
    try:
        result = json.loads((root / layout.task_dir(task_id) / layout.RESULT).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return result if isinstance(result, dict) else None


def _do(task: Mapping[str, Any], root: Path, here: Path) -> dict[str, Any]:
    workflow, site = _spec(str(root), task["args"].get("amended", 0))
    context = _Context(
        task["id"], Verb(task["verb"]), root, here, workflow, site, workflow.stages[task["args"]["stage"]]
    )
    return _VERBS[context.verb](context, task["args"])


@lru_cache(maxsize=2)
def _spec(root: str, amended_so_far: int) -> tuple[Workflow, Site]:
    """The workflow as it was amended when the task was given out, and the site."""
    workflow, site = load(Path(root) / layout.WORKFLOW), load_site(Path(root) / layout.SITE)
    if not amended_so_far:
        return workflow, site
    path = Path(root) / layout.AMENDMENTS
    lines = path.read_text().splitlines() if path.exists() else []
    if len(lines) < amended_so_far:
        raise InfrastructureError(
            f"{path} has {len(lines)} amendments on this node, {amended_so_far} are in the journal"
        )
    return amended(workflow, [json.loads(line) for line in lines[:amended_so_far]]), site


@contextmanager
def _alone(here: Path) -> Iterator[None]:
    """Hold the task's lock; the kernel frees it when a worker dies."""
    with (here / "lock").open("w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


@contextmanager
def _captured(log: Any) -> Iterator[None]:
    """Send what the task prints to its own log."""
    with redirect_stdout(log), redirect_stderr(log):
        yield


def _halt(here: Path) -> Halt:
    """True once the coordinator has put a halt file into the task's folder, or the block is about to end.

    Looks at most twice a second.
    """
    flag, state = here / layout.HALT, [0.0, False]

    def halt() -> bool:
        now = time.monotonic()
        if not state[1] and now - state[0] >= HALT_POLL_S:
            state[:] = [now, flag.exists() or _block_ends()]
        return bool(state[1])

    return halt


def _block_ends() -> bool:
    """Whether the batch job that this worker runs in has so little time left that tasks should leave what they have."""
    return time.time() >= float(os.environ.get(lanes.DEADLINE, "inf"))


# ---- the verbs -----------------------------------------------------------------------------------------------------


def _build(c: _Context, args: Mapping[str, Any]) -> dict[str, Any]:
    frames = c.stage.builder.build(args["count"], c.rng, _frames(c.root, args.get("source")))
    origin = np.array([f"{c.id}/{i}" for i in range(len(frames))])
    columns = {GROUP: groups_of(c.stage, frames), "origin": origin, "score": np.full(len(frames), np.nan)}
    return _save(c, Shard(frames, columns))


def _sample(c: _Context, args: Mapping[str, Any]) -> dict[str, Any]:
    rng = c.rng
    start = c.stage.builder.build(args["count"], rng, _frames(c.root, args.get("source")))
    guide = _guide(c, args["model"]) if args["model"] else None
    h = c.stage.sampler.run(start, guide, rng, c.here, _halt(c.here))
    if Stop.HALTED in h.stops and _block_ends():
        raise ResourceError("halted: the block ends; to be continued")
    columns: dict[str, Column] = {
        **h.columns,
        GROUP: groups_of(c.stage, start)[h.origin],
        "origin": np.array([f"{c.id}/{i}" for i in h.origin], np.str_),
        "score": h.scores,
        "model": np.full(len(h.candidates), args["model"] or "", dtype=object).astype(np.str_),
    }
    whole = [n for n, stop in zip(h.lengths.tolist(), h.stops, strict=True) if stop is not Stop.HALTED]
    return {
        **_save(c, Shard(h.candidates, columns)),
        "model": args["model"],
        "lengths": [round(n, 6) for n in whole],
        "length_unit": c.stage.sampler.length_unit,
        "stops": dict(Counter(h.stops)),
        "reasons": dict(Counter(d for d in h.detail if d)),
        "scores": _summary(h.scores),
    }


def _select(c: _Context, args: Mapping[str, Any]) -> dict[str, Any]:
    known = _frames(c.root, args["known"]) or Frames.empty()
    pool = _new(_joined([_read(c.root, b) for b in args["pool"]]), known)
    model = _model(str(c.root / args["model"])) if args["model"] and c.stage.selector.requires else None
    scores: Floats = np.asarray(pool.columns["score"], np.float64)
    picked = c.stage.selector.choose(pool.frames, scores, known, model, args["limit"], c.rng)
    return {**_save(c, pool.take(picked)), "offered": len(pool.frames)}


def _new(pool: Shard, known: Frames) -> Shard:
    """The pool without what is in the dataset already, or twice in the pool: no label is bought twice."""
    seen, keep = set(known.ids()), []
    for i, name in enumerate(pool.frames.ids()):
        if name not in seen:
            seen.add(name)
            keep.append(i)
    return pool if len(keep) == len(pool.frames) else pool.take(keep)


def _label(c: _Context, args: Mapping[str, Any]) -> dict[str, Any]:
    """Buy labels: first the gates and the quarantine, then the reference, then the gates once more.

    Every frame ends in one of four places: in the shard of good labels; in ``again.h5``, where it ran out of time or
    memory and may be tried once more; in the shard of another theory; or in ``failures``, with its reason.
    """
    asked = _asked(c.root, args["frames"])
    theory = c.stage.labeler.theory(c.code)
    verdicts = _refused(c, asked.frames, theory.fingerprint)
    open_ = np.flatnonzero([v is None for v in verdicts])
    labels = Labels.missing(asked.frames)
    if len(open_):
        some = asked.frames.take(open_)
        home = c.root / layout.task_dir(args["home"]) if "home" in args else c.here
        bought, told = c.stage.labeler.label(some, c.code, home, Limits(_seconds(args, some), _halt(c.here)))
        caps = c.stage.gates.after(some, bought)
        for i, verdict, cap in zip(open_, told, caps, strict=True):
            verdicts[i] = cap if verdict.ok and cap is not None else verdict
        labels = bought if len(open_) == len(verdicts) else _spread(bought, some, asked.frames, open_)
    return _sorted_out(c, args, Shard(asked.frames, asked.columns, labels, theory), [v for v in verdicts if v])


def _asked(root: Path, batch: Sequence[Any]) -> Shard:
    """The frames of a label task; many tasks in a row take theirs from one small shard."""
    path, start, stop = batch
    try:
        stat = (root / path).stat()
        whole = _small_shard(root / path, stat.st_mtime_ns, stat.st_size) if stat.st_size <= SMALL_SHARD else None
    except FileNotFoundError:
        whole = None
    if whole is None or stop > len(whole.frames):
        return read_shard(root / path, start, stop)  # whose errors say what is wrong
    return whole.take(range(start, stop))


@lru_cache(maxsize=1)
def _small_shard(path: Path, mtime_ns: int, size: int) -> Shard:  # noqa: ARG001  of the file as it is now
    return read_shard(path)


def _refused(c: _Context, frames: Frames, theory: str) -> list[Verdict | None]:
    """The verdict on each frame that no label is to be bought of: it failed before, or does not pass the gates."""
    known, verdicts = _quarantine(c.root / layout.QUARANTINE), c.stage.gates.before(frames)
    for i, name in enumerate(frames.ids() if known else ()):
        if (entry := known.get(name)) is not None and entry["theory"] == theory:
            reason = f"failed before, in {entry['task']}: {entry['reason']}"
            verdicts[i] = Verdict.bad(Cause.QUARANTINED, reason, entry["log"])
    return verdicts


def _quarantine(path: Path) -> Mapping[str, Any]:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return {}
    return _quarantined(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=1)
def _quarantined(path: Path, mtime_ns: int, size: int) -> Mapping[str, Any]:  # noqa: ARG001  of the file as it is now
    entries = {}
    for line in path.read_text().splitlines(keepends=True):
        if line.endswith("\n"):  # the last one may be in the making
            entry = json.loads(line)
            entries[entry["id"]] = entry
    return entries


def _seconds(args: Mapping[str, Any], frames: Frames) -> float | None:
    """Longest that a frame may take, by the pace of the labels before it."""
    if not args.get("pace"):
        return None
    per_atom2, least = args["pace"]
    return float(max(least, per_atom2 * int(frames.sizes.max()) ** 2))


def _spread(bought: Labels, some: Frames, frames: Frames, which: NDArray[np.int64]) -> Labels:
    """The labels of `some` frames in their places among all, NaN elsewhere."""
    labels = Labels.missing(frames, bought.stress is not None)
    labels.energy[which], labels.forces[frames.atoms_of(which)] = bought.energy, bought.forces
    assert len(some) == len(which)
    if labels.stress is not None and bought.stress is not None:
        labels.stress[which] = bought.stress
    return labels


def _sorted_out(c: _Context, args: Mapping[str, Any], all_: Shard, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Write every frame where it belongs; the task's result."""
    assert all_.theory is not None
    own, level = all_.theory.fingerprint, int(args.get("level", 0))
    names, sizes = all_.frames.ids(), all_.frames.sizes
    found: dict[str, list[int]] = {"good": [], "again": [], "failed": []}
    elsewhere: dict[str, list[int]] = {}
    for i, v in enumerate(verdicts):
        theory = own if v.theory is None else v.theory.fingerprint
        if v.ok and theory in {own, *c.stage.same_theory}:
            found["good"].append(i)
        elif v.ok:
            elsewhere.setdefault(theory, []).append(i)
        elif v.cause in AGAIN and level + 1 < c.stage.patience.tries:
            found["again"].append(i)
        else:
            found["failed"].append(i)
    columns = _label_columns(c.id, all_, verdicts, own)
    shard = Shard(all_.frames, columns, all_.labels, all_.theory)
    failures = [
        {"id": names[i], "cause": str(v.cause), "reason": v.reason, "log": v.log}
        for i, v in ((i, verdicts[i]) for i in found["failed"])
    ]
    paces = [verdicts[i].seconds / float(sizes[i]) ** 2 for i in found["good"] if not math.isnan(verdicts[i].seconds)]
    return {
        **_sealed(c, _save(c, shard.take(found["good"]))),
        "again": _aside(c, "again", Shard(all_.frames, all_.columns), found["again"]),
        "aside": [
            {**_aside(c, name, replace(shard, theory=verdicts[which[0]].theory), which), "theory": name}
            for name, which in elsewhere.items()
        ],
        "failures": failures,
        "theory": own,
        "corrected": sum(bool(verdicts[i].corrections) for i in found["good"]),
        "paces": [float(f"{p:.3g}") for p in paces],
    }


def _aside(c: _Context, name: str, shard: Shard, which: Sequence[int]) -> dict[str, Any]:
    if not which:
        return {"n": 0}
    path = c.here / f"{name}.h5"
    write_shard(path, shard.take(list(which)))
    return {"path": c.relative(path), "n": len(which)}


def _label_columns(task_id: str, bought: Shard, verdicts: Sequence[Verdict], own: str) -> dict[str, Column]:
    corrections = [json.dumps([dict(x) for x in v.corrections]) if v.corrections else "" for v in verdicts]
    return {
        **bought.columns,
        "label": np.array([f"{task_id}/{i}" for i in range(len(verdicts))]),
        "corrections": np.array(corrections),
        "id": np.array(bought.frames.ids()),
        "theory": np.array([own if v.theory is None else v.theory.fingerprint for v in verdicts]),
    }


def _merge(c: _Context, args: Mapping[str, Any]) -> dict[str, Any]:
    parts = [_read(c.root, b) for b in args["labelled"]]
    data = Dataset.join(parts, c.stage.same_theory)
    path = c.root / layout.shard_path(args["stage"], int(c.id.rpartition("-")[2]))
    discard_drafts(path)
    write_shard(path, Shard(data.frames, data.columns, data.labels, data.theory))
    return _sealed(c, {"path": c.relative(path), "n": len(data)})


def _fit(c: _Context, args: Mapping[str, Any]) -> dict[str, Any]:
    data = _dataset(c, args)
    seed = task_seed(c.workflow.seed, f"{args['stage']}-{args['loop']}-v{args['version']}")
    start = registry.read_manifest(c.root / args["start"]).files if args["start"] else ()
    began = time.monotonic()
    report = c.stage.potential.fit(data, range(*args["members"]), seed, c.here, start, _halt(c.here))
    return {
        "files": list(report.files),
        "members": list(report.members),
        "metrics": {k: list(v) for k, v in report.metrics.items()},
        "epochs": list(report.epochs),
        "n": len(data),
        "seconds": round(time.monotonic() - began, 3),
    }


def _calibrate(c: _Context, args: Mapping[str, Any]) -> dict[str, Any]:
    data = _dataset(c, args)
    folder = c.root / layout.model_dir(args["stage"], args["loop"], args["version"])
    discard_drafts(folder)
    files, fits = [], []
    for task_id, names in args["groups"]:
        source = c.root / layout.task_dir(task_id)
        fits.append(finished(c.root, task_id) or {})
        for name in names:
            files.append(folder / task_id / name)  # as the fit named them: one file may name another
            with written_whole(files[-1]) as draft:
                shutil.copyfile(source / name, draft)
    model = c.stage.potential.load(files)
    gauge = c.stage.uncertainty.calibrate(model, data, folder)
    manifest = folder / "model.json"
    elements = sorted(_symbols(data.frames))
    fields = registry.dump("potentials", c.stage.potential)
    registry.save_manifest(manifest, fields.pop("kind"), fields, files, elements)
    if why := write_lammps(model, folder / layout.LAMMPS):
        print(f"no files for LAMMPS: {why}")  # noqa: T201  # into the log of the task
    return {
        "path": c.relative(manifest),
        "n": len(data),
        "version": args["version"],
        "members": sum(len(f.get("members", ())) for f in fits),
        "gauge": {k: float(v) for k, v in gauge.items()},
        "errors": _held_out(fits),
    }


def _held_out(fits: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Median over the members of each one's figures on the frames it was not fitted to."""
    values: dict[str, list[float]] = {}
    for fit in fits:
        for name, per_member in fit.get("metrics", {}).items():
            values.setdefault(name, []).extend(x for x in per_member if x is not None)
    return {
        name.removeprefix("valid_"): round(float(np.median(v)), 6)
        for name, v in values.items()
        if v and name.startswith("valid_")
    }


def _evaluate(c: _Context, args: Mapping[str, Any]) -> dict[str, Any]:
    from alflow.science.evaluate import EvaluateSettings, evaluate

    asked = iter(range(10**6))
    theories = {c.stage.labeler.theory(c.code).fingerprint, *c.stage.same_theory}

    def reference(frames: Frames) -> Labels:
        workdir = c.here / f"reference-{next(asked):03d}"
        workdir.mkdir(exist_ok=True)
        return _comparable(
            frames, *c.stage.labeler.label(frames, c.code, workdir, Limits(halt=_halt(c.here))), theories
        )

    model = _model(str(c.root / args["model"]))
    elements = registry.read_manifest(c.root / args["model"]).elements
    settings = c.stage.evaluate or EvaluateSettings()
    return evaluate(model, reference, c.stage.builder, settings, c.rng, elements, _frames(c.root, args.get("source")))


def _comparable(frames: Frames, labels: Labels, verdicts: Sequence[Verdict], theories: Collection[str]) -> Labels:
    """The labels without those that a correction has moved to a level of theory that is not among `theories`."""
    own = np.flatnonzero([v.ok and (v.theory is None or v.theory.fingerprint in theories) for v in verdicts])
    return labels if len(own) == len(frames) else _spread(labels.take(frames, own), frames.take(own), frames, own)


_VERBS: dict[Verb, Callable[[_Context, Mapping[str, Any]], dict[str, Any]]] = {
    Verb.BUILD: _build,
    Verb.SAMPLE: _sample,
    Verb.SELECT: _select,
    Verb.LABEL: _label,
    Verb.RELABEL: _label,
    Verb.MERGE: _merge,
    Verb.FIT: _fit,
    Verb.CALIBRATE: _calibrate,
    Verb.EVALUATE: _evaluate,
}


# ---- what they share -----------------------------------------------------------------------------------------------


def _save(c: _Context, shard: Shard) -> dict[str, Any]:
    path = c.here / layout.FRAMES
    write_shard(path, shard)
    return {"path": c.relative(path), "n": len(shard.frames)}


def _sealed(c: _Context, saved: dict[str, Any]) -> dict[str, Any]:
    """What was saved, with the digest by which the journal knows it."""
    return saved | {"digest": digest(c.root / saved["path"])}


def _read(root: Path, batch: Sequence[Any]) -> Shard:
    path, start, stop, *known = batch
    check_digest(root / path, *known)
    return read_shard(root / path, start, stop)


def _dataset(c: _Context, args: Mapping[str, Any]) -> Dataset:
    return Dataset.join([_read(c.root, batch) for batch in args["shards"]], c.stage.same_theory)


def _frames(root: Path, batches: Sequence[Sequence[Any]] | None) -> Frames | None:
    return None if batches is None else Frames.concat([_read(root, b).frames for b in batches])


def _joined(parts: Sequence[Shard]) -> Shard:
    names = set.intersection(*(set(p.columns) for p in parts))
    columns = {n: np.concatenate([p.columns[n] for p in parts]) for n in sorted(names)}
    return Shard(Frames.concat([p.frames for p in parts]), columns)


@lru_cache(maxsize=1)
def _model(path: str) -> Model:
    return registry.load_model(Path(path))


def _guide(c: _Context, path: str) -> Guide:
    model = _model(str(c.root / path))
    gauge = c.stage.uncertainty.load(model, (c.root / path).parent)
    return Guide(model, gauge, c.stage.thresholds)


def _summary(scores: Floats) -> dict[str, float]:
    finite = scores[np.isfinite(scores)]
    if not len(finite):
        return {}
    return {"median": round(float(np.median(finite)), 6), "max": round(float(finite.max()), 6)}


def _symbols(frames: Frames) -> set[str]:
    from ase.data import chemical_symbols

    return {str(chemical_symbols[z]) for z in np.unique(frames.numbers)}


if __name__ == "__main__":  # one task by hand, for debugging: python -m alflow.runtime.worker RUN TASK.json
    print(json.dumps(execute(json.loads(Path(sys.argv[2]).read_text()), sys.argv[1]), indent=1))  # noqa: T201
