"""What tasks bring home in virtual time, and how long that takes: from a profile, or as it was in a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from alflow.campaign.model import FailureKind, Task, Verb
from alflow.runtime import layout
from alflow.runtime.virtual_profile import Draws, Duration, Profile, lognormal

_STRAGGLE: Final = frozenset({Verb.SAMPLE, Verb.FIT})
"""Verbs whose tasks straggle as a whole; of label tasks it is single structures."""
_SIZES: Final[Mapping[Verb, str]] = {Verb.BUILD: "count", Verb.SAMPLE: "count", Verb.SELECT: "n", Verb.FIT: "n_frames"}
"""Which argument of a task says how many frames it works on."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A task of a run that is over.

    Attributes:
        task: the task.
        result: what it brought home.
        seconds: how long a worker was at it.
        late_s: after how many seconds its coordinator heard of its end.
    """

    task: Task
    result: Mapping[str, Any]
    seconds: float
    late_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a try of a task goes if its block lives long enough: its length and its result, or its failure."""

    seconds: float
    result: dict[str, Any] | None = None
    failure: FailureKind | None = None


def frames_of(task: Task) -> int:
    """How many frames a task works on."""
    match task.verb:
        case Verb.LABEL | Verb.RELABEL:
            return _size(task.args["frames"])
        case Verb.MERGE | Verb.CALIBRATE:
            return sum(map(_size, task.args["labelled" if task.verb is Verb.MERGE else "shards"]))
        case _:
            return int(task.args.get(_SIZES.get(task.verb, ""), 1))


def _size(batch: Sequence[Any]) -> int:
    return int(batch[2] - batch[1])


class World:
    """The campaign that the tasks of a forecast belong to.

    Args:
        profile: how long things take, how often they fail, how the potential learns.
        seed: of all draws.
        full: full length of a trajectory, one a stage; None where the sampler has none.
        tries: how often a label that ran out of time is tried, one a stage.
        recorded: tasks of a run that is over, by id: one of the same id and size ends as it did there.
    """

    def __init__(
        self,
        profile: Profile,
        seed: int,
        full: Sequence[float | None],
        tries: Sequence[int],
        recorded: Mapping[str, Recorded] | None = None,
    ) -> None:
        self.profile, self.draws = profile, Draws(seed)
        self._full, self._tries, self._recorded = full, tries, recorded or {}
        self._fitted: dict[str, int] = {}
        self._slow: dict[str, list[float]] = {}
        """Frames that ran out of time, by their file: seconds that they take."""
        self.replayed = 0
        """Tries that ended as in the run."""

    def outcome(self, task: Task, attempt: int) -> Outcome:
        """How try number `attempt` (from 0) of a task goes."""
        done = self._recorded.get(task.id)
        if done is not None and done.task.verb is task.verb and frames_of(done.task) == frames_of(task):
            self.replayed += 1
            seconds, result = done.seconds, dict(done.result)
        else:
            seconds, result = self._modelled(task)
        if task.verb is Verb.CALIBRATE:
            self._fitted[result["path"]] = frames_of(task)
        u = self.draws.uniforms(f"{task.id}/try {attempt}")
        for kind, rate in self.profile.failure_rates():
            if u[0] < rate:
                return Outcome(u[1] * seconds, failure=kind)
            u = (u[0] - rate, *u[1:])
        return Outcome(seconds, result)

    # ---- single verbs ------------------------------------------------------------------------------------------

    def _modelled(self, task: Task) -> tuple[float, dict[str, Any]]:
        match task.verb:
            case Verb.SAMPLE:
                return self._sampled(task)
            case Verb.LABEL | Verb.RELABEL:
                return self._labelled(task)
            case verb:
                return self._seconds(task, self.profile.duration(verb)), _result(task)

    def _seconds(self, task: Task, duration: Duration, work: float | None = None) -> float:
        """Seconds of a task whose units of work all go alike."""
        u = self.draws.uniforms(task.id)
        units = work if work is not None else 1 if duration.per == "task" else frames_of(task)
        straggles = task.verb in _STRAGGLE and u[1] < self.profile.stragglers.probability
        return duration.base_s + units * duration.unit(u[0]) * (self.profile.stragglers.factor if straggles else 1.0)

    def _sampled(self, task: Task) -> tuple[float, dict[str, Any]]:
        learning, duration = self.profile.learning, self.profile.duration(Verb.SAMPLE)
        typical, full = self._typical(task), self._full_length(task)
        lengths, candidates = [], 0
        for i in range(task.args["count"]):
            u = self.draws.uniforms(f"{task.id}/{i}")
            length = lognormal(typical, learning.sigma, u[0])
            lengths.append(round(min(length, full), 6))
            if length < full and u[1] >= learning.exploded:
                candidates += learning.candidates
        work = sum(lengths) if duration.per == "length" else None
        result = {
            "path": _frames(task),
            "n": candidates,
            "model": task.args["model"],
            "lengths": lengths,
            "stops": {},
            "reasons": {},
            "scores": {},
            "length_unit": "",
        }
        return self._seconds(task, duration, work), result

    def _full_length(self, task: Task) -> float:
        return self._full[task.args["stage"]] or self.profile.learning.full or self.profile.learning.length[1]

    def _typical(self, task: Task) -> float:
        """Median length of a trajectory with the task's model."""
        learning = self.profile.learning
        (first, last), (few, many) = learning.length, learning.labels
        n = self._fitted.get(task.args["model"] or "", few)
        power = math.log(last / first) / math.log(many / few)
        return float(first * (max(n, 1) / few) ** power)

    def _labelled(self, task: Task) -> tuple[float, dict[str, Any]]:
        """Each frame takes its own time; one that takes longer than the campaign's patience is ended."""
        path, start, stop = task.args["frames"][:3]
        duration, learning = self.profile.duration(task.verb), self.profile.learning
        known = self._slow.get(path)
        slow: list[float] = []
        good, failures, paces, seconds = 0, [], [], duration.base_s
        limit = _limit(task, learning.atoms)
        last = task.args.get("level", 0) + 1 >= self._tries[task.args["stage"]]
        for i in range(start, stop):
            u = self.draws.uniforms(f"{task.id}/{i - start}")
            takes = known[i] if known is not None else self._frame_s(duration, u, stop - start)
            seconds += min(takes, limit)
            cause = "time" if takes > limit else "not converged" if u[2] < self.profile.failures.unphysical else ""
            if cause == "time" and not last:
                slow.append(takes)
            elif cause:
                failures.append({"id": f"{task.id}/{i}", "cause": cause, "reason": cause, "log": ""})
            else:
                good += 1
                paces.append(takes / learning.atoms**2)
        again = {"path": f"{task.id}/again.h5", "n": len(slow)}
        if slow:
            self._slow[str(again["path"])] = slow
        result = {"path": _frames(task), "n": good, "again": again, "aside": [], "failures": failures}
        return seconds, {**result, "theory": "virtual", "corrected": 0, "paces": paces}

    def _frame_s(self, duration: Duration, u: Sequence[float], frames: int) -> float:
        straggles = u[1] < self.profile.stragglers.probability
        each = duration.unit(u[0]) / (frames if duration.per == "task" else 1)
        return each * (self.profile.stragglers.factor if straggles else 1.0)


def _limit(task: Task, atoms: float) -> float:
    """Seconds that a frame may take."""
    if not task.args.get("pace"):
        return math.inf
    per_atom2, least = task.args["pace"]
    return float(max(least, per_atom2 * atoms**2))


def _frames(task: Task) -> str:
    return f"{task.id}/{layout.FRAMES}"


def _result(task: Task) -> dict[str, Any]:
    """What a task brings home that only its size decides."""
    a = task.args
    match task.verb:
        case Verb.BUILD:
            return {"path": _frames(task), "n": a["count"]}
        case Verb.SELECT:
            return {"path": _frames(task), "n": min(a["limit"], a["n"]), "offered": a["n"]}
        case Verb.MERGE:
            number = int(task.id.rpartition("-")[2])
            return {"path": layout.shard_path(a["stage"], number).as_posix(), "n": frames_of(task)}
        case Verb.FIT:
            return {"members": list(range(*a["members"])), "files": ["model"], "n": a["n_frames"], "metrics": {}}
        case Verb.CALIBRATE:
            path = layout.model_dir(a["stage"], a["loop"], a["version"]) / "model.json"
            n = frames_of(task)
            return {"path": path.as_posix(), "n": n, "version": a["version"], "members": len(a["groups"]), "gauge": {}}
        case _:
            return {}
