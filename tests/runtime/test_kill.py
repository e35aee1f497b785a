"""SIGKILL of the coordinator at random moments, on the real Parsl runner."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from alflow.runtime import campaign_run, layout, rundir
from alflow.runtime.journal import read_lines
from alflow.runtime.runner import InlineRunner
from alflow.runtime.worker import execute
from alflow.store.dataset import Dataset

SITE = """
site: here
lanes:
  sample: {scheduler: local, cores_per_node: 2}
shares: {label: sample, fit: sample}
monitoring: false
"""
WORKFLOW = """
alflow: 1
name: kill
seed: 5
defaults:
  builder: {{kind: random_cell, species: {{Al: 1.0}}, edge_A: [6.0, 8.0], density_g_cm3: [1.8, 2.6]}}
  sampler: {{kind: toy}}
  potential: {{kind: toy}}
  uncertainty: {{kind: spread, energy_meV: 5.0}}
  selector: {{kind: everything}}
  labeler: {{kind: toy, sleep_s: 0.4, ledger: {ledger}}}
stages:
  - name: melt
    policy: {{kind: rounds, samples: 4, batch: 2, initial: 24, label_batch: 2}}
    until: {{max_rounds: 2}}
"""


def prepared(folder: Path) -> Path:
    folder.mkdir()
    (folder / "site.yaml").write_text(SITE)
    (folder / "workflow.yaml").write_text(WORKFLOW.format(ledger=folder / "ledger.txt"))
    return campaign_run.prepare(folder / "workflow.yaml", folder / "site.yaml", folder / "run")


def digest(run: Path) -> str:
    data = Dataset.open(sorted((run / "dataset").glob("*.h5")))
    return hashlib.sha256("".join(data.ids).encode() + data.labels.energy.tobytes()).hexdigest()


def resume(run: Path) -> subprocess.Popen[bytes]:
    with (run / layout.LOG).open("ab") as log:
        return subprocess.Popen([sys.executable, "-m", "alflow", "resume", str(run)], stdout=log, stderr=log)


def lines(run: Path) -> int:
    path = run / layout.JOURNAL
    return path.read_bytes().count(b"\n") if path.exists() else 0


def processes_of(run: Path) -> list[psutil.Process]:
    """What still runs for this run, told by the run directory in its command line or environment."""
    found = []
    for process in psutil.process_iter():
        try:
            words = " ".join(process.cmdline()) + " ".join(f"{k}={v}" for k, v in process.environ().items())
        except psutil.Error:
            continue
        if str(run) in words and process.pid != os.getpid():
            found.append(process)
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sigkill_at_any_moment_loses_no_label_and_buys_none_twice(tmp_path):
    undisturbed = prepared(tmp_path / "undisturbed")
    campaign_run.resume(undisturbed, lambda site, root: InlineRunner(execute, str(root)))

    rng, run, kills = random.Random(11), prepared(tmp_path / "killed"), 0
    for _ in range(40):
        known = lines(run)
        process = resume(run)
        # at least one decision further than before, so that the campaign gets on; then any moment
        while process.poll() is None and lines(run) <= known:
            time.sleep(0.01)
        try:
            process.wait(rng.uniform(0.0, 4.0) if kills < 6 else 300)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            kills += 1
        if process.wait() == 0:
            break
    log = (run / layout.LOG).read_text()
    assert process.returncode == 0, log[-2000:]
    assert kills >= 3

    bought = Counter((tmp_path / "killed" / "ledger.txt").read_text().split())
    assert set(bought.values()) == {1}, "a label was bought twice"
    data = Dataset.open(sorted((run / "dataset").glob("*.h5")))
    assert set(data.ids) == set(bought), "a finished label was lost"
    assert digest(run) == digest(undisturbed), "the data differ from an undisturbed campaign's"
    closed = [e for _, line in read_lines(run / layout.JOURNAL) for e in line if type(e).__name__ == "Closed"]
    assert [e.failed for e in closed] == [False]
    assert not rundir.is_locked(run)
    deadline = time.monotonic() + 30
    while processes_of(run) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not processes_of(run), "orphans are left"
