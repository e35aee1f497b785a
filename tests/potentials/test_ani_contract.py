from typing import ClassVar

import pytest

from alflow.potentials.ani import Part
from alflow.store.dataset import Dataset
from alflow.testing.morse import morse_dataset
from alflow.testing.potential_contract import PotentialContract

SMALL = {
    "radial_cutoff_A": 5.0,
    "angular_cutoff_A": 4.0,
    "n_radial": 8,
    "n_angular": 3,
    "n_angles": 4,
    "hidden": (16, 12),
    "batch": 4,
    "lr": 5e-3,
    "patience": 10,
    "max_epochs": 40,
    "device": "cpu",
}


class TestAni(PotentialContract):
    part: ClassVar[Part] = Part(**SMALL, members=3)


class TestTwoElementsWithStressAndWithoutRoomForJacobians(PotentialContract):
    part: ClassVar[Part] = Part(
        **{**SMALL, "max_epochs": 10, "lr": 2e-2},
        schedule="cosine",
        members=2,
        elements=("Cu", "Al"),
        stress_weight=0.3,
        cache_GB=1e-5,
    )

    @pytest.fixture(scope="class")
    @classmethod
    def data(cls) -> Dataset:
        return morse_dataset(14, 5, (3, 7), (13, 29))


class TestLargeFramesWithSparseJacobiansAndStress(PotentialContract):
    part: ClassVar[Part] = Part(**{**SMALL, "max_epochs": 20, "lr": 1e-2}, members=2, stress_weight=0.3)

    @pytest.fixture(scope="class")
    @classmethod
    def data(cls) -> Dataset:
        return morse_dataset(12, 5, (24, 28))
