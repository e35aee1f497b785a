"""The journal remembers decisions whole or not at all, and says where it is damaged."""

from __future__ import annotations

import json
import resource
from typing import get_args

import pytest

from alflow.campaign.model import (
    Amended,
    Arrived,
    Began,
    Broken,
    Cancelled,
    Closed,
    Ending,
    Event,
    Failed,
    FailureKind,
    Finished,
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
from alflow.runtime.journal import Journal, from_json, read_lines, to_json

HEADER = {"name": "al", "workflow": "abc", "seed": 1, "versions": {"alflow": "0"}}
EVENTS = [
    Submitted(Task("0-label-000001", Verb.LABEL, {"loop": 0, "frames": ["a/b.h5", 0, 3]})),
    Finished("0-label-000001", {"path": "x", "n": 3}),
    Failed("0-label-000002", FailureKind.UNPHYSICAL, "no convergence", "tasks/log.txt"),
    Retried("0-label-000003", FailureKind.RESOURCE, "time", "", 12.5),
    Cancelled("0-sample-000004", "enough"),
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
    with pytest.raises(JournalError, match="schema 99, expected 1; a newer alflow made it"):
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
