"""Do one task. `execute` is the only function that ever travels to a compute node."""

from __future__ import annotations

import fcntl
import json
import shutil
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from alflow import registry
from alflow.campaign.model import Verb
from alflow.core.frames import Floats, Frames
from alflow.core.labels import Labels
from alflow.core.rng import task_rng, task_seed
from alflow.interfaces import Code, Guide, Halt, Model, Stop
from alflow.runtime import layout
from alflow.runtime.runner import failure_kind
from alflow.spec.site import Site, code_of, load_site
from alflow.spec.workflow import Stage, Workflow, load
from alflow.store.dataset import Dataset
from alflow.store.files import write_json, written_whole
from alflow.store.shards import Column, Shard, read_shard, write_shard

HALT_POLL_S = 0.5


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
        "log": path}``: what a task raises never crosses a process border as an exception.
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
            return {"failure": failure_kind(exc), "detail": detail, "log": str(here / layout.TASK_LOG)}
        return result


def finished(root: Path, task_id: str) -> dict[str, Any] | None:
    """The result of a task that has ended well, wherever and whenever that was; a damaged one is none."""
    try:
        result = json.loads((root / layout.task_dir(task_id) / layout.RESULT).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return result if isinstance(result, dict) else None


def _do(task: Mapping[str, Any], root: Path, here: Path) -> dict[str, Any]:
    workflow, site = _spec(str(root))
    context = _Context(
        task["id"], Verb(task["verb"]), root, here, workflow, site, workflow.stages[task["args"]["stage"]]
    )
    return _VERBS[context.verb](context, task["args"])


@lru_cache(maxsize=2)
def _spec(root: str) -> tuple[Workflow, Site]:
    site = load_site(Path(root) / layout.SITE)
    return load(Path(root) / layout.WORKFLOW), site


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
    """True once the coordinator has put a halt file into the task's folder; looks at most twice a second."""
    flag, state = here / layout.HALT, [0.0, False]

    def halt() -> bool:
        now = time.monotonic()
        if not state[1] and now - state[0] >= HALT_POLL_S:
            state[:] = [now, flag.exists()]
        return bool(state[1])

    return halt


# ---- the verbs -----------------------------------------------------------------------------------------------------


def _build(c: _Context, args: Mapping[str, Any]) -> dict[str, Any]:
    frames = c.stage.builder.build(args["count"], c.rng, _frames(c.root, args.get("source")))
    origin = np.array([f"{c.id}/{i}" for i in range(len(frames))])
    return _save(c, Shard(frames, {"origin": origin, "score": np.full(len(frames), np.nan)}))


def _sample(c: _Context, args: Mapping[str, Any]) -> dict[str, Any]:
    rng = c.rng
    start = c.stage.builder.build(args["count"], rng, _frames(c.root, args.get("source")))
    guide = _guide(c, args["model"]) if c.stage.sampler.needs_guide else None
    h = c.stage.sampler.run(start, guide, rng, c.here, _halt(c.here))
    columns: dict[str, Column] = {
        **h.columns,
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
    pool = _joined([_read(c.root, b) for b in args["pool"]])
    known = _frames(c.root, args["known"]) or Frames.empty()
    model = _model(str(c.root / args["model"])) if args["model"] and c.stage.selector.requires else None
    scores: Floats = np.asarray(pool.columns["score"], np.float64)
    picked = c.stage.selector.choose(pool.frames, scores, known, model, args["limit"], c.rng)
    return {**_save(c, pool.take(picked)), "offered": len(pool.frames)}


def _label(c: _Context, args: Mapping[str, Any]) -> dict[str, Any]:
    bought = _read(c.root, args["frames"])
    labels, verdicts = c.stage.labeler.label(bought.frames, c.code, c.here)
    good = [i for i, v in enumerate(verdicts) if v.ok]
    shard = Shard(bought.frames, _label_columns(c.id, bought, verdicts), labels, c.stage.labeler.theory(c.code))
    failed = [v for v in verdicts if not v.ok]
    return {
        **_save(c, shard.take(good)),
        "failed": len(failed),
        "reasons": dict(Counter(v.reason for v in failed)),
        "logs": [v.log for v in failed if v.log][:20],
    }


def _label_columns(task_id: str, bought: Shard, verdicts: Sequence[Any]) -> dict[str, Column]:
    corrections = [json.dumps([dict(x) for x in v.corrections]) if v.corrections else "" for v in verdicts]
    return {
        **bought.columns,
        "label": np.array([f"{task_id}/{i}" for i in range(len(verdicts))]),
        "corrections": np.array(corrections),
        "id": np.array(bought.frames.ids()),
    }


def _merge(c: _Context, args: Mapping[str, Any]) -> dict[str, Any]:
    parts = [_read(c.root, b) for b in args["labelled"]]
    data = Dataset.join(parts)
    path = c.root / layout.shard_path(args["stage"], int(c.id.rpartition("-")[2]))
    write_shard(path, Shard(data.frames, data.columns, data.labels, data.theory))
    return {"path": c.relative(path), "n": len(data)}


def _fit(c: _Context, args: Mapping[str, Any]) -> dict[str, Any]:
    data = Dataset.open([(c.root / path, start, stop) for path, start, stop in args["shards"]])
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
    data = Dataset.open([(c.root / path, start, stop) for path, start, stop in args["shards"]])
    folder = c.root / layout.model_dir(args["stage"], args["loop"], args["version"])
    files, fits = [], []
    for task_id, names in args["groups"]:
        source = c.root / layout.task_dir(task_id)
        fits.append(finished(c.root, task_id) or {})
        for name in names:
            files.append(folder / f"{task_id}-{name}")
            with written_whole(files[-1]) as draft:
                shutil.copyfile(source / name, draft)
    model = c.stage.potential.load(files)
    gauge = c.stage.uncertainty.calibrate(model, data, folder)
    manifest = folder / "model.json"
    elements = sorted(_symbols(data.frames))
    fields = registry.dump("potentials", c.stage.potential)
    registry.save_manifest(manifest, fields.pop("kind"), fields, files, elements)
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

    def reference(frames: Frames) -> Labels:
        workdir = c.here / f"reference-{next(asked):03d}"
        workdir.mkdir(exist_ok=True)
        return c.stage.labeler.label(frames, c.code, workdir)[0]

    model = _model(str(c.root / args["model"]))
    elements = registry.read_manifest(c.root / args["model"]).elements
    settings = c.stage.evaluate or EvaluateSettings()
    return evaluate(model, reference, c.stage.builder, settings, c.rng, elements, _frames(c.root, args.get("source")))


_VERBS: dict[Verb, Callable[[_Context, Mapping[str, Any]], dict[str, Any]]] = {
    Verb.BUILD: _build,
    Verb.SAMPLE: _sample,
    Verb.SELECT: _select,
    Verb.LABEL: _label,
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


def _read(root: Path, batch: Sequence[Any]) -> Shard:
    path, start, stop = batch
    return read_shard(root / path, start, stop)


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
