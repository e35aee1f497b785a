"""The queue of a worker pool outlives a reader that is killed while it waits."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import time
from multiprocessing.queues import Queue

import psutil
import pytest

from alflow.runtime.process_worker_pool import Tasks

SPAWN = multiprocessing.get_context("spawn")


def wait_and_echo(tasks, echo):
    """A worker: says that it is there, then echoes what it is given until that is None."""
    echo.put(os.getpid())
    while (item := tasks.get(timeout=60.0)) is not None:
        echo.put(item)


def start(tasks, echo):
    process = SPAWN.Process(target=wait_and_echo, args=(tasks, echo))
    process.start()
    assert echo.get(timeout=30.0) == process.pid
    while psutil.Process(process.pid).status() != psutil.STATUS_SLEEPING:
        time.sleep(0.01)
    time.sleep(0.2)
    return process


@pytest.mark.parametrize(("kind", "works"), [(Tasks, True), (lambda: Queue(ctx=SPAWN), False)])
def test_killed_reader_does_not_stop_the_others(kind, works):
    """Of Python's own queue it does: should that change, this module can go."""
    tasks, echo = kind(), SPAWN.Queue()
    first = start(tasks, echo)
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    second = start(tasks, echo)
    tasks.put("anything")
    if works:
        assert echo.get(timeout=30.0) == "anything"
        tasks.put(None)
        second.join(30.0)
        assert second.exitcode == 0
    else:
        with pytest.raises(queue.Empty):
            echo.get(timeout=2.0)
        second.kill()
        second.join()


def test_order_and_emptiness():
    tasks = Tasks()
    with pytest.raises(queue.Empty):
        tasks.get_nowait()
    before = time.monotonic()
    with pytest.raises(queue.Empty):
        tasks.get(timeout=0.2)
    assert 0.15 < time.monotonic() - before < 5.0
    for i in range(100):
        tasks.put({"task": i})
    assert [tasks.get(timeout=5.0)["task"] for _ in range(100)] == list(range(100))


def test_many_readers_take_each_item_once():
    tasks, echo = Tasks(), SPAWN.Queue()
    readers = [start(tasks, echo) for _ in range(3)]
    for i in range(300):
        tasks.put(i)
    assert sorted(echo.get(timeout=30.0) for _ in range(300)) == list(range(300))
    for _ in readers:
        tasks.put(None)
    for reader in readers:
        reader.join(30.0)
        assert reader.exitcode == 0


POOL_WITHOUT_HELPER = """
import os, signal, time
from alflow.runtime import process_worker_pool as pool

if __name__ == "__main__":
    helper = pool._guarded()
    os.kill(helper._process.pid, signal.SIGKILL)
    time.sleep(60)
"""


def test_a_pool_ends_with_its_helper(tmp_path):
    """Several at once, since a helper's files are closed a moment before it has a status to be asked for."""
    script = tmp_path / "pool.py"
    script.write_text(POOL_WITHOUT_HELPER)
    pools = [subprocess.Popen([sys.executable, str(script)], stderr=subprocess.DEVNULL) for _ in range(6)]
    assert [pool.wait(50.0) for pool in pools] == [1] * 6
