"""`snap` keeps the contract of potentials: linear, quadratic, two elements, ensembles."""

import pytest

from alflow.potentials.snap import Part
from alflow.testing.morse import morse_dataset
from alflow.testing.potential_contract import PotentialContract

SMALL = {"twojmax": 4, "cutoff_A": 4.7, "energy_weight": 10.0, "batch_atoms": 6}


class SnapContract(PotentialContract):
    """Double precision throughout, and a pass of some ten batches; the fading of neighbours has kinks at the cutoff."""

    tolerance = 1e-4
    same = 1e-8
    halts = (4, 3)


class TestLinear(SnapContract):
    part = Part(twojmax=6, **{k: v for k, v in SMALL.items() if k != "twojmax"})


class TestQuadratic(SnapContract):
    part = Part(quadratic=True, ridge=1e-8, **SMALL)


class TestEnsembleOfTwoElements(SnapContract):
    part = Part(weights={"Al": 1.0, "Cu": 0.6}, radii={"Cu": 0.48}, stress_weight=1.0, members=3, **SMALL)

    @pytest.fixture(scope="class")
    @classmethod
    def data(cls):
        return morse_dataset(14, 5, (3, 7), (13, 29))


class TestWithRepulsion(SnapContract):
    part = Part(zbl_A=(2.0, 3.0), bzero=False, **SMALL)
