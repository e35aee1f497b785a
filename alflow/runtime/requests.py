"""What users ask of a campaign that runs: files in its directory that its coordinator picks up."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

from alflow.campaign.model import Amended, Event, State
from alflow.campaign.policy import Plan
from alflow.errors import InputError
from alflow.runtime import layout
from alflow.spec.amend import Amendment
from alflow.store.files import write_json, write_text

logger = logging.getLogger(__name__)
LOOK_S: Final = 0.5
_REFUSED: Final = ".refused"

Replan = Callable[[Sequence[Amendment]], Sequence[Plan]]
"""The plans of the campaign with all these amendments; raises InputError if they cannot be."""


class Requests(Protocol):
    """Changes that users ask for while a campaign runs."""

    def take(self, state: State) -> tuple[Sequence[Event], Sequence[Plan]] | None:
        """The next change that can be made: its events and the plans from then on. None if there is none."""
        ...

    def done(self) -> None:
        """The change that was taken is in the journal."""
        ...


class NoRequests:
    """Nobody asks for anything."""

    def take(self, state: State) -> tuple[Sequence[Event], Sequence[Plan]] | None:  # noqa: ARG002  whatever it is
        return None

    def done(self) -> None:
        pass


class AmendRequests:
    """Requests of `ask` in a run directory.

    Args:
        root: the run directory.
        replan: makes the plans of an amended campaign.
    """

    def __init__(self, root: Path, replan: Replan) -> None:
        self._root, self._replan = root, replan
        self._looked, self._taken = -LOOK_S, root

    def take(self, state: State) -> tuple[Sequence[Event], Sequence[Plan]] | None:
        now = time.monotonic()
        if now - self._looked < LOOK_S:
            return None
        self._looked = now
        for path in sorted(self._root.glob(layout.AMEND)):
            try:
                wanted = json.loads(path.read_text())
                plans = self._replan([*state.amendments, *wanted])
            except (InputError, ValueError, KeyError, TypeError, IndexError) as exc:
                logger.warning("%s was refused: %s", path.name, exc)
                write_text(path.with_name(path.name + _REFUSED), str(exc))
                path.unlink()
                continue
            self._taken = path
            return [Amended(a["stage"], a["changes"]) for a in wanted], plans
        return None

    def done(self) -> None:
        self._taken.unlink(missing_ok=True)


def ask(root: Path, amendments: Sequence[Amendment], wait_s: float, alive: Callable[[], bool]) -> bool:
    """Ask the run's coordinator for changes and wait until it has made them; False if it did not answer in time.

    Args:
        root: the run directory.
        amendments: what is to be changed.
        wait_s: longest to wait; then the request is taken back.
        alive: whether the coordinator is still at work.

    Raises:
        InputError: it refused.
    """
    path = root / layout.AMEND.replace("*", uuid.uuid4().hex[:12])
    refused = path.with_name(path.name + _REFUSED)
    write_json(path, list(amendments))
    deadline = time.monotonic() + wait_s
    while path.exists() and time.monotonic() < deadline and alive():
        time.sleep(0.1)
    if refused.exists():
        reason = refused.read_text()
        refused.unlink()
        raise InputError(str(root), f"the coordinator refused: {reason}")
    try:
        path.unlink()
    except FileNotFoundError:
        return True  # it took it
    return False
