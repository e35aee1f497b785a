"""The stand-ins for LSF and Flux keep a queue as their manuals say."""

from __future__ import annotations

import os
import subprocess
import time

import pytest

from alflow.testing import fake_queue

BSUB = "#!/bin/bash\n#BSUB -W {minutes}\n#BSUB -J {name}\n#BSUB -o {out}\n#BSUB -nnodes {nodes}\n{body}\n"
FLUX = "#!/bin/bash\n#flux: --nodes={nodes}\n#flux: --time-limit={minutes}s\n#flux: --job-name={name}\n"
FLUX += "#flux: --output={out}\n#flux: --error={out}\n{body}\n"


@pytest.fixture
def queue(tmp_path, monkeypatch):
    queue = fake_queue.install(tmp_path / "queue", nodes=2)
    monkeypatch.setenv("PATH", str(queue.folder / "bin"), prepend=os.pathsep)
    monkeypatch.setenv("FLUX_F58_FORCE_ASCII", "1")
    yield queue
    queue.stop()
    assert queue.processes() == []


def said(*words, text=None, code=0):
    done = subprocess.run(words, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return (done.stdout + done.stderr).strip()


def bsub(tmp_path, body, name="job", nodes=1, minutes=1):
    text = BSUB.format(body=body, name=name, nodes=nodes, minutes=minutes, out=tmp_path / "out")
    return said("bsub", text=text).split("<")[1].split(">")[0]


def until(queue, number, state):
    end = time.monotonic() + 30
    while queue.jobs(state).get(int(number)) is None:
        assert time.monotonic() < end, queue.jobs()
        time.sleep(0.1)


def test_lsf(queue, tmp_path):
    assert "No unfinished job found" in said("bjobs", "-noheader", "-o", "jobid stat", "-u", "me", code=255)
    one = bsub(tmp_path, "jsrun -n 2 -r 1 /bin/sh -c 'echo $LSB_JOBID'; sleep 60 & sleep 60", "a_rather_long_name", 2)
    until(queue, one, "running")
    two = bsub(tmp_path, "exit 3")
    assert said("bjobs", "-noheader", "-o", "jobid:20 stat:10", one, two).split() == [one, "RUN", two, "PEND"]
    assert "*long_name" in said("bjobs", "-noheader", "-o", "jobid job_name", one), "cut off as LSF does"
    assert "a_rather_long_name" in said("bjobs", "-noheader", "-o", "jobid job_name:50", one)
    assert "Job <999> is not found" in said("bjobs", "-noheader", "-o", "jobid stat", one, "999", code=255)
    assert said("bkill", one) == f"Job <{one}> is being terminated"
    until(queue, two, "failed")
    assert queue.processes() == []
    assert (tmp_path / "out").read_text() == f"{one}\n" * 2
    assert said("bjobs", "-noheader", "-o", "jobid stat", one, two).split() == [one, "EXIT", two, "EXIT"]
    assert "has already finished" in said("bkill", one, code=255)


def flux(tmp_path, body, seconds=60):
    script = tmp_path / "script"
    script.write_text(FLUX.format(body=body, name="j", nodes=1, minutes=seconds, out=tmp_path / "out"))
    return said("flux", "batch", str(script))


def test_flux(queue, tmp_path):
    one = flux(tmp_path, "flux run --nodes=2 --ntasks=2 --exclusive echo hello")
    assert one.startswith("f")
    until(queue, 101, "done")
    assert (tmp_path / "out").read_text() == "hello\n" * 2
    two = flux(tmp_path, "sleep 60", seconds=1)
    until(queue, 102, "timeout")
    table = said("flux", "jobs", "-n", "-o", "{id.f58} {status}", one, two)
    assert table.split() == [one, "COMPLETED", two, "TIMEOUT"]
    three = flux(tmp_path, "sleep 60")
    listed = said("flux", "jobs", "--no-header", "--format={id.f58plain} {name}", "--user", "me")
    assert listed == f"{three} j"
    said("flux", "cancel", three)
    until(queue, 103, "killed")
    assert "unknown" in said("flux", "jobs", "-n", "-o", "{id.f58}", "f123", code=1)


def test_a_queue_that_is_closed_or_does_not_answer(queue, tmp_path):
    (queue.folder / fake_queue.CLOSED).write_text("User cannot use the queue")
    assert said("bsub", text=BSUB, code=255) == "User cannot use the queue. Job not submitted."
    (queue.folder / fake_queue.DOWN).touch()
    assert "Cannot connect" in said("bjobs", "-noheader", "-o", "jobid stat", code=255)
    assert "Unable to connect" in said("flux", "jobs", code=255)
