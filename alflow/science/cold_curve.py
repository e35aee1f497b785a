"""Cold curves: energy per atom of a perfect crystal over volume, and the minimum of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from alflow.core.frames import Floats, Frames
from alflow.core.labels import Labels
from alflow.core.units import EV_A3_GPa
from alflow.science.crystals import crystals, lattice_constant

Evaluator = Callable[[Frames], Labels]
"""What gives energies, forces and stress of a batch: ``model.predict``, or a labeler; NaN where it has none."""

_WINDOW = 5
"""Points around the lowest one that fix the minimum, and the fewest that can."""


@dataclass(frozen=True, slots=True)
class Minimum:
    """The minimum of a cold curve.

    Attributes:
        V0_A3: volume per atom in cubic angstrom.
        a0_A: lattice constant in angstrom.
        E0_eV_atom: energy in eV per atom.
        B_GPa: bulk modulus.
    """

    V0_A3: float
    a0_A: float
    E0_eV_atom: float
    B_GPa: float


@dataclass(frozen=True, slots=True, eq=False)
class ColdCurve:
    """Energy of one crystal over volume.

    Attributes:
        name: the structure.
        volumes: cubic angstrom per atom, rising, (n,).
        energies: eV per atom, (n,); NaN where the evaluator had none.
        minimum: where the curve is lowest, or None.
        problem: why there is no minimum; empty if there is one.
    """

    name: str
    volumes: Floats
    energies: Floats
    minimum: Minimum | None
    problem: str = ""


def volume_grid(low: float, high: float, points: int) -> Floats:
    """Volumes per atom from `low` to `high`, evenly spaced in length (the cube root of volume), (points,)."""
    return np.linspace(np.cbrt(low), np.cbrt(high), points) ** 3


def curve_frames(names: Sequence[str], number: int, volumes: Floats, min_atoms: int = 1) -> Frames:
    """The frames of many cold curves: all volumes of the first crystal, then of the next."""
    return Frames.concat([crystals(name, number, volumes, min_atoms=min_atoms) for name in names])


def curves_of(names: Sequence[str], volumes: Floats, frames: Frames, energy: Floats) -> dict[str, ColdCurve]:
    """Cold curves from total energies, (n_frames,), of the frames of `curve_frames`."""
    per_atom = (energy / frames.sizes).reshape(len(names), len(volumes))
    return {name: cold_curve(name, volumes, row) for name, row in zip(names, per_atom, strict=True)}


def cold_curves(
    evaluate: Evaluator, names: Sequence[str], number: int, volumes: Floats, min_atoms: int = 1
) -> dict[str, ColdCurve]:
    """Cold curves of many crystals from one batched evaluation.

    Args:
        evaluate: gives the energies.
        names: structures, see `crystals.STRUCTURES`.
        number: atomic number.
        volumes: cubic angstrom per atom, rising, (n,).
        min_atoms: supercells with at least so many atoms.
    """
    frames = curve_frames(names, number, volumes, min_atoms)
    return curves_of(names, volumes, frames, evaluate(frames).energy)


def cold_curve(name: str, volumes: Floats, energies: Floats) -> ColdCurve:
    """One curve and its minimum, or why it has none."""
    found = find_minimum(volumes, energies)
    if isinstance(found, str):
        return ColdCurve(name, volumes, energies, None, found)
    V0, E0, B = found
    return ColdCurve(name, volumes, energies, Minimum(V0, lattice_constant(name, V0), E0, B))


def find_minimum(volumes: Floats, energies: Floats) -> tuple[float, float, float] | str:
    """Volume, energy and bulk modulus (GPa) at the minimum, or why there is none.

    Fourth-order Birch-Murnaghan equation of state (Birch, Phys. Rev. 71, 809, 1947), a quartic in x = V^(-2/3) and
    so a linear problem, through the five points around the lowest one. A third-order one over more points is not
    enough: on a grid of 4 % in volume it makes the bulk modulus of an EAM aluminium 10 % too large.
    """
    good = np.isfinite(energies)
    V, E = volumes[good], energies[good]
    if len(V) < _WINDOW:
        return f"only {len(V)} of {len(volumes)} energies are known, a fit needs {_WINDOW}"
    low = int(np.argmin(E))
    if low in {0, len(V) - 1}:
        return f"still falling at the {'lower' if low == 0 else 'upper'} end of the range, {V[low]:.1f} Å³/atom"
    start = min(max(0, low - _WINDOW // 2), max(0, len(V) - _WINDOW))
    near = slice(start, start + _WINDOW)
    fit = np.polynomial.Polynomial.fit(V[near] ** (-2 / 3), E[near], _WINDOW - 1)
    # dE/dV = 0 where dE/dx = 0; between the neighbours of the lowest point only
    roots = np.array([r.real for r in fit.deriv().roots() if abs(r.imag) < 1e-9 and fit.deriv(2)(r.real) > 0])
    inside = [r for r in roots if V[low + 1] ** (-2 / 3) < r < V[low - 1] ** (-2 / 3)]
    if not inside:
        return f"too rough near {V[low]:.1f} Å³/atom: the fitted curve has no minimum there"
    x = float(inside[0])
    V0 = x**-1.5
    # B = V d2E/dV2 = V (dx/dV)^2 d2E/dx2 at the minimum, dx/dV = -2/3 V^(-5/3)
    return V0, float(fit(x)), float(4 / 9 * V0 ** (-7 / 3) * fit.deriv(2)(x)) * EV_A3_GPa


def order(curves: Mapping[str, ColdCurve]) -> tuple[str, ...]:
    """Names of the crystals that have a minimum, the lowest first."""
    minima = {name: c.minimum for name, c in curves.items()}
    found = [(m.E0_eV_atom, name) for name, m in minima.items() if m is not None]
    return tuple(name for _, name in sorted(found))
