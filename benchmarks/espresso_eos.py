"""Equation of state of fcc aluminium from the espresso labeler itself, against published values.

Energies of the primitive cell at eleven volumes, fitted with the third-order equation of Birch and Murnaghan (Phys.
Rev. 71, 809, 1947). The mesh of k-points is that of `--kspacing` at a0, for all volumes: where it gains a point between
two volumes, the energy has a step, and a curvature over six per cent of a0 feels it. `--free-mesh` shows by how much.
Expected with PBE and SSSP's pseudopotential: a0 4.039 ± 0.005 Å, B 78 ± 3 GPa.

Run: python benchmarks/espresso_eos.py --pseudo FOLDER/Al.upf --ecutwfc 30 --ecutrho 240
     python benchmarks/espresso_eos.py --family FOLDER        (with SSSP's list: its cutoffs)
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from alflow.core.frames import Frames
from alflow.core.units import EV_A3_GPa
from alflow.errors import AlflowError
from alflow.interfaces import Code
from alflow.labelers.espresso import Part

A0_A, A0_TOLERANCE_A = 4.039, 0.005
B_GPa, B_TOLERANCE_GPa = 78.0, 3.0
POINTS = 11


def fcc(a_A: float) -> Frames:
    """The primitive cell."""
    return Frames.single([13], [[0, 0, 0]], a_A / 2 * (np.ones((3, 3)) - np.eye(3)))


def birch_murnaghan(volumes: np.ndarray, energies: np.ndarray) -> tuple[float, float, float]:
    """Volume in Å³, bulk modulus in GPa and its pressure derivative at the minimum.

    E is a cubic polynomial in V^(-2/3), so the fit is linear; the rest follows by differentiation.
    """
    x = volumes ** (-2 / 3)
    scale = x.mean()
    fit = np.polynomial.Polynomial.fit(x / scale, energies, 3).convert()
    first, second, third = (fit.deriv(n) for n in (1, 2, 3))
    roots = [r.real for r in first.roots() if abs(r.imag) < 1e-9 and r.real > 0 and second(r.real) > 0]
    x0 = min(roots, key=lambda r: abs(r - 1)) * scale
    v0 = x0**-1.5
    # E(V) = f(x), x = V^(-2/3): E'' = f'' x'^2 + f' x'', and at the minimum f' = 0; likewise once more
    dx, ddx = -2 / 3 * v0 ** (-5 / 3), 10 / 9 * v0 ** (-8 / 3)
    f2, f3 = second(x0 / scale) / scale**2, third(x0 / scale) / scale**3
    e2, e3 = f2 * dx**2, f3 * dx**3 + 3 * f2 * dx * ddx
    return v0, v0 * e2 * EV_A3_GPa, -1 - v0 * e3 / e2


def labeler(args: argparse.Namespace) -> tuple[Part, Code]:
    settings = {} if args.family else {"pseudo_dir": str(args.pseudo.resolve().parent)}
    source = (
        {"family": str(args.family.resolve()), "elements": ("Al",)}
        if args.family
        else {"pseudopotentials": {"Al": args.pseudo.name}}
    )
    part = Part(
        **source,
        ecutwfc_Ry=args.ecutwfc,
        ecutrho_Ry=args.ecutrho,
        kspacing_per_A=args.kspacing,
        smearing="marzari-vanderbilt",
        degauss_Ry=0.02,
        conv_thr_Ry=1e-10,
    )
    env = {"OMP_NUM_THREADS": "1", "OMPI_MCA_ess_singleton_isolated": "1"}
    return part, Code("espresso", (args.command,), env=env, settings=settings)


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Lattice parameter, bulk modulus and how well energies and stresses agree on it."""
    part, code = labeler(args)
    if not args.free_mesh:
        part = replace(part, kspacing_per_A=None, kpoints=part.mesh(fcc(A0_A)))
    part.check(frozenset({"Al"}), code)
    edges = np.linspace(0.97, 1.03, POINTS) * A0_A
    frames = Frames.concat([fcc(a) for a in edges])
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        labels, verdicts = part.label(frames, code, Path(folder))
    if failed := [v.reason for v in verdicts if not v.ok]:
        sys.exit(f"{len(failed)} of {POINTS} labels failed: {failed[0]}")
    v0, bulk, slope = birch_murnaghan(frames.volumes, labels.energy)
    pressure = -np.trace(labels.stress, axis1=1, axis2=2) / 3 * EV_A3_GPa
    zero = np.interp(0.0, pressure[::-1], edges[::-1])
    by_stress = -v0 * np.polynomial.Polynomial.fit(frames.volumes, pressure, 3).deriv()(v0)
    theory = part.theory(code).settings
    return {
        "a0_A": (4 * v0) ** (1 / 3),
        "a0_of_zero_pressure_A": float(zero),
        "B_GPa": bulk,
        "B_of_stress_GPa": float(by_stress),
        "B_prime": slope,
        "ecutwfc_Ry": theory["ecutwfc_Ry"],
        "ecutrho_Ry": theory["ecutrho_Ry"],
        "k_mesh": part.mesh(fcc(A0_A))[0],
        "seconds": time.monotonic() - began,
    }


def main() -> int:
    args = _arguments()
    try:
        found = measure(args)
    except AlflowError as exc:
        sys.exit(str(exc))
    k = found["k_mesh"]
    print(f"fcc Al, primitive cell, {POINTS} volumes, {found['seconds']:.0f} s, {os.cpu_count()} cores (one used)")
    print(f"cutoffs {found['ecutwfc_Ry']:g} / {found['ecutrho_Ry']:g} Ry, k-points {k}x{k}x{k} at a0, ", end="")
    print(f"spacing {args.kspacing:g} 1/Å with 2 pi, Marzari-Vanderbilt 0.02 Ry\n")
    print("| quantity | here | expected |\n|---|---|---|")
    print(f"| a0, minimum of the energy | {found['a0_A']:.4f} Å | {A0_A:.3f} ± {A0_TOLERANCE_A:.3f} Å |")
    print(f"| a0, where the stress vanishes | {found['a0_of_zero_pressure_A']:.4f} Å | the same but for Pulay stress |")
    print(f"| bulk modulus | {found['B_GPa']:.2f} GPa | {B_GPa:.0f} ± {B_TOLERANCE_GPa:.0f} GPa |")
    print(f"| bulk modulus, from the stress | {found['B_of_stress_GPa']:.2f} GPa | the same |")
    print(f"| its pressure derivative | {found['B_prime']:.2f} | 4 to 5 |")
    good = abs(found["a0_A"] - A0_A) <= A0_TOLERANCE_A and abs(found["B_GPa"] - B_GPa) <= B_TOLERANCE_GPa
    return 0 if good else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--family", type=Path, help="folder of a family")
    source.add_argument("--pseudo", type=Path, help="UPF file of Al")
    parser.add_argument("--ecutwfc", type=float, help="Ry; a family may recommend it")
    parser.add_argument("--ecutrho", type=float, help="Ry")
    parser.add_argument("--kspacing", type=float, default=0.12, help="1/Å, 2 pi included")
    parser.add_argument("--free-mesh", action="store_true", help="let the mesh change with the volume")
    parser.add_argument("--command", default="pw.x")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
