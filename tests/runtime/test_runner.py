"""Runners in this process, and whose fault an exception is."""

import errno
import subprocess

import pytest

from alflow import errors
from alflow.campaign.model import FailureKind
from alflow.runtime.runner import DryRunner, InlineRunner, Report, failure_kind


def task(name, **args):
    return {"id": name, "verb": "sample", "args": args}


def test_inline_runs_in_order_one_each_time():
    seen = []

    def work(given, root):
        seen.append(given["id"])
        return {"root": root, **given["args"]}

    runner = InlineRunner(work, "/run")
    runner.submit(task("a", x=1))
    runner.submit(task("b", x=2))
    assert seen == []
    assert list(runner.completed(1.0)) == [Report("a", {"root": "/run", "x": 1})]
    assert seen == ["a"]
    assert list(runner.completed(1.0)) == [Report("b", {"root": "/run", "x": 2})]
    assert list(runner.completed(1.0)) == []


def test_inline_reports_what_a_task_raises():
    def work(given, root):
        raise errors.UnphysicalError("atoms overlap")

    runner = InlineRunner(work, "/run")
    runner.submit(task("a"))
    (report,) = runner.completed(1.0)
    assert (report.task_id, report.result, report.failure) == ("a", None, FailureKind.UNPHYSICAL)
    assert report.detail == "alflow.errors.UnphysicalError: atoms overlap"


def test_inline_drops_what_has_not_started():
    runner = InlineRunner(lambda given, root: {}, "/run")
    runner.submit(task("a"))
    runner.close()
    assert list(runner.completed(1.0)) == []


def test_interrupt_is_not_a_failure():
    def work(given, root):
        raise KeyboardInterrupt

    runner = InlineRunner(work, "/run")
    runner.submit(task("a"))
    with pytest.raises(KeyboardInterrupt):
        list(runner.completed(1.0))


def test_dry_records_and_runs_nothing():
    runner = DryRunner()
    runner.submit(task("a"))
    assert list(runner.completed(0.0)) == []
    runner.close(now=True)
    assert runner.tasks == [task("a")]


def test_a_defect_shows_its_traceback_and_others_one_line():
    def boom():
        raise KeyError("k")

    with pytest.raises(KeyError) as caught:
        boom()
    assert "in boom" in Report.failed("a", caught.value, FailureKind.DEFECT).detail
    assert Report.failed("a", caught.value, FailureKind.RESOURCE).detail == "KeyError: 'k'"


def test_a_report_carries_the_log_of_the_exception():
    exc = errors.InfrastructureError("no node")
    exc.log = "/run/tasks/a/log.txt"
    assert Report.failed("a", exc, FailureKind.INFRASTRUCTURE).log == "/run/tasks/a/log.txt"


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


INFRASTRUCTURE, RESOURCE, UNPHYSICAL, DEFECT = (
    FailureKind.INFRASTRUCTURE,
    FailureKind.RESOURCE,
    FailureKind.UNPHYSICAL,
    FailureKind.DEFECT,
)


@pytest.mark.parametrize(
    ("exc", "kind"),
    [
        (errors.UnphysicalError("x"), UNPHYSICAL),
        (errors.ResourceError("x"), RESOURCE),
        (errors.InfrastructureError("x"), INFRASTRUCTURE),
        (errors.DataError("x"), DEFECT),
        (errors.SpecError("key", "x"), DEFECT),
        (errors.CampaignError("x"), DEFECT),
        (MemoryError(), RESOURCE),
        (OutOfMemoryError("CUDA out of memory"), RESOURCE),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."), RESOURCE),
        (RuntimeError("shape mismatch"), DEFECT),
        (OSError(errno.ENOMEM, "no memory"), RESOURCE),
        (TimeoutError("too long"), RESOURCE),
        (subprocess.TimeoutExpired("pw.x", 5), RESOURCE),
        (OSError(errno.ETIMEDOUT, "network"), INFRASTRUCTURE),
        (OSError(errno.ENOSPC, "disk full"), INFRASTRUCTURE),
        (OSError(errno.EDQUOT, "quota"), INFRASTRUCTURE),
        (OSError(errno.ESTALE, "stale handle"), INFRASTRUCTURE),
        (ConnectionResetError("gone"), INFRASTRUCTURE),
        (BrokenPipeError(), INFRASTRUCTURE),
        (EOFError(), INFRASTRUCTURE),
        (FileNotFoundError(errno.ENOENT, "no file"), DEFECT),
        (PermissionError(errno.EACCES, "forbidden"), DEFECT),
        (OSError("no number"), DEFECT),
        (ValueError("x"), DEFECT),
        (ZeroDivisionError(), DEFECT),
    ],
    ids=lambda x: repr(x)[:40] if isinstance(x, BaseException) else str(x),
)
def test_failure_kind(exc, kind):
    assert failure_kind(exc) is kind


def test_torch_out_of_memory_is_a_resource():
    import torch

    assert failure_kind(torch.OutOfMemoryError("CUDA out of memory")) is RESOURCE
