"""Campaigns on LSF and Flux: their stand-ins keep a queue and run the very scripts that would be submitted."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import time
from collections import Counter

import psutil
import pytest

from alflow.runtime import campaign_run, layout
from alflow.runtime.runner import InlineRunner
from alflow.runtime.worker import execute
from alflow.store.dataset import Dataset
from alflow.testing import fake_queue

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

LANE = "{{scheduler: {0}, launcher: {1}, address: 127.0.0.1, walltime: '00:05:00', partition: pbatch, {2}}}"
SITE = """
site: there
lanes:
  sample: {sample}
  label: {label}
shares: {{fit: sample}}
monitoring: false
"""
WORKFLOW = """
alflow: 1
name: queued
seed: 7
stages:
  - name: melt
    builder: {{kind: random_cell, species: {{Al: 1.0}}, edge_A: [6.0, 7.0], density_g_cm3: [1.8, 2.6]}}
    sampler: {{kind: toy, steps: 20}}
    potential: {{kind: toy, members: 2}}
    uncertainty: {{kind: spread, energy_meV: 5.0}}
    selector: {{kind: everything}}
    labeler: {{kind: toy, sleep_s: {label_s}, ledger: {ledger}}}
    policy: {{kind: rounds, samples: 2, batch: 2, initial: 6, label_batch: 1}}
    until: {{max_rounds: 1}}
"""
LAUNCHERS = {"lsf": "jsrun", "flux": "flux"}


@pytest.fixture(params=LAUNCHERS)
def scheduler(request):
    return request.param


@pytest.fixture
def queue(tmp_path, monkeypatch, scheduler):
    """An empty queue of three nodes whose commands are on PATH."""
    commands = [name for name in fake_queue.COMMANDS if (name == "flux") is (scheduler == "flux")]
    queue = fake_queue.install(tmp_path / "queue", commands, nodes=3)
    monkeypatch.setenv("PATH", str(queue.folder / "bin"), prepend=os.pathsep)
    yield queue
    queue.stop()
    assert queue.processes() == []


def prepared(folder, scheduler, label_s=0.3):
    folder.mkdir()
    lanes = {
        "sample": LANE.format(scheduler, LAUNCHERS[scheduler], "cores_per_node: 1"),
        "label": LANE.format(scheduler, LAUNCHERS[scheduler], "cores_per_node: 1, nodes_per_block: 2"),
    }
    (folder / "site.yaml").write_text(SITE.format(**lanes))
    (folder / "workflow.yaml").write_text(WORKFLOW.format(label_s=label_s, ledger=folder / "ledger.txt"))
    return campaign_run.prepare(folder / "workflow.yaml", folder / "site.yaml", folder / "run")


def wait_for(what, seconds=120.0):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.3)
    return found


def digest(run):
    data = Dataset.open(sorted((run / "dataset").glob("*.h5")))
    return hashlib.sha256("".join(data.ids).encode() + data.labels.energy.tobytes()).hexdigest()


def bought(run):
    path = run.parent / "ledger.txt"
    return Counter(path.read_text().split() if path.exists() else ())


def trouble(run):
    done = subprocess.run(
        [sys.executable, "-m", "alflow", "status", str(run), "--json"], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)["trouble"]


def processes_of(run):
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if str(run) in " ".join(process.cmdline()):
                found.append(process)
    return found


def nothing_is_left(queue, run):
    return not queue.jobs() and not queue.processes() and not processes_of(run)


def test_a_campaign_waits_for_a_closed_queue_and_then_runs_to_its_end(queue, scheduler, tmp_path, coordinator):
    run = prepared(tmp_path / "there", scheduler)
    (queue.folder / fake_queue.CLOSED).write_text("User cannot use the queue")
    with coordinator(run) as process:
        words = wait_for(lambda: trouble(run).get("sample"))
        assert "no blocks: " in words
        assert "User cannot use the queue" in words
        (queue.folder / fake_queue.CLOSED).unlink()
        assert process.wait(240) == 0, (run / layout.LOG).read_text()
    wait_for(lambda: nothing_is_left(queue, run), 60.0)
    jobs = queue.jobs("done", "failed", "killed", "timeout")
    assert {job.nodes for job in jobs.values()} == {1, 2}
    here = prepared(tmp_path / "here", scheduler)
    campaign_run.resume(here, lambda _, root: InlineRunner(execute, str(root)))
    assert digest(run) == digest(here)
    assert set(bought(run).values()) == {1}


def test_a_killed_coordinator_leaves_nothing_in_the_queue_and_loses_nothing(queue, scheduler, tmp_path, coordinator):
    run = prepared(tmp_path / "there", scheduler, label_s=2.0)
    with coordinator(run) as process:
        wait_for(lambda: bought(run).total() >= 1)
        assert queue.jobs("running")
        process.kill()
        process.wait()
        wait_for(lambda: nothing_is_left(queue, run), 60.0)
    with coordinator(run) as process:
        assert process.wait(240) == 0, (run / layout.LOG).read_text()
    wait_for(lambda: nothing_is_left(queue, run), 60.0)
    assert set(bought(run).values()) == {1}
