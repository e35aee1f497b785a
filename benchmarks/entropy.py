"""Entropy-optimised configurations: how many an hour on one core, and how much of descriptor space they cover.

    rate        starts are built and driven to local optima (`workflows/entropy_w.yaml`'s builder and sampler) on one
                thread, 100 in a batch, and, as the peer, one at a time; processor time
    coverage    variances of the 55 bispectrum components (J = 4) along the axes of the frame in which a set that
                experts made has unit covariance (ZCA): in how many a set is broader, and at least five times broader;
                Montes de Oca Zapiain et al. (2022) report 51 and 27 for theirs. The peer are the starts with their
                contacts taken out and nothing else done to them.

Run: python benchmarks/entropy.py --data FOLDER [--set FILE] [--count 400] [--out benchmarks/results/entropy.md]

FOLDER holds ``w_domain_expertise.extxyz.gz``: the tungsten structures of the SNAP training set of Wood et al., Phys.
Rev. B 99, 184305 (2019), distributed with FitSNAP. FILE is a larger set of structures, such as an export of a run of
the workflow; it is told apart by a column ``K_eV`` if it has one.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np

from alflow.core.frames import Frames
from alflow.interfaces import Harvest
from alflow.numerics.coverage import Frame, broader
from alflow.numerics.threads import use_threads
from alflow.samplers.entropy import Part
from alflow.science.compare import Descriptor, portrait
from alflow.spec.workflow import load
from alflow.store.convert import read_file
from alflow.store.shards import Shard

BATCH = 100
ALONE = 20
SEED = 0
TUNGSTEN = 74
FACTOR = 5.0
PAPER = 223_660
CONTACT_A = 1.9
COVERAGE = ("set", "frames", "environments", "broader, of 55", "≥ 5x variance", "≥ 5x deviation", "least", "median")


def made(part: Part, start: Frames, batch: int) -> tuple[list[Harvest], float]:
    """The harvests of all starts, `batch` at a time, and the seconds of processor time."""
    began, harvests = time.process_time(), []
    for first in range(0, len(start), batch):
        some = start.take(np.arange(first, min(first + batch, len(start))))
        harvests.append(part.run(some, None, np.random.default_rng([SEED, first]), Path()))
    return harvests, time.process_time() - began


def breadths(expert: Frame, sets: Mapping[str, Frames]) -> Iterator[list[str]]:
    """One row of the table of coverage for each set."""
    for name, frames in sets.items():
        cloud = portrait(Shard(frames), Descriptor().settings([TUNGSTEN]), name).clouds[TUNGSTEN].whole
        v = expert.breadth(cloud).dimensions
        counts = [broader(v), broader(v, FACTOR), broader(v, FACTOR**2)]
        yield [
            name,
            f"{len(frames):,}",
            f"{frames.n_atoms:,}",
            *map(str, counts),
            f"{v.min():.2f}",
            f"{np.median(v):.1f}",
        ]


def split(name: str, frames: Frames, K_eV: np.ndarray) -> dict[str, Frames]:
    """A set, and its two halves."""
    halves = {"maximised": K_eV > 0, "minimised": K_eV < 0}
    return {f"{name}, all": frames} | {f"{name}, {k}": frames.take(np.flatnonzero(m)) for k, m in halves.items()}


def table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine() -> str:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    return f"{platform.machine()}, {os.cpu_count()} cores, one used; load {load}; commit {commit.stdout.strip()}"


def rate(part: Part, start: Frames, building_s: float) -> tuple[str, Frames, np.ndarray]:
    """The chapter on the rate, the optima, and K of each."""
    made(replace(part, anneal_steps=2, max_steps=2), start.take([0, 1]), 2)  # compiles
    harvests, seconds = made(part, start, BATCH)
    _, alone = made(part, start.take(np.arange(ALONE)), 1)
    n, sizes = len(start), start.sizes
    each, single = seconds / n, alone / sizes[:ALONE].sum() * sizes.mean()
    an_hour = 3600 / (each + building_s / n)
    K, done, S = (np.concatenate([h.columns[k] for h in harvests]) for k in ("K_eV", "converged", "entropy"))
    steps = np.concatenate([h.lengths for h in harvests])
    frames = Frames.concat([h.candidates for h in harvests])
    text = f"""## Rate

**{an_hour:,.0f} configurations an hour on one core**, of {sizes.mean():.1f} atoms on average.

- {building_s / n * 1e3:.1f} ms to build one, {each * 1e3:.0f} ms to optimise it in {steps.mean():.0f} steps:
  {(steps * sizes).sum() / seconds:,.0f} atoms a second
- one at a time instead of {BATCH}: {3600 / single:,.0f} an hour; batches are {single / each:.1f} times faster
- the paper's {PAPER:,} would take {PAPER / an_hour:.1f} core-hours at this size
- {len(frames)} of {n} starts came home, {done.mean():.0%} of them converged
- mean entropy {np.nanmean(S[K > 0]):.2f} of those maximised, {np.nanmean(S[K < 0]):.2f} of those minimised
"""
    return text, frames, K


def coverage(data: Path, sets: Mapping[str, Frames]) -> str:
    """The chapter on coverage."""
    frames = read_file(data / "w_domain_expertise.extxyz.gz").frames
    moments = portrait(Shard(frames), Descriptor().settings([TUNGSTEN]), "the expert set").clouds[TUNGSTEN].whole
    rows = list(breadths(Frame.of(moments), {"the expert set": frames, **{k: f for k, f in sets.items() if len(f)}}))
    return f"""## Coverage

{table(COVERAGE, rows)}

The paper's set is broader in 51 of 55 and at least 5x in 27; it does not say whether of the variance or the standard
deviation. `starts` are random cells as built, with contacts down to {CONTACT_A} Å, which are not worth a label;
`repelled` are the same with their contacts taken out by V_repulsive alone: what the optimised ones are to be held
against.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", type=Path)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    use_threads(1)
    head = f"# Entropy-optimised configurations: rate and coverage\n\nWith `--count {asked.count}`: {machine()}.\n"
    os.environ.setdefault("ALFLOW_W_EAM", "not-needed.eam.fs")  # of the labeler; no label is made here
    stage = load("entropy_w").stages[0]
    part, began = cast("Part", stage.sampler), time.process_time()
    start = stage.builder.build(asked.count, np.random.default_rng(SEED))
    text, frames, K = rate(part, start, time.process_time() - began)
    pushed, _ = made(replace(part, K_eV=(1e-9, 1e-9), method="minimize"), start, BATCH)
    sets = {"starts": start, "repelled (peer)": Frames.concat([h.candidates for h in pushed])} | split(
        "here", frames, K
    )
    if asked.set is not None:
        shard = read_file(asked.set)
        known = shard.columns.get("K_eV", np.zeros(len(shard.frames)))
        sets |= split("set", shard.frames, np.asarray(known, np.float64))
    text = "\n".join([head, text, coverage(asked.data, sets)])
    print(text)
    if asked.out:
        asked.out.write_text(text)


if __name__ == "__main__":
    main()
