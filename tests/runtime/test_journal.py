"""The journal remembers decisions whole or not at all, and says where it is damaged."""

from __future__ import annotations

import json
import resource
from typing import get_args

import pytest

from alflow.campaign.model import (
    Amended,
    Arrived,
    Awaited,
    Began,
    Broken,
    Cancelled,
    Closed,
    Ending,
    Event,
    Failed,
    FailureKind,
    Finished,
    Overdue,
    Reopened,
    Resources,
    Retried,
    StageDone,
    Submitted,
    Synced,
    Task,
    Verb,
    VersionLost,
)
from alflow.errors import JournalError
from alflow.runtime import layout
from alflow.runtime.journal import Journal, from_json, of_run, read_lines, replay, to_json

HEADER = {"name": "al", "workflow": "abc", "seed": 1, "versions": {"alflow": "0"}}
EVENTS = [
    Submitted(Task("0-label-000001", Verb.LABEL, {"loop": 0, "frames": ["a/b.h5", 0, 3]})),
    Finished("0-label-000001", {"path": "x", "n": 3}),
    Failed("0-label-000002", FailureKind.UNPHYSICAL, "no convergence", "tasks/log.txt"),
    Retried("0-label-000003", FailureKind.RESOURCE, "time", "", 12.5),
    Cancelled("0-sample-000004", "enough"),
    Awaited("sync point 1", 1.5),
    Overdue("sync point 1"),
    Arrived(2),
    VersionLost(0, "1 of 8"),
    Synced(3),
    Ending("max_labels"),
    StageDone(0, "done", True, False),
    Broken("0-fit-000001", FailureKind.DEFECT, "a bug", "log.txt"),
    Closed("all", False),
    Reopened(),
    Amended(0, {"until.max_labels": "100"}),
    Began({"label": "cpu"}, ["rounds"]),
    Resources({"cpu": {"nodes": 2, "workers": 8, "pending": 1}}),
]


def test_every_kind_of_event_comes_back_as_it_was():
    assert {type(e) for e in EVENTS} == set(get_args(Event))
    for event in EVENTS:
        assert from_json(json.loads(json.dumps(to_json(event)))) == event


def write(path, decisions):
    journal = Journal(path, HEADER, 10.0)
    for i, decision in enumerate(decisions):
        journal.append(decision, 11.0 + i)
    journal.close()


def test_what_was_appended_is_there_again(tmp_path):
    path = tmp_path / "journal.jsonl"
    write(path, [EVENTS[:2], EVENTS[2:]])
    journal = Journal(path, HEADER, 99.0)
    assert list(journal.events) == EVENTS
    journal.append([Synced(9)], 100.0)
    journal.close()
    lines = list(read_lines(path))
    assert [r["t"] for r, _ in lines] == [10.0, 11.0, 12.0, 100.0]


def test_a_journal_cut_at_any_byte_keeps_the_whole_decisions_before_it(tmp_path):
    path = tmp_path / "journal.jsonl"
    write(path, [EVENTS[:2], EVENTS[2:5], EVENTS[5:]])
    text = path.read_bytes()
    known = [[], EVENTS[:2], EVENTS[:5], EVENTS]
    for cut in range(len(text) + 1):
        path.write_bytes(text[:cut])
        journal, there = Journal(path, HEADER, 50.0), known[max(0, text[:cut].count(b"\n") - 1)]
        assert list(journal.events) == there
        journal.append(EVENTS[:1], 51.0)
        journal.close()
        assert list(journal.events) == [*there, EVENTS[0]]  # no mixture with the torn line


@pytest.mark.parametrize(
    "damage",
    [
        b"{not json}\n",
        b'{"t": 1, "events": [{"event": "Unknown"}]}\n',
        b'{"t": 1, "events": [{"event": "Finished"}]}\n',
        b"\n",
    ],
)
def test_any_other_damage_is_an_error_with_its_line(tmp_path, damage):
    path = tmp_path / "journal.jsonl"
    write(path, [EVENTS[:2]])
    with path.open("ab") as f:
        f.write(damage)
    with path.open("ab") as f:
        f.write(b'{"t": 1, "events": []}\n')
    with pytest.raises(JournalError, match=r"line 3"):
        list(Journal(path, HEADER, 0.0).events)


DAMAGES = {
    "a figure changed": lambda lines: [*lines[:2], lines[2].replace(b'"n":3', b'"n":4'), *lines[3:]],
    "two swapped": lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]],
    "one doubled": lambda lines: [*lines[:3], lines[2], *lines[3:]],
    "one missing": lambda lines: [*lines[:2], *lines[3:]],
    "half a line": lambda lines: [*lines[:2], lines[2][: len(lines[2]) // 2] + b"\n", *lines[3:]],
    "two joined": lambda lines: [*lines[:2], lines[2][:-1], *lines[3:]],
    "zeros": lambda lines: [*lines[:2], bytes(len(lines[2]) - 1) + b"\n", *lines[3:]],
    "a byte changed": lambda lines: [*lines[:2], b"\xff".join([lines[2][:9], lines[2][10:]]), *lines[3:]],
    "a line of a journal without sums": lambda lines: [*lines[:2], b'{"t":1.0,"events":[]}\n', *lines[2:]],
    "NaN": lambda lines: [*lines[:2], b'{"t":NaN,"events":[]}\n', *lines[2:]],
    "no object": lambda lines: [*lines[:2], b"[1]\n", *lines[2:]],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_line_that_is_not_the_one_that_was_written_is_noticed(tmp_path, damage):
    path = tmp_path / "journal.jsonl"
    write(path, [EVENTS[:2], EVENTS[1:2], EVENTS[2:]])
    path.write_bytes(b"".join(damage(path.read_bytes().splitlines(keepends=True))))
    before = path.read_bytes()
    with pytest.raises(JournalError, match=r"line [34]: (.|\n)*head -n [23]"):
        list(Journal(path, HEADER, 0.0).events)
    assert path.read_bytes() == before


def test_a_changed_first_line_is_noticed(tmp_path):
    path = tmp_path / "journal.jsonl"
    write(path, [EVENTS[:2]])
    path.write_bytes(path.read_bytes().replace(b'"seed":1', b'"seed":2'))
    with pytest.raises(JournalError, match=r"line 1: .*changed"):
        Journal(path, {**HEADER, "seed": 2}, 0.0)


def test_what_is_kept_of_a_damaged_journal_can_be_gone_on_with(tmp_path):
    path = tmp_path / "journal.jsonl"
    write(path, [EVENTS[:2], EVENTS[2:4], EVENTS[4:]])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]))
    journal = Journal(path, HEADER, 0.0)
    journal.append(EVENTS[:1], 50.0)
    journal.append(EVENTS[1:2], 51.0)
    journal.close()
    assert list(journal.events) == [*EVENTS[:2], *EVENTS[:2]]


def test_a_journal_without_sums_is_read_and_stays_one(tmp_path):
    path = tmp_path / "journal.jsonl"
    head = {"schema": 1, **HEADER, "t": 1.0}
    path.write_text(json.dumps(head) + '\n{"t": 2.0, "events": []}\n')
    journal = Journal(path, HEADER, 0.0)
    journal.append(EVENTS[:2], 3.0)
    journal.close()
    assert b"sum" not in path.read_bytes()
    assert list(journal.events) == EVENTS[:2]
    with path.open("ab") as f:
        f.write(b'{"t":4.0,"events":[],"sum":"00000000"}\n')
    with pytest.raises(JournalError, match="line 4"):
        list(journal.events)


def test_an_event_that_does_not_follow_is_told_with_its_line(tmp_path):
    path = tmp_path / "journal.jsonl"
    write(path, [[Reopened()], [Arrived(7)]])
    with pytest.raises(JournalError, match=r"line 3: Arrived does not follow(.|\n)*head -n 2"):
        replay(path)


def test_where_the_journal_of_a_run_is(tmp_path):
    path = tmp_path / layout.JOURNAL
    assert of_run(tmp_path) is None
    path.touch()
    assert of_run(tmp_path) == path, "a coordinator that died before its first line"
    (tmp_path / layout.TASKS).mkdir()
    with pytest.raises(JournalError, match=r"is empty, but tasks/ holds results(.|\n)*backup"):
        of_run(tmp_path)
    path.write_bytes(b'{"schema":1')
    with pytest.raises(JournalError, match="is empty"):
        of_run(tmp_path)
    path.unlink()
    with pytest.raises(JournalError, match="is gone"):
        of_run(tmp_path)
    path.mkdir()
    with pytest.raises(JournalError, match="is no file"):
        of_run(tmp_path)


@pytest.mark.parametrize(("key", "value"), [("name", "other"), ("workflow", "def"), ("seed", 2)])
def test_a_journal_of_another_campaign_is_refused(tmp_path, key, value):
    path = tmp_path / "journal.jsonl"
    write(path, [EVENTS[:2]])
    with pytest.raises(JournalError, match=f"another campaign: {key}"):
        Journal(path, {**HEADER, key: value}, 0.0)


def test_later_versions_of_the_packages_are_no_reason_to_refuse(tmp_path):
    path = tmp_path / "journal.jsonl"
    write(path, [EVENTS])
    journal = Journal(path, {**HEADER, "versions": {"alflow": "9"}}, 0.0)
    journal.close()
    assert list(journal.events) == EVENTS


def test_a_journal_of_a_later_schema_is_refused(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_text('{"schema": 99, "name": "al"}\n')
    with pytest.raises(JournalError, match=r"schema 99, expected 1\n.*a newer alflow made it"):
        Journal(path, HEADER, 0.0)


def test_nan_is_never_written(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl", HEADER, 0.0)
    with pytest.raises(ValueError, match="not JSON compliant"):
        journal.append([Finished("0-label-000001", {"x": float("nan")})], 0.0)
    journal.close()


def test_after_a_line_that_did_not_fit_on_the_disk_nothing_more_is_written(tmp_path):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, HEADER, 0.0)
    journal.append(EVENTS[:1], 1.0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, hard))  # room for part of a line
    try:
        with pytest.raises(OSError, match="could not be written in full"):
            journal.append(EVENTS[1:3], 2.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with pytest.raises(OSError, match="an earlier line"):  # there is room again, but it would stand after half a line
        journal.append(EVENTS[1:3], 3.0)
    journal.close()
    journal = Journal(path, HEADER, 4.0)
    journal.append(EVENTS[1:3], 5.0)
    journal.close()
    assert list(journal.events) == EVENTS[:3]
