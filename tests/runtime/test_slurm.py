"""Campaigns on a real Slurm of four nodes: blocks that end, are cancelled, lost or never granted; nothing is left."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from alflow.campaign.model import FailureKind, Retried
from alflow.runtime import campaign_run, layout, rundir
from alflow.runtime.journal import read_lines
from alflow.runtime.parsl_runner import ParslRunner
from alflow.runtime.runner import InlineRunner
from alflow.runtime.worker import execute
from alflow.spec.site import Lane, Site
from alflow.store.dataset import Dataset
from alflow.testing import slurm as bed

pytestmark = [pytest.mark.requires_program("slurmctld", "/usr/sbin/slurmctld"), pytest.mark.timeout(600)]

SITE = """
site: bed
lanes:
{lanes}
shares: {shares}
monitoring: false
"""
LANE = "{{scheduler: slurm, launcher: srun, address: 127.0.0.1, {0}}}"
WORKFLOW = """
alflow: 1
name: slurm
seed: 7
defaults:
  builder: {{kind: random_cell, species: {{Al: 1.0}}, edge_A: [6.0, 8.0], density_g_cm3: [1.8, 2.6]}}
  sampler: {{kind: toy}}
  potential: {{kind: toy, members: {members}, members_per_task: {members}, sleep_s: {fit_s}}}
  uncertainty: {{kind: spread, energy_meV: 5.0}}
  selector: {{kind: everything}}
  labeler: {{kind: toy, sleep_s: {label_s}, ledger: {ledger}}}
stages:
  - name: melt
    policy: {{kind: rounds, samples: 4, batch: 2, initial: {initial}, label_batch: {label_batch}}}
    until: {{max_rounds: 1}}
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch, bed.cluster(tmp_path_factory.mktemp("slurm")) as cluster:
        for name, value in cluster.env.items():
            patch.setenv(name, value)
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        yield cluster


@pytest.fixture(autouse=True)
def healthy(slurm):
    """Every test begins with four idle nodes and leaves an empty queue."""
    wait_for(lambda: slurm.states() == dict.fromkeys(slurm.nodes, "idle"), 60.0)
    yield
    slurm.run("scontrol", "update", f"PartitionName={bed.PARTITION}", "State=UP")
    for job in slurm.jobs():
        slurm.run("scancel", job)


def wait_for(what, timeout_s):
    """What it says once it says something."""
    deadline = time.monotonic() + timeout_s
    while not (found := what()):
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.2)
    return found


def prepared(folder: Path, lanes: dict[str, str], shares: str = "{}", **more) -> Path:
    folder.mkdir()
    text = "\n".join(f"  {name}: {LANE.format(keys)}" for name, keys in lanes.items())
    (folder / "site.yaml").write_text(SITE.format(lanes=text, shares=shares))
    settings = {"members": 2, "fit_s": 0.0, "label_s": 0.5, "initial": 8, "label_batch": 2, **more}
    (folder / "workflow.yaml").write_text(WORKFLOW.format(ledger=folder / "ledger.txt", **settings))
    return campaign_run.prepare(folder / "workflow.yaml", folder / "site.yaml", folder / "run")


def undisturbed(folder: Path, **settings) -> str:
    """Digest of the dataset of the same campaign in this process, without any waiting."""
    run = prepared(folder, dict.fromkeys(("sample", "label", "fit"), "cores_per_node: 1"), **settings)
    campaign_run.resume(run, lambda _, root: InlineRunner(execute, str(root)))
    return digest(run)


def digest(run: Path) -> str:
    data = Dataset.open(sorted((run / "dataset").glob("*.h5")))
    return hashlib.sha256("".join(data.ids).encode() + data.labels.energy.tobytes()).hexdigest()


def bought(run: Path) -> Counter[str]:
    path = run.parent / "ledger.txt"
    return Counter(path.read_text().split() if path.exists() else ())


def retries(run: Path) -> Counter[tuple[str, FailureKind]]:
    events = [event for _, events in read_lines(run / layout.JOURNAL) for event in events]
    return Counter((e.task_id.split("-")[1], e.kind) for e in events if isinstance(e, Retried))


def nothing_is_left(slurm: bed.Slurm, run: Path) -> bool:
    return not slurm.jobs() and not processes_of(run)


def processes_of(run: Path) -> list[str]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = " ".join([*process.cmdline(), *process.environ().values()])
            if str(run) in words and process.pid != os.getpid():
                found.append(words)
    return found


def told(run: Path) -> str:
    return (run / layout.LOG).read_text()


def test_walltimes_end_in_the_middle_of_tasks(slurm, tmp_path, coordinator):
    """Three lanes of one-minute blocks; each fit takes longer than a block, labels are at work when theirs ends."""
    lanes = {
        "sample": "walltime: '00:01:00', cores_per_node: 1",
        "label": "walltime: '00:01:00', nodes_per_block: 2, cores_per_node: 1",
        "fit": "walltime: '00:01:00', cores_per_node: 1",
    }
    settings = {"members": 5, "initial": 8, "label_batch": 4}
    run = prepared(tmp_path / "slurm", lanes, fit_s=12.0, label_s=14.0, **settings)
    with coordinator(run) as process:
        assert process.wait(480) == 0, told(run)
    wait_for(lambda: nothing_is_left(slurm, run), 20.0)
    assert set(bought(run).values()) == {1}
    again = retries(run)
    assert again["fit", FailureKind.HALTED] >= 1
    assert again["label", FailureKind.HALTED] >= 1
    assert set(again) <= {("fit", FailureKind.HALTED), ("label", FailureKind.HALTED)}, "blocks ended under tasks"
    assert digest(run) == undisturbed(tmp_path / "here", label_s=0.0, **settings)


def test_no_task_starts_that_its_block_cannot_finish(slurm, tmp_path, monkeypatch):
    """A block of 55 seconds before it halts its tasks, each of which needs 24: it takes none after the 31st second."""
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    lane = Lane(
        scheduler="slurm",
        launcher="srun",
        address="127.0.0.1",
        walltime="00:01:00",
        task_minutes=0.4,
        workers_per_node=1,
    )
    shares = dict.fromkeys(("sample", "label", "fit"), "one")
    site = Site(name="bed", lanes={"one": lane}, shares=shares, monitoring=False)
    runner = ParslRunner(importlib.import_module("worker_apps").work, site, tmp_path / "run")
    reports, ends = [], []
    try:
        for n in range(4):
            runner.submit({"id": f"t{n}", "verb": "label", "args": {"sleep": 12}})
        (first,) = wait_for(lambda: slurm.jobs("RUNNING"), 30.0)
        began = time.monotonic()
        while len(reports) < 4:
            reports += runner.completed(1.0)
            ends += [time.monotonic() - began] * (first not in slurm.jobs() and not ends)
            assert time.monotonic() < began + 150.0
    finally:
        runner.close(now=True)
    assert all(report.failure is None for report in reports), reports
    assert 12 < ends[0] < 55, "drained, the block ends before its time"
    assert len({report.result["pid"] for report in reports}) == 2


def test_blocks_follow_the_backlog_through_every_disturbance(slurm, tmp_path, coordinator):
    """A cancelled block, a node without power, a scheduler that refuses, one that is restarted."""
    lanes = {"sample": "walltime: '00:03:00', cores_per_node: 1, max_blocks: 3"}
    settings = {"initial": 30, "label_batch": 1}
    run = prepared(tmp_path / "slurm", lanes, "{label: sample, fit: sample}", fit_s=14.0, label_s=3.0, **settings)
    with coordinator(run) as process:
        wait_for(lambda: len(slurm.jobs("RUNNING")) == 3 and len(bought(run)) >= 3, 60.0)
        cancelled, doomed, _ = slurm.jobs("RUNNING")
        lost = slurm.run("squeue", "--noheader", "--format=%N", f"--jobs={doomed}").strip()
        slurm.run("scancel", cancelled)
        wait_for(lambda: len(slurm.jobs("RUNNING")) == 3, 30.0)

        slurm.run("scontrol", "update", f"PartitionName={bed.PARTITION}", "State=DRAIN")
        slurm.kill_node(lost)
        wait_for(lambda: "no blocks: sbatch: error" in told(run), 60.0)
        slurm.stop_controller()
        count = len(bought(run))
        wait_for(lambda: len(bought(run)) > count, 30.0)  # the blocks that are there work on
        slurm.start_controller()
        slurm.start_node(lost)
        wait_for(slurm.states, 30.0)
        slurm.run("scontrol", "update", f"PartitionName={bed.PARTITION}", "State=UP")

        wait_for(lambda: len(bought(run)) >= 30, 120.0)
        wait_for(lambda: len(slurm.jobs()) == 1, 60.0)  # the first fit is alone
        assert process.wait(200) == 0, told(run)
    wait_for(lambda: nothing_is_left(slurm, run), 20.0)
    assert set(bought(run).values()) == {1}
    assert retries(run)["label", FailureKind.INFRASTRUCTURE] >= 2  # of the block cancelled, and of the node
    assert digest(run) == undisturbed(tmp_path / "here", label_s=0.0, **settings)


def test_a_job_that_stays_in_the_queue(slurm, tmp_path, coordinator):
    lanes = {"sample": f"walltime: '00:10:00', cores_per_node: 1, partition: {bed.CLOSED}"}
    run = prepared(tmp_path / "slurm", lanes, "{label: sample, fit: sample}")
    with coordinator(run) as process:
        wait_for(lambda: slurm.jobs("PENDING"), 60.0)
        watched = psutil.Process(process.pid)
        before = sum(watched.cpu_times()[:2])
        time.sleep(8.0)
        assert sum(watched.cpu_times()[:2]) - before < 1.5, "the coordinator waits in a hot loop"
        assert len(slurm.jobs()) == 1
        words = [sys.executable, "-m", "alflow", "status", str(run), "--json"]
        state = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
        assert (state["state"], state["tasks"]["build"]) == ("running", {"open": 1})
        assert campaign_run.stop(run)
        process.wait(10)
    wait_for(lambda: nothing_is_left(slurm, run), 20.0)


HERE = Path(__file__).parent
SCRIPT = HERE.parents[1] / "slurm" / "coordinator.sbatch"


def generations(slurm, folder: Path, run: Path, minutes: int, **env: str) -> list[str]:
    """Submit the coordinator's script with short walltimes; what each job in turn has said, once none is left."""
    text = SCRIPT.read_text().replace("--time=24:00:00", f"--time={minutes}").replace("--mem=4G", "--mem=100M")
    (folder / "coordinator.sbatch").write_text(text.replace("B:USR1@300", f"B:USR1@{30 * minutes}"))
    words = ",".join(f"{k}={v}" for k, v in {"RUN": str(run), **env}.items())
    slurm.run("sbatch", f"--chdir={folder}", f"--export=ALL,{words}", str(folder / "coordinator.sbatch"))
    wait_for(lambda: not slurm.jobs(), 400.0)
    return [p.read_text() for p in sorted(folder.glob("alflow-*.log"), key=lambda p: int(p.stem.split("-")[1]))]


def test_coordinators_script_goes_on_until_the_campaign_is_over(slurm, tmp_path):
    """It goes on in the next job, and no job comes after the last.

    Labels take 96 s at least: Slurm, which looks at jobs twice a minute, sends USR1 after a minute and a half at most.
    """
    lanes = {"sample": "walltime: '00:10:00', cores_per_node: 2"}
    made = prepared(tmp_path / "made", lanes, "{label: sample, fit: sample}", label_s=12.0, initial=16)
    env = {"WORKFLOW": str(made.parent / "workflow.yaml"), "SITE": str(made.parent / "site.yaml")}
    run = tmp_path / "run"
    said = generations(slurm, tmp_path, run, 2, **env)
    assert len(said) >= 2
    assert all("ended by walltime" in text and "Submitted batch job" in text for text in said[:-1]), said
    assert "is finished" in said[-1]
    assert "Submitted batch job" not in said[-1]
    assert not processes_of(run)
    assert set(Counter((made.parent / "ledger.txt").read_text().split()).values()) == {1}


def test_coordinators_script_gives_up_when_nothing_comes_of_it(slurm, tmp_path):
    lanes = {"sample": f"walltime: '00:10:00', cores_per_node: 1, partition: {bed.CLOSED}"}
    run = prepared(tmp_path / "slurm", lanes, "{label: sample, fit: sample}")
    said = generations(slurm, tmp_path, run, 1, ALFLOW_FRUITLESS="1")
    assert "Submitted batch job" in said[0]
    assert "three jobs in a row have brought nothing" in said[1]
    assert len(said) == 2
    assert not processes_of(run)


def test_nothing_is_left_however_it_ends(slurm, tmp_path, coordinator):
    lanes = {"sample": "walltime: '00:10:00', cores_per_node: 2", "label": "walltime: '00:10:00', cores_per_node: 2"}
    run = prepared(tmp_path / "slurm", lanes, "{fit: sample}", label_s=2.0, label_batch=4, initial=24)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        count = len(bought(run))
        with coordinator(run) as process:
            wait_for(lambda: len(bought(run)) > count, 60.0)  # noqa: B023  called before the next round
            process.send_signal(number)
            process.wait(60)
        wait_for(lambda: nothing_is_left(slurm, run), 30.0)
        assert not rundir.is_locked(run)
    with coordinator(run) as process:
        assert process.wait(120) == 0, told(run)
    wait_for(lambda: nothing_is_left(slurm, run), 20.0)
    assert set(bought(run).values()) == {1}
