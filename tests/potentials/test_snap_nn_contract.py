from typing import ClassVar

import pytest

from alflow.potentials.snap_nn import Part
from alflow.store.dataset import Dataset
from alflow.testing.morse import morse_dataset
from alflow.testing.potential_contract import PotentialContract

SMALL = {"twojmax": 4, "cutoff_A": 4.5, "force_weight_A": 0.5, "batch": 4, "lr": 5e-2, "patience": 10, "max_epochs": 25}


class TestStepDown(PotentialContract):
    part: ClassVar[Part] = Part(**SMALL, architecture="A1")
    same: ClassVar[float] = 1e-9
    tolerance: ClassVar[float] = 1e-5


class TestAnEnsembleOfThem(PotentialContract):
    part: ClassVar[Part] = Part(**SMALL, architecture="A1", members=3, activation="tanh")
    same: ClassVar[float] = 1e-9
    tolerance: ClassVar[float] = 1e-5


class TestTwoElementsExpandThenContractWithStressAndWithoutRoomForJacobians(PotentialContract):
    part: ClassVar[Part] = Part(
        **{**SMALL, "max_epochs": 16},
        architecture="B1",
        members=2,
        elements=("Cu", "Al"),
        radii={"Al": 0.5, "Cu": 0.45},
        weights={"Al": 1.0, "Cu": 0.8},
        stress_weight=0.3,
        cache_GB=1e-5,
    )
    same: ClassVar[float] = 1e-9
    tolerance: ClassVar[float] = 1e-5

    @pytest.fixture(scope="class")
    @classmethod
    def data(cls) -> Dataset:
        return morse_dataset(14, 5, (3, 7), (13, 29))
