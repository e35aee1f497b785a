import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest

from alflow.engines.mpi import child_environment, command_of
from alflow.engines.processes import Running, run
from alflow.errors import InfrastructureError, InputError

PY = sys.executable
ENV = dict(os.environ)


def wait_for(condition, seconds=15):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def gone(*pids):
    return wait_for(lambda: not any(alive(p) for p in pids))


# starts a child in a session of its own, as launchers do; tells both pids; ignores SIGTERM if asked to
TREE = """
import os, signal, subprocess, sys, time
if "deaf" in sys.argv: signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
open("pids.tmp", "w").write(f"{os.getpid()} {child.pid}")
os.rename("pids.tmp", "pids")
time.sleep(600)
"""


def pids_of(folder):
    assert wait_for((folder / "pids").exists)
    return [int(w) for w in (folder / "pids").read_text().split()]


def test_output_and_status_arrive(tmp_path):
    words = [PY, "-c", "import sys, os; print(os.getcwd()); print('no', file=sys.stderr); sys.exit(3)"]
    outcome = run(words, tmp_path, tmp_path / "log", ENV)
    assert (outcome.status, outcome.timed_out, outcome.halted) == (3, False, False)
    assert sorted((tmp_path / "log").read_text().split()) == sorted([str(tmp_path.resolve()), "no"])


def test_input_is_closed(tmp_path):
    run([PY, "-c", "import sys; print(repr(sys.stdin.read()))"], tmp_path, tmp_path / "log", ENV, max_seconds=20)
    assert (tmp_path / "log").read_text().strip() == "''"


def test_a_program_talks_over_a_descriptor_and_its_end_is_heard(tmp_path):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        script = "import os, sys; fd = int(sys.argv[1]); os.write(fd, os.read(fd, 9).upper())"
        program = Running([PY, "-c", script, str(theirs.fileno())], tmp_path, tmp_path / "log", ENV, [theirs.fileno()])
        theirs.close()
        ours.settimeout(15)
        ours.sendall(b"hello")
        heard = [ours.recv(9), ours.recv(9)]
        assert program.end() == 0
    assert heard == [b"HELLO", b""], "the guard keeps no copy that would hide the end"


def test_a_signal_is_a_negative_status(tmp_path):
    words = [PY, "-c", "import os; os.kill(os.getpid(), 11)"]
    assert run(words, tmp_path, tmp_path / "log", ENV).status == -signal.SIGSEGV


@pytest.mark.parametrize("deaf", [[], ["deaf"]])
def test_time_limit_ends_the_whole_tree(tmp_path, deaf):
    outcome = run([PY, "-c", TREE, *deaf], tmp_path, tmp_path / "log", ENV, max_seconds=1.0)
    assert outcome.timed_out
    assert outcome.seconds < 8
    assert gone(*pids_of(tmp_path))


def test_halt_ends_it(tmp_path):
    outcome = run([PY, "-c", TREE], tmp_path, tmp_path / "log", ENV, halt=(tmp_path / "pids").exists)
    assert outcome.halted
    assert not outcome.timed_out
    assert gone(*pids_of(tmp_path))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_us(tmp_path, number):
    script = (
        "import os, sys; from pathlib import Path; from alflow.engines.processes import run\n"
        "here = Path(sys.argv[1]); run([sys.executable, '-c', sys.argv[2]], here, here / 'log', dict(os.environ))"
    )
    caller = subprocess.Popen([PY, "-c", script, str(tmp_path), TREE])
    pids = pids_of(tmp_path)
    caller.send_signal(number)
    caller.wait()
    assert gone(*pids)


def test_children_left_behind_by_a_finished_program_are_ended(tmp_path):
    leave = TREE.replace("time.sleep(600)\n", "")
    assert leave != TREE
    assert run([PY, "-c", leave], tmp_path, tmp_path / "log", ENV).status == 0
    assert gone(*pids_of(tmp_path))


def test_a_program_that_is_not_there(tmp_path):
    with pytest.raises(InfrastructureError, match="nowhere: cannot be started"):
        run([str(tmp_path / "nowhere")], tmp_path, tmp_path / "log", ENV)
    with pytest.raises(InfrastructureError, match="cannot be started"):
        run([PY], tmp_path / "no folder", tmp_path / "log", ENV)


def test_command_has_absolute_paths():
    words = command_of("x", ["sh", "-c", "true"], ["env", "A=1"], {})
    assert [os.path.isabs(w) for w in words] == [True, False, True, False, False]
    assert [os.path.basename(w) for w in words] == ["env", "A=1", "sh", "-c", "true"]


@pytest.mark.parametrize(
    ("command", "launcher", "env", "match"),
    [
        ([], [], {}, "codes.x.command: is empty"),
        (["no-such-program"], [], {}, "codes.x.command: the program 'no-such-program'"),
        (["sh"], ["/no/mpirun", "-np", "2"], {}, "codes.x.launcher: the program '/no/mpirun'"),
        (["sh"], [], {"PATH": "/nowhere"}, "codes.x.command: the program 'sh'"),
    ],
)
def test_missing_programs_are_named(command, launcher, env, match):
    with pytest.raises(InputError, match=match):
        command_of("x", command, launcher, env)


def test_environment_of_a_surrounding_rank_does_not_leak(monkeypatch):
    monkeypatch.setenv("PMI_RANK", "3")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    monkeypatch.setenv("OMPI_MCA_btl", "self")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    env = child_environment({"A": "1"})
    assert not {"PMI_RANK", "OMPI_COMM_WORLD_SIZE"} & env.keys()
    assert (env["OMPI_MCA_btl"], env["A"], env["OMP_NUM_THREADS"]) == ("self", "1", "1")
    assert child_environment({"OMP_NUM_THREADS": "4"})["OMP_NUM_THREADS"] == "4"
