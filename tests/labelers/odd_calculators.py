"""ASE calculators that do what calculators should not; the tests of the ase_calculator labeler name them."""

# ruff: noqa: RUF012, T201 -- ase wants class attributes; calculators print
import os
import signal
import sys
import time

import numpy as np
from ase.calculators.calculator import (
    Calculator,
    CalculatorSetupError,
    FileIOCalculator,
    SCFError,
    all_changes,
)
from ase.calculators.emt import EMT


class Odd(Calculator):
    """Does what `how` says to frames with an even number of atoms; energy and forces of the others are EMT's."""

    implemented_properties = ["energy", "forces", "stress"]
    default_parameters = {"how": "", "limit": 1.5}

    def calculate(self, atoms=None, properties=(), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        print("calculating", len(atoms), "atoms in", os.getcwd())
        other = atoms.copy()
        other.calc = EMT()
        self.results = {"energy": other.get_potential_energy(), "forces": other.get_forces()}
        self.results["stress"] = other.get_stress() if atoms.pbc.all() else np.zeros(6)
        if len(atoms) % 2 == 0:
            getattr(self, self.parameters["how"])(atoms)

    def segfault(self, atoms):
        os.kill(os.getpid(), signal.SIGSEGV)

    def out_of_memory(self, atoms):
        os.kill(os.getpid(), signal.SIGKILL)

    def ended_from_outside(self, atoms):
        os.kill(os.getpid(), signal.SIGTERM)

    def memory_error(self, atoms):
        np.zeros((2**50,), np.float64)

    def loop(self, atoms):
        while True:
            time.sleep(0.01)

    def leave(self, atoms):
        sys.exit(3)

    def hard_leave(self, atoms):
        os._exit(4)

    def nan(self, atoms):
        self.results["forces"][0, 1] = np.nan

    def flat(self, atoms):
        self.results["forces"] = np.zeros(3)

    def no_stress(self, atoms):
        del self.results["stress"]

    def unconverged(self, atoms):
        raise SCFError("no convergence in 60 steps")

    def own_error(self, atoms):
        raise KohnShamConvergenceError("still no convergence")

    def unfit(self, atoms):
        raise CalculatorSetupError("too few atoms")

    def bug(self, atoms):
        raise KeyError("density")

    def moves(self, atoms):
        atoms.positions[0] += 0.1

    def wanders(self, atoms):
        os.chdir("/")

    def full(self, atoms):
        raise OSError(28, "No space left on device")


class KohnShamConvergenceError(Exception):
    pass


class Remembers(Calculator):
    """Its energy is the number of frames it has seen."""

    implemented_properties = ["energy", "forces"]
    seen = 0

    def calculate(self, atoms=None, properties=(), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.seen += 1
        self.results = {"energy": float(self.seen), "forces": np.zeros((len(atoms), 3))}


class Smeared(Calculator):
    """A calculator with two energies."""

    implemented_properties = ["energy", "free_energy", "forces"]

    def calculate(self, atoms=None, properties=(), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        magmoms = float(abs(atoms.get_initial_magnetic_moments()).sum())
        self.results = {"energy": -1.0, "free_energy": -1.5 - magmoms, "forces": np.zeros((len(atoms), 3))}


class Program(FileIOCalculator):
    """Runs a command that writes an energy into a file."""

    implemented_properties = ["energy", "forces"]
    default_parameters = {"tasks": 1}

    def read_results(self):
        with open(os.path.join(self.directory, "energy.txt")) as f:
            self.results = {"energy": float(f.read()), "forces": np.zeros((len(self.atoms), 3))}


class CannotBeMade(Calculator):
    implemented_properties = ["energy", "forces"]

    def __init__(self, **kwargs):
        raise RuntimeError("needs a licence")


class EnergyOnly(Calculator):
    implemented_properties = ["energy"]


def factory():
    return EMT()
