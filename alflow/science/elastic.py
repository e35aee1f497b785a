"""Elastic constants of cubic crystals from stress and strain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alflow.core.frames import Floats, Frames
from alflow.core.labels import Labels
from alflow.core.units import EV_A3_GPa
from alflow.errors import DataError
from alflow.science.cold_curve import Evaluator


@dataclass(frozen=True, slots=True)
class CubicElastic:
    """Elastic constants of a cubic crystal in GPa; NaN where the evaluator gave no stress."""

    C11_GPa: float
    C12_GPa: float
    C44_GPa: float

    @property
    def B_GPa(self) -> float:
        """Bulk modulus, (C11 + 2 C12) / 3."""
        return (self.C11_GPa + 2 * self.C12_GPa) / 3


def strained(frames: Frames, strains: Floats) -> Frames:
    """Each frame under its own homogeneous strain.

    Args:
        frames: n_frames structures, or one that is taken under every strain.
        strains: symmetric small strains, (n, 3, 3); lattice vectors and positions become x (1 + strain).
    """
    n = len(strains)
    base = frames.take(np.zeros(n, np.int64)) if len(frames) == 1 else frames
    if len(base) != n:
        raise DataError(f"strained: {len(base)} frames and {n} strains; expected one frame or as many")
    deform = np.eye(3) + strains
    positions = np.einsum("ax,axy->ay", base.positions, deform[base.frame_of_atom])
    return base.moved(positions, base.cell @ deform)


def elastic_frames(crystal: Frames, *, strain: float = 0.005, internal: bool = False) -> Frames:
    """What `elastic_of` needs labelled: strains ±xx and ±yz; with `internal` also ±yy and ± every displacement.

    Args:
        crystal: one frame at its equilibrium volume, cubic axes along x, y, z.
        strain: the size of a strain (xx; and yz = zy).
        internal: the strained crystal has internal degrees of freedom (diamond): adds 2 + 6 n_atoms frames.
    """
    modes = np.zeros((3, 2, 3, 3))
    modes[0, :, 0, 0] = modes[1, :, 1, 2] = modes[1, :, 2, 1] = modes[2, :, 1, 1] = strain, -strain
    if not internal:
        return strained(crystal, modes[:2].reshape(-1, 3, 3))
    n = crystal.n_atoms
    shift = _displacement(crystal, strain) * np.eye(3 * n).reshape(3 * n, n, 3)
    moved = crystal.take(np.zeros(6 * n, np.int64))
    both = np.concatenate([shift, -shift]).reshape(-1, 3)
    return Frames.concat([strained(crystal, modes.reshape(-1, 3, 3)), moved.moved(moved.positions + both)])


def elastic_cost(n_atoms: int, *, internal: bool = False) -> int:
    """How many frames `elastic_frames` makes."""
    return 6 + 6 * n_atoms if internal else 4


def elastic_of(crystal: Frames, labels: Labels, *, strain: float = 0.005, internal: bool = False) -> CubicElastic:
    """Elastic constants from the labels of `elastic_frames` with the same arguments.

    Central differences of the Cauchy stress, second order in `strain`. Internal relaxation is taken to the same order
    by linear response (Born and Huang, Dynamical Theory of Crystal Lattices, 1954, section 11): with force constants
    K = -dF/du and the forces L = dF/d(strain) that a clamped strain causes, C = C_clamped - L K^-1 L / V.
    """
    if labels.stress is None:
        return CubicElastic(np.nan, np.nan, np.nan)
    by_xx = (labels.stress[0] - labels.stress[1]) / (2 * strain)
    by_yz = (labels.stress[2] - labels.stress[3]) / (2 * strain)
    # a shear strain yz = zy = e is a Voigt strain of 2 e
    C = np.array([by_xx[0, 0], (by_xx[1, 1] + by_xx[2, 2]) / 2, by_yz[1, 2] / 2])
    if internal:
        C -= _relaxation(crystal, labels, strain)
    C11, C12, C44 = (float(c) for c in C * EV_A3_GPa)
    return CubicElastic(C11, C12, C44)


def elastic(evaluate: Evaluator, crystal: Frames, *, strain: float = 0.005, internal: bool = False) -> CubicElastic:
    """C11, C12 and C44 of a cubic crystal from one batched evaluation: see `elastic_frames` and `elastic_of`."""
    labels = evaluate(elastic_frames(crystal, strain=strain, internal=internal))
    return elastic_of(crystal, labels, strain=strain, internal=internal)


def _displacement(crystal: Frames, strain: float) -> float:
    """A displacement as small against a bond as the strain is against one."""
    return strain * float(np.cbrt(crystal.volumes[0] / crystal.n_atoms))


def _relaxation(crystal: Frames, labels: Labels, strain: float) -> Floats:
    """What internal relaxation takes off C11, C12 and C44, (3,), in eV per cubic angstrom."""
    n = 3 * crystal.n_atoms
    forces = labels.forces.reshape(-1, n)
    if not np.isfinite(forces).all():
        return np.full(3, np.nan)
    xx, yz, yy = (forces[0:6:2] - forces[1:6:2]) / (2 * strain)
    plus, minus = forces[6 : 6 + n], forces[6 + n :]
    constants = (minus - plus) / (2 * _displacement(crystal, strain))
    # a rigid translation costs nothing and must not be inverted: leave out its three directions exactly
    free = np.eye(n) - np.tile(np.eye(3), (n // 3, n // 3)) * (3 / n)
    relax = np.linalg.pinv(free @ (constants + constants.T) @ free / 2, rcond=1e-6, hermitian=True)
    gain: Floats = np.array([xx @ relax @ xx, xx @ relax @ yy, yz @ relax @ yz / 4]) / crystal.volumes[0]
    return gain
