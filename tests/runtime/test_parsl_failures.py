"""Every exception of Parsl has a kind."""

import importlib
import inspect
import pkgutil
import warnings

import parsl

from alflow.campaign.model import FailureKind
from alflow.runtime.parsl_failures import PARSL_KINDS, failure_kind


def parsl_exceptions():
    found = set()
    for info in pkgutil.walk_packages(parsl.__path__, "parsl."):
        if info.name.startswith(("parsl.tests", "parsl.benchmark", "parsl.configs")):
            continue
        try:
            with warnings.catch_warnings(action="ignore"):
                module = importlib.import_module(info.name)
        except (ImportError, OSError, RuntimeError, parsl.errors.ParslError):  # parts whose own libraries are not here
            continue
        members = inspect.getmembers(module, inspect.isclass)
        found |= {c for _, c in members if issubclass(c, BaseException) and c.__module__.startswith("parsl.")}
    return found


def test_every_exception_of_parsl_has_a_kind():
    found = parsl_exceptions()
    assert len(found) >= 45
    assert {c.__name__ for c in found} - set(PARSL_KINDS) == set()
    assert set(PARSL_KINDS) - {c.__name__ for c in found} == set()
    for cls in found:
        assert failure_kind(cls.__new__(cls)) is PARSL_KINDS[cls.__name__]


def test_kinds_of_what_hpc_throws():
    from parsl.app.errors import AppTimeout
    from parsl.executors.high_throughput.errors import ManagerLost, VersionMismatch, WorkerLost
    from parsl.serialize.errors import DeserializationError

    assert failure_kind(ManagerLost(b"id", "node1")) is FailureKind.INFRASTRUCTURE
    assert failure_kind(WorkerLost(1, "node1")) is FailureKind.INFRASTRUCTURE
    assert failure_kind(AppTimeout()) is FailureKind.RESOURCE
    assert failure_kind(VersionMismatch("3.11", "3.12")) is FailureKind.DEFECT
    assert failure_kind(DeserializationError("x")) is FailureKind.DEFECT

    class Later(AppTimeout):
        """A class of a later Parsl falls to its nearest known ancestor."""

    Later.__module__ = "parsl.app.errors"
    assert failure_kind(Later()) is FailureKind.RESOURCE
    assert failure_kind(MemoryError()) is FailureKind.RESOURCE
