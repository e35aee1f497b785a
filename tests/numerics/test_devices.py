import pytest
import torch

from alflow.errors import InputError
from alflow.numerics.devices import torch_device

there = torch.cuda.is_available()


def test_what_is_there_is_taken():
    assert torch_device("cpu") is None
    assert torch_device("auto") == ("cuda" if there else None)


@pytest.mark.skipif(there, reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_a_wrong_setting_with_a_remedy():
    with pytest.raises(InputError, match="sees no GPU on") as caught:
        torch_device("cuda")
    assert caught.value.where == "device"
    assert "device: auto" in caught.value.hint


@pytest.mark.skipif(not there, reason="no GPU")
def test_a_gpu_that_is_there_can_be_asked_for():
    assert torch_device("cuda") == "cuda"
