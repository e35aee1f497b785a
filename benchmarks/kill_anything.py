"""Kill anything, many times: what comes of small campaigns whose processes are killed at random.

Each round is a campaign of toy parts through Parsl, `alflow resume` again and again until it is over, with one to four
SIGKILLs at random points of its journal. It is held against a campaign that nothing happened to. What is killed, and
what "lost", "twice" and "same" mean, is written in `alflow.testing.kills`.

Run: python benchmarks/kill_anything.py [--rounds 200] [--first 0] [--slurm-rounds 10] [--jobs 3] [--until HH:MM]
     [--out benchmarks/results/kill_anything.md]
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from alflow.testing import kills
from alflow.testing import slurm as bed
from alflow.testing.kills import Draw, Round

COLUMNS = ("", "rounds", "kills", "coordinators", "labels", "lost", "twice", "same files", "orphans", "failed rounds")


def main() -> None:
    """Play, print, write."""
    args = arguments()
    begun, top = machine(), Path(tempfile.mkdtemp(prefix="kill-"))
    say(f"runs are in {top}; {begun}")
    reference = kills.undisturbed(top / "undisturbed")
    rounds = Rounds(top, reference, args.until)
    with on_slurm(top / "bed", args.slurm_rounds) as cluster, ThreadPoolExecutor(args.jobs + 1) as pool:
        seeds = range(args.first, args.first + args.slurm_rounds if cluster else args.first)
        slurm = pool.submit(lambda: [rounds.play(Draw.of(s, on_slurm=True), cluster) for s in seeds])
        here = list(pool.map(lambda s: rounds.play(Draw.of(s)), range(args.first, args.first + args.rounds)))
        done = [r for r in [*here, *slurm.result()] if r is not None]
    lines = [*table(done), "", *victims(done), "", *failures(done)]
    print(*lines, sep="\n")
    if args.out:
        words = " ".join(["python benchmarks/kill_anything.py", *without_out(sys.argv[1:])])
        asked = f"Asked for {args.rounds} rounds here and {args.slurm_rounds} on Slurm"
        asked += f", no new one after {args.until}" if args.until else ""
        title = [
            "# Kill anything",
            "",
            *(__doc__ or "").split("\nRun:")[0].splitlines()[2:],
            "",
            f"`{words}`",
            "",
            f"{begun}.",
            "",
        ]
        args.out.write_text("\n".join([*title, f"{asked}; {len(done)} were played.", "", *lines]) + "\n")
    if all(r.good for r in done):
        shutil.rmtree(top)
    sys.exit(not all(r.good for r in done))


class Rounds:
    """Plays rounds until it is time to stop; keeps the folders of those that failed.

    Args:
        top: where.
        reference: the run that nothing happened to.
        until: hour and minute after which no new round begins, or empty.
    """

    def __init__(self, top: Path, reference: Path, until: str) -> None:
        self.top, self.reference, self.until = top, reference, until
        self.lock = threading.Lock()

    def play(self, draw: Draw, cluster: bed.Slurm | None = None) -> Round | None:
        """One round; None if it is too late."""
        if self.until and f"{datetime.now():%H:%M}" >= self.until:
            return None
        folder = self.top / f"{draw.site.replace(' ', '-')}-{draw.seed}"
        came = kills.play(draw, folder, self.reference, cluster)
        with self.lock:
            say(came.line)
        if came.good:
            shutil.rmtree(folder)
        return came


@contextmanager
def on_slurm(folder: Path, wanted: int) -> Iterator[bed.Slurm | None]:
    """A cluster, if rounds on one are wanted; programs find it by the environment."""
    if not wanted:
        yield None
        return
    if absent := bed.missing_programs():
        sys.exit(f"--slurm-rounds: not installed: {', '.join(absent)}")
    with bed.cluster(folder) as cluster:
        os.environ |= cluster.env
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        yield cluster


def table(done: Sequence[Round]) -> list[str]:
    """What came of it, by site and policy."""
    kinds = sorted({(r.draw.site, r.draw.policy) for r in done})
    rows = [row(", ".join(kind), [r for r in done if (r.draw.site, r.draw.policy) == kind]) for kind in kinds]
    return [cells(COLUMNS), cells(["---"] * len(COLUMNS)), *rows, row("all", done)]


def row(name: str, some: Sequence[Round]) -> str:
    """Sums over some rounds."""
    judged = [r.same for r in some if r.same is not None]
    sums = [sum(len(x) for x in xs) for xs in zip(*((r.killed, r.exits) for r in some), strict=True)]
    bad = [sum(len(x) for x in xs) for xs in zip(*((r.lost, r.twice, r.orphans) for r in some), strict=True)]
    same = f"{sum(judged)} of {len(judged)}" if judged else "-"
    failed = sum(not r.good for r in some)
    return cells([name, len(some), *sums, sum(r.bought for r in some), *bad[:2], same, bad[2], failed])


def cells(words: Iterable[object]) -> str:
    """One line of a table."""
    return f"| {' | '.join(map(str, words))} |"


def victims(done: Sequence[Round]) -> list[str]:
    """What was killed how often, and how coordinators ended."""
    killed = Counter(str(what) for r in done for what in r.killed)
    exits = Counter(code for r in done for code in r.exits)
    names = {0: "at the campaign's end", -9: "killed"}
    resumes = Counter(len(r.exits) - 1 for r in done)
    seconds = sorted(r.seconds for r in done)
    return [
        "Killed: " + ", ".join(f"{what} {n}" for what, n in killed.most_common()) + ".",
        "",
        "Coordinators ended: " + ", ".join(f"{names.get(c, f'with exit status {c}')} {n}" for c, n in exits.items()),
        "",
        "Resumes a round needed: " + ", ".join(f"{k} in {n} rounds" for k, n in sorted(resumes.items())) + ".",
        "",
        f"Labels killed between being durable and being counted: {sum(r.uncounted for r in done)}.",
        "",
        f"Seconds a round: {seconds[0]:.0f} to {seconds[-1]:.0f}, median {seconds[len(seconds) // 2]:.0f}.",
    ]


def failures(done: Sequence[Round]) -> list[str]:
    """The rounds that broke a promise, or that there were none."""
    return [f"* {r.line}" for r in done if not r.good] or ["Every round kept every promise."]


def machine() -> str:
    """Where this was measured, and of what."""
    words = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(
        words, capture_output=True, text=True, check=False, cwd=Path(__file__).parent
    ).stdout.strip()
    model = next((x.split(":")[1].strip() for x in _lines("/proc/cpuinfo") if x.startswith("model name")), "?")
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    return f"{model}, {os.cpu_count()} cores; load {load}; Python {platform.python_version()}; commit {commit}"


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def without_out(words: Sequence[str]) -> list[str]:
    """The command without where its result was to go."""
    at = words.index("--out") if "--out" in words else len(words)
    return [*words[:at], *words[at + 2 :]]


def say(text: str) -> None:
    """At once, for this takes hours."""
    print(text, flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="seed of the first round")
    parser.add_argument("--slurm-rounds", type=int, default=0, help="further rounds on a Slurm test bed")
    parser.add_argument("--jobs", type=int, default=3, help="rounds at a time: they mostly wait")
    parser.add_argument("--until", default="", metavar="HH:MM", help="no new round after that time of this day")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
