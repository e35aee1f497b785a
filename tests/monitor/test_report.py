import json
import re
import shutil
from html.parser import HTMLParser

import pytest

from alflow.monitor.history import History
from alflow.monitor.report import thresholds, write_report
from alflow.runtime import layout


class Page(HTMLParser):
    """Checks that tags nest, and collects what a browser would load."""

    void = frozenset({"meta", "br", "path", "use", "image", "hr", "img"})

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.headings, self.tags = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in {"src", "href", "xlink:href", "action", "data"}]
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.void:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in {"h1", "h2", "h3"}:
            self.headings.append(data.strip())


@pytest.fixture
def copy(finished_run, tmp_path):
    """A copy of the finished run that a test may damage."""
    target = tmp_path / "run"
    target.mkdir()
    for name in (layout.WORKFLOW, layout.SUBMITTED, layout.JOURNAL):
        shutil.copy(finished_run[0] / name, target / name)
    return target


def cut(run, lines):
    """Leave the first `lines` lines of the journal and half of the next."""
    text = (run / layout.JOURNAL).read_text().splitlines(keepends=True)
    assert len(text) > lines + 1
    (run / layout.JOURNAL).write_text("".join(text[:lines]) + text[lines][: len(text[lines]) // 2])


def test_a_finished_run(finished_run):
    path = write_report(finished_run[0])
    text = path.read_text()
    page = Page(text)
    assert page.tags.count("svg") == 10
    for heading in ("Labels bought", "Cold curves of Al", "Trajectory lengths", "Failures", "Workflow", "Versions"):
        assert heading in page.headings
    assert "toy failure: one frame in" in text
    assert "random_cell" in text
    assert "crystals never sampled" in text


def test_nothing_is_loaded_from_elsewhere(finished_run):
    text = write_report(finished_run[0]).read_text()
    page = Page(text)
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert "script" not in page.tags
    assert not re.search(r"url\((?!#)", text)


@pytest.mark.parametrize("lines", [0, 1, 2, 5, 12, 20])
def test_an_unfinished_run(copy, lines):
    cut(copy, lines)
    page = Page(write_report(copy).read_text())
    assert "Labels bought" in page.headings
    assert page.tags.count("svg") < 10


def test_text_from_the_run_cannot_become_markup(copy):
    evil = "<script>alert('x')</script>&amp;"
    failed = {"event": "Failed", "task_id": "0-build-000000", "kind": "defect", "detail": evil, "log": evil}
    header, first = map(json.loads, (copy / layout.JOURNAL).read_text().splitlines()[:2])
    del header["sum"], first["sum"]
    header, first = json.dumps(header | {"name": evil, "stages": [evil], "versions": {evil: evil}}), json.dumps(first)
    closed = {"event": "Closed", "reason": evil, "failed": True}
    last = json.dumps({"t": 9e9, "events": [failed, closed]})
    (copy / layout.JOURNAL).write_text(f"{header}\n{first}\n{last}\n")
    (copy / layout.SUBMITTED).write_text(evil)
    text = write_report(copy).read_text()
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 6
    assert "script" not in Page(text).tags


def test_thresholds_come_from_the_workflow(copy):
    assert thresholds(copy, History()) == {0: (0.1, 0.25)}
    (copy / layout.WORKFLOW).write_text("stages: [{}, 3]")
    assert thresholds(copy, History()) == {}
