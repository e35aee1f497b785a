"""Tasks through Parsl: real pools on this machine."""

import sqlite3
import stat
import time

import psutil
import pytest

from alflow.campaign.model import FailureKind
from alflow.errors import InfrastructureError
from alflow.runtime import layout
from alflow.runtime.parsl_runner import CLOSE_S, ParslRunner


def test_tasks_come_back_with_their_results(parsl_run):
    _, reports = parsl_run
    good = {name: r.result for name, r in reports.items() if r.failure is None}
    assert set(good) == {"first", "last", *(f"s{i}" for i in range(20))}  # `close` waited for the last
    assert all(result["id"] == name and result["threads"] == "1" for name, result in good.items())
    assert all(result["pid"] != psutil.Process().pid for result in good.values())


def test_failures_come_back_with_their_kind(parsl_run):
    _, reports = parsl_run
    assert reports["key"].failure is FailureKind.DEFECT
    assert reports["memory"].failure is FailureKind.RESOURCE
    assert reports["memory"].detail == "MemoryError: task memory"
    assert reports["gone"].failure is FailureKind.INFRASTRUCTURE
    assert "loss of worker" in reports["gone"].detail


def test_traceback_of_a_defect_is_that_of_the_worker(parsl_run):
    _, reports = parsl_run
    assert "worker_apps.py" in reports["key"].detail
    assert "site-packages/parsl" not in reports["key"].detail


def test_parsls_folder_is_private(parsl_run):
    root, _ = parsl_run
    assert stat.S_IMODE((root / "parsl").stat().st_mode) == 0o700
    assert list((root / "parsl").rglob("server.key_secret"))  # its sockets were encrypted


def test_monitoring_names_tasks_by_their_verb(parsl_run):
    root, _ = parsl_run
    with sqlite3.connect(f"file:{root / layout.MONITORING}?mode=ro", uri=True) as db:
        counts = dict(db.execute("select task_func_name, count(*) from task group by 1"))
        ((name,),) = db.execute("select workflow_name from workflow")
    db.close()
    assert counts == {"build": 1, "sample": 23, "fit": 1}
    assert name == "run"


def test_closed_runner_leaves_no_process(parsl_run):
    root, _ = parsl_run
    left = []
    for process in psutil.process_iter():
        try:
            words = " ".join([*process.cmdline(), *process.environ().values()])
        except (psutil.Error, OSError):
            continue
        if str(root) in words and "multiprocessing.resource_tracker" not in words:  # that is this process's own
            left.append(process)
    assert left == []


@pytest.mark.slow
def test_killed_interchange_is_noticed(worker_apps, here, hear, run_dir):
    """Parsl itself would wait for ever."""
    runner = ParslRunner(worker_apps.work, here(monitoring=False), run_dir)
    try:
        runner.submit({"id": "a", "verb": "sample", "args": {"sleep": 600}})
        while not (run_dir / "a.started").exists():
            time.sleep(0.1)
        (victim,) = (p for p in psutil.Process().children() if "HTEX interchange" in " ".join(p.cmdline()))
        victim.kill()
        with pytest.raises(InfrastructureError, match="interchange ended unexpectedly; go on with"):
            hear(runner, 1, 20.0)
    finally:
        before = time.monotonic()
        runner.close(now=True)
        assert time.monotonic() - before < CLOSE_S
