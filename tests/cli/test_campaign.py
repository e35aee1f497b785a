"""The verbs on real runs of toy parts, through Parsl."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

WORKFLOW = """
alflow: 1
name: toy
seed: 4
stages:
  - name: one
    builder: {kind: random_cell, species: {Al: 1}, edge_A: [6, 7], n_atoms: [10, 20]}
    sampler: {kind: toy, steps: 5}
    potential: {kind: toy}
    uncertainty: {kind: spread, energy_meV: auto}
    selector: {kind: everything}
    labeler: {kind: toy}
    policy: {kind: rounds, samples: 4, batch: 2, initial: 8, label_batch: 4}
    until: {max_rounds: 1}
"""
SITE = """
site: here
lanes: {cores: {cores_per_node: 2}}
shares: {sample: cores, label: cores, fit: cores}
monitoring: false
"""


@pytest.fixture
def place(tmp_path):
    (tmp_path / "toy.yaml").write_text(WORKFLOW)
    (tmp_path / "slow.yaml").write_text(WORKFLOW.replace("labeler: {kind: toy}", "labeler: {kind: toy, sleep_s: 2.5}"))
    (tmp_path / "bad.yaml").write_text(WORKFLOW.replace("labeler: {kind: toy}", "labeler: {kind: toy, fail_every: 1}"))
    (tmp_path / "site.yaml").write_text(SITE)
    return tmp_path


def command(*words):
    return [sys.executable, "-m", "alflow", *map(str, words)]


@pytest.fixture
def alflow(place):
    def _alflow(*words):
        return subprocess.run(command(*words), capture_output=True, text=True, cwd=place, timeout=240, check=False)

    return _alflow


def status(alflow, run):
    return json.loads(alflow("status", run, "--json").stdout)


def wait_for(ready, seconds=90.0):
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.2)


def processes_of(run):
    """Processes that name the folder of a run."""
    all_of_them = (p for p in psutil.process_iter(["cmdline"]) if p.pid != os.getpid())
    return [p for p in all_of_them if str(run) in " ".join(p.info["cmdline"] or ())]


@pytest.mark.slow
def test_a_campaign_from_its_submission_to_its_report(alflow, place):
    done = alflow("submit", "toy.yaml", "--site", "site.yaml")
    assert done.returncode == 0, done.stderr
    assert "run directory runs/toy-01" in done.stdout
    assert "labels bought" in done.stdout
    assert "potential: runs/toy-01/potential\n" in done.stdout
    assert "LAMMPS" not in done.stdout, "it has no pair style for the toy"
    run = place / "runs" / "toy-01"
    assert (run / "report.html").is_file()
    found = status(alflow, run)
    assert (found["state"], found["models"]) == ("finished", 1)
    assert "finished" in alflow("status", run).stdout

    (run / "report.html").unlink()
    assert alflow("report", run).stdout == "runs/toy-01/report.html\n"
    assert (run / "report.html").is_file()

    stopped = alflow("stop", run)
    assert (stopped.returncode, "is not running" in stopped.stderr) == (2, True)
    taken = alflow("submit", "toy.yaml", "--site", "site.yaml", "--run", run)
    assert taken.returncode == 2
    assert "is a run already" in taken.stderr
    assert alflow("dashboard", run).returncode == 2, "without monitoring there is nothing to show"


@pytest.mark.slow
def test_a_campaign_that_fails_ends_with_status_1_and_says_why(alflow):
    done = alflow("submit", "bad.yaml", "--site", "site.yaml", "--run", "bad")
    assert done.returncode == 1
    assert "none of the 8 initial structures could be labelled" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_detach_stop_and_resume(alflow, place):
    started = time.monotonic()
    done = alflow("submit", "slow.yaml", "--site", "site.yaml", "--detach", "--run", "d")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 15
    wait_for(lambda: "label" in status(alflow, "d")["tasks"])
    second = alflow("resume", "d")
    assert second.returncode == 2
    assert "is being run by process" in second.stderr
    assert second.stdout == ""

    assert alflow("stop", "d").returncode == 0
    found = status(alflow, "d")
    assert found["state"] == "stopped"
    wait_for(lambda: not processes_of(place / "d"), 20)
    finished = alflow("resume", "d")
    assert finished.returncode == 0, finished.stderr
    assert status(alflow, "d")["state"] == "finished"


@pytest.mark.slow
def test_ctrl_c_leaves_a_run_that_can_be_resumed_and_no_process(alflow, place):
    process = subprocess.Popen(
        command("submit", "slow.yaml", "--site", "site.yaml", "--run", "c"),
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        wait_for(lambda: (Path(place) / "c" / "journal.jsonl").exists() and "label" in status(alflow, "c")["tasks"])
        os.killpg(process.pid, signal.SIGINT)  # what a terminal does: every process of the group hears it
        out, err = process.communicate(timeout=90)
    finally:
        if process.poll() is None:
            process.kill()
    assert process.returncode == 130, err
    assert "alflow resume c" in out
    assert "Traceback" not in err
    wait_for(lambda: not processes_of(place / "c"), 20)
    assert alflow("resume", "c").returncode == 0
