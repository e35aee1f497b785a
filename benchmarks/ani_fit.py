"""Seconds per epoch of fitting eight ANI-Al-sized nets to energies and forces: alflow against torchani, in one run.

An epoch of one net is what its split asks for: 13/16 of the frames in batches with an update each (loss of energy and
forces), and the errors of 2/16, forces included.

    alflow      `potentials/ani`: all eight nets over one set of Jacobians, made once before the first epoch
    frames      torchani, one net, one frame after the other, its own periodic neighbour lists: its usual interface
    batched     torchani, one net, several frames in one call, fed with pairs that were listed before the first epoch

torchani gets its weight gradients by differentiating its forces again. Peers are timed on some of the frames and
scaled by atoms: their cost is linear. Losses and gradients of all three are compared before anything is timed.

Run: python benchmarks/ani_fit.py [--cells 96] [--batch 16] [--epochs 3] [--device cuda] [--out FILE]
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median

os.environ.setdefault("TORCHANI_NO_WARN_EXTENSIONS", "1")

import numpy as np
import torch
from ase.build import bulk
from torchani.aev import AEVComputer, ANIAngular, ANIRadial
from torchani.arch import ANI
from torchani.nn import ANINetworks, AtomicNetwork
from torchani.sae import SelfEnergy

from alflow.core.frames import Frames
from alflow.numerics.neighbors import neighbor_list
from alflow.numerics.splits import split
from alflow.potentials._ani_data import Descriptors
from alflow.potentials._nets import Shape
from alflow.potentials._nets_data import Targets, Weights
from alflow.potentials._nets_fit import folded
from alflow.potentials._nets_passes import Net, Problem
from alflow.potentials._nets_state import Member, Progress, Schedule
from alflow.potentials._nets_trainer import Trainer, one_thread_an_operation
from alflow.potentials.ani import Part
from alflow.store.dataset import Dataset
from alflow.testing.morse import THEORY, morse_labels

MEMBERS, THREADS, SEED = 8, 2, 0
LOSS = Weights(1.0, 0.5, 0.0)
TOGETHER = 4
"""Frames in one call of torchani: more was slower and wants gigabytes."""


def dataset(count: int) -> Dataset:
    """Strained and rattled fcc cells of 54 to 108 atoms, labelled with a Morse potential."""
    rng, frames = np.random.default_rng(SEED), []
    shapes = [((3, 3, 6), False), ((4, 4, 4), False), ((4, 4, 5), False), ((3, 3, 3), True)]
    for k in range(count):
        repeat, cubic = shapes[k % len(shapes)]
        atoms = bulk("Al", a=4.05, cubic=cubic) * repeat
        strain = np.eye(3) + 0.04 * rng.normal(size=(3, 3))
        x = atoms.positions @ strain + rng.normal(0, 0.25, atoms.positions.shape)
        frames.append(Frames.single(atoms.numbers, x, atoms.cell[:] @ strain))
    joined = Frames.concat(frames)
    return Dataset(joined, morse_labels(joined), THEORY)


class Ours:
    """The trainer, taken apart so that set-up and epochs are timed by themselves."""

    def __init__(self, data: Dataset, batch: int, device: str) -> None:
        part = Part(members=MEMBERS)
        settings = part.descriptors(data.frames.numbers)
        Descriptors(settings, data.frames.take([0]), 1e9, strains=False, device=device)  # compile
        begin = time.perf_counter()
        self.descriptors = Descriptors(settings, data.frames, 64e9, strains=False, device=device)
        self.setup_s = time.perf_counter() - begin
        targets = Targets.of(
            data.frames, data.labels, settings.species, settings.species_index(data.frames.numbers), LOSS
        )
        self.problem = Problem(self.descriptors, targets, LOSS, Shape((settings.n_features, *part.hidden, 1)))
        rng = np.random.default_rng(SEED)
        nets = [self.problem.shape.initial(rng).float().to(device) for _ in range(MEMBERS)]
        self.members = [Member(k, w, 1e-3) for k, w in enumerate(nets)]
        self.splits = {k: split(data.ids, k) for k in range(MEMBERS)}
        self.batch = batch

    def epoch_s(self) -> float:
        """Seconds of one epoch of all members."""
        with tempfile.TemporaryDirectory() as folder, one_thread_an_operation() as threads:
            for m in self.members:
                m.running, m.epochs = True, 0
            schedule = Schedule("plateau", self.batch, 100, 1e-9, 1, None, 1e9)
            trainer = Trainer(self.problem, self.splits, schedule, SEED, Path(folder) / "none", "", threads)
            begin = time.perf_counter()
            trainer.run(Progress(self.members), lambda: False)
            if self.problem.device.type == "cuda":
                torch.cuda.synchronize()
            return time.perf_counter() - begin

    def loss_and_gradient(self, pick: np.ndarray) -> tuple[float, torch.Tensor]:
        """Of member 0, in eV^2; the gradient is that of the last layer."""
        flat = self.members[0].weights
        net = Net(0, flat, np.ones(len(self.problem.frames), np.bool_), 1 / len(pick), torch.zeros_like(flat))
        sums = self.problem.visit([net], pick)
        scale = self.problem.targets.scale
        last = self.problem.shape.views(net.gradient)[-1][0][0]
        return float(sums.loss[0]) / len(pick) * scale**2, last.cpu() * scale


class Peer:
    """One net in torchani with the weights that member 0 has at the start."""

    def __init__(self, ours: Ours, data: Dataset) -> None:
        s = ours.descriptors.settings
        weights, shift = folded(ours.members[0].weights, ours.problem)
        net = AtomicNetwork(ours.problem.shape.widths, activation=torch.nn.CELU(0.1), bias=True)
        self.linear = [part for part in net.modules() if isinstance(part, torch.nn.Linear)]
        for layer, (w, b) in zip(self.linear, ours.problem.shape.views(weights[0].float()), strict=True):
            layer.weight.data, layer.bias.data = w.clone(), b.clone()
        computer = AEVComputer(
            ANIRadial(s.eta_r, s.shifts_r_A, s.radial_cutoff_A),
            ANIAngular(s.eta_a, s.zeta, s.shifts_a_A, s.angles_rad, s.angular_cutoff_A),
            1,
            neighborlist="adaptive",
        )
        self.device = ours.problem.device
        model = ANI(("Al",), computer, ANINetworks({"Al": net}), SelfEnergy(("Al",), (float(shift[0]),)))
        self.model = model.to(self.device)
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        self.data = data

    def loss(self, pick: np.ndarray, create_graph: bool = True) -> torch.Tensor:
        """Sum over the frames `pick` of equation 1 per atom, in eV^2."""
        raise NotImplementedError

    def calls(self, pick: np.ndarray) -> list[np.ndarray]:
        """Which frames go into one call."""
        raise NotImplementedError

    def seconds_per_atom(self, pick: np.ndarray) -> tuple[float, float]:
        """Of training and of validation."""
        atoms = self.data.frames.sizes[pick].sum()
        begin = time.perf_counter()
        self.optimiser.zero_grad()
        for part in self.calls(pick):
            (self.loss(part) / len(pick)).backward()
        self.optimiser.step()
        self.wait()
        train = time.perf_counter() - begin
        begin = time.perf_counter()
        for part in self.calls(pick):
            self.loss(part, create_graph=False)
        self.wait()
        return train / atoms, (time.perf_counter() - begin) / atoms

    def wait(self) -> None:
        """Until a GPU has done what it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def there(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)

    def sums(self, energy: torch.Tensor, forces: torch.Tensor, pick: np.ndarray) -> torch.Tensor:
        """The loss from energies (n,) and forces (n_atoms, 3) of the frames `pick`."""
        frames = self.data.frames.take(pick)
        labels = self.data.labels.take(self.data.frames, pick)
        owner, size = self.there(frames.frame_of_atom), self.there(frames.sizes)
        square = (forces - self.there(labels.forces).float()).square().sum(1)
        of_forces = torch.zeros(len(pick), device=self.device).index_add(0, owner, square)
        of_energy = (energy - self.there(labels.energy)).square()
        return ((LOSS.energy**2 * of_energy + LOSS.force_A**2 * of_forces) / size).sum()


class OneByOne(Peer):
    """The usual interface."""

    def calls(self, pick: np.ndarray) -> list[np.ndarray]:
        return [np.array([i]) for i in pick]

    def loss(self, pick: np.ndarray, create_graph: bool = True) -> torch.Tensor:
        frame = self.data.frames[int(pick[0])]
        x = self.there(frame.positions).float()[None].requires_grad_()
        cell, periodic = self.there(frame.cell[0]).float(), self.there(np.ones(3, np.bool_))
        energy = self.model((self.there(frame.numbers)[None], x), cell, periodic).energies
        (grad,) = torch.autograd.grad(energy.sum(), x, create_graph=create_graph)
        return self.sums(energy, -grad[0], pick)


class Batched(Peer):
    """Several frames in one call, pairs given."""

    def __init__(self, ours: Ours, data: Dataset) -> None:
        super().__init__(ours, data)
        self.kept: dict[tuple[int, ...], tuple[torch.Tensor, ...]] = {}

    def calls(self, pick: np.ndarray) -> list[np.ndarray]:
        return [pick[i : i + TOGETHER] for i in range(0, len(pick), TOGETHER)]

    def inputs(self, pick: np.ndarray) -> tuple[torch.Tensor, ...]:
        """Numbers, positions, pairs, shifts and owners."""
        key = tuple(int(i) for i in pick)
        if key not in self.kept:
            frames = self.data.frames.take(pick)
            pairs = neighbor_list(frames, 7.0)
            half = np.flatnonzero(np.arange(pairs.n_pairs) < pairs.reverse)
            i, j = pairs.i[half].astype(np.int64), pairs.j[half].astype(np.int64)
            shift = np.einsum("pa,pab->pb", pairs.shift[half], frames.cell[frames.frame_of_atom[i]])
            self.kept[key] = (
                self.there(frames.numbers)[None],
                self.there(frames.positions).float()[None],
                self.there(np.stack([j, i])),
                self.there(shift).float(),
                self.there(frames.frame_of_atom),
            )
        return self.kept[key]

    def loss(self, pick: np.ndarray, create_graph: bool = True) -> torch.Tensor:
        numbers, x, pairs, shift, owner = self.inputs(pick)
        x = x.clone().requires_grad_()
        atomic = self.model.compute_from_external_neighbors(numbers, x, pairs, shift, atomic=True).energies[0]
        (grad,) = torch.autograd.grad(atomic.sum(), x, create_graph=create_graph)
        energy = torch.zeros(len(pick), dtype=torch.float64, device=self.device).index_add(0, owner, atomic.double())
        return self.sums(energy, -grad[0], pick)


def agree(ours: Ours, peers: list[Peer], pick: np.ndarray) -> float:
    """Largest relative difference of losses and of the gradient of the last layer."""
    loss, gradient = ours.loss_and_gradient(pick)
    worst = 0.0
    for peer in peers:
        peer.optimiser.zero_grad()
        total = 0.0
        for part in peer.calls(pick):
            one = peer.loss(part) / len(pick)
            one.backward()
            total += float(one.detach())
        theirs = peer.linear[-1].weight.grad[0].cpu()
        worst = max(worst, abs(total / loss - 1), float((theirs - gradient).abs().max() / gradient.abs().max()))
    assert worst < 1e-3, worst
    return worst


def machine(device: str) -> str:
    """The processor, what else runs on it, and the GPU."""
    cpu = [
        x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")
    ]
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    gpu = f"{torch.cuda.get_device_name(device)}; " if device.startswith("cuda") else ""
    return f"{gpu}{cpu[0]}, {len(cpu)} cores; {THREADS} threads; load {load}; {versions}; commit {asked.stdout.strip()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=96)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    begun, data = machine(args.device), dataset(args.cells)
    print(begun)
    n_atoms = data.frames.n_atoms
    ours = Ours(data, args.batch, args.device)
    peers = {"frames": OneByOne(ours, data), "batched": Batched(ours, data)}
    few = np.arange(8)
    worst = agree(ours, list(peers.values()), few)
    print(f"{args.cells} cells, {n_atoms} atoms; losses and gradients differ by {worst:.1e} at most")
    for peer in peers.values():
        peer.seconds_per_atom(few)  # warm up
    rounds = []
    for _ in range(args.epochs):
        taken = {"alflow": ours.epoch_s() / MEMBERS}
        for name, peer in peers.items():
            train, valid = peer.seconds_per_atom(few)
            taken[name] = n_atoms * (train * 13 / 16 + valid * 2 / 16)
        rounds.append(taken)
    figures = {name: median(r[name] for r in rounds) for name in rounds[0]}
    ratios = {name: median(r[name] / r["alflow"] for r in rounds) for name in figures}
    rows = [f"{name} | {s:.3f} | {ratios[name]:.1f}" for name, s in figures.items()]
    memory = ours.descriptors.nbytes / 1e9
    best = min(peers, key=figures.__getitem__)
    saved = MEMBERS * (figures[best] - figures["alflow"])
    note = (
        f"Set-up, once per fit for all nets: {ours.setup_s:.1f} s and {memory:.1f} GB of Jacobians for {n_atoms} "
        f"atoms. An epoch of eight nets saves {saved:.1f} s against `{best}`, so the set-up is paid back after "
        f"{ours.setup_s / saved:.2f} epochs. This holds while the Jacobians fit into memory."
    )
    head = ["method | s per epoch and net | x alflow", "--- | --- | ---"]
    print(*head, *rows, note, sep="\n")
    if args.out:
        options = f"--cells {args.cells} --batch {args.batch} --epochs {args.epochs}"
        options += f" --device {args.device}" * (args.device != "cpu")
        size = f"{args.cells} cells of 54 to 108 atoms, {n_atoms} atoms, batches of {args.batch} frames."
        text = [
            "# Fitting eight nets to energies and forces: seconds per epoch",
            "",
            f"`python benchmarks/ani_fit.py {options} --out {args.out}`",
            "",
            "\n\n".join(__doc__.split("\n\n")[1:4]),
            "",
            f"{size} Losses and gradients differ by {worst:.1e} at most.",
            f"At the start: {begun}. At the end: {machine(args.device)}.",
            f"Medians of {args.epochs} rounds in which the methods take turns.",
            "",
            *(f"| {row} |" for row in [*head, *rows]),
            "",
            note,
        ]
        args.out.write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
