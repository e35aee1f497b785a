"""What tests of the runners share: work that pools can import, lanes, and one small run through Parsl."""

import contextlib
import importlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alflow.runtime import layout
from alflow.runtime.parsl_runner import ParslRunner
from alflow.runtime.runner import Capacity
from alflow.spec.site import Lane, Site

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def worker_apps():
    """The module of work, importable here and in workers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        patch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)
        yield importlib.import_module("worker_apps")


@pytest.fixture(scope="session")
def only():
    """Makes a site that does everything in one lane."""

    def make(lane, name="one", *, monitoring=True):
        shares = dict.fromkeys(("sample", "label", "fit"), name)
        return Site(name="there", lanes={name: lane}, shares=shares, monitoring=monitoring)

    return make


@pytest.fixture(scope="session")
def here(only):
    """Makes a site with one lane of two workers on this machine."""
    return lambda **more: only(Lane(workers_per_node=2, cores_per_node=2, cores_per_task=1), "all", **more)


@pytest.fixture(scope="session")
def hear():
    """Collects a number of a runner's reports, by task."""

    def collect(runner, count, timeout_s=60.0):
        reports, deadline = [], time.monotonic() + timeout_s
        while len(reports) < count and time.monotonic() < deadline:
            reports += runner.completed(1.0)
        return {r.task_id: r for r in reports}

    return collect


@pytest.fixture(scope="session")
def coordinator():
    """A context in which ``alflow resume`` works on a run, in a process of its own that does not outlive it."""

    @contextlib.contextmanager
    def resuming(run):
        with (run / layout.LOG).open("ab") as log:
            process = subprocess.Popen([sys.executable, "-m", "alflow", "resume", str(run)], stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    return resuming


@pytest.fixture(scope="session")
def parsl_run(worker_apps, here, hear, tmp_path_factory):
    """A small run through Parsl with monitoring, closed: its folder, and the reports."""
    root = tmp_path_factory.mktemp("small") / "run"
    runner = ParslRunner(worker_apps.work, here(), root)
    try:
        runner.submit({"id": "first", "verb": "build", "args": {}})  # one task and two workers
        reports = hear(runner, 1)
        for name, args in {
            "key": {"raises": "KeyError"},
            "memory": {"raises": "MemoryError"},
            "gone": {"exit": 3},
            **{f"s{i}": {} for i in range(20)},
        }.items():
            runner.submit({"id": name, "verb": "sample", "args": args})
        reports |= hear(runner, 23)
        assert list(runner.completed(0.1)) == []
        deadline = time.monotonic() + 10.0
        while runner.capacity()["all"] != Capacity(nodes=1, workers=2):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        runner.submit({"id": "last", "verb": "fit", "args": {"sleep": 1.0}})
    finally:
        runner.close()
    return root, reports | hear(runner, 1, 1.0)
