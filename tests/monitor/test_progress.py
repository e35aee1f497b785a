import io
import logging

import pytest
from rich.console import Console

from alflow.campaign.model import Closed, Failed, FailureKind, Finished, Submitted, Task, Verb
from alflow.monitor.progress import Progress, picture
from alflow.monitor.status import status


class Clock:
    t = 1000.0

    def __call__(self):
        return self.t


def replay(finished_run, tmp_path, console, **settings):
    """Show the decisions of a finished run as if they came now."""
    run, heard = finished_run
    (tmp_path / "workflow.yaml").write_text((run / "workflow.yaml").read_text())
    clock = Clock()
    with Progress(tmp_path, console, clock=clock, **settings) as progress:
        for t, events in heard:
            clock.t = t
            progress.on_events(t, events)
    return console.file.getvalue()


def test_plain_lines_tell_the_news(finished_run, tmp_path):
    words = replay(finished_run, tmp_path, Console(file=io.StringIO(), width=60))
    lines = words.splitlines()
    assert any(line.startswith("model 1 of stage 0, fitted to") for line in lines)
    assert "finished: all stages are done" in lines
    assert "/60 labels" in lines[-1]
    assert "running: nothing" in lines[-1]
    assert len(lines) < 15
    assert "\x1b" not in words


def test_plain_heartbeat_is_gentle(tmp_path):
    (tmp_path / "workflow.yaml").write_text("name: x\n")
    console, clock = Console(file=io.StringIO()), Clock()
    with Progress(tmp_path, console, heartbeat_s=60, clock=clock) as progress:
        for i in range(100):
            clock.t += 10
            progress.on_events(clock.t, [Submitted(Task(f"0-sample-{i:06d}", Verb.SAMPLE, {}))])
    lines = console.file.getvalue().splitlines()
    assert 15 <= len(lines) <= 18
    assert "running: 100 sample" in lines[-1]


def test_failures_are_told_with_their_log(tmp_path):
    (tmp_path / "workflow.yaml").write_text("name: x\n")
    console = Console(file=io.StringIO())
    task = Task("0-fit-000000", Verb.FIT, {})
    with Progress(tmp_path, console) as progress:
        progress.on_events(1.0, [Submitted(task)])
        progress.on_events(
            2.0, [Failed(task.id, FailureKind.DEFECT, "[bold]oops", "/log.txt"), Closed("x", failed=True)]
        )
    words = console.file.getvalue()
    assert "0-fit-000000 failed (defect): [bold]oops; log: /log.txt" in words
    assert "failed: x" in words


@pytest.mark.parametrize("terminal", [False, True])
def test_sampling_that_comes_to_nothing_is_told(tmp_path, terminal):
    """A campaign whose every structure is thrown away would end in order and without a word."""
    (tmp_path / "workflow.yaml").write_text("name: x\n")
    console = Console(file=io.StringIO(), force_terminal=terminal, width=200)
    results = [
        {"n": 0, "stops": {"unphysical": 3}, "reasons": {"atoms closer than 4 Å": 2, "NaN": 1}},
        {"n": 0, "stops": {"unphysical": 2, "finished": 1}},
        {"n": 2, "stops": {"unphysical": 3}},
    ]
    tasks = [Task(f"0-sample-00000{k}", Verb.SAMPLE, {}) for k in range(3)]
    with Progress(tmp_path, console) as progress:
        for task, result in zip(tasks, results, strict=True):
            progress.on_events(1.0, [Submitted(task), Finished(task.id, result)])
    words = console.file.getvalue()
    said = "0-sample-000000 brought nothing home, all 3 trajectories became unphysical: 2 x atoms closer than 4 Å; NaN"
    assert said in words
    assert words.count("brought nothing home") == 1


def test_a_terminal_gets_a_live_display(finished_run, tmp_path):
    words = replay(finished_run, tmp_path, Console(file=io.StringIO(), force_terminal=True, width=100))
    assert "\x1b[" in words
    assert "━" in words
    assert "/60 labels" in words
    assert "model 1 of stage" not in words


def test_a_live_display_tells_failures_too(tmp_path):
    (tmp_path / "workflow.yaml").write_text("name: x\n")
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    task = Task("0-fit-000000", Verb.FIT, {})
    with Progress(tmp_path, console) as progress:
        progress.on_events(1.0, [Submitted(task), Failed(task.id, FailureKind.RESOURCE, "out of memory", "/log.txt")])
    assert "0-fit-000000 failed (resource): out of memory; log: /log.txt" in console.file.getvalue()


def test_a_new_run_is_called_by_its_name(finished_run, tmp_path):
    """The journal appears only after the display was opened."""
    run, heard = finished_run
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    (tmp_path / "workflow.yaml").write_text("name: x\n")
    with Progress(tmp_path, console) as progress:
        header = (run / "journal.jsonl").read_text().partition("\n")[0]
        (tmp_path / "journal.jsonl").write_text(header + "\n")
        progress.on_events(*heard[0])
    assert "toy-disorder" in console.file.getvalue()
    assert "stage main" in console.file.getvalue()


def test_picture_shows_what_is_open(finished_run):
    out = io.StringIO()
    Console(file=out, width=100).print(picture(status(finished_run[0])))
    words = out.getvalue()
    for part in ("toy-disorder", "sample", "label", "1 done", "labels", "held-out frames"):
        assert part in words


def test_its_own_mistakes_never_reach_the_run(tmp_path, caplog):
    class Broken(io.StringIO):
        def write(self, text):
            raise OSError("no terminal any more")

    (tmp_path / "workflow.yaml").write_text("name: x\n")
    task = Task("0-fit-000000", Verb.FIT, {})
    with caplog.at_level(logging.ERROR), Progress(tmp_path, Console(file=Broken())) as progress:
        for i in range(3):
            progress.on_events(float(i), [Submitted(task), Failed(task.id, FailureKind.DEFECT, "x")])
    assert caplog.text.count("the progress display failed") == 1


def test_a_missing_run_does_not_stop_anything(tmp_path, caplog):
    with caplog.at_level(logging.ERROR), Progress(tmp_path / "nowhere") as progress:
        progress.on_events(1.0, [Finished("x", {})])
    assert "the progress display failed" in caplog.text


def test_exceptions_of_the_run_pass_through(tmp_path):
    (tmp_path / "workflow.yaml").write_text("name: x\n")
    try:
        with Progress(tmp_path, Console(file=io.StringIO(), force_terminal=True)):
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        return
    raise AssertionError("swallowed")
