"""When to do what: pure functions from a state to events."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Until:
    """When a stage is done; the first that holds ends it. None never holds.

    Attributes:
        max_rounds: sampling waves (`rounds`), model versions (`stream`), sync points (`cycles`).
        max_labels: labels bought in this stage.
        no_candidates: a sampling wave found nothing to select.
        median_length_ps: median trajectory length of the current model in ps (ANI-Al: 250).
    """

    max_rounds: int | None = None
    max_labels: int | None = None
    no_candidates: bool = False
    median_length_ps: float | None = None


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """One thing at a time: sample all, select, label all, fit; then again.

    Attributes:
        samples: trajectories a round.
        batch: trajectories that one sample task advances together.
        initial: structures built and labelled before the first fit.
        limit: most structures selected a round.
        label_batch: structures a label task buys.
    """

    samples: int
    batch: int = 1
    initial: int = 0
    limit: int = 1_000_000
    label_batch: int = 1


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Everything at once, each stage of the pipe held at a level.

    Attributes:
        sampling: sample tasks kept running.
        batch: trajectories that one sample task advances together.
        initial: structures built and labelled before the first fit.
        select_at: candidates that trigger a selection.
        fit_at: new labels that trigger a fit.
        limit: most structures selected at a time.
        label_batch: structures a label task buys.
        max_waiting: sampling pauses while so many structures wait for their label.
    """

    sampling: int
    batch: int = 1
    initial: int = 0
    select_at: int = 1
    fit_at: int = 1
    limit: int = 1_000_000
    label_batch: int = 1
    max_waiting: int = 1_000


@dataclass(frozen=True, kw_only=True)
class Cycles:
    """Independent active-learning loops that merge their data at sync points (ANI-Al, figure 9).

    Attributes:
        loops: loops run side by side, each with a model of its own.
        samples: trajectories of one loop between two of its fits.
        batch: trajectories that one sample task advances together.
        initial: structures built and labelled before the first fit; all loops share them.
        fits_per_sync: own fits a loop makes between two sync points.
        quorum: fraction of the loops that closes a sync point; late labels enter the next one.
        limit: most structures selected at a time by a loop.
        label_batch: structures a label task buys.
    """

    loops: int
    samples: int
    batch: int = 1
    initial: int = 0
    fits_per_sync: int = 1
    quorum: float = 1.0
    limit: int = 1_000_000
    label_batch: int = 1


Policy = Rounds | Stream | Cycles
