from __future__ import annotations

import pytest

from alflow.store.files import discard_drafts, write_text, written_whole


def test_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write_text(path, "one")
    with pytest.raises(FileNotFoundError), written_whole(path) as draft:
        (draft.parent / "half of it.txt").read_text()
    assert path.read_text() == "one"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_drafts_of_killed_writers_are_discarded_and_nothing_else(tmp_path):
    ours, other, hidden = tmp_path / ".a.h5.0123abcd.part", tmp_path / ".b.h5.0123abcd.part", tmp_path / ".a.h5"
    for path in (ours, other, hidden, tmp_path / "a.h5"):
        path.write_text("x")
    discard_drafts(tmp_path / "a.h5")
    assert {p.name for p in tmp_path.iterdir()} == {other.name, ".a.h5", "a.h5"}
    discard_drafts(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {".a.h5", "a.h5"}
    discard_drafts(tmp_path / "not" / "there")
