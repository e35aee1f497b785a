"""How long things take on a described cluster, and how often they fail: given in a file, or measured on a run.

Every random number is a function of the seed and of what it is for, such as a task's id: two forecasts that differ in
layout or policy only meet the same stragglers and the same failures (common random numbers).
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Any, ClassVar, Final, Literal

from pydantic import ConfigDict

from alflow.campaign.model import FailureKind, Verb
from alflow.errors import InputError, SpecError
from alflow.spec import yaml_file
from alflow.validation import raise_all, validate

_INVERSE: Final = NormalDist().inv_cdf
_STRICT: Final = ConfigDict(extra="forbid")
_WORDS: Final = struct.Struct("<8Q")


class Draws:
    """Random numbers by name: the same for the same seed and name, whoever asks, whenever.

    Args:
        seed: of all of them.
    """

    def __init__(self, seed: int) -> None:
        self._seed = f"{seed}/"

    def uniforms(self, name: str) -> tuple[float, ...]:
        """Eight numbers between 0 and 1, both excluded."""
        words = _WORDS.unpack(hashlib.blake2b((self._seed + name).encode(), digest_size=64).digest())
        return tuple([((w >> 11) + 0.5) * 2.0**-53 for w in words])


def lognormal(median: float, sigma: float, u: float) -> float:
    """The value of a lognormal distribution below which a part `u` of it lies."""
    return median * math.exp(sigma * _INVERSE(u)) if sigma else median


@dataclass(frozen=True, kw_only=True)
class Duration:
    """How long a task takes: ``base_s`` and, for each unit of its work, a draw.

    Attributes:
        median_s: median seconds of a unit of work.
        sigma: standard deviation of the logarithm; 0 for always the median.
        values_s: measured seconds of a unit of work, drawn from instead, all alike; empty for none.
        per: the unit of work: the ``task``; a ``frame`` (structures built, trajectories sampled, structures labelled,
            frames fitted to or merged); or a unit of ``length`` of a trajectory, summed over those of a task.
        base_s: seconds a task takes besides.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    median_s: float = 0.0
    sigma: float = 0.0
    values_s: tuple[float, ...] = ()
    per: Literal["task", "frame", "length"] = "task"
    base_s: float = 0.0

    def unit(self, u: float) -> float:
        """Seconds of a unit of work for a number `u` between 0 and 1."""
        if self.values_s:
            return self.values_s[int(u * len(self.values_s))]
        return lognormal(self.median_s, self.sigma, u)


@dataclass(frozen=True, kw_only=True)
class Stragglers:
    """Tasks (label tasks: structures) that take much longer than they should.

    Attributes:
        probability: of one to be a straggler.
        factor: how many times longer it takes.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    probability: float = 0.0
    factor: float = 20.0


@dataclass(frozen=True, kw_only=True)
class Failures:
    """How often things fail, at a random moment of a task.

    Attributes:
        infrastructure, resource, defect: probability of a try of a task to fail so.
        unphysical: probability of a structure's label to fail for good, such as a calculation that does not converge.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    infrastructure: float = 0.0
    resource: float = 0.0
    defect: float = 0.0
    unphysical: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Learning:
    """What tasks bring home: how far trajectories get with a model fitted to so many labels.

    The median length grows from the first to the last figure as a power of the number of labels. A trajectory that
    does not reach the sampler's full length brings home a candidate; one that exploded does not.

    Attributes:
        labels: numbers of labels, two of them.
        length: median lengths of trajectories with models fitted to so many labels, in the sampler's unit.
        full: full length of trajectories, where the sampler has no ``length_ps``; 0 for the second of `length`.
        sigma: of the lognormal distribution of the lengths about their median.
        candidates: candidates of a trajectory that ended early.
        exploded: part of the trajectories that end early without one.
        atoms: of a structure; only its product with ``patience`` matters.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    labels: tuple[int, int] = (400, 6000)
    length: tuple[float, float] = (2.0, 250.0)
    full: float = 0.0
    sigma: float = 0.7
    candidates: int = 1
    exploded: float = 0.05
    atoms: float = 100.0


def _usual() -> dict[str, Duration]:
    return {str(verb): duration for verb, duration in USUAL.items()}


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A cluster and a campaign in virtual time.

    Attributes:
        tasks: verb -> how long its tasks take; those left out are as in `USUAL`, and ``relabel`` goes on as ``label``.
        stragglers: of sample, label and fit tasks.
        failures: how often things fail.
        queue: seconds a block waits in a scheduler's queue; on this machine there is none.
        start_s: seconds from a block's start to its workers' first task.
        reaction_s: seconds in which the coordinator hears of ended tasks and gives out new ones.
        halt_s: seconds that a halted task needs to end, or one at its block's end to write its checkpoint.
        continues: verbs whose tasks, halted by the end of their block, go on in another from where they were; those of
            others are lost with it.
        learning: what tasks bring home.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    tasks: Mapping[str, Duration] = field(default_factory=_usual)
    stragglers: Stragglers = field(default_factory=Stragglers)
    failures: Failures = field(default_factory=Failures)
    queue: Duration = field(default_factory=lambda: Duration(median_s=600.0, sigma=1.0))
    start_s: float = 60.0
    reaction_s: float = 0.1
    halt_s: float = 1.0
    continues: tuple[Verb, ...] = (Verb.SAMPLE, Verb.FIT, Verb.LABEL, Verb.RELABEL, Verb.EVALUATE)
    learning: Learning = field(default_factory=Learning)

    def duration(self, verb: Verb) -> Duration:
        """How long the tasks of a verb take."""
        found = self.tasks.get(verb) or (self.tasks.get(Verb.LABEL) if verb is Verb.RELABEL else None)
        return found or USUAL[verb]

    def failure_rates(self) -> tuple[tuple[FailureKind, float], ...]:
        """Probability of a try of a task to fail, by kind."""
        f = self.failures
        return (
            (FailureKind.INFRASTRUCTURE, f.infrastructure),
            (FailureKind.RESOURCE, f.resource),
            (FailureKind.DEFECT, f.defect),
        )


USUAL: Final[Mapping[Verb, Duration]] = {
    Verb.BUILD: Duration(median_s=0.05, per="frame", base_s=2.0),
    # eight nets on a V100 advance 67,000 atoms by a step of 1 fs in a second (Smith et al. 2021); cells of 150 atoms
    Verb.SAMPLE: Duration(median_s=2.2, sigma=0.2, per="length", base_s=20.0),
    Verb.SELECT: Duration(median_s=1e-3, per="frame", base_s=5.0),
    Verb.LABEL: Duration(median_s=1800.0, sigma=0.6, per="frame", base_s=5.0),
    Verb.RELABEL: Duration(median_s=1800.0, sigma=0.6, per="frame", base_s=5.0),
    Verb.MERGE: Duration(median_s=1e-3, per="frame", base_s=5.0),
    # one net took 4.5 to 6.4 h for 5,100 structures (training logs published with Smith et al. 2021)
    Verb.FIT: Duration(median_s=3.8, sigma=0.1, per="frame", base_s=60.0),
    Verb.CALIBRATE: Duration(median_s=0.02, per="frame", base_s=20.0),
    Verb.EVALUATE: Duration(median_s=7200.0),
}
"""What is taken for a verb that nothing was said of: the order of magnitude of ANI-Al with DFT labels."""


def load_profile(path: Path) -> Profile:
    """Read and check a profile.

    Raises:
        InputError: no such file.
        SpecError: with file, line and key path.
    """
    if not path.is_file():
        raise InputError(str(path), "no such file", "a YAML file with the fields of a profile, such as `tasks:`")
    document = yaml_file.read(path)
    try:
        profile = validate(Profile, document.content, "")
        raise_all(list(_faults(profile)))
    except InputError as exc:
        raise document.placed(exc) from None
    return profile


def _faults(p: Profile) -> list[InputError]:
    """What a number of the right type can still be wrong in."""
    known = {str(v) for v in Verb}
    found: list[InputError] = [
        SpecError(f"tasks.{verb}", "is no verb", f"known: {', '.join(sorted(known))}")
        for verb in p.tasks
        if verb not in known
    ]
    rates: dict[str, float] = {
        "stragglers.probability": p.stragglers.probability,
        "learning.exploded": p.learning.exploded,
        **{f"failures.{k}": getattr(p.failures, k) for k in ("infrastructure", "resource", "defect", "unphysical")},
    }
    found += [SpecError(k, f"should be between 0 and 1, got {v:g}") for k, v in rates.items() if not 0 <= v <= 1]
    times: dict[str, Any] = {
        "learning.full": p.learning.full,
        "start_s": p.start_s,
        "reaction_s": p.reaction_s,
        "halt_s": p.halt_s,
    }
    for name, d in [*((f"tasks.{k}", d) for k, d in p.tasks.items()), ("queue", p.queue)]:
        times |= {f"{name}.median_s": d.median_s, f"{name}.sigma": d.sigma, f"{name}.base_s": d.base_s}
        times |= {f"{name}.values_s[{i}]": v for i, v in enumerate(d.values_s)}
    found += [
        SpecError(k, f"should be finite and not negative, got {v:g}")
        for k, v in times.items()
        if not (math.isfinite(v) and v >= 0)
    ]
    numbers = {
        **{f"learning.labels[{i}]": v for i, v in enumerate(p.learning.labels)},
        **{f"learning.length[{i}]": v for i, v in enumerate(p.learning.length)},
        "learning.atoms": p.learning.atoms,
        "stragglers.factor": p.stragglers.factor,
    }
    found += [SpecError(k, f"should be positive, got {v:g}") for k, v in numbers.items() if not 0 < v < math.inf]
    if p.learning.labels[0] >= p.learning.labels[1]:
        found.append(SpecError("learning.labels", "should grow", "such as [400, 6000]"))
    if p.queue.per != "task":
        found.append(SpecError("queue.per", "a block waits once", "leave it out"))
    return found
