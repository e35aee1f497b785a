"""Where torch computes."""

from __future__ import annotations

import platform

from alflow.errors import InputError


def torch_device(wanted: str) -> str | None:
    """The device for `wanted`, one of ``auto``, ``cpu`` and ``cuda``; None for the CPU.

    Raises:
        InputError: ``cuda`` where torch sees no GPU. Only the machine that computes can tell.
    """
    if wanted == "cpu":
        return None
    import torch

    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise InputError(
            "device",
            f"cuda was asked for, but torch sees no GPU on {platform.node()}",
            "run the stage on a lane whose nodes have one, or write device: auto",
        )
    return "cuda" if there else None
