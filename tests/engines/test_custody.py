"""Programs here are shell scripts that read their settings from a file ``in``: lines of ``word value``."""

import json
import os
import signal
import subprocess
import threading
import time

import psutil
import pytest
from custodian.custodian import ErrorHandler, Validator

from alflow.core.labels import Cause
from alflow.engines.custody import MAX_CORRECTIONS, Program, Rules, attend, shown
from alflow.errors import InfrastructureError


def read(folder):
    return dict(line.split() for line in (folder / "in").read_text().splitlines())


def write(folder, **settings):
    now = read(folder) if (folder / "in").exists() else {}
    (folder / "in").write_text("".join(f"{k} {v}\n" for k, v in {**now, **settings}.items()))


RULES = Rules(read, ("in",), lambda setting, old, new: setting == "mixing" or (setting == "threshold" and new < old))


class Says(ErrorHandler):
    """Mends a program whose log says a word, by the next of some settings."""

    is_monitor = False

    def __init__(self, word, *changes):
        self.word, self.changes = word, list(changes)

    def check(self, directory="./"):
        with open(os.path.join(directory, "log")) as f:
            return self.word in f.read()

    def correct(self, directory="./"):
        if not self.changes:
            return {"errors": [self.word], "actions": None}
        from pathlib import Path

        write(Path(directory), **self.changes.pop(0))
        return {"errors": [self.word], "actions": [{"set": "in"}]}


class Watching(Says):
    is_monitor = True


class NoResult(Validator):
    def check(self, directory="./"):
        return not os.path.exists(os.path.join(directory, "result"))

    def as_dict(self):
        return {}


@pytest.fixture
def run(tmp_path):
    """Runs a script in custody in a folder of its own, mixing 7 and smearing 2 to start with."""
    folder = tmp_path / "calculation"
    folder.mkdir()
    write(folder, mixing=7, smearing=2)

    def run_(script, handlers=(), validators=(), rules=RULES, program=None, **more):
        words = ("/bin/sh", "-c", script)
        return attend(program or Program(words, os.environ, "log"), folder, handlers, validators, rules, **more)

    run_.folder = folder
    return run_


NEEDS = 'grep -q "{}" in && touch result || echo trouble'


def test_what_ends_well_is_run_once(run):
    ended = run("touch result", [Says("trouble")], [NoResult()])
    assert (ended.cause, ended.reason, ended.corrections, dict(ended.changed)) == (None, "", (), {})
    assert (ended.runs, ended.status, ended.halted) == (1, 0, False)
    assert 0 < ended.seconds < 30


def test_a_correction_on_the_numerical_path_stands_and_is_told(run):
    ended = run(NEEDS.format("mixing 3"), [Says("trouble", {"mixing": 5}, {"mixing": 3})], [NoResult()])
    assert ended.cause is None
    assert ended.runs == 3
    assert ended.corrections == (
        {"handler": "Says", "errors": ["trouble"], "changes": {"mixing": ["7", "5"]}},
        {"handler": "Says", "errors": ["trouble"], "changes": {"mixing": ["5", "3"]}},
    )
    json.dumps(ended.corrections)  # plain values


def test_the_direction_of_a_change_counts(run):
    write(run.folder, threshold=5)
    tighter = run(NEEDS.format("threshold 4"), [Says("trouble", {"threshold": 4})])
    assert tighter.cause is None
    looser = run(NEEDS.format("threshold 6"), [Says("trouble", {"threshold": 6})])
    assert looser.cause is Cause.LABEL_CHANGING


def test_a_label_changing_correction_is_refused_and_undone(run):
    ended = run(NEEDS.format("smearing 4"), [Says("trouble", {"mixing": 3}, {"mixing": 1, "smearing": 4})])
    assert ended.cause is Cause.LABEL_CHANGING
    assert ended.reason == "trouble: mending it would change the label (smearing from 2 to 4)"
    assert read(run.folder) == {"mixing": "3", "smearing": "2"}  # the first one stands, all of the second is undone
    assert ended.corrections[-1]["refused"] == ["smearing"]
    assert ended.runs == 2
    assert not (run.folder / "result").exists()
    assert not ended.changed


def test_an_allowed_one_stands_and_is_named(run):
    rules = Rules(RULES.read, RULES.files, RULES.on_path, frozenset({"smearing"}))
    ended = run(NEEDS.format("smearing 4"), [Says("trouble", {"mixing": 3}, {"smearing": 4})], rules=rules)
    assert ended.cause is None
    assert dict(ended.changed) == {"smearing": "4"}
    assert "refused" not in ended.corrections[-1]


def test_other_settings_stay_refused_when_one_is_allowed(run):
    rules = Rules(RULES.read, RULES.files, RULES.on_path, frozenset({"smearing"}))
    ended = run("echo trouble", [Says("trouble", {"smearing": 4, "cutoff": 9})], rules=rules)
    assert ended.cause is Cause.LABEL_CHANGING
    assert ended.corrections[-1]["refused"] == ["cutoff"]
    assert read(run.folder) == {"mixing": "7", "smearing": "2"}


def test_an_error_without_correction_is_the_programs(run):
    ended = run("echo trouble; exit 3", [Says("trouble")])
    assert (ended.cause, ended.reason) == (Cause.PROGRAM, "trouble: no correction is known")
    assert ended.status == 3


def test_a_handler_may_name_the_cause(run):
    class Contact(Says):
        cause = Cause.CONTACT

    class Stopped(Says):
        cause = Cause.TIME

    assert run("echo trouble", [Contact("trouble", {"mixing": 3})]).reason == "trouble: 1 corrections did not help"
    ended = run("echo trouble", [Stopped("trouble", {"mixing": 3})])
    assert (ended.cause, ended.reason) == (Cause.TIME, "trouble")  # more of it may help: no more words


def test_corrections_end(run):
    endless = Says("trouble", *({"mixing": 10 + i} for i in range(100)))
    ended = run("echo trouble", [endless])
    assert ended.cause is Cause.UNCONVERGED
    assert ended.runs == len(ended.corrections) == MAX_CORRECTIONS + 1
    assert ended.reason == f"trouble: {MAX_CORRECTIONS + 1} corrections did not help"


def test_an_invalid_output_is_not_accepted(run):
    ended = run("true", validators=[NoResult()])
    assert (ended.cause, ended.reason) == (Cause.OUTPUT, "its output is not valid (NoResult)")

    class Named(NoResult):
        reason = "there is no result"

    assert run("true", validators=[Named()]).reason == "there is no result"


@pytest.mark.parametrize(
    ("script", "cause", "reason", "status"),
    [
        ("exit 3", Cause.PROGRAM, "ended with status 3", 3),
        ("kill -9 $$", Cause.MEMORY, "was killed, most often for want of memory", -9),
        ("kill -11 $$", Cause.PROGRAM, "ended by signal 11", -11),
        ("exit 137", Cause.MEMORY, "was killed, most often for want of memory", -9),  # as launchers report it
    ],
)
def test_how_it_ended_is_told(run, script, cause, reason, status):
    ended = run(script)
    assert (ended.cause, ended.reason, ended.status) == (cause, reason, status)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGXCPU])
def test_a_signal_from_outside_is_not_the_structures_fault(run, number):
    with pytest.raises(InfrastructureError, match=f"ended from outside by signal {int(number)}"):
        run(f"kill -{int(number)} $$")


def test_a_program_that_is_not_there_is_the_machines_fault(run):
    with pytest.raises(InfrastructureError, match="cannot be started"):
        run("", program=Program(("/no/such/program",), os.environ, "log"))


def test_time_ends_it_with_all_its_processes(run):
    ended = run("sleep 60 & sleep 60", [Says("trouble")], seconds=0.5)
    assert ended.cause is Cause.TIME
    assert ended.reason.startswith("ran out of time after ")
    assert ended.seconds < 20
    assert not [p for p in psutil.process_iter(["cwd"]) if p.info["cwd"] == str(run.folder)]


def test_the_limit_holds_for_all_runs_together(run):
    began = time.monotonic()
    ended = run("sleep 0.6; echo trouble", [Says("trouble", *({"mixing": i} for i in range(9)))], seconds=2)
    assert ended.cause is Cause.TIME
    assert 1 < ended.runs < 6
    assert time.monotonic() - began < 20


def test_a_halt_ends_it(run):
    told = threading.Event()
    threading.Timer(0.3, told.set).start()
    ended = run("sleep 60", halt=told.is_set)
    assert ended.halted
    assert ended.reason.startswith("halted after ")
    assert ended.seconds < 20


class Polite(Program):
    """Stops by itself, with a state to go on from, when it finds a file."""

    def __init__(self, status, last_words):
        script = f"while [ ! -e stop ]; do sleep 0.05; done; {last_words}; exit {status}"
        super().__init__(("/bin/sh", "-c", script), os.environ, "log")

    def ask_to_stop(self, folder):
        (folder / "stop").touch()
        return True


def test_a_halt_lets_a_polite_program_leave_its_state(run):
    ended = run("", program=Polite(2, "touch state"), halt=lambda: True)
    assert ended.halted
    assert ended.cause is Cause.TIME
    assert (run.folder / "state").exists()
    assert ended.status == 2


def test_a_program_that_ends_well_after_all_is_not_halted(run):
    ended = run("", validators=[NoResult()], program=Polite(0, "touch result"), halt=lambda: True)
    assert (ended.cause, ended.halted) == (None, False)


def test_patience_with_a_program_that_was_asked_ends(run, monkeypatch):
    monkeypatch.setattr("alflow.engines.custody._GRACE_S", 1.5)

    class Deaf(Program):
        def ask_to_stop(self, folder):
            return True

    ended = run("", program=Deaf(("/bin/sleep", "60"), os.environ, "log"), halt=lambda: True)
    assert ended.halted
    assert 1.5 < ended.seconds < 20


def test_monitors_look_rarely_and_end_a_run_that_goes_wrong(run, monkeypatch):
    monkeypatch.setattr("alflow.engines.custody._MONITOR_S", 0.5)
    script = 'grep -q "mixing 3" in && touch result && exit 0; echo trouble; sleep 60'
    ended = run(script, [Watching("trouble", {"mixing": 3})], [NoResult()])
    assert ended.cause is None
    assert ended.runs == 2
    assert ended.seconds < 20


def test_a_handler_that_stumbles_over_a_damaged_output_is_a_reason(run):
    class Clumsy(Says):
        def correct(self, directory="./"):
            raise KeyError("energy")

    ended = run("echo trouble", [Clumsy("trouble")])
    assert ended.cause is Cause.PROGRAM
    assert "Clumsy" in ended.reason
    assert "energy" in ended.reason


class Blind(Says):
    def check(self, directory="./"):
        with open(os.path.join(directory, "log"), encoding="utf-8") as f:
            return self.word in f.read()


def test_a_handler_that_cannot_read_what_it_looks_for_is_a_reason(run):
    told = run("printf 'caf\\351'", [Blind("nothing")])
    assert told.cause is Cause.OUTPUT
    assert "Blind cannot read the output: UnicodeDecodeError" in told.reason


def test_the_status_of_a_failed_run_says_more_than_a_handler_that_cannot_read_it(run):
    assert run("printf 'caf\\351'; exit 3", [Blind("nothing")]).reason == "ended with status 3"
    with pytest.raises(InfrastructureError, match="from outside"):
        run("printf 'caf\\351'; kill -TERM $$", [Blind("nothing")])


def test_one_calculations_end_leaves_its_neighbour_alone(run, tmp_path):
    neighbour = subprocess.Popen(["/bin/sleep", "30"], cwd=tmp_path)
    try:
        run("sleep 60 & sleep 60", seconds=0.3)
        assert neighbour.poll() is None
    finally:
        neighbour.kill()
        neighbour.wait()


def test_the_environment_stays_out_of_custodians_file(run):
    program = Program(("/bin/sh", "-c", "true"), {**os.environ, "TOKEN": "secret-1234"}, "log")
    run("", program=program)
    assert "secret-1234" not in (run.folder / "custodian.json").read_text()


def test_changes_are_shown_short():
    assert shown([None, 3]) == "from unset to 3"
    assert shown([0.2, 0.05]) == "from 0.2 to 0.05"
    assert shown(["x" * 100, "y"]) == ""
