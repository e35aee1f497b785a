"""The contract of all samplers, kept by annealing and by plain descent, with a model and without."""

import pytest

from alflow.interfaces import Guide
from alflow.samplers.entropy import Part
from alflow.testing.sampler_contract import SamplerContract

QUICK = {"anneal_steps": 10, "max_steps": 30, "cutoff_A": 4.0}


class TestAnnealing(SamplerContract):
    part = Part(**QUICK)


class TestDescent(SamplerContract):
    part = Part(method="minimize", keep="unknown", **QUICK)


class TestWithoutModel(SamplerContract):
    part = Part(**QUICK)

    @pytest.fixture
    def guide(self) -> Guide | None:
        return None


class TestAcrossTheBatch(SamplerContract):
    part = Part(across_batch=True, **QUICK)

    @pytest.fixture
    def guide(self) -> Guide | None:
        return None
