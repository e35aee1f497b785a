"""The campaign's memory: one decision a line, appended and synced, never rewritten.

The first line pins the schema and what the campaign is; each further line is ``{"t": seconds, "events": [...]}``. A
torn last line never happened and is dropped; any other damage is an error with its line number.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, get_args

from alflow.campaign.model import Event, FailureKind, Submitted, Task, Verb
from alflow.errors import JournalError

SCHEMA: Final = 1
_KINDS: Final = {cls.__name__: cls for cls in get_args(Event)}
_PINNED: Final = ("schema", "name", "workflow", "seed")


def to_json(event: Event) -> dict[str, Any]:
    """An event as plain JSON values."""
    return {"event": type(event).__name__, **asdict(event)}


def from_json(record: Mapping[str, Any]) -> Event:
    """The event of a record of `to_json`.

    Raises:
        ValueError, KeyError, TypeError: the record is none.
    """
    fields = dict(record)
    kind = _KINDS[fields.pop("event")]
    if kind is Submitted:
        task = fields["task"]
        return Submitted(Task(task["id"], Verb(task["verb"]), task["args"]))
    if "kind" in fields:
        fields["kind"] = FailureKind(fields["kind"])
    event: Event = kind(**fields)
    return event


def read_lines(path: Path) -> Iterator[tuple[dict[str, Any], list[Event]]]:
    """Each whole line of a journal with its events; the header's list is empty. A torn last line is left out.

    Raises:
        JournalError: a line cannot be read; with its number.
    """
    with path.open("rb") as f:
        for n, line in enumerate(f, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                record = json.loads(line)
                if n == 1 and record["schema"] != SCHEMA:
                    raise JournalError(f"{path}, line 1: journal of schema {record['schema']}, expected {SCHEMA}")
                yield record, [from_json(e) for e in record["events"]] if n > 1 else []
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
                raise JournalError(f"{path}, line {n}: cannot be read ({type(exc).__name__}: {exc})") from exc


class Journal:
    """An open journal: what it holds, and a way to append.

    Args:
        path: the file; made if it is not there.
        header: name, workflow digest, seed and versions; the pinned ones must agree with an existing file's.
        t: the time of the first line, seconds since the epoch, if the file is made now.

    Raises:
        JournalError: damaged, or of another campaign.
    """

    def __init__(self, path: Path, header: Mapping[str, Any], t: float) -> None:
        self.path = path
        self.events: list[Event] = []
        _cut_torn_line(path)
        head = {"schema": SCHEMA, **header}
        lines = read_lines(path) if path.exists() else iter(())
        found = next(lines, None)
        if found is not None:
            differ = [k for k in _PINNED if found[0].get(k) != head[k]]
            if differ:
                both = "; ".join(f"{k} {found[0].get(k)!r} there, {head[k]!r} here" for k in differ)
                raise JournalError(f"{path} belongs to another campaign: {both}")
        for _, events in lines:
            self.events += events
        self._file = path.open("ab")
        if found is None:
            self._line({**head, "t": t})
            _sync_folder(path.parent)

    def append(self, decision: Sequence[Event], t: float) -> None:
        """Write one decision, taken at `t`, as one line: it is remembered whole or not at all."""
        self._line({"t": round(t, 3), "events": [to_json(e) for e in decision]})

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _line(self, record: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(record, allow_nan=False, separators=(",", ":")).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def _cut_torn_line(path: Path) -> None:
    if not path.exists():
        return
    with path.open("r+b") as f:
        text = f.read()
        whole = text.rfind(b"\n") + 1
        if whole != len(text):  # the last write was cut short: it never happened
            f.truncate(whole)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
