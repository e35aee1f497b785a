"""What a GPU brings to descriptors, nets and MaxVol: alflow on the GPU against alflow's compiled kernels, in one run.

    descriptors  bispectrum components of rattled bcc tungsten, 2J = 6 and 8
    forces       energies and forces of a linear potential on them
    dynamics     `SnapNnModel.predict_members` with forces of the mean, cells of 54 atoms in one call, on a trajectory
    grades       extrapolation grades of rows with 56 and 496 features

`ensemble_md.py --device cuda` and `ani_fit.py --device cuda` do the same for ANI nets, against torchani on the GPU.
The peer here is the processor of the same machine with as many threads as `--threads` says: LAMMPS's kernels for GPUs
need a build of their own. Every figure is checked against that of the kernels before it is timed.

Run: python benchmarks/gpu.py [--device cuda] [--threads N] [--seconds 1] [--only descriptors forces dynamics grades]
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
from ase.build import bulk

from alflow.core.frames import Frames
from alflow.numerics import bispectrum, bispectrum_torch
from alflow.numerics.bispectrum import BispectrumSettings
from alflow.numerics.geometry_torch import Geometry, tensors
from alflow.numerics.maxvol import ActiveSet, maxvol
from alflow.numerics.neighbors import neighbor_list
from alflow.numerics.threads import use_threads
from alflow.potentials._nets import Shape
from alflow.potentials._snap_nn_model import Members, SnapNnModel
from alflow.potentials.snap_nn import hidden_layers

CUTOFF_A = 4.73
ROW = "{:<11} {:<34} {:>14} {:>14} {:>7} {:>9}"


def settings_of(twojmax: int) -> BispectrumSettings:
    return BispectrumSettings((74,), twojmax, CUTOFF_A, (0.5,), (1.0,))


def tungsten(n: int, seed: int = 0) -> Frames:
    """About n atoms of rattled bcc tungsten in one cell."""
    atoms = bulk("W", cubic=True, a=3.165) * ((max(1, round((n / 2) ** (1 / 3))),) * 3)
    atoms.rattle(0.1, seed=seed)
    return Frames.single(atoms.numbers, atoms.positions, atoms.cell[:])


def rate(step: Callable[[], object], items: int, args: argparse.Namespace) -> float:
    """Items per second, after a call to warm up."""
    cuda = args.device.startswith("cuda")
    step()
    if cuda:
        torch.cuda.synchronize()
    count, begin = 0, time.perf_counter()
    while count < 2 or time.perf_counter() - begin < args.seconds:
        step()
        if cuda:
            torch.cuda.synchronize()
        count += 1
    return count * items / (time.perf_counter() - begin)


def say(
    args: argparse.Namespace, part: str, what: str, there: Callable, here: Callable, items: int, off: float
) -> None:
    """Time both and print a row; `off` is the largest difference, as a part of the largest value."""
    fast, slow = rate(there, items, args), rate(here, items, args)
    print(ROW.format(part, what, f"{fast:,.0f}", f"{slow:,.0f}", f"{fast / slow:.1f}", f"{off:.0e}"), flush=True)


def difference(have: torch.Tensor | np.ndarray, want: np.ndarray) -> float:
    have = have.detach().cpu().numpy() if isinstance(have, torch.Tensor) else have
    return float(np.abs(have - want).max() / np.abs(want).max())


def descriptors(args: argparse.Namespace, *, forces: bool) -> None:
    """Of one crystal; neighbours are listed before, and wait on the GPU."""
    for twojmax in (6, 8):
        settings = settings_of(twojmax)
        beta = np.random.default_rng(0).normal(size=settings.n_features)
        for n in args.atoms:
            frames = tungsten(n)
            pairs, g = neighbor_list(frames, CUTOFF_A + 0.3), np.tile(beta, (frames.n_atoms, 1))
            geometry = Geometry.of(settings, frames, pairs, args.device)
            b, slope, _ = bispectrum.evaluate(settings, frames, pairs, lambda _, g=g: g)
            for dtype, digits in ((torch.float64, 1e-9), (torch.float32, 1e-3)):
                x, cell = tensors(frames, torch.float64, args.device)
                weights = torch.as_tensor(beta, dtype=dtype, device=args.device)
                there = partial(on_device, weights, settings, geometry, x.requires_grad_(forces), cell, None, dtype)
                here = partial(bispectrum.features, settings, frames, pairs)
                if forces:
                    here = partial(bispectrum.evaluate, settings, frames, pairs, lambda _, g=g: g)
                off = difference(there(), slope if forces else b)
                assert off < digits, off
                what = f"2J={twojmax}, {frames.n_atoms} atoms, {str(dtype)[6:]}"
                say(args, "forces" if forces else "descriptors", what, there, here, frames.n_atoms, off)


def on_device(weights: torch.Tensor, *call: object) -> torch.Tensor:
    """Descriptors of the arguments `call`, or, if its positions want one, the gradient of their sum by `weights`."""
    found = bispectrum_torch.features(*call)
    return torch.autograd.grad((found @ weights).sum(), call[2])[0] if call[2].requires_grad else found


def dynamics(args: argparse.Namespace) -> None:
    """Steps of molecular dynamics: positions go to the GPU and forces come back; lists with a skin age."""
    for architecture, members in (("A1", 1), ("B1", 8)):
        settings, rng = settings_of(6), np.random.default_rng(0)
        hidden = hidden_layers(architecture)
        shape = Shape((settings.n_features, *hidden, 1), "softplus")
        weights = torch.from_numpy(rng.normal(0, 0.1, (members, 1, shape.count)))
        numbers = tuple(range(members))
        saved = Members(settings, hidden, numbers, weights, torch.zeros(members, 1).double(), "softplus")
        for cells in args.cells:
            start = Frames.concat([tungsten(54, seed) for seed in range(cells)])
            moves = np.cumsum(rng.normal(0, 0.01, (20, *start.positions.shape)), 0)
            path = [start.moved(start.positions + move) for move in moves]
            models = [SnapNnModel(saved, device) for device in (args.device, "cpu")]
            found = [model.predict_members(path[0], forces=False).mean.forces for model in models]
            off = difference(*found)
            assert off < 1e-9, off
            calls = [partial(step, model, cycle(path)) for model in models]
            say(args, "dynamics", f"NN-{architecture}, {members} nets, {cells} x 54 atoms", *calls, start.n_atoms, off)


def step(model: SnapNnModel, path: Iterator[Frames]) -> None:
    model.predict_members(next(path), forces=False)


def grades(args: argparse.Namespace) -> None:
    """Of rows in memory: they go to the GPU in blocks."""
    rng = np.random.default_rng(0)
    for features in (56, 496):
        rows = rng.normal(size=(200_000, features))
        rows[:, 0] = 1.0
        active: ActiveSet = maxvol(rows[: 20 * features])
        assert np.array_equal(active.source, maxvol(rows[: 20 * features], device=args.device).source)
        off = difference(active.grades(rows, args.device), active.grades(rows))
        calls = [partial(active.grades, rows, device) for device in (args.device, None)]
        say(args, "grades", f"{len(rows)} rows of {features}", *calls, len(rows), off)


def machine(device: str, threads: int) -> str:
    """The GPU, the processor and the versions."""
    gpu = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    text = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = [x.split(":")[1].strip() for x in text if x.startswith("model name")]
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], check=False, capture_output=True, text=True)
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{gpu}; {cpu[0]}, {threads} of {len(cpu)} cores; {versions}; commit {asked.stdout.strip()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--atoms", type=int, nargs="+", default=[250, 2000, 16000])
    parser.add_argument("--cells", type=int, nargs="+", default=[1, 8, 64, 512])
    parts = {
        "descriptors": lambda args: descriptors(args, forces=False),
        "forces": lambda args: descriptors(args, forces=True),
        "dynamics": dynamics,
        "grades": grades,
    }
    parser.add_argument("--only", nargs="+", choices=parts, default=list(parts))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    use_threads(args.threads)
    print(machine(args.device, args.threads))
    print(ROW.format("", "", "GPU, 1/s", "kernels, 1/s", "ratio", "differ"))
    for name in args.only:
        parts[name](args)
    if args.device.startswith("cuda"):
        print(f"most memory on the GPU: {torch.cuda.max_memory_allocated() / 1e9:.1f} GB")


if __name__ == "__main__":
    main()
