"""Parsl's dashboard of a small run."""

import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import urllib.request

import psutil
import pytest

from alflow.errors import InputError, RunError
from alflow.runtime import layout
from alflow.runtime.parsl_dashboard import open_dashboard

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or "chromium"


@pytest.fixture
def dashboard(parsl_run):
    """The dashboard of the small run, served by a process of its own; its address."""
    root, _ = parsl_run
    code = "import sys; from pathlib import Path; from alflow.runtime.parsl_dashboard import open_dashboard as serve\n"
    code += "serve(Path(sys.argv[1]), int(sys.argv[2]))"
    server = subprocess.Popen([sys.executable, "-c", code, root, str(free_port())], stdout=subprocess.PIPE, text=True)
    try:
        yield server.stdout.readline().strip()
    finally:
        server.terminate()
        server.wait()
        server.stdout.close()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def dom(address, profile):
    quiet = ("background-networking", "component-update", "sync", "gpu", "extensions")
    words = [CHROMIUM, "--headless", "--no-sandbox", "--no-first-run", *(f"--disable-{word}" for word in quiet)]
    words += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", f"--user-data-dir={profile}"]
    done = subprocess.run([*words, "--dump-dom", address], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


@pytest.mark.slow
@pytest.mark.requires_program("chromium", "chromium-browser")
def test_dashboard_shows_the_run_in_a_browser(dashboard, parsl_run, tmp_path):
    root, _ = parsl_run
    before = (root / layout.MONITORING).read_bytes()
    page = dom(dashboard, tmp_path / "profile")
    (link,) = re.findall(r'href="(workflow/[\w-]+/)">run</a>', page)
    page = dom(f"{dashboard}/{link}", tmp_path / "profile")
    assert re.search(r'<a href="app/sample">sample</a></td>\s*<td>23</td>', page)
    assert re.search(r'<a href="app/build">build</a></td>\s*<td>1</td>', page)
    page = dom(f"{dashboard}/{link}task/", tmp_path / "profile")
    assert len(re.findall(r'href="[^"]*task/\d+"', page)) >= 25
    assert (root / layout.MONITORING).read_bytes() == before


def test_dashboard_listens_on_this_machine_only(dashboard):
    assert dashboard.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(dashboard, timeout=30) as answer:
        assert b"Workflows" in answer.read()
    port = int(dashboard.rpartition(":")[2])
    listening = {c.laddr.ip for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.laddr.port == port}
    assert listening == {"127.0.0.1"}


def test_dashboard_needs_a_database(run_dir):
    with pytest.raises(RunError, match="no monitoring database"):
        open_dashboard(run_dir, free_port())
    assert list(run_dir.iterdir()) == []


def test_dashboard_does_not_make_the_tables(run_dir):
    path = run_dir / layout.MONITORING
    path.parent.mkdir()
    sqlite3.connect(path).close()
    with pytest.raises(RunError, match="no tables block"):
        open_dashboard(run_dir, free_port())


def test_dashboard_on_a_taken_port(parsl_run):
    root, _ = parsl_run
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match="--port"):
            open_dashboard(root, taken.getsockname()[1])
