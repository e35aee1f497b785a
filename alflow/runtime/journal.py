"""The campaign's memory: one decision a line, appended and synced, never rewritten.

The first line pins the schema and what the campaign is; each further line is ``{"t": seconds, "events": [...]}``. Each
ends with a sum over itself and all lines before it, so that a line that was changed, moved, doubled or left out is
noticed even where what is there can be read. A torn last line never happened and is dropped; any other damage is an
error with its line number.
"""

from __future__ import annotations

import errno
import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn, get_args

from alflow.campaign.model import Event, FailureKind, State, Submitted, Task, Verb, fold
from alflow.errors import JournalError
from alflow.runtime import layout

SCHEMA: Final = 1
_SUM: Final = b',"sum":"%08x"}\n'
_SUM_BYTES: Final = len(_SUM % 0)
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


def of_run(run_dir: Path) -> Path | None:
    """The journal of a run; None if no coordinator has taken the run up yet.

    Raises:
        JournalError: it is gone or empty, though there are results of tasks.
    """
    path = run_dir / layout.JOURNAL
    begun, there = (run_dir / layout.TASKS).exists(), path.exists()
    if there and not path.is_file():
        raise JournalError(f"{path}: is no file", "restore it from a backup, or submit anew")
    if begun and not (there and _has_a_line(path)):
        problem = "is empty" if there else "is gone"
        raise JournalError(f"{path}: {problem}, but tasks/ holds results", "restore it from a backup, or submit anew")
    return path if there else None


def _has_a_line(path: Path) -> bool:
    with path.open("rb") as f:
        return f.readline().endswith(b"\n")


def read_lines(path: Path) -> Iterator[tuple[dict[str, Any], list[Event]]]:
    """Each whole line of a journal with its events; the header's list is empty. A torn last line is left out.

    Raises:
        JournalError: a line cannot be read, or is not the one that was written there; with its number.
    """
    before: int | None = 0
    with path.open("rb") as f:
        for n, line in enumerate(f, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                if n == 1:
                    _check_schema(path, json.loads(line)["schema"])
                before = _checked_sum(line, before, first=n == 1)
                record = json.loads(line, parse_constant=_no_number)
                record.pop("sum", "")
                float(record["t"] if n > 1 else 0.0)
                yield record, [from_json(e) for e in record["events"]] if n > 1 else []
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
                words = str(exc) if type(exc) is ValueError else f"{type(exc).__name__}: {exc}"
                raise damaged(path, n, f"cannot be read ({words})") from exc


def damaged(path: Path, n: int, problem: str) -> JournalError:
    """The error that says what is wrong with line `n`, and what can be done."""
    keep = f", or keep the {n - 1} lines before it (head -n {n - 1}): what was finished later is in tasks/, not lost"
    hint = f"nothing was changed; restore it from a backup{keep if n > 1 else ', or submit anew'}"
    return JournalError(f"{path}, line {n}: {problem}", hint)


def replay(path: Path, also: Callable[[Sequence[Event]], object] | None = None) -> State:
    """The state that a journal folds into; `also` is told every decision after it was folded in.

    Raises:
        JournalError: a line is damaged, or does not follow from those before it; with its number.
    """
    state = State()
    for n, (_, events) in enumerate(read_lines(path), start=1):
        try:
            fold(events, state)
        except JournalError as exc:
            raise damaged(path, n, str(exc)) from exc
        if also is not None:
            also(events)
    return state


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _check_schema(path: Path, schema: Any) -> None:
    if schema != SCHEMA:
        newer = isinstance(schema, int) and schema > SCHEMA
        hint = "a newer alflow made it: upgrade alflow to read it" if newer else ""
        raise JournalError(f"{path}, line 1: journal of schema {schema!r}, expected {SCHEMA}", hint)


def _checked_sum(line: bytes, before: int | None, *, first: bool) -> int | None:
    """The sum over all lines up to this one; None for a journal without sums, which says so by its first line.

    Raises:
        ValueError: the line says another.
    """
    summed = line[-_SUM_BYTES:].startswith(_SUM[:8])
    if not summed and (first or before is None):
        return None
    found = zlib.crc32(line[:-_SUM_BYTES] + b"}", before or 0)
    if before is None or line[-_SUM_BYTES:] != _SUM % found:
        raise ValueError("it is not the line that was written here: it was changed, moved, doubled or one is missing")
    return found


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
                hint = "undo what was changed in workflow.yaml: `alflow amend` changes what may change"
                raise JournalError(f"{path}: belongs to another campaign: {both}", hint)
        self._torn = False
        self._file: BinaryIO | None = None
        self._sum: int | None = 0
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
            self._sum = _last_sum(_cut_torn_line(self.path))
            self._file = self.path.open("ab", buffering=0)
        if self._torn:
            raise OSError(errno.EIO, "an earlier line could not be written in full", str(self.path))
        if self._sum is not None:
            self._sum = zlib.crc32(text[:-1], self._sum)
            text = text[:-2] + _SUM % self._sum
        self._torn = True
        if self._file.write(text) != len(text):
            raise OSError(errno.ENOSPC, "a line could not be written in full", str(self.path))
        os.fsync(self._file.fileno())
        self._torn = False


def _last_sum(line: bytes) -> int | None:
    """The sum that a line ends with: None if it has none, 0 if there is no line yet."""
    if not line:
        return 0
    told = json.loads(line).get("sum")
    return None if told is None else int(told, 16)


def _cut_torn_line(path: Path) -> bytes:
    """Drop what follows the last end of a line: that write was cut short, it never happened. The last whole line."""
    if not path.exists():
        return b""
    with path.open("r+b") as f:
        size = f.seek(0, os.SEEK_END)
        end = _newline_before(f, size)
        if end != size:
            f.truncate(end)
        start = _newline_before(f, end - 1)
        f.seek(start)
        return f.read(max(end - start, 0))


def _newline_before(f: BinaryIO, end: int) -> int:
    """Where the line begins that `end` is in, or just behind of."""
    while end > 0:
        start = max(0, end - _BLOCK)
        f.seek(start)
        newline = f.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
