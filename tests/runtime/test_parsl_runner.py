"""Tasks through Parsl: real pools on this machine, and what Parsl's providers would hand to a scheduler."""

import importlib
import inspect
import pkgutil
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
import urllib.request
import warnings
from dataclasses import replace
from pathlib import Path

import parsl
import psutil
import pytest
from parsl.executors import HighThroughputExecutor
from parsl.jobs.states import JobState, JobStatus
from parsl.providers.errors import SubmitException

from alflow.campaign.model import FailureKind
from alflow.errors import InfrastructureError, InputError, RunError, SpecError
from alflow.runtime import parsl_runner
from alflow.runtime.parsl_runner import PARSL_KINDS, ParslRunner, failure_kind, parsl_config, submit_scripts
from alflow.runtime.runner import Capacity
from alflow.spec.site import Lane, Site

HERE = Path(__file__).parent
GOLDEN = HERE / "data"


@pytest.fixture(scope="module")
def worker_apps():
    """The module of work, importable here and in workers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        patch.setenv("PYTHONPATH", str(HERE))
        yield importlib.import_module("worker_apps")


def wait_for(what, timeout_s=60.0):
    deadline = time.monotonic() + timeout_s
    while not what() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert what()


def one_lane(monitoring=True):
    lane = Lane(workers_per_node=2, cores_per_node=2, cores_per_task=1)
    return Site(
        name="here", lanes={"all": lane}, shares=dict.fromkeys(("sample", "label", "fit"), "all"), monitoring=monitoring
    )


def hear(runner, count, timeout_s=60.0):
    reports, deadline = [], time.monotonic() + timeout_s
    while len(reports) < count and time.monotonic() < deadline:
        reports += runner.completed(1.0)
    return {r.task_id: r for r in reports}


@pytest.fixture(scope="module")
def finished_run(worker_apps, tmp_path_factory):
    """A small run through Parsl with monitoring, closed: its folder, and the reports."""
    root = tmp_path_factory.mktemp("small") / "run"
    runner = ParslRunner(worker_apps.work, one_lane(), root)
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
        wait_for(lambda: runner.capacity()["all"] == Capacity(nodes=1, workers=2), 10.0)
        runner.submit({"id": "last", "verb": "fit", "args": {"sleep": 1.0}})
    finally:
        runner.close()
    return root, reports | hear(runner, 1, 1.0)


def test_tasks_come_back_with_their_results(finished_run):
    _, reports = finished_run
    good = {name: r.result for name, r in reports.items() if r.failure is None}
    assert set(good) == {"first", "last", *(f"s{i}" for i in range(20))}  # `close` waited for the last
    assert all(result["id"] == name and result["threads"] == "1" for name, result in good.items())
    assert all(result["pid"] != psutil.Process().pid for result in good.values())


def test_failures_come_back_with_their_kind(finished_run):
    _, reports = finished_run
    assert reports["key"].failure is FailureKind.DEFECT
    assert reports["memory"].failure is FailureKind.RESOURCE
    assert reports["memory"].detail == "MemoryError: task memory"
    assert reports["gone"].failure is FailureKind.INFRASTRUCTURE
    assert "loss of worker" in reports["gone"].detail


def test_traceback_of_a_defect_is_that_of_the_worker(finished_run):
    _, reports = finished_run
    assert "worker_apps.py" in reports["key"].detail
    assert "site-packages/parsl" not in reports["key"].detail


def test_parsls_folder_is_private(finished_run):
    root, _ = finished_run
    assert stat.S_IMODE((root / "parsl").stat().st_mode) == 0o700
    assert list((root / "parsl").rglob("server.key_secret"))  # its sockets were encrypted


def test_monitoring_names_tasks_by_their_verb(finished_run):
    root, _ = finished_run
    with sqlite3.connect(f"file:{parsl_runner.database(root)}?mode=ro", uri=True) as db:
        counts = dict(db.execute("select task_func_name, count(*) from task group by 1"))
        ((name,),) = db.execute("select workflow_name from workflow")
    db.close()
    assert counts == {"build": 1, "sample": 23, "fit": 1}
    assert name == "run"


def test_closed_runner_leaves_no_process(finished_run):
    root, _ = finished_run
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
def test_killed_interchange_is_noticed(worker_apps, run_dir):
    """Parsl itself would wait for ever."""
    runner = ParslRunner(worker_apps.work, one_lane(monitoring=False), run_dir)
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
        assert time.monotonic() - before < parsl_runner.CLOSE_S


def test_run_directory_with_blanks_is_refused(tmp_path):
    with pytest.raises(RunError, match="blanks, quotes"):
        parsl_config(one_lane(), tmp_path / "my run")
    assert not (tmp_path / "my run").exists()


# ---- whose fault ---------------------------------------------------------------------------------------------------


def parsl_exceptions():
    found = set()
    for info in pkgutil.walk_packages(parsl.__path__, "parsl."):
        if info.name.startswith(("parsl.tests", "parsl.benchmark", "parsl.configs")):
            continue
        try:
            with warnings.catch_warnings(action="ignore"):
                module = importlib.import_module(info.name)
        except (ImportError, OSError, RuntimeError, parsl.errors.ParslError):  # parts whose own libraries are not here
            continue
        members = inspect.getmembers(module, inspect.isclass)
        found |= {c for _, c in members if issubclass(c, BaseException) and c.__module__.startswith("parsl.")}
    return found


def test_every_exception_of_parsl_has_a_kind():
    found = parsl_exceptions()
    assert len(found) >= 45
    assert {c.__name__ for c in found} - set(PARSL_KINDS) == set()
    assert set(PARSL_KINDS) - {c.__name__ for c in found} == set()
    for cls in found:
        assert failure_kind(cls.__new__(cls)) is PARSL_KINDS[cls.__name__]


def test_kinds_of_what_hpc_throws():
    from parsl.app.errors import AppTimeout
    from parsl.executors.high_throughput.errors import ManagerLost, VersionMismatch, WorkerLost
    from parsl.serialize.errors import DeserializationError

    assert failure_kind(ManagerLost(b"id", "node1")) is FailureKind.INFRASTRUCTURE
    assert failure_kind(WorkerLost(1, "node1")) is FailureKind.INFRASTRUCTURE
    assert failure_kind(AppTimeout()) is FailureKind.RESOURCE
    assert failure_kind(VersionMismatch("3.11", "3.12")) is FailureKind.DEFECT
    assert failure_kind(DeserializationError("x")) is FailureKind.DEFECT

    class Later(AppTimeout):
        """A class of a later Parsl falls to its nearest known ancestor."""

    Later.__module__ = "parsl.app.errors"
    assert failure_kind(Later()) is FailureKind.RESOURCE
    assert failure_kind(MemoryError()) is FailureKind.RESOURCE


# ---- lanes as Parsl sees them --------------------------------------------------------------------------------------

SLURM = Lane(
    scheduler="slurm",
    launcher="srun",
    nodes_per_block=2,
    min_blocks=1,
    max_blocks=4,
    walltime="04:00:00",
    cores_per_node=32,
    cores_per_task=8,
    gpus_per_node=4,
    gpus_per_task=1,
    account="project",
    partition="gpu",
    qos="high",
    options=("#SBATCH --constraint=a100",),
    worker_init="module load cuda",
    address="ib0",
)
LSF = Lane(
    scheduler="lsf",
    launcher="jsrun",
    nodes_per_block=4,
    walltime="12:00:00",
    cores_per_node=40,
    cores_per_task=10,
    gpus_per_node=4,
    gpus_per_task=1,
    account="project",
    partition="pbatch",
    address="10.1.1.1",
)
LSF_MPI = Lane(
    scheduler="lsf",
    nodes_per_block=2,
    walltime="36:00:00",
    cores_per_node=40,
    ranks_per_task=20,
    partition="pbatch",
    address="10.1.1.1",
)
FLUX = Lane(
    scheduler="flux",
    launcher="flux",
    nodes_per_block=2,
    walltime="08:00:00",
    cores_per_node=64,
    cores_per_task=16,
    gpus_per_node=4,
    gpus_per_task=1,
    account="bank",
    partition="pbatch",
    address="10.1.1.1",
)


def only(lane):
    return Site(name="there", lanes={"one": lane}, shares=dict.fromkeys(("sample", "label", "fit"), "one"))


@pytest.mark.parametrize(
    ("name", "lane"), [("slurm", SLURM), ("lsf", LSF), ("lsf_mpi", LSF_MPI), ("flux", FLUX)], ids=lambda x: str(x)[:8]
)
def test_submit_scripts_are_as_they_were(name, lane):
    """After a wanted change: write `text` to the golden file, and read the difference."""
    scripts = submit_scripts(only(lane))
    assert set(scripts) == {"one"}
    text = scripts["one"].replace(sys.executable, "PYTHON")
    text = "\n".join(line.rstrip() for line in text.rstrip().splitlines()) + "\n"
    assert text == (GOLDEN / f"{name}.sh").read_text()
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0


def test_local_lanes_have_no_submit_script():
    assert submit_scripts(one_lane()) == {}


def test_nothing_is_submitted_even_where_a_scheduler_is(tmp_path, monkeypatch):
    for program in ("sbatch", "bsub", "flux", "sacct", "squeue"):
        fake = tmp_path / program
        fake.write_text(f"#!/bin/sh\ntouch {tmp_path}/called\n")
        fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for lane in (LSF, FLUX):
        assert submit_scripts(only(lane))
    assert not (tmp_path / "called").exists()


def test_lanes_become_executors(tmp_path):
    lane = Lane(cores_per_node=2)
    site = Site(name="s", lanes={"sample": lane, "label": Lane(gpus_per_node=2, gpus_per_task=1), "fit": lane})
    config = parsl_config(site, tmp_path)
    assert sorted(e.label for e in config.executors) == ["fit", "label", "sample"]
    by_name = {e.label: e for e in config.executors}
    assert by_name["label"].available_accelerators == ["0", "1"]
    assert by_name["sample"].max_workers_per_node == 2
    assert {e.address for e in config.executors} == {"127.0.0.1"}
    assert all(e.encrypted for e in config.executors)
    assert config.retries == 0


@pytest.mark.parametrize(
    ("lane", "place"),
    [
        (Lane(scheduler="slurm", address="no_such_interface0"), "lanes.one.address"),
        (Lane(scheduler="lsf", qos="high"), "lanes.one.qos"),
        (Lane(scheduler="flux", qos="high"), "lanes.one.qos"),
    ],
)
def test_what_a_scheduler_does_not_know_is_refused(lane, place, tmp_path):
    with pytest.raises(SpecError, match=place):
        parsl_config(only(lane), tmp_path)


def test_address_of_an_interface_is_found(tmp_path):
    (pools,) = parsl_config(only(Lane(scheduler="slurm", address="lo")), tmp_path).executors
    assert pools.address == "127.0.0.1"


@pytest.fixture
def pools(tmp_path, monkeypatch):
    """A lane that is not started, whose clock stands, and whose scheduler says what `refusing` says."""
    (lane,) = parsl_config(only(replace(SLURM, address="10.1.1.1")), tmp_path).executors
    now = [0.0]
    monkeypatch.setattr(parsl_runner.time, "monotonic", lambda: now[0])
    lane.run_dir, lane.worker_port, lane.now, lane.refusing, lane.asked = str(tmp_path), 1, now, "", []

    def submit(command, tasks_per_node, job_name):
        lane.asked.append(job_name)
        if lane.refusing:
            raise SubmitException(job_name, "no", stderr=f"sbatch: error: first\n{lane.refusing}\n")
        return str(len(lane.asked))

    lane.provider.submit = submit
    lane._get_launch_command = lambda block: "true"
    return lane


def test_a_refused_lane_asks_ever_more_seldom_and_never_fails(pools):
    pools.refusing = "sbatch: error: Invalid partition"
    times = []
    for pools.now[0] in range(3000):
        before = len(pools.asked)
        pools.scale_out_facade(3)
        pools.handle_errors(pools.status_facade)
        times += [pools.now[0]] * (len(pools.asked) - before)
    assert times == [0, 5, 15, 35, 75, 155, 315, 635, 1275, 2175]
    assert pools.wait.trouble == "no blocks: sbatch: error: Invalid partition (failures in a row: 10)"
    assert pools.status_facade == {}
    assert not pools.bad_state_is_set
    pools.refusing, pools.now[0] = "", 4000.0
    assert len(pools.scale_out_facade(3)) == 3
    assert pools.wait == parsl_runner.Wait()


def dead(block):
    return JobStatus(JobState.MISSING, message=f"block {block}")


def test_a_lane_whose_workers_never_report_is_given_up_with_the_reason(pools):
    status = {}
    for n in range(3):
        assert not pools.bad_state_is_set
        pools.now[0] += 1000.0
        (block,) = pools.scale_out_facade(1)
        status[block] = JobStatus(JobState.MISSING, message=f"line\nno module named x{n}")
        pools.handle_errors(status)
        pools.handle_errors(status)  # counted once
    assert pools.bad_state_is_set
    assert "batch job 3 ended before a worker reported: no module named x2" in str(pools.executor_exception)


def test_a_lane_that_has_worked_is_not_given_up(pools, monkeypatch):
    monkeypatch.setattr(HighThroughputExecutor, "connected_blocks", lambda self: ["0"])
    pools.scale_out_facade(1)
    pools.connected_blocks()
    status = {}
    for _ in range(8):
        pools.now[0] += 1000.0
        assert len(pools.scale_out_facade(3)) == (1 if status else 3)  # one at a time until a worker reports
        status |= {block: dead(block) for block in pools.blocks_to_job_id if block != "0"}
        pools.handle_errors(status)
    assert not pools.bad_state_is_set
    assert "ended before a worker reported" in pools.wait.trouble
    monkeypatch.setattr(HighThroughputExecutor, "connected_blocks", lambda self: ["0", "99"])
    pools.connected_blocks()
    assert pools.wait == parsl_runner.Wait()


def test_what_squeue_says_of_a_job_that_is_no_more(tmp_path, monkeypatch):
    answers = {
        "squeue -j 7": (1, "", "slurm_load_jobs error: Invalid job id specified"),
        "squeue -j 8": (1, "", "slurm_load_jobs error: Unable to contact slurm controller"),
        "squeue -j 9": (0, "9 R", ""),
    }
    monkeypatch.setattr("parsl.providers.cluster_provider.execute_wait", lambda cmd, timeout: answers[cmd])
    (lane,) = parsl_config(only(replace(SLURM, address="10.1.1.1")), tmp_path).executors
    ask = lane.provider.execute_wait
    assert ask("squeue -j 7") == (0, "", "slurm_load_jobs error: Invalid job id specified")
    assert lane.provider.complaint == ""
    assert ask("squeue -j 8")[0] == 1
    assert "does not answer: slurm_load_jobs error: Unable to contact" in lane.provider.complaint
    assert ask("squeue -j 9")[0] == 0
    assert lane.provider.complaint == ""
    assert lane.status_polling_interval == 60


def test_a_command_that_hangs_has_failed(tmp_path, monkeypatch):
    def hang(cmd, timeout):
        raise subprocess.TimeoutExpired(cmd, timeout)

    monkeypatch.setattr("parsl.providers.cluster_provider.execute_wait", hang)
    (lane,) = parsl_config(only(LSF), tmp_path).executors
    assert lane.provider.execute_wait("bsub < x") == (1, "", "bsub does not answer")


def test_scale_in_spares_blocks_that_wait_or_work(tmp_path):
    (pools,) = parsl_config(only(Lane(max_blocks=4, workers_per_node=2)), tmp_path).executors

    def pool(block, tasks, idle):
        return {"block_id": block, "tasks": tasks, "idle_duration": idle, "active": True, "manager": block}

    held, cancelled = [], []
    pools.connected_managers = lambda: [pool("1", 1, 0.0), pool("2", 0, 900.0), pool("3", 0, 700.0), pool("4", 0, 5.0)]
    pools._hold_block = held.append
    pools.provider.cancel = lambda jobs: cancelled.extend(jobs) or [True] * len(jobs)
    pools.blocks_to_job_id.update({b: f"job{b}" for b in "01234"})  # block 0 has not connected yet
    assert pools.scale_in(0, max_idletime=600.0) == []
    assert pools.scale_in(1, max_idletime=600.0) == ["2"]
    assert sorted(pools.scale_in(4, max_idletime=600.0)) == ["2", "3"]
    assert set(held) == {"2", "3"}
    assert set(cancelled) == {"job2", "job3"}


def test_workers_of_a_pool_that_serves_a_block_are_counted_once(tmp_path):
    (pools,) = parsl_config(only(LSF_MPI), tmp_path).executors
    assert pools.max_workers_per_node == 4
    assert pools.workers_per_node == 2.0
    (pools,) = parsl_config(only(LSF), tmp_path).executors
    assert (pools.max_workers_per_node, pools.workers_per_node) == (4, 4.0)


# ---- Flux ----------------------------------------------------------------------------------------------------------

FLUX_STAND_IN = """#!/bin/sh
# Speaks as flux-core's manual says: Flux is in no package index, so it cannot be installed for a test.
echo "$FLUX_F58_FORCE_ASCII $*" >> "$(dirname "$0")/calls"
case "$1" in
  batch) grep -q '^#flux: --nodes=2$' "$2" || exit 1; echo fM7Zq9AKHno;;
  jobs) echo "fM7Zq9AKHno $(cat "$(dirname "$0")/state")";;
esac
"""


def test_flux_provider_submits_asks_and_cancels(tmp_path, monkeypatch):
    from parsl.jobs.states import JobState

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


# ---- dashboard -----------------------------------------------------------------------------------------------------

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or "chromium"


@pytest.fixture
def dashboard(finished_run):
    """The dashboard of the small run, served by a process of its own; its address."""
    root, _ = finished_run
    code = "import sys; from pathlib import Path; from alflow.runtime.parsl_runner import open_dashboard as serve\n"
    code += "serve(Path(sys.argv[1]), int(sys.argv[2]))"
    server = subprocess.Popen([sys.executable, "-c", code, root, str(free_port())], stdout=subprocess.PIPE, text=True)
    try:
        yield server.stdout.readline().strip()
    finally:
        server.terminate()
        server.wait()
        server.stdout.close()


def free_port():
    import socket

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
def test_dashboard_shows_the_run_in_a_browser(dashboard, finished_run, tmp_path):
    import re

    root, _ = finished_run
    before = parsl_runner.database(root).read_bytes()
    page = dom(dashboard, tmp_path / "profile")
    (link,) = re.findall(r'href="(workflow/[\w-]+/)">run</a>', page)
    page = dom(f"{dashboard}/{link}", tmp_path / "profile")
    assert re.search(r'<a href="app/sample">sample</a></td>\s*<td>23</td>', page)
    assert re.search(r'<a href="app/build">build</a></td>\s*<td>1</td>', page)
    page = dom(f"{dashboard}/{link}task/", tmp_path / "profile")
    assert len(re.findall(r'href="[^"]*task/\d+"', page)) >= 25
    assert parsl_runner.database(root).read_bytes() == before


def test_dashboard_listens_on_this_machine_only(dashboard):
    assert dashboard.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(dashboard, timeout=30) as answer:
        assert b"Workflows" in answer.read()
    port = int(dashboard.rpartition(":")[2])
    listening = {c.laddr.ip for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.laddr.port == port}
    assert listening == {"127.0.0.1"}


def test_dashboard_needs_a_database(run_dir):
    with pytest.raises(RunError, match="no monitoring database"):
        parsl_runner.open_dashboard(run_dir, free_port())
    assert list(run_dir.iterdir()) == []


def test_dashboard_does_not_make_the_tables(run_dir):
    path = parsl_runner.database(run_dir)
    path.parent.mkdir()
    sqlite3.connect(path).close()
    with pytest.raises(RunError, match="no tables block"):
        parsl_runner.open_dashboard(run_dir, free_port())


def test_dashboard_on_a_taken_port(finished_run):
    import socket

    root, _ = finished_run
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match="--port"):
            parsl_runner.open_dashboard(root, taken.getsockname()[1])
