"""Parts of a range on several threads."""

import os
import subprocess
import sys

import numba as nb
import numpy as np
import pytest

from alflow.numerics import threads
from alflow.numerics.threads import spread


@nb.njit(nogil=True)
def mark(first, last, out):
    for k in range(first, last):
        out[k] += k + 1


@pytest.fixture
def two_threads():
    before = threads._threads
    threads.use_threads(2)
    yield
    threads.use_threads(before)


@pytest.mark.parametrize("n", [0, 1, 2, 7, 1000])
@pytest.mark.parametrize("least", [1, 16])
def test_every_item_once(n, least, two_threads):
    out = np.zeros(n, np.int64)
    spread(mark, n, out, least=least)
    np.testing.assert_array_equal(out, np.arange(n) + 1)


def test_an_error_in_a_thread_is_raised(two_threads):
    def fail(first, last):
        if first:
            raise RuntimeError("part of it")

    spread(lambda first, last: None, 8)
    with pytest.raises(RuntimeError, match="part of it"):
        spread(fail, 8)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_works_in_a_forked_child(two_threads):
    spread(mark, 8, np.zeros(8, np.int64))  # the parent has its pool
    child = os.fork()
    if child == 0:
        out = np.zeros(8, np.int64)
        spread(mark, 8, out)
        os._exit(0 if out.sum() == 36 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_threads_of_torch_are_left_alone(two_threads):
    """In a fresh process: numba's own pool would change what torch uses."""
    code = (
        "import torch; torch.set_num_threads(1)\n"
        "import numpy as np\n"
        "from alflow.core.frames import Frames\n"
        "from alflow.numerics.neighbors import neighbor_list\n"
        "neighbor_list(Frames.single([13], [[0, 0, 0]], np.eye(3) * 3), 7.0)\n"
        "assert torch.get_num_threads() == 1, torch.get_num_threads()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


@pytest.mark.parametrize(("asked", "want"), [("3", 3), ("", None), ("0", None), ("many", None)])
def test_first_number_of_threads(monkeypatch, asked, want):
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert threads._at_first() == (want or len(os.sched_getaffinity(0)))
