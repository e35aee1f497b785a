"""However a coordinator ends, nothing it started outlives it for long."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from alflow.runtime import processes

HERE = Path(__file__).parent
SOON_S = 20.0


@pytest.fixture
def coordinator(run_dir, monkeypatch):
    """A coordinator with two running tasks, in a session of its own; whatever it leaves is ended after the test."""
    monkeypatch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)
    words = [sys.executable, str(HERE / "coordinator_script.py"), str(run_dir)]
    started = subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True, text=True)
    try:
        assert started.stdout.readline() == "ready\n"
        yield started
    finally:
        for process in (
            [*working_for(run_dir), psutil.Process(started.pid)] if started.poll() is None else working_for(run_dir)
        ):
            process.kill()
        started.wait()
        started.stdout.close()


def working_for(run_dir: Path) -> list[psutil.Process]:
    """Every process whose command, environment or folder names the run: found without alflow's help."""
    found = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), *process.environ().values(), process.cwd()]
        except (psutil.Error, OSError):
            continue
        if process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE and str(run_dir) in " ".join(words):
            found.append(process)
    return found


def family(coordinator, run_dir):
    """All that a coordinator has started: its descendants, those of its pools, and the tasks' own programs."""
    whole = {*psutil.Process(coordinator.pid).children(recursive=True), *working_for(run_dir)}
    whole |= {child for process in list(whole) for child in process.children(recursive=True)}
    whole.discard(psutil.Process(coordinator.pid))
    task_pids = {int((run_dir / f"{name}.started").read_text()) for name in "ab"}
    titles = " ".join(" ".join(p.cmdline()) for p in whole)
    assert task_pids <= {p.pid for p in whole}
    for part in ("interchange", "process_worker_pool", "monitoring database", "monitoring zmq router"):
        assert part in titles
    assert len(whole) >= 8
    return whole


def left_of(whole):
    return psutil.wait_procs(list(whole), SOON_S)[1]


@pytest.mark.slow
def test_nothing_outlives_a_killed_coordinator(coordinator, run_dir):
    whole = family(coordinator, run_dir)
    coordinator.send_signal(signal.SIGKILL)
    assert left_of(whole) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_coordinator_closes_in_order(coordinator, run_dir, number):
    whole = family(coordinator, run_dir)
    before = time.monotonic()
    if number is signal.SIGINT:
        os.killpg(coordinator.pid, number)  # as a terminal does: to all of its processes
    else:
        coordinator.send_signal(number)
    assert coordinator.wait(SOON_S) == 0
    assert time.monotonic() - before < SOON_S
    assert coordinator.stdout.read().split() == ["interrupted", "closed"]
    assert left_of(whole) == []


@pytest.mark.slow
def test_resume_ends_what_a_killed_coordinator_and_reaper_left(coordinator, run_dir):
    whole = family(coordinator, run_dir)
    assert processes.end_leftovers(run_dir) == []  # it lives: nothing of its is touched
    assert all(p.is_running() for p in whole)
    (reaper,) = (p for p in whole if processes.__name__ in p.cmdline())
    reaper.kill()
    coordinator.kill()
    coordinator.wait()
    assert any(p.is_running() for p in whole)
    assert processes.end_leftovers(run_dir)
    assert left_of(whole) == []


def test_only_marked_processes_of_dead_coordinators_are_ended(run_dir, tmp_path):
    def start(**mark):
        return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env={**os.environ, **mark})

    dead = f"{os.getpid()}:12.00"  # this pid at another time
    mark = {processes.RUN: str(run_dir), processes.COORDINATOR: dead}
    leftover, living = start(**mark), start(**{**mark, processes.COORDINATOR: processes.coordinator_token()})
    other, unmarked = start(**{**mark, processes.RUN: str(tmp_path)}), start()
    try:
        assert [line.split()[0] for line in processes.end_leftovers(run_dir)] == [str(leftover.pid)]
        assert leftover.poll() is not None
        assert [p.poll() for p in (living, other, unmarked)] == [None] * 3
        assert [line.split()[0] for line in processes.end_own(run_dir)] == [str(living.pid)]
        assert [p.poll() for p in (other, unmarked)] == [None] * 2
    finally:
        for process in (leftover, living, other, unmarked):
            process.kill()
            process.wait()


def test_a_process_that_ignores_sigterm_is_killed(run_dir, monkeypatch):
    monkeypatch.setattr(processes, "GRACE_S", 0.5)
    reaper = processes.Reaper(run_dir)
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    stubborn = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    stubborn.stdout.readline()
    assert len(reaper.close()) == 1
    assert stubborn.poll() is not None
    stubborn.stdout.close()
    assert processes.RUN not in os.environ


def test_tethered_process_ends_with_its_parent(tmp_path):
    """A worker whose pool is killed ends, and so does the program it runs."""
    child = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    worker = (
        "import subprocess, sys, os; from alflow.runtime.processes import tether_to_parent; tether_to_parent()\n"
        f"print(os.getpid(), flush=True); subprocess.run([sys.executable, '-c', {child!r}])"
    )
    pool = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {worker!r}])"
    process = subprocess.Popen([sys.executable, "-c", pool], stdout=subprocess.PIPE, text=True)
    below = [psutil.Process(int(process.stdout.readline())) for _ in range(2)]
    process.kill()
    process.wait()
    process.stdout.close()
    assert psutil.wait_procs(below, 30)[1] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_put_off_to_the_end_of_the_block(number):
    got = []
    before = signal.signal(number, lambda n, _frame: got.append(n))
    try:
        with processes.uninterrupted():
            os.kill(os.getpid(), number)
            time.sleep(0.05)
            got.append("end of block")
        assert got == ["end of block", number]
    finally:
        signal.signal(number, before)


def test_children_started_deaf_outlive_ctrl_c():
    code = "print(flush=True); input()"
    with processes.deaf_children():
        child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdout.readline()
    child.send_signal(signal.SIGINT)
    child.communicate(b"\n", timeout=10)
    assert child.returncode == 0
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_while_children_are_started_is_heard_at_the_end():
    """Many seconds pass while Parsl starts on a busy machine; who stops a campaign then means it."""
    done = []
    with pytest.raises(KeyboardInterrupt), processes.uninterrupted():  # noqa: PT012
        with processes.deaf_children():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
            done.append("children")
        done.append("block")
    assert done == ["children", "block"]


def test_sigterm_interrupts_like_ctrl_c():
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"), processes.terminable():  # noqa: PT012
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
