"""Whose fault it was, of every exception that Parsl may raise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from alflow.campaign.model import FailureKind
from alflow.runtime import runner

_INFRASTRUCTURE: Final = FailureKind.INFRASTRUCTURE
_RESOURCE: Final = FailureKind.RESOURCE
_DEFECT: Final = FailureKind.DEFECT

PARSL_KINDS: Final[Mapping[str, FailureKind]] = {
    **dict.fromkeys(
        ("ManagerLost", "WorkerLost", "CommandClientBadError", "CommandClientTimeoutError"), _INFRASTRUCTURE
    ),
    **dict.fromkeys(("BadStateException", "ScalingFailed", "TooManyJobFailuresError", "BadMessage"), _INFRASTRUCTURE),
    **dict.fromkeys(("ScaleOutFailed", "SubmitException", "ScriptPathError"), _INFRASTRUCTURE),
    **dict.fromkeys(("ExecutionProviderException", "ExecutorError", "MonitoringRouterStartError"), _INFRASTRUCTURE),
    **dict.fromkeys(("TaskVineFactoryFailure", "TaskVineManagerFailure", "WorkQueueFailure"), _INFRASTRUCTURE),
    **dict.fromkeys(("AppTimeout", "MPINodesUnavailable"), _RESOURCE),
    **dict.fromkeys(("ParslError", "ConfigurationError", "InternalConsistencyError", "NoDataFlowKernelError"), _DEFECT),
    **dict.fromkeys(("OptionalModuleMissing", "VersionMismatch", "BadLauncher", "SchedulerMissingArgs"), _DEFECT),
    **dict.fromkeys(("InvalidResourceSpecification", "UnsupportedFeatureError", "RadioRequiredError"), _DEFECT),
    **dict.fromkeys(("SerializationError", "DeserializationError", "DeserializerPluginError"), _DEFECT),
    **dict.fromkeys(
        ("DataFlowException", "PropagatedException", "DependencyError", "JoinError", "BadCheckpoint"), _DEFECT
    ),
    **dict.fromkeys(("AppException", "AppBadFormatting", "BadStdStreamFile", "BashAppNoReturn"), _DEFECT),
    **dict.fromkeys(("BashExitFailure", "MissingOutputs", "ZipAuthorityError"), _DEFECT),
    **dict.fromkeys(("TaskVineTaskFailure", "WorkQueueTaskFailure"), _DEFECT),
}
"""Every exception class of Parsl, by name: alflow uses neither bash apps nor Parsl's dependencies nor its memoizer, so
their errors are defects; a wrong version of Python or Parsl on the workers will not heal by trying again."""


def failure_kind(exc: BaseException) -> FailureKind:
    """Whose fault an exception was, Parsl's own included."""
    for cls in type(exc).__mro__:
        if cls.__module__.partition(".")[0] == "parsl" and cls.__name__ in PARSL_KINDS:
            return PARSL_KINDS[cls.__name__]
    return runner.failure_kind(exc)
