"""Every error alflow raises on purpose.

* AlflowError
  - InputError           what the user gave is wrong; raised before anything runs, exit status 2
    . SpecError          the workflow or site file is wrong
      + UnknownPartError a `kind:` names no part
      + CapabilityError  two parts do not fit together
    . RunError           the run directory is locked, missing, or belongs to another workflow
  - DataError            an array, a shard or a snapshot breaks its contract
  - JournalError         the journal cannot be read or does not fit this campaign; exit status 2
  - CampaignError        the campaign cannot go on
  - TaskError            a task failed; its class says whose fault it was (campaign.model.FailureKind)
    . UnphysicalError    the structure's fault: overlapping atoms, no convergence, no such density
    . ResourceError      too little memory or time: worth another try with more
    . InfrastructureError  the machine's fault: worth another try as it is
"""

from __future__ import annotations


class AlflowError(Exception):
    """Base of every error alflow raises on purpose."""


class InputError(AlflowError):
    """What the user gave is wrong: one message with place, fact and remedy.

    Args:
        where: the place: a key path such as ``stages[0].builder.kind``, a file, an option.
        problem: the fact, both sides where there are two (``expected ..., got ...``).
        hint: the remedy, or empty.
    """

    def __init__(self, where: str, problem: str, hint: str = "") -> None:
        super().__init__(where, problem, hint)
        self.where, self.problem, self.hint = where, problem, hint

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}" + (f"\n  hint: {self.hint}" if self.hint else "")


class SpecError(InputError):
    """The workflow or site file is wrong."""


class UnknownPartError(SpecError):
    """A `kind:` names no part."""


class CapabilityError(SpecError):
    """Two parts do not fit together."""


class RunError(InputError):
    """The run directory is locked, missing, or belongs to another workflow."""


class DataError(AlflowError):
    """An array, a shard or a snapshot breaks its contract."""


class JournalError(AlflowError):
    """The journal cannot be read or does not fit this campaign.

    Args:
        problem: the place and the fact.
        hint: the remedy, or empty.
    """

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem + (f"\n  hint: {hint}" if hint else ""))


class CampaignError(AlflowError):
    """The campaign cannot go on."""


class TaskError(AlflowError):
    """A task failed for a reason that is data, not a bug."""


class UnphysicalError(TaskError):
    """The structure's fault: overlapping atoms, no convergence, a density out of reach."""


class ResourceError(TaskError):
    """Too little memory or time: worth another try with more of it."""


class InfrastructureError(TaskError):
    """The machine's fault: worth another try as it is."""
