"""Which training set makes transferable potentials: expert-made against entropy-optimised, for tungsten.

The experiments of Montes de Oca Zapiain et al., npj Comput. Mater. 8, 189 (2022), with one cheap reference for all in
the place of DFT: every configuration of both sets is labelled by the same embedded-atom potential. Energies only, as
there. A fifth of each set, chosen by a hash of the configuration, is never trained on.

    matrix      quadratic SNAP, NN-A1 and NN-B1 (J = 3) trained on each set and tested on each (figure 4)
    groups      the expert-made set split at random against by whole groups of configurations
    each        the same without one group at a time, for linear and quadratic SNAP
    saturation  test error of linear and quadratic SNAP and of nets over their number of free parameters (figure 3)

Run: python benchmarks/transferability.py --de w_domain_expertise.extxyz.gz --em FOLDER --eam W.eam.fs
         [--only matrix groups each saturation] [--epochs 800] [--out FILE]
FOLDER holds the entropy set as sealed shards (`dataset/` of a run) or is an extxyz file.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alflow.core.frames import Floats
from alflow.labelers.lammps import Part as Lammps
from alflow.numerics.bispectrum import BispectrumSettings
from alflow.numerics.splits import split
from alflow.potentials.snap import Part as Snap
from alflow.potentials.snap_nn import Part as Net
from alflow.store.dataset import Dataset
from alflow.store.shards import Shard, read_shard, write_shard
from alflow.store.sources import read_set

CUTOFF_A = 4.73
HELD_OUT = (0.7, 0.1, 0.2)
SPLITS = 5
"""Splits by group that are tried."""


@dataclass(frozen=True)
class Set:
    """A labelled set and its sides."""

    name: str
    train: Dataset
    test: Dataset


# ---- data ----------------------------------------------------------------------------------------------------------


def labelled(name: str, path: Path, eam: Path, keep: Path | None) -> Dataset:
    """The set under the common reference; what that refuses (atoms on top of each other) is counted and left out.

    Shards that were labelled by it already are taken as they are; with `keep`, labels are kept there for the next run.
    """
    reference = Lammps(pair_style="eam/fs", pair_coeff=(f"* * {eam.name} W",), elements=("W",), files=(eam,))
    theory = reference.theory(None)
    known = keep / f"{name}.h5" if keep else None
    shards = [known] if known is not None and known.exists() else sorted(path.glob("*.h5"))
    if shards and all((t := read_shard(p).theory) and t.fingerprint == theory.fingerprint for p in shards):
        data = Dataset.open(shards)
        refused = 0
    else:
        found = read_set(path)
        frames, groups = found.frames, found.columns.get("group", np.full(len(found.frames), "none"))
        with tempfile.TemporaryDirectory() as work:
            labels, verdicts = reference.label(frames, None, Path(work))
        good = [i for i, v in enumerate(verdicts) if v.ok]
        columns = {"group": groups[good]}
        data, refused = Dataset(frames.take(good), labels.take(frames, good), theory, columns), len(frames) - len(good)
        if known is not None:
            write_shard(known, Shard(data.frames, columns, data.labels, theory))
    e = data.labels.energy / data.frames.sizes
    say(
        f"{name}: {len(data)} configurations, {data.frames.n_atoms} atoms, {refused} refused; "
        f"energies {e.min():.2f} to {e.max():.2f}, median {np.median(e):.2f} eV/atom"
    )
    return data


def sides(name: str, data: Dataset, keys: Iterable[str], member: int = 0) -> Set:
    """What is trained on, and what never is: by keys of its own, for nets split what they get by the same hash."""
    side = split([f"held out, {key}" for key in keys], member, HELD_OUT)
    return Set(name, data.take(np.flatnonzero(~side.test)), data.take(np.flatnonzero(side.test)))


# ---- models --------------------------------------------------------------------------------------------------------


def snap(twojmax: int, *, quadratic: bool) -> Any:
    return Snap(elements=("W",), twojmax=twojmax, cutoff_A=CUTOFF_A, quadratic=quadratic, force_weight_A=0.0)


def net(shape: str, twojmax: int, epochs: int) -> Any:
    return Net(
        elements=("W",),
        twojmax=twojmax,
        cutoff_A=CUTOFF_A,
        architecture=shape,
        shares=(7 / 8, 1 / 8, 0),
        max_epochs=epochs,
    )


def free_parameters(part: Any) -> int:
    """Weights and biases of a net; constant and coefficients of a SNAP potential."""
    k = BispectrumSettings((74,), part.twojmax, part.cutoff_A, (0.5,), (1.0,)).n_features
    if isinstance(part, Snap):
        return 1 + k + (k * (k + 1) // 2 if part.quadratic else 0)
    widths = (k, *part.widths, 1)
    return sum((a + 1) * b for a, b in itertools.pairwise(widths))


def fitted(part: Any, data: Dataset) -> tuple[Any, int, float]:
    """The model, its number of free parameters, and how long it took."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        report = part.fit(data, range(1), 1, Path(out))
        model = part.load([Path(out) / name for name in report.files])
    return model, free_parameters(part), time.perf_counter() - began


def errors(model: Any, data: Dataset) -> Floats:
    """Energy errors in eV/atom, (n_frames,)."""
    found = [model.predict(f, stress=False).energy - l.energy for f, l in data.batches(20_000)]
    return np.concatenate(found) / data.frames.sizes


def rmse(x: Floats) -> float:
    return float(np.sqrt(np.mean(x**2)))


# ---- experiments ---------------------------------------------------------------------------------------------------


def matrix(sets: list[Set], models: dict[str, Any]) -> list[str]:
    lines = [
        "| model | free parameters | trained on | RMSE DE | RMSE EM | other / own | median error DE, EM | fit s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, part in models.items():
        for own in sets:
            model, n, seconds = fitted(part, own.train)
            found = {s.name: errors(model, s.test) for s in sets}
            r = {k: rmse(x) for k, x in found.items()}
            other = next(s.name for s in sets if s is not own)
            middle = ", ".join(f"{1e3 * np.median(np.abs(found[k])):.1f}" for k in ("DE", "EM"))
            lines.append(
                f"| {name} | {n} | {own.name} | {1e3 * r['DE']:.1f} | {1e3 * r['EM']:.1f} | "
                f"{r[other] / r[own.name]:.1f} | {middle} | {seconds:.0f} |"
            )
            say(lines[-1])
    return lines


def groups(data: Dataset, models: dict[str, Any]) -> list[str]:
    """Errors on groups that were held out whole, beside those on the same groups where a fifth of each was held out."""
    lines = [
        "| model | held out | frames | RMSE | with a random split, same groups | factor | all groups, factor |",
        "|---|---|---|---|---|---|---|",
    ]
    at_random = sides("random", data, data.ids)
    owner = at_random.test.columns["group"]
    splits = [some for k in range(SPLITS) if len((some := sides("groups", data, data.columns["group"], k)).test)]
    for name, part in models.items():
        base = errors(fitted(part, at_random.train)[0], at_random.test)
        for some in splits:
            found = rmse(errors(fitted(part, some.train)[0], some.test))
            held = sorted(set(some.test.columns["group"]))
            known = base[np.isin(owner, held)]
            same = f"{1e3 * rmse(known):.1f} | {found / rmse(known):.1f}" if len(known) else "- | -"
            lines.append(
                f"| {name} | {', '.join(held)} | {len(some.test)} | {1e3 * found:.1f} | {same} | "
                f"{found / rmse(base):.1f} |"
            )
            say(lines[-1])
    return lines


def one_group_out(data: Dataset, models: dict[str, Any]) -> list[str]:
    """The same with each group in turn as the only one that is not trained on."""
    lines = [f"| held out | frames | {' | '.join(f'{n}: RMSE | random split | factor' for n in models)} |"]
    lines.append("|---|---|" + "---|" * 3 * len(models))
    at_random, group = sides("random", data, data.ids), data.columns["group"]
    base = {name: errors(fitted(part, at_random.train)[0], at_random.test) for name, part in models.items()}
    for held in sorted(set(group)):
        out, known, cells = data.take(np.flatnonzero(group == held)), at_random.test.columns["group"] == held, []
        rest = data.take(np.flatnonzero(group != held))
        for name, part in models.items():
            found = rmse(errors(fitted(part, rest)[0], out))
            same = rmse(base[name][known]) if known.any() else 0.0
            told = f"{1e3 * same:.1f} | {found / same:.1f}" if same else "- | -"
            cells.append(f"{1e3 * found:.1f} | {told}")
        lines.append(f"| {held} | {len(out)} | {' | '.join(cells)} |")
        say(lines[-1])
    return lines


def saturation(sets: list[Set], models: dict[str, Any]) -> list[str]:
    lines = [f"| model | free parameters | {' | '.join(s.name for s in sets)} |", f"|---|---|{'---|' * len(sets)}"]
    for name, part in models.items():
        found = [(fitted(part, s.train), s) for s in sets]
        cells = " | ".join(f"{1e3 * rmse(errors(model, s.test)):.1f}" for (model, _, _), s in found)
        lines.append(f"| {name} | {found[0][0][1]} | {cells} |")
        say(lines[-1])
    return lines


# ---- the script ----------------------------------------------------------------------------------------------------


def say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--de", type=Path, required=True)
    parser.add_argument("--em", type=Path, required=True)
    parser.add_argument("--eam", type=Path, required=True)
    parser.add_argument("--few", type=int, help="so many configurations of each set only, to try the script")
    parser.add_argument("--only", nargs="*", default=["matrix", "groups", "each", "saturation"])
    parser.add_argument("--models", nargs="*", default=["qSNAP", "NN-A1", "NN-B1"], help="of matrix and groups")
    parser.add_argument("--epochs", type=int, default=800)
    parser.add_argument("--keep", type=Path, help="folder that keeps the labels for the next run")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    de, em = (labelled(n, p, options.eam.resolve(), options.keep) for n, p in (("DE", options.de), ("EM", options.em)))
    if options.few:
        de, em = (d.take(range(0, len(d), max(1, len(d) // options.few))) for d in (de, em))
    sets = [sides("DE", de, de.ids), sides("EM", em, em.ids)]
    three = {
        "qSNAP": snap(6, quadratic=True),
        "NN-A1": net("A1", 6, options.epochs),
        "NN-B1": net("B1", 6, options.epochs),
    }
    chosen = {name: three[name] for name in options.models}
    many = {f"SNAP J={j}": snap(2 * j, quadratic=False) for j in (1, 2, 3, 4)}
    many |= {f"qSNAP J={j}": snap(2 * j, quadratic=True) for j in (1, 2, 3, 4)}
    many |= {f"NN-{s} J={j}": net(s, 2 * j, options.epochs) for s in ("A1", "B1") for j in (2, 3, 4)}
    parts = {
        "matrix": ("Train and test, meV/atom", lambda: matrix(sets, chosen)),
        "groups": ("DE split at random and by whole groups, meV/atom", lambda: groups(de, chosen)),
        "each": (
            "DE without one group at a time, meV/atom",
            lambda: one_group_out(de, {"SNAP": snap(6, quadratic=False), "qSNAP": three["qSNAP"]}),
        ),
        "saturation": ("Test RMSE over free parameters, meV/atom", lambda: saturation(sets, many)),
    }
    text = []
    for name in options.only:
        title, run = parts[name]
        say(f"\n## {title}")
        text += [f"## {title}", "", *run(), ""]
    if options.out:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
        machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
        head = ["# Transferability of tungsten potentials", "", (__doc__ or "").split("\nRun:")[0].strip(), ""]
        head += [f"Commit {commit.stdout.strip()}; {machine}; epochs {options.epochs} at most.", ""]
        options.out.write_text("\n".join(head + text))


if __name__ == "__main__":
    sys.exit(main())
