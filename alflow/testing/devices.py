"""Where torch can run here."""

from __future__ import annotations

from typing import Final

import pytest
import torch

DEVICES: Final = (
    "cpu:0",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
)
"""To parametrize tests with: ``cpu:0`` takes the way of a GPU on the CPU."""
