"""How fast, how small and how safe the coordinator is: a one-shot set through build, gate, label and shard.

    campaign    alflow as users run it: `campaign_run.resume` with Parsl's HighThroughputExecutor, two workers, progress
                display on; the reference is instant (forces zero, energy of a spring), so that all that is left is the
                engine: random cells, gates, label tasks of `--label-batch` configurations, sealed shards, journal
    raw HTEX    as many tasks that burn the processor time and wait the rest of the wall time of the campaign's label
                tasks (their medians, measured in it), through a bare Parsl DataFlowKernel of the same configuration

The share is label tasks a second, from the first that a worker begins (builds come before it) to the last that is
written down, against raw tasks a second. Replay is the journal read from disk and folded into the state, as
`alflow resume` does. The memory is the peak of the coordinator's process, Parsl's data-flow kernel included.

Run: python benchmarks/coordinator.py [--configurations 223660] [--label-batch 20] [--out FILE]
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from statistics import median
from typing import Any

from alflow.campaign.model import Finished, Submitted, Verb, fold
from alflow.runtime import campaign_run, layout
from alflow.runtime.journal import read_lines
from alflow.store.shards import count_frames

PAPER = 223_660
"""Configurations of the entropy-optimised tungsten set (Montes de Oca Zapiain et al., npj Comput. Mater. 2022)."""
OPEN_MOST = 10_000
SITE = """
site: here
lanes:
  cores: {scheduler: local, cores_per_node: 2}
shares: {sample: cores, label: cores, fit: cores}
monitoring: false
"""
WORKFLOW = """
alflow: 1
name: one-shot
seed: 1
stages:
  - name: set
    builder: {{kind: random_cell, species: {{W: 1}}, edge_A: [3.5, 4.5], density_g_cm3: [14, 20]}}
    sampler: {{kind: toy}}
    potential: {{kind: toy}}
    uncertainty: {{kind: spread}}
    selector: {{kind: everything}}
    labeler: {{kind: instant}}
    policy: {{kind: rounds, samples: 1, initial: {configurations}, label_batch: {batch}}}
    until: {{max_rounds: 1}}
"""
INSTANT = '''
"""A reference that takes no time: every atom on a spring of its own."""
import time

import numpy as np

from alflow.core.labels import Labels, Theory, Verdict
from alflow.interfaces import UNLIMITED, part


@part
class Part:
    """Energy of springs to the origin."""

    code = ""

    def check(self, elements, code):
        pass

    def theory(self, code):
        return Theory("instant", {"spring_eV_A2": 1e-3})

    def label(self, frames, code, workdir, limits=UNLIMITED):
        x2 = (frames.positions**2).sum(axis=1)
        energy = 1e-3 * np.add.reduceat(x2, frames.offsets[:-1])
        labels = Labels(energy, np.zeros_like(frames.positions), np.zeros((len(frames), 3, 3)))
        return labels, tuple(Verdict(ok=True) for _ in range(len(frames)))
'''


class Watch:
    """Notes when label tasks were given out and heard of, and asks for the end when all shards are sealed."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.first, self.last, self.tasks = math.inf, 0.0, 0
        self.durations: list[float] = []
        self.cpu = [0.0, 0.0]

    def on_events(self, t: float, events: Any) -> None:
        for event in events:
            match event:
                case Submitted(task) if task.verb is Verb.LABEL:
                    if not self.tasks:
                        self.cpu[0] = time.process_time()
                    self.tasks += 1
                case Finished(task_id, result) if "-label-" in task_id:
                    self.first = min(self.first, result["started"])
                    self.last, self.cpu[1] = t, time.process_time()
                    self.durations.append(result["ended"] - result["started"])
                case Submitted(task) if task.verb is Verb.FIT:
                    (self.run / layout.STOP).touch()  # the set is sealed: what follows is no part of this


def campaign(folder: Path, configurations: int, batch: int) -> dict[str, Any]:
    from alflow.monitor.progress import Progress
    from alflow.runtime.parsl_runner import ParslRunner
    from alflow.runtime.worker import execute

    (folder / "site.yaml").write_text(SITE)
    (folder / "workflow.yaml").write_text(WORKFLOW.format(configurations=configurations, batch=batch))
    run = campaign_run.prepare(folder / "workflow.yaml", folder / "site.yaml", folder / "run")
    watch, began = Watch(run), time.time()
    with Progress(run) as progress:
        campaign_run.resume(run, lambda site, root: ParslRunner(execute, site, root), [progress, watch])
    ended = max(path.stat().st_mtime for path in (run / "dataset").glob("*.h5"))
    sealed = sum(count_frames(path) for path in (run / "dataset").glob("*.h5"))
    if sealed != configurations:
        sys.exit(f"{sealed} configurations were sealed, not {configurations}")
    return {
        "run": run,
        "seconds": ended - began,
        "tasks": watch.tasks,
        "rate": watch.tasks / (watch.last - watch.first),
        "took": median(watch.durations),
        "cpu_ms": 1e3 * (watch.cpu[1] - watch.cpu[0]) / watch.tasks,
        "memory_MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def replay(run: Path) -> dict[str, Any]:
    path = run / layout.JOURNAL
    began = time.perf_counter()
    state = fold(e for _, events in read_lines(path) for e in events)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "bought": state.bought, "MiB": path.stat().st_size / 2**20}


def processor_share(run: Path) -> float:
    """Which part of a label task's time it keeps a processor busy, of some done once more in this process."""
    from alflow.runtime.worker import execute

    some = []
    for _, events in read_lines(run / layout.JOURNAL):
        some += [e.task for e in events if isinstance(e, Submitted) and e.task.verb is Verb.LABEL]
        if len(some) > 60:
            break
    shares = []
    for task in some[:60]:
        shutil.rmtree(run / layout.task_dir(task.id))
        wall, cpu = time.perf_counter(), time.process_time()
        execute({"id": task.id, "verb": "label", "args": task.args}, str(run))
        shares.append((time.process_time() - cpu) / (time.perf_counter() - wall))
    return median(shares[10:])


def idle(cpu_s: float, wait_s: float) -> None:
    """Burn processor time, then wait: what a raw task does."""
    import time

    until = time.process_time() + cpu_s
    while time.process_time() < until:
        pass
    time.sleep(wait_s)


def raw(folder: Path, tasks: int, cpu_s: float, wait_s: float) -> tuple[float, float]:
    """What a bare DataFlowKernel does, with as many tasks open as the campaign has at most.

    Returns:
        Tasks a second, and milliseconds of processor time a task in this process.
    """
    from parsl.dataflow.dflow import DataFlowKernel

    from alflow.runtime.parsl_site import parsl_config
    from alflow.spec.site import load_site

    kernel = DataFlowKernel(parsl_config(load_site(folder / "site.yaml"), folder / "raw"))
    common = {"executors": "all", "cache": False, "ignore_for_cache": None, "app_kwargs": {}}
    try:
        kernel.submit(idle, app_args=(0.0, 0.0), **common).result()  # the workers are up
        began, cpu, open_ = time.perf_counter(), time.process_time(), deque[Any]()
        for _ in range(tasks):
            open_.append(kernel.submit(idle, app_args=(cpu_s, wait_s), **common))
            while len(open_) >= OPEN_MOST:
                open_.popleft().result()
        while open_:
            open_.popleft().result()
        return tasks / (time.perf_counter() - began), 1e3 * (time.process_time() - cpu) / tasks
    finally:
        kernel.cleanup()


def provide_labeler(folder: Path) -> None:
    """Install the instant labeler as a package of somebody else's, for this process and the workers."""
    info = folder / "instant_labeler-1.dist-info"
    info.mkdir(parents=True)
    (folder / "instant_labeler.py").write_text(INSTANT)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: instant-labeler\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[alflow.labelers]\ninstant = instant_labeler:Part\n")
    sys.path.insert(0, str(folder))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])


def table(found: dict[str, Any]) -> str:
    rows = [
        ("configurations built, gated, labelled and sealed", f"{found['configurations']:,}"),
        ("configurations a second, from submit to the last shard", f"{found['configurations'] / found['seconds']:.0f}"),
        ("wall time", f"{found['seconds']:.0f} s"),
        ("label tasks", f"{found['tasks']:,} of {found['batch']}, {1e3 * found['took']:.1f} ms each in a worker"),
        ("label tasks a second", f"{found['rate']:.1f}"),
        ("raw HTEX tasks a second, of the same time", f"{found['raw']:.1f}"),
        ("share of the raw rate", f"{100 * found['rate'] / found['raw']:.0f} %"),
        (
            "processor time a label task in the coordinator",
            f"{found['cpu_ms']:.2f} ms; raw {found['raw_cpu_ms']:.2f} ms",
        ),
        ("peak memory of the coordinator", f"{found['memory_MiB']:.0f} MiB"),
        ("journal", f"{found['journal_MiB']:.1f} MiB"),
        ("replay of the journal", f"{found['replay_s']:.2f} s"),
    ]
    lines = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    return "\n".join([f"Commit {commit.stdout.strip()}; {machine}; load averages at the end {load}.", "", *lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--configurations", type=int, default=PAPER)
    parser.add_argument("--label-batch", type=int, default=20)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--folder", type=Path, help="keep everything here; a temporary folder by default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        provide_labeler(folder / "packages")
        done = campaign(folder, options.configurations, options.label_batch)
        again = replay(done["run"])
        busy = processor_share(done["run"])
        rate, raw_cpu = raw(folder, done["tasks"], busy * done["took"], (1 - busy) * done["took"])
        found = done | {
            "configurations": options.configurations,
            "batch": options.label_batch,
            "raw": rate,
            "raw_cpu_ms": raw_cpu,
            "journal_MiB": again["MiB"],
            "replay_s": again["seconds"],
        }
        text = table(found)
    print(text)
    if options.out is not None:
        words = " ".join(["python benchmarks/coordinator.py", *sys.argv[1:]])
        options.out.write_text(f"# The coordinator at the size of a paper's set\n\n`{words}`\n\n{text}")


if __name__ == "__main__":
    main()
