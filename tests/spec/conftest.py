from __future__ import annotations

import importlib.util
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from alflow import registry

KINDS = {
    "potentials": {"basis": "Basis"},
    "uncertainty": {"grade_": "Grade", "spread_": "Spread"},
    "samplers": {"climb": "Climb"},
    "builders": {"resample_": "Resample", "cells": "Cells"},
    "selectors": {"maxvol_": "MaxVol", "any": "Any"},
    "labelers": {"dft": "Dft"},
}


@pytest.fixture(scope="session")
def parts():
    """The module of `parts.py`, importable by the name that its classes carry."""
    import sys

    name = "alflow_test_spec_parts"
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("parts.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _kinds(parts, monkeypatch):
    """Make the parts of `parts.py` known as a package with entry points would."""
    known = registry._foreign

    def foreign(role: str):
        more = {k: EntryPoint(k, f"{parts.__name__}:{c}", f"alflow.{role}") for k, c in KINDS.get(role, {}).items()}
        return {**known(role), **more}

    monkeypatch.setattr(registry, "_foreign", foreign)
