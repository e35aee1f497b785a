"""The campaign's memory: one decision a line, appended and synced, never rewritten.

The first line pins the schema and what the campaign is; each further line is ``{"t": seconds, "events": [...]}``. A
torn last line never happened and is dropped; any other damage is an error with its line number.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, BinaryIO, Final, get_args

from alflow.campaign.model import Event, FailureKind, Submitted, Task, Verb
from alflow.errors import JournalError

SCHEMA: Final = 1
_BLOCK: Final = 1 << 20
_KINDS: Final = {cls.__name__: cls for cls in get_args(Event)}
_FIELDS: Final = {cls: tuple(f.name for f in fields(cls)) for cls in get_args(Event)}
_PINNED: Final = ("schema", "name", "workflow", "seed")


def to_json(event: Event) -> dict[str, Any]:
    """An event as plain JSON values; they are shared with it, not copied."""
    if isinstance(event, Submitted):
        task = event.task
        return {"event": "Submitted", "task": {"id": task.id, "verb": task.verb, "args": task.args}}
    return {"event": type(event).__name__, **{name: getattr(event, name) for name in _FIELDS[type(event)]}}


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
                    newer = isinstance(record["schema"], int) and record["schema"] > SCHEMA
                    hint = "; a newer alflow made it: upgrade alflow to read it" if newer else ""
                    raise JournalError(f"{path}, line 1: journal of schema {record['schema']}, expected {SCHEMA}{hint}")
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
        head = {"schema": SCHEMA, **header}
        found, _ = next(read_lines(path), (None, None)) if path.exists() else (None, None)
        if found is not None:
            differ = [k for k in _PINNED if found.get(k) != head[k]]
            if differ:
                both = "; ".join(f"{k} {found.get(k)!r} there, {head[k]!r} here" for k in differ)
                raise JournalError(f"{path} belongs to another campaign: {both}")
        self._torn = False
        self._file: BinaryIO | None = None
        if found is None:
            try:
                self._line({**head, "t": t})
                _sync_folder(path.parent)
            except OSError:
                self.close()
                raise

    @property
    def events(self) -> Iterator[Event]:
        """All events, read anew from the file: they are more than need to be in memory.

        Raises:
            JournalError: damaged.
        """
        for _, events in read_lines(self.path):
            yield from events

    def append(self, decision: Sequence[Event], t: float) -> None:
        """Write one decision, taken at `t`, as one line: it is remembered whole or not at all."""
        self._line({"t": round(t, 3), "events": [to_json(e) for e in decision]})

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _line(self, record: Mapping[str, Any]) -> None:
        text = json.dumps(record, allow_nan=False, separators=(",", ":")).encode() + b"\n"
        if self._file is None:  # not before there is something to write: a look at a journal changes nothing
            _cut_torn_line(self.path)
            self._file = self.path.open("ab", buffering=0)
        if self._torn:
            raise OSError(errno.EIO, "an earlier line could not be written in full", str(self.path))
        self._torn = True
        if self._file.write(text) != len(text):
            raise OSError(errno.ENOSPC, "a line could not be written in full", str(self.path))
        os.fsync(self._file.fileno())
        self._torn = False


def _cut_torn_line(path: Path) -> None:
    """Drop what follows the last end of a line: that write was cut short, it never happened."""
    if not path.exists():
        return
    with path.open("r+b") as f:
        size = end = f.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - _BLOCK)
            f.seek(start)
            newline = f.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end != size:
            f.truncate(end)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
