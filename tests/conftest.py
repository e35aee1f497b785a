"""What all tests share: thread limits, programs they need, run directories, the choice of a runner."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

# Before anything imports numpy or torch: small arrays on many threads are slower, and two cores is what we promise for.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, str(min(2, os.cpu_count() or 1)))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--runner",
        choices=("inline", "htex"),
        default="inline",
        help="where campaigns of the `make_runner` fixture run: in this process, or through Parsl",
    )


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what runs in its background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line(
        "markers", "requires_program(*names): needs one of these programs on PATH; skipped, or failed in CI, without"
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("requires_program"):
        if any(shutil.which(name) for name in mark.args):
            continue
        reason = f"needs {' or '.join(mark.args)} on PATH"
        if os.environ.get("ALFLOW_REQUIRE_PROGRAMS"):
            pytest.fail(f"{reason}; ALFLOW_REQUIRE_PROGRAMS is set, so this is not skipped", pytrace=False)
        pytest.skip(reason)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """An empty private folder for one run."""
    path = tmp_path / "run"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def make_runner(request: pytest.FixtureRequest) -> Callable:
    """Makes the runner that ``--runner`` names from a site and a run directory."""
    from alflow.runtime.worker import execute

    if request.config.getoption("--runner") == "htex":
        from alflow.runtime.parsl_runner import ParslRunner

        return lambda site, where: ParslRunner(execute, site, where)
    from alflow.runtime.runner import InlineRunner

    return lambda _site, where: InlineRunner(execute, str(where))
