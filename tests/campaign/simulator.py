"""A world without physics: tasks end with plausible results, in an order and with failures that a seed decides."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from alflow.campaign.model import Event, Failed, FailureKind, Finished, State, Submitted, Task, Verb, apply
from alflow.campaign.policy import Plan, decide, respond

Fail = Callable[[Task, random.Random], FailureKind | None]


SLOW, BAD, OTHER = 0.15, 0.1, 0.05
"""Shares of frames that run out of time, fail, and end under another theory, where labels are `mixed`."""


def label_result(task: Task, path: str, rng: random.Random | None) -> dict[str, Any]:
    _, start, stop = task.args["frames"]
    if rng is None:
        return {"path": path, "n": stop - start}
    kinds = rng.choices(["good", "again", "bad", "other"], [1 - SLOW - BAD - OTHER, SLOW, BAD, OTHER], k=stop - start)
    kinds = ["bad" if k == "again" and task.args.get("level", 0) else k for k in kinds]
    bad = [
        {"id": f"{task.id}/{i}", "cause": "other", "reason": "r", "log": ""} for i, k in enumerate(kinds) if k == "bad"
    ]
    return {
        "path": path,
        "n": kinds.count("good"),
        "again": {"path": f"again/{task.id}", "n": kinds.count("again")},
        "aside": [{"path": f"aside/{task.id}", "n": kinds.count("other"), "theory": "t"}],
        "failures": bad,
        "theory": "own",
        "paces": [0.01] * kinds.count("good"),
    }


def result_of(task: Task, found: int, length: float, rng: random.Random | None = None) -> dict[str, Any]:
    a = task.args
    path = f"tasks/{task.id}/frames.h5"
    match task.verb:
        case Verb.BUILD:
            return {"path": path, "n": a["count"]}
        case Verb.SAMPLE:
            return {"path": path, "n": min(found, a["count"]), "lengths": [length] * a["count"], "model": a["model"]}
        case Verb.SELECT:
            return {"path": path, "n": min(a["limit"], sum(e - b for _, b, e in a["pool"]))}
        case Verb.LABEL | Verb.RELABEL:
            return label_result(task, path, rng)
        case Verb.MERGE:
            return {"path": path, "n": sum(e - b for _, b, e in a["labelled"])}
        case Verb.FIT:
            return {"members": list(range(*a["members"])), "files": ["m.pt"]}
        case Verb.CALIBRATE:
            return {"path": f"models/{task.id}.json", "n": sum(e - b for _, b, e in a["shards"])}
        case _:
            return {}


class World:
    """Drives plans to the end; remembers all events and what was bought."""

    def __init__(
        self,
        plans: list[Plan],
        seed: int = 0,
        fail: Fail = lambda task, rng: None,
        found: Callable[[State], int] = lambda s: 10**6,
        length: Callable[[State], float] = lambda s: 1.0,
        mixed: bool = False,
        late: bool = False,
    ) -> None:
        self.plans, self.fail, self.found, self.length = plans, fail, found, length
        self.late = late  # relabel tasks end only when nothing else is open
        self.rng = random.Random(seed)
        self.mixed = random.Random(seed + 1) if mixed else None
        self.state = State()
        self.events: list[Event] = []
        self.bought: list[tuple[str, int]] = []
        self.most_open = 0

    def run(self, limit: int = 60_000) -> State:
        for _ in range(limit):
            if self.state.closed is not None or self.state.stage == len(self.plans):
                return self.state
            if events := decide(self.plans[self.state.stage], self.state):
                self._record(events)
            else:
                self._end_one()
        raise AssertionError(f"no end after {limit} steps: {self.state.issued}")

    def submitted(self, verb: Verb) -> list[Task]:
        return [e.task for e in self.events if isinstance(e, Submitted) and e.task.verb is verb]

    def _record(self, events: list[Event]) -> None:
        for event in events:
            self.events.append(event)
            apply(self.state, event)
        self.most_open = max(self.most_open, len(self.state.open))

    def _end_one(self) -> None:
        others = [t for t in self.state.open.values() if not (self.late and t.verb is Verb.RELABEL)]
        task = self.rng.choice(others or list(self.state.open.values()))
        kind = self.fail(task, self.rng)
        if kind is not None:
            self._record(respond(self.state, task, kind, "bad luck", "log.txt"))
            return
        if task.verb is Verb.LABEL:
            path, start, stop = task.args["frames"]
            self.bought += [(path, i) for i in range(start, stop)]
        result = result_of(task, self.found(self.state), self.length(self.state), self.mixed)
        self._record([Finished(task.id, result)])

    def failures(self) -> list[Failed]:
        return [e for e in self.events if isinstance(e, Failed)]
