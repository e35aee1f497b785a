"""Wall time that alflow adds to a label: a label task against the same program run by hand on the same input, in turn.

    alflow      `runtime.worker.execute` of a label task with one frame: lock, gates, quarantine, labeler, custodian,
                parsing, shards, result.json
    by hand     the program in a folder with the files that the labeler wrote for that frame

Before anything is timed, the labeler is given a program that only copies its folder aside, which is where the files
by hand come from. What the first task of a worker costs besides (imports, reading the spec) is measured apart, in a
process of its own.

Run: python benchmarks/label_overhead.py [--code espresso] [--count 20] [--out benchmarks/results/label_overhead.md]
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import yaml

from alflow.core.frames import Frames
from alflow.errors import AlflowError
from alflow.interfaces import Code, Labeler
from alflow.runtime import campaign_run, layout
from alflow.runtime.worker import execute
from alflow.spec.site import load_site
from alflow.spec.workflow import load
from alflow.store.shards import Shard, write_shard

LIMIT_S = 0.5
SEED = 0
LABELERS = {
    "espresso": "{kind: espresso, pseudopotentials: {Al: Al.pz-vbc.UPF}, ecutwfc_Ry: 15, kpoints: gamma, "
    "degauss_Ry: 0.05, mixing_beta: 0.4, conv_thr_Ry: 1.0e-6}",
    "vasp": "{kind: vasp, potcar_symbols: {Al: Al}, encut_eV: 300, kpoints: gamma}",
}
WORKFLOW = """
alflow: 1
name: overhead
seed: 1
stages:
  - name: cells
    builder: {{kind: random_cell, species: {{Al: 1}}, edge_A: [4, 6], density_g_cm3: [1.8, 2.6]}}
    sampler: {{kind: toy}}
    potential: {{kind: toy}}
    uncertainty: {{kind: none}}
    selector: {{kind: everything}}
    labeler: {labeler}
    policy: {{kind: rounds, samples: 1, batch: 1, initial: 1}}
    until: {{max_rounds: 1}}
"""
SITE = """
site: benchmark
lanes: {{sample: {{cores_per_node: 2}}}}
shares: {{label: sample, fit: sample}}
monitoring: false
codes:
  {name}: {code}
"""
CAPTURE = """#!/bin/sh
[ -d "$CAPTURED" ] || { cp -r . "$CAPTURED"; printf '%s\\n' "$PWD" > "$CAPTURED.was"; }
[ -f "$CAPTURED.words" ] || for word in "$@"; do printf '%s\\n' "$word" >> "$CAPTURED.words"; done
exit 1
"""


def cells(count: int) -> Frames:
    """Four rattled aluminium atoms in cells of slightly different sizes."""
    rng, parts = np.random.default_rng(SEED), []
    corners = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    for _ in range(count):
        cell = np.diag(rng.uniform(3.9, 4.3, 3))
        parts.append(Frames.single([13] * 4, corners @ cell + rng.normal(scale=0.05, size=(4, 3)), cell))
    return Frames.concat(parts)


def submitted(name: str, code: dict[str, Any], frames: Frames, folder: Path) -> Path:
    """A run directory whose first batch of frames is there."""
    (folder / "workflow.yaml").write_text(WORKFLOW.format(labeler=LABELERS[name]))
    (folder / "site.yaml").write_text(SITE.format(name=name, code=flow(code)))
    root = campaign_run.prepare(folder / "workflow.yaml", folder / "site.yaml", folder / "run")
    origin = np.array([f"build/{i}" for i in range(len(frames))])
    write_shard(root / "frames.h5", Shard(frames, {"origin": origin, "score": np.full(len(frames), np.nan)}))
    return root


def flow(code: dict[str, Any]) -> str:
    return yaml.safe_dump(code, default_flow_style=True, width=10_000).strip()


def task(i: int) -> dict[str, Any]:
    return {"id": f"0-label-{i:06d}", "verb": "label", "args": {"stage": 0, "frames": ["frames.h5", i, i + 1]}}


def captured(root: Path, name: str, frames: Frames, folder: Path) -> list[tuple[Path, list[str]]]:
    """The folder that the labeler starts its program in, and the arguments it gives it, of each frame."""
    labeler: Labeler = load(root / layout.WORKFLOW).stages[0].labeler
    code: Code = load_site(root / layout.SITE).codes[name]
    script = folder / "capture"
    script.write_text(CAPTURE)
    script.chmod(0o755)
    found = []
    for i in range(len(frames)):
        here = folder / f"input-{i}"
        given = replace(code, command=(str(script), *code.command[1:]), env={**code.env, "CAPTURED": str(here)})
        with contextlib.suppress(AlflowError):  # the program that is none
            labeler.label(frames[i], given, folder / "nothing")
        words = Path(f"{here}.words")
        arguments = words.read_text().splitlines()[len(code.command) - 1 :] if words.exists() else []
        was = Path(f"{here}.was").read_text().strip()
        found.append((here, [a.replace(was, ".") for a in arguments]))
    return found


def by_hand(code: Code, given: tuple[Path, list[str]], folder: Path) -> float:
    """Seconds of one run of the program on a copy of the labeler's files."""
    inputs, arguments = given
    shutil.copytree(inputs, folder)
    for file in folder.glob("*.in"):
        file.write_text(re.sub(r"(outdir\s*=\s*)'[^']*'", r"\1'.'", file.read_text()))
    began = time.perf_counter()
    with (folder / "by-hand.log").open("wb") as log:
        status = subprocess.run(
            [*code.command, *arguments],
            cwd=folder,
            env={**os.environ, **code.env},
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            check=False,
        ).returncode
    seconds = time.perf_counter() - began
    if status:
        raise SystemExit(f"by hand it ended with status {status}: {(folder / 'by-hand.log').read_text()[-500:]}")
    return seconds


def labelled(root: Path, i: int) -> float:
    """Seconds of one label task."""
    began = time.perf_counter()
    result = execute(task(i), str(root))
    seconds = time.perf_counter() - began
    if result.get("n") != 1:
        raise SystemExit(f"no label: {result}")
    return seconds


def first_task(root: Path, i: int) -> tuple[float, float]:
    """Seconds of importing the worker, and of the first task, in a new process."""
    script = (
        "import sys, time; t = time.perf_counter(); from alflow.runtime.worker import execute; import json\n"
        "u = time.perf_counter(); r = execute(json.loads(sys.argv[1]), sys.argv[2]); assert r.get('n') == 1, r\n"
        "print(u - t, time.perf_counter() - u)"
    )
    words = [sys.executable, "-c", script, json.dumps(task(i)), str(root)]
    said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    imports, task_ = said.split()[-2:]
    return float(imports), float(task_)


def load_average() -> str:
    return "load " + ", ".join(f"{x:.1f}" for x in os.getloadavg())


def machine() -> str:
    with Path("/proc/cpuinfo").open() as f:
        names = [line.split(":")[1].strip() for line in f if line.startswith("model name")]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], check=False, capture_output=True, text=True
    ).stdout.strip()
    return f"{names[0]}, {len(names)} cores; {load_average()}; Python {platform.python_version()}; commit {commit}"


def fake_vasp(folder: Path) -> dict[str, Any]:
    """The stand-in for VASP, and POTCARs for it."""
    from alflow.testing.fake_vasp.library import write_library

    return {
        "command": [sys.executable, "-m", "alflow.testing.vasp_std"],
        "potcars": str(write_library(folder / "potcars", {"Al": "Al"})),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--code", choices=sorted(LABELERS), default="espresso")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--command", default="pw.x", help="the program and its launcher, for espresso")
    parser.add_argument("--pseudo-dir", default="/usr/share/espresso/pseudo")
    parser.add_argument("--profile", type=Path, help="write a profile of the label tasks here")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="alflow-overhead-") as name:
        folder = Path(name)
        env = {"OMP_NUM_THREADS": "1", "OMPI_MCA_ess_singleton_isolated": "1"}
        pw = {"command": shlex.split(args.command), "env": env, "pseudo_dir": args.pseudo_dir}
        frames = cells(args.count + 2)
        root = submitted(args.code, pw if args.code == "espresso" else fake_vasp(folder), frames, folder)
        measure(args, root, frames, folder)


def measure(args: argparse.Namespace, root: Path, frames: Frames, folder: Path) -> None:
    n, begun = args.count, machine()
    inputs = captured(root, args.code, frames, folder)
    code = load_site(root / layout.SITE).codes[args.code]
    imports, first = first_task(root, n)
    by_hand(code, inputs[n + 1], folder / "warm-up")
    labelled(root, n + 1)
    times: dict[str, list[float]] = {"alflow": [], "by hand": []}
    profile = profiled(args.profile)
    for i in range(n):
        for method in ("alflow", "by hand") if i % 2 else ("by hand", "alflow"):
            if method == "by hand":
                seconds = by_hand(code, inputs[i], folder / f"hand-{i}")
            else:
                with profile:
                    seconds = labelled(root, i)
            times[method].append(seconds)
    added = [a - b for a, b in zip(times["alflow"], times["by hand"], strict=True)]
    middle, middle_task = median(added), median(times["alflow"])
    lines = [
        f"{n} cells of 4 atoms, {args.code}; {begun}; at the end {load_average()}.",
        "",
        "| | median s | least s | most s |",
        "| --- | --- | --- | --- |",
        *(f"| {k} | {median(v):.3f} | {min(v):.3f} | {max(v):.3f} |" for k, v in times.items()),
        f"| added per label, in pairs | {middle:.3f} | {min(added):.3f} | {max(added):.3f} |",
        "",
        f"First task of a worker: {imports:.2f} s of imports, then {first - middle_task:.2f} s more than later ones.",
        "",
        f"Under {LIMIT_S} s a label: {'yes' if middle < LIMIT_S else 'NO'}.",
    ]
    print(*lines, sep="\n")
    if args.profile:
        profile.dump_stats(args.profile)
    if args.out:
        head = f"`python benchmarks/label_overhead.py --code {args.code} --count {n}`"
        title = (
            []
            if args.out.exists()
            else ["# Wall time that alflow adds to a label", "", *__doc__.splitlines()[2:-2], ""]
        )
        with args.out.open("a") as f:
            f.write("\n".join([*title, f"## {args.code}", "", head, "", *lines, ""]) + "\n")
    sys.exit(0 if middle < LIMIT_S else 1)


def profiled(path: Path | None) -> Any:
    """A profile that is switched on within ``with``, or nothing."""
    return cProfile.Profile() if path else contextlib.nullcontext()


if __name__ == "__main__":
    main()
