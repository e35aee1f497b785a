"""Atom-steps per second of an ensemble of eight ANI-Al-sized nets: alflow against torchani, in one run.

Every step gives the forces of the mean of the members and the energy of each member, along a molecular dynamics
trajectory of aluminium (EMT, 900 K, 2 fs), so that positions change and neighbour lists age as they do in use.

    alflow      AniModel.predict_members: all cells of the batch in one call
    calculators eight torchani models as ASE calculators, one after the other, their forces averaged
    shared      torchani's Ensemble, one cell after the other: descriptors shared, forces of the mean by autograd
    shared+     the same with all cells in one call, its pairs taken from alflow's list with a skin; torchani's own
                lists take one periodic cell at a time

Run: python benchmarks/ensemble_md.py [--rounds 3] [--seconds 2] [--threads 2] [--device cuda] [--out FILE]
With one thread the time is processor time, which a busy machine hardly changes; with more, or on a GPU, that of the
clock. On a GPU all four run there, positions go there and forces come back in every step.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import time
from pathlib import Path
from statistics import median

os.environ.setdefault("TORCHANI_NO_WARN_EXTENSIONS", "1")

import numpy as np
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from torchani.aev import AEVComputer, ANIAngular, ANIRadial
from torchani.arch import ANI
from torchani.nn import ANINetworks, AtomicNetwork, Ensemble
from torchani.sae import SelfEnergy

from alflow.core.frames import Frames
from alflow.numerics.aev import AevSettings
from alflow.numerics.neighbors import NeighborCache
from alflow.potentials._ani_model import AniModel, Members

MEMBERS, SHIFT_eV = 8, -3.0
SIZES, BATCHES = (55, 108, 250), (1, 8, 32)
METHODS = ("alflow", "calculators", "shared", "shared+")


def cell_of(n: int) -> Atoms:
    """Solid aluminium: primitive or cubic cells, at least 7 Å high; 55 has one interstitial."""
    if n == 108:
        return bulk("Al", cubic=True, a=4.05) * (3, 3, 3)
    atoms = bulk("Al", a=4.05) * ((3, 3, 6) if n == 55 else (5, 5, 10))
    if n == 55:
        atoms += Atoms("Al", [np.array([0.5 / 3, 0.5 / 3, 0.5 / 6]) @ atoms.cell[:]])
    assert len(atoms) == n
    return atoms


def trajectory(n: int, steps: int) -> list[np.ndarray]:
    """Positions of successive steps."""
    atoms, rng = cell_of(n), np.random.default_rng(n)
    atoms.calc = EMT()
    MaxwellBoltzmannDistribution(atoms, temperature_K=1800, rng=rng)
    md = Langevin(atoms, 2 * units.fs, temperature_K=900, friction=0.01 / units.fs, rng=rng)
    md.run(100)
    out = []
    for _ in range(steps):
        md.run(1)
        out.append(atoms.get_positions())
    return out


def batches(n: int, cells: int, steps: int = 40) -> list[Frames]:
    """`cells` copies of one trajectory, each some steps ahead of the last."""
    path = trajectory(n, steps + 2 * cells)
    start = cell_of(n)
    frames = [Frames.single(start.numbers, x, start.cell[:]) for x in path]
    return [Frames.concat([frames[s + 2 * c] for c in range(cells)]) for s in range(steps)]


def random_members() -> Members:
    """Nets of ANI-Al's shape; their weights do not matter for the speed, only that all use the same."""
    settings, rng = AevSettings.spaced((13,)), np.random.default_rng(0)
    empty = Members(settings, (96, 96, 64), tuple(range(MEMBERS)), torch.zeros(0), torch.zeros(0))
    weights = torch.stack([empty.shape.initial(rng).float()[None] for _ in range(MEMBERS)])
    return Members(settings, empty.hidden, empty.numbers, weights, torch.full((MEMBERS, 1), SHIFT_eV).double())


def torchani_model(members: Members, pick: range) -> ANI:
    """The members `pick` in torchani."""
    s, nets = members.settings, []
    for m in pick:
        net = AtomicNetwork((s.n_features, *members.hidden, 1), activation=torch.nn.CELU(0.1), bias=True)
        linear = [part for part in net.modules() if isinstance(part, torch.nn.Linear)]
        for layer, (w, b) in zip(linear, members.shape.views(members.weights[m, 0]), strict=True):
            layer.weight.data, layer.bias.data = w.clone(), b.clone()
        nets.append(ANINetworks({"Al": net}))
    computer = AEVComputer(
        ANIRadial(s.eta_r, s.shifts_r_A, s.radial_cutoff_A),
        ANIAngular(s.eta_a, s.zeta, s.shifts_a_A, s.angles_rad, s.angular_cutoff_A),
        1,
        neighborlist="adaptive",  # all pairs for small cells, a cell list for large ones
    )
    return ANI(("Al",), computer, Ensemble(nets) if len(nets) > 1 else nets[0], SelfEnergy(("Al",), (SHIFT_eV,)))


class Alflow:
    """Ours."""

    def __init__(self, members: Members, device: str) -> None:
        self.model = AniModel(members, device=device)

    def __call__(self, frames: Frames) -> tuple[np.ndarray, np.ndarray]:
        found = self.model.predict_members(frames, forces=False)
        return found.energy, found.mean.forces


class Calculators:
    """Eight ASE calculators."""

    def __init__(self, members: Members, device: str) -> None:
        self.calculators = [torchani_model(members, range(m, m + 1)).to(device).ase() for m in range(MEMBERS)]

    def __call__(self, frames: Frames) -> tuple[np.ndarray, np.ndarray]:
        energy, forces = np.zeros((MEMBERS, len(frames))), []
        for i, frame in enumerate(frames):
            atoms, mean = Atoms(frame.numbers, frame.positions, cell=frame.cell[0], pbc=True), 0.0
            for m, calculator in enumerate(self.calculators):
                atoms.calc = calculator
                mean = mean + atoms.get_forces() / MEMBERS
                energy[m, i] = atoms.get_potential_energy()
            forces.append(mean)
        return energy / units.Hartree, np.concatenate(forces) / units.Hartree


class Shared:
    """torchani's Ensemble, a cell at a time."""

    def __init__(self, members: Members, device: str) -> None:
        self.model, self.device = torchani_model(members, range(MEMBERS)).to(device), device

    def __call__(self, frames: Frames) -> tuple[np.ndarray, np.ndarray]:
        energy, forces = np.zeros((MEMBERS, len(frames))), []
        for i, frame in enumerate(frames):
            x = self.there(frame.positions).float()[None].requires_grad_()
            species, cell = self.there(frame.numbers)[None], self.there(frame.cell[0]).float()
            e = self.model((species, x), cell, self.there(np.ones(3, np.bool_)), ensemble_values=True).energies
            forces.append(-torch.autograd.grad(e.mean(), x)[0][0].cpu().numpy())
            energy[:, i] = e.detach()[:, 0].cpu().numpy()
        return energy, np.concatenate(forces)

    def there(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)


class SharedBatch(Shared):
    """torchani's Ensemble, all cells in one call, fed with our pairs."""

    def __init__(self, members: Members, device: str) -> None:
        super().__init__(members, device)
        self.cache = NeighborCache(members.settings.radial_cutoff_A, 0.8)

    def __call__(self, frames: Frames) -> tuple[np.ndarray, np.ndarray]:
        pairs = self.cache.update(frames)
        half = np.flatnonzero(np.arange(pairs.n_pairs) < pairs.reverse)
        i, j = pairs.i[half].astype(np.int64), pairs.j[half].astype(np.int64)
        shift = np.einsum("pa,pab->pb", pairs.shift[half], frames.cell[frames.frame_of_atom[i]])
        x = self.there(frames.positions).float()[None].requires_grad_()
        e = self.model.compute_from_external_neighbors(
            self.there(frames.numbers)[None],
            x,
            self.there(np.stack([j, i])),
            self.there(shift).float(),
            atomic=True,
            ensemble_values=True,
        ).energies[:, 0]
        forces = -torch.autograd.grad(e.mean(0).sum(), x)[0][0].cpu().numpy()
        return np.add.reduceat(e.detach().double().cpu().numpy(), frames.offsets[:-1], axis=1), forces


def agree(methods: dict[str, object], frames: Frames) -> float:
    """Largest difference of a member's energy from ours, in eV/atom; forces must agree too."""
    energy, forces = methods["alflow"](frames)
    worst = 0.0
    for name in METHODS[1:]:
        other, other_forces = methods[name](frames)
        worst = max(worst, float(np.abs((other - energy) / frames.sizes).max()))
        assert np.allclose(other_forces, forces, atol=5e-4 * np.abs(forces).max()), name
    assert worst < 2e-6, worst
    return worst


def speed(method, steps: list[Frames], seconds: float) -> float:
    """Atom-steps per second over at least two steps and `seconds`, going through the trajectory."""
    alone = torch.get_num_threads() == 1 and not torch.cuda.is_initialized()
    clock = time.process_time if alone else time.perf_counter
    count, begin = 0, clock()
    while count < 2 or clock() - begin < seconds:
        method(steps[count % len(steps)])
        count += 1
    return count * steps[0].n_atoms / (clock() - begin)


def measure(members: Members, n: int, cells: int, args: argparse.Namespace) -> dict[str, float]:
    """Medians over rounds that take turns, and the medians of the ratios within a round."""
    methods = {
        "alflow": Alflow(members, args.device),
        "calculators": Calculators(members, args.device),
        "shared": Shared(members, args.device),
        "shared+": SharedBatch(members, args.device),
    }
    steps = batches(n, cells)
    # a method that takes one cell after another has the same speed in a batch of any size: two cells are enough
    few = [frames.take(range(min(cells, 2))) for frames in steps]
    for method in methods.values():
        method(steps[0] if method in (methods["alflow"], methods["shared+"]) else few[0])
    out = {"difference_ueV_atom": 1e6 * agree(methods, few[0])}
    taken = []
    for _ in range(args.rounds):
        whole = {m: speed(methods[m], steps, args.seconds) for m in ("alflow", "shared+")}
        taken.append(whole | {m: speed(methods[m], few, args.seconds) for m in ("calculators", "shared")})
    out |= {m: median(t[m] for t in taken) for m in METHODS}
    return out | {f"x {m}": median(t["alflow"] / t[m] for t in taken) for m in METHODS[1:]}


def machine(device: str) -> str:
    """The processor, what else runs on it, and the GPU."""
    names = [
        x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")
    ]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], check=False, capture_output=True, text=True
    ).stdout.strip()
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    gpu = f"{torch.cuda.get_device_name(device)}; " if device.startswith("cuda") else ""
    return gpu + (
        f"{names[0]}, {len(names)} cores; {torch.get_num_threads()} threads; load {load}; {versions}; commit {commit}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--atoms", type=int, nargs="+", default=list(SIZES), help="in a cell")
    parser.add_argument("--cells", type=int, nargs="+", default=list(BATCHES), help="in a batch")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    members = random_members()
    head = ["atoms", "cells", *METHODS, *(f"x {m}" for m in METHODS[1:]), "difference"]
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    begun = machine(args.device)
    print(begun, *lines, sep="\n")
    for n in args.atoms:
        for cells in args.cells:
            r = measure(members, n, cells, args)
            row = [str(n), str(cells), *(f"{r[m]:,.0f}" for m in METHODS), *(f"{r[f'x {m}']:.1f}" for m in METHODS[1:])]
            lines.append(" | ".join([*row, f"{r['difference_ueV_atom']:.2f} µeV/atom"]))
            print(lines[-1], flush=True)
    if args.out:
        report(args, begun, lines)


def report(args: argparse.Namespace, begun: str, lines: list[str]) -> None:
    """Write the table with what it takes to repeat it."""
    command = (
        f"python benchmarks/ensemble_md.py --threads {args.threads} --rounds {args.rounds} --seconds {args.seconds:g}"
    )
    title = f"{args.threads} threads: time of the clock"
    if args.device.startswith("cuda"):
        title = f"{torch.cuda.get_device_name(args.device)}: time of the clock"
        command += f" --device {args.device}"
    elif args.threads == 1:
        title = "1 thread: processor time of one thread"
    for name, given, usual in (("atoms", args.atoms, SIZES), ("cells", args.cells, BATCHES)):
        if tuple(given) != usual:
            command += f" --{name} {' '.join(map(str, given))}"
    text = [
        f"## {title}",
        "",
        f"`{command}`",
        "",
        f"At the start: {begun}. At the end: load {', '.join(f'{x:.1f}' for x in os.getloadavg())}.",
        f"Medians of {args.rounds} rounds in which the methods take turns; ratios are medians of those in a round.",
        "",
        *(f"| {x} |" for x in lines),
        "",
    ]
    with args.out.open("a") as f:
        f.write("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
