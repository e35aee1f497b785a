"""What schedulers are asked, and what is made of their answers; campaigns on them are in test_slurm and test_queues."""

import subprocess

import pytest
from parsl.jobs.states import JobState
from parsl.providers.errors import SubmitException

from alflow.runtime.parsl_schedulers import provider
from alflow.runtime.parsl_site import parsl_config
from alflow.spec.site import Lane

SLURM = Lane(
    scheduler="slurm", launcher="srun", nodes_per_block=2, max_blocks=4, walltime="04:00:00", address="10.1.1.1"
)
LSF = Lane(scheduler="lsf", launcher="jsrun", walltime="04:00:00", address="10.1.1.1")
FLUX = Lane(scheduler="flux", launcher="flux", nodes_per_block=2, address="10.1.1.1")


def test_what_squeue_says_of_a_job_that_is_no_more(only, tmp_path, monkeypatch):
    answers = {
        "squeue -j 7": (1, "", "slurm_load_jobs error: Invalid job id specified"),
        "squeue -j 8": (1, "", "slurm_load_jobs error: Unable to contact slurm controller"),
        "squeue -j 9": (0, "9 R", ""),
    }
    monkeypatch.setattr("parsl.providers.cluster_provider.execute_wait", lambda cmd, timeout: answers[cmd])
    (lane,) = parsl_config(only(SLURM), tmp_path).executors
    ask = lane.provider.execute_wait
    assert ask("squeue -j 7") == (0, "", "slurm_load_jobs error: Invalid job id specified")
    assert lane.provider.complaint == ""
    assert ask("squeue -j 8")[0] == 1
    assert "does not answer: slurm_load_jobs error: Unable to contact" in lane.provider.complaint
    assert ask("squeue -j 9")[0] == 0
    assert lane.provider.complaint == ""
    assert lane.status_polling_interval == 60


def test_a_command_that_hangs_has_failed(only, tmp_path, monkeypatch):
    def hang(cmd, timeout):
        raise subprocess.TimeoutExpired(cmd, timeout)

    monkeypatch.setattr("parsl.providers.cluster_provider.execute_wait", hang)
    (lane,) = parsl_config(only(LSF), tmp_path).executors
    assert lane.provider.execute_wait("bsub < x") == (1, "", "bsub does not answer")


FLUX_STAND_IN = """#!/bin/sh
# Speaks as flux-core's manual says: Flux is in no package index, so it cannot be installed for a test.
echo "$FLUX_F58_FORCE_ASCII $*" >> "$(dirname "$0")/calls"
case "$1" in
  batch) grep -q '^#flux: --nodes=2$' "$2" || exit 1; echo fM7Zq9AKHno;;
  jobs) echo "fM7Zq9AKHno $(cat "$(dirname "$0")/state")";;
esac
"""


def test_flux_provider_submits_asks_and_cancels(only, tmp_path, monkeypatch):
    program = tmp_path / "flux"
    program.write_text(FLUX_STAND_IN)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    (pools,) = parsl_config(only(FLUX), tmp_path).executors
    provider = pools.provider
    provider.script_dir = str(tmp_path)
    job = provider.submit("true", 1, "parsl.one.block-0")
    assert job == "fM7Zq9AKHno"
    for word, state in {
        "SCHED": JobState.PENDING,
        "RUN": JobState.RUNNING,
        "CLEANUP": JobState.RUNNING,
        "FAILED": JobState.FAILED,
    }.items():
        (tmp_path / "state").write_text(word)
        assert [s.state for s in provider.status([job])] == [state]
    assert provider.cancel([job]) == [True]
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[1] == "1 jobs -n -o {id.f58} {status} fM7Zq9AKHno"
    assert calls[-1].endswith("cancel fM7Zq9AKHno")


# ---- LSF -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def lsf(tmp_path, monkeypatch):
    """LSF's provider with two jobs, and what its commands answer: code, output, error."""
    answers = {"bsub": (0, "Job <7> is submitted to queue <normal>.", "")}
    monkeypatch.setattr(
        "parsl.providers.cluster_provider.execute_wait", lambda cmd, _timeout: answers[cmd.split(maxsplit=1)[0]]
    )
    found = provider("one", LSF)
    found.script_dir, found.answers = str(tmp_path), answers
    assert found.submit("true", 1, "parsl.one.block-0") == "7"
    answers["bsub"] = (0, "Job <8> is submitted to default queue <normal>.", "")
    assert found.submit("true", 1, "parsl.one.block-1") == "8"
    return found


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("PEND", JobState.PENDING),
        ("PSUSP", JobState.PENDING),
        ("RUN", JobState.RUNNING),
        ("SSUSP", JobState.RUNNING),
        ("USUSP", JobState.RUNNING),
        ("DONE", JobState.COMPLETED),
        ("EXIT", JobState.FAILED),
        ("UNKWN", JobState.UNKNOWN),
    ],
)
def test_lsf_says_how_a_job_stands_and_one_that_is_suspended_is_not_over(lsf, word, state):
    lsf.answers["bjobs"] = (0, f"7                    {word}\n8                    RUN", "")
    assert [s.state for s in lsf.status(["7", "8"])] == [state, JobState.RUNNING]


def test_a_job_that_bjobs_has_forgotten_is_over_and_silence_is_none(lsf):
    lsf.answers["bjobs"] = (255, "8                    RUN\n", "Job <7> is not found\n")
    assert [s.state for s in lsf.status(["7", "8"])] == [JobState.COMPLETED, JobState.RUNNING]
    assert lsf.complaint == ""
    lsf.answers["bjobs"] = (255, "", "Cannot connect to LSF. Please wait ...\n")
    assert [s.state for s in lsf.status(["7", "8"])] == [JobState.COMPLETED, JobState.RUNNING]
    assert lsf.complaint == "the scheduler does not answer: Cannot connect to LSF. Please wait ..."


def test_why_bsub_refused_is_told(lsf):
    lsf.answers["bsub"] = (255, "", "pbatch: No such queue. Job not submitted.\n")
    with pytest.raises(SubmitException) as caught:
        lsf.submit("true", 1, "parsl.one.block-2")
    assert "No such queue" in caught.value.stderr
    assert set(lsf.resources) == {"7", "8"}
