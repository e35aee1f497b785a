"""Many small systems advanced at once by torch-sim's integrator pieces, with any model and reproducible noise."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch

from alflow.core.frames import Floats, Frames, Ints
from alflow.core.labels import Labels
from alflow.core.units import KB_eV_K, U_A3_g_cm3
from alflow.engines.contacts import transformed
from alflow.numerics.neighbors import completed_cells

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # torch_sim compiles at import with torch.jit.script
    from torch_sim.integrators.md import MDState, momentum_step, position_step
    from torch_sim.models.interface import ModelInterface

Predict = Callable[[Frames], Labels]

TIME_fs: Final = float(1e-10 * np.sqrt(U_A3_g_cm3 * 1e-27 / 1.602176634e-19) / 1e-15)
"""The unit of time that goes with eV, angstrom and u: √(u Å²/eV), about 10.18 fs."""


class BatchModel(ModelInterface):  # type: ignore[misc]  # torch_sim ships no types
    """What numpy `Frames` in, `Labels` out looks like to torch-sim: float64 on the CPU.

    Systems keep their atoms and periodicity; only positions and cells are taken from the state.

    Args:
        predict: energy and forces of a batch.
        frames: the systems.
    """

    def __init__(self, predict: Predict, frames: Frames) -> None:
        super().__init__()
        self._device, self._dtype = torch.device("cpu"), torch.float64
        self._compute_stress, self._compute_forces = False, True
        self._predict = predict
        self.frames = frames

    def forward(self, state: Any, **_: Any) -> dict[str, torch.Tensor]:
        cell = np.ascontiguousarray(state.row_vector_cell.numpy())
        self.frames = self.frames.moved(state.positions.numpy(), cell)
        labels = self._predict(self.frames)
        return {"energy": _tensor(labels.energy), "forces": _tensor(labels.forces)}


class LangevinBatch:
    """Systems that move together, each with its own temperature and noise.

    A step is BAOAB (Leimkuhler & Matthews, Appl. Math. Res. Express 2013, 34), as in `torch_sim.nvt_langevin`, whose
    momentum and position steps it uses. The random numbers come from outside, so that a trajectory does not depend on
    its batch. A change of cell carries the atoms with it, in the middle of the step, and leaves momenta alone.
    Positions are never wrapped: neighbour lists with a skin then last longer.

    Args:
        frames: the systems.
        momenta: in √(u eV), (n_atoms, 3).
        masses_u: mass of each atom in u, (n_atoms,).
        predict: energy and forces; called once here and once a step.
        timestep_fs: time step in fs.
        friction_per_ps: friction of the thermostat in 1/ps; 0 for none.

    Attributes:
        frames: the systems as they are now.
        energy: potential energy in eV, (n_frames,).
        forces: in eV/angstrom, (n_atoms, 3).
        momenta: in √(u eV), (n_atoms, 3).
        rate: length of each system's next step of descent over its force, in Å²/eV, (n_frames,).
    """

    def __init__(
        self,
        frames: Frames,
        momenta: Floats,
        masses_u: Floats,
        predict: Predict,
        timestep_fs: float,
        friction_per_ps: float,
    ) -> None:
        self._predict = predict
        self._state: Any  # an MDState
        self._dt = timestep_fs / TIME_fs
        self._keep = float(np.exp(-friction_per_ps * timestep_fs / 1000))
        self.rate: Floats = np.full(len(frames), 0.01)
        self._adopt(frames, momenta, masses_u)
        self._set(self._model(self._state))

    @property
    def frames(self) -> Frames:
        return self._model.frames

    @property
    def energy(self) -> Floats:
        return np.asarray(self._state.energy.numpy(), np.float64)

    @property
    def forces(self) -> Floats:
        return np.asarray(self._state.forces.numpy(), np.float64)

    @property
    def momenta(self) -> Floats:
        return np.asarray(self._state.momenta.numpy(), np.float64)

    def temperatures_K(self) -> Floats:
        """Kinetic temperature of each system, 2 E_kin / (3 N k_B), (n_frames,)."""
        x, y, z = self.momenta.T  # columns: a sum over an axis of three is slow
        twice = (x * x + y * y + z * z) / self._masses
        T: Floats = np.add.reduceat(twice, self.frames.offsets[:-1]) / (3 * KB_eV_K * self.frames.sizes)
        return T

    def step(self, T_K: Floats, noise: Floats, cell: Floats | None = None) -> None:
        """One time step.

        Args:
            T_K: temperature of each system's thermostat, (n_frames,).
            noise: independent standard normal numbers, (n_atoms, 3).
            cell: the cells at its end, (n_frames, 3, 3); None to leave them.
        """
        half = self._dt / 2
        state = position_step(momentum_step(self._state, half), half)
        if self._keep < 1:
            kick = np.sqrt(KB_eV_K * T_K[self._owner] * (1 - self._keep**2) * self._masses)
            state.momenta = self._keep * state.momenta + _tensor(kick[:, None] * noise)
        if cell is not None:
            self._deform(state, cell)
        state = position_step(state, half)
        self._set(self._model(state))
        self._state = momentum_step(state, half)

    def descend(self, cap_A: float) -> None:
        """One step of steepest descent; no atom moves farther than `cap_A`. Momenta and time stand still.

        The step of each system grows while its energy falls and shrinks when it has risen.
        """
        size = np.sqrt(np.maximum.reduceat((self.forces**2).sum(axis=1), self.frames.offsets[:-1]))
        rate = np.minimum(self.rate, cap_A / np.maximum(size, 1e-12))
        before = self.energy
        self._state.positions = self._state.positions + _tensor(rate[self._owner, None] * self.forces)
        self._set(self._model(self._state))
        self.rate = np.where(self.energy < before, 1.2 * self.rate, 0.5 * rate)

    def take(self, keep: Ints) -> None:
        """Go on with the systems at `keep` only."""
        atoms = self.frames.atoms_of(keep)
        energy, forces, momenta = self.energy[keep], self.forces[atoms], self.momenta[atoms]
        self.rate = self.rate[keep]
        self._adopt(self.frames.take(keep), momenta, self._masses[atoms])
        self._set({"energy": _tensor(energy), "forces": _tensor(forces)})

    def _adopt(self, frames: Frames, momenta: Floats, masses_u: Floats) -> None:
        self._model = BatchModel(self._predict, frames)
        self._masses, self._owner = masses_u, frames.frame_of_atom
        self._state = MDState(
            positions=_tensor(frames.positions).clone(),
            momenta=_tensor(momenta),
            energy=torch.zeros(len(frames), dtype=torch.float64),
            forces=torch.zeros((frames.n_atoms, 3), dtype=torch.float64),
            masses=_tensor(masses_u),
            cell=_tensor(frames.cell).clone().mT,  # torch-sim keeps lattice vectors in columns
            pbc=False,  # so that positions are not wrapped; the model sees the frames' own periodicity
            system_idx=_tensor(self._owner),
            atomic_numbers=_tensor(frames.numbers),
        )

    def _set(self, said: dict[str, torch.Tensor]) -> None:
        self._state.energy, self._state.forces = said["energy"], said["forces"]

    def _deform(self, state: Any, cell: Floats) -> None:
        now = self.frames.moved(state.positions.numpy())
        state.positions = _tensor(transformed(now, np.asarray(np.linalg.solve(now.cell, cell), np.float64)))
        state.row_vector_cell = _tensor(cell)


def thermal_momenta(rng: np.random.Generator, masses_u: Floats, T_K: float) -> Floats:
    """Maxwell-Boltzmann momenta of one system in √(u eV), (n_atoms, 3); two atoms and more do not drift as a whole."""
    p: Floats = np.sqrt(masses_u * KB_eV_K * T_K)[:, None] * rng.standard_normal((len(masses_u), 3))
    if len(p) > 1:
        p -= masses_u[:, None] * (p.sum(axis=0) / masses_u.sum())
    return p


def wrapped(frames: Frames) -> Frames:
    """The same atoms, moved into the cell along periodic directions."""
    cell, _ = completed_cells(frames)
    owner = frames.frame_of_atom
    fraction = np.einsum("na,nab->nb", frames.positions, np.linalg.inv(cell)[owner])
    whole = np.floor(fraction) * frames.pbc[owner]
    return frames.moved(frames.positions - np.einsum("na,nab->nb", whole, cell[owner]))


def _tensor(values: Any) -> torch.Tensor:
    return torch.from_numpy(np.require(values, requirements=["C", "W"]))
