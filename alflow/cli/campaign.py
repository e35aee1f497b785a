"""The verbs that act on a run directory: thin, the work is done in runtime and monitor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console

if TYPE_CHECKING:
    from alflow.campaign.model import State

STOPPED: Final = 130
"""Exit status of a coordinator that was told to end before the campaign was over, as after Ctrl-C."""


def submit(workflow: str, site: str, run: Path | None, *, detach: bool) -> int:
    """Check, make the run directory, and run the campaign in it, here or on its own; the exit status.

    Raises:
        InputError: the workflow, the site or the run directory cannot be used; nothing was started.
    """
    from alflow.runtime import campaign_run

    run_dir = campaign_run.prepare(workflow, site, run)
    shown = _short(run_dir)
    if not detach:
        return resume(run_dir)
    pid = campaign_run.detach(run_dir)
    _say(f"{shown} is running as process {pid}", "", *_verbs(shown, "status", "stop", "report"))
    return 0


def resume(run_dir: Path) -> int:
    """Run the campaign in `run_dir` from where it stands to its end, showing how it goes; the exit status.

    Raises:
        RunError: no run there, or it is being run.
    """
    from alflow.monitor.progress import Progress
    from alflow.runtime import campaign_run, rundir
    from alflow.runtime.parsl_runner import ParslRunner
    from alflow.runtime.worker import execute

    rundir.existing(run_dir)
    rundir.check_free(run_dir)  # so that a run that is at work is refused before anything is shown
    _say(f"run directory {_short(run_dir)}")
    with Progress(run_dir) as progress:
        state = campaign_run.resume(run_dir, lambda site, root: ParslRunner(execute, site, root), [progress])
    return _ended(state, run_dir)


def _ended(state: State, run_dir: Path) -> int:
    """Say how it ended, with the table and the report of what there is."""
    shown = _short(run_dir)
    if state.closed is None:
        _say("stopped before its end", "", *_verbs(shown, "resume", "status"))
        return STOPPED
    from alflow.monitor.report import write_report
    from alflow.monitor.table import final_table
    from alflow.runtime import layout

    Console().print(final_table(run_dir))
    _say(f"report: {_short(write_report(run_dir))}")
    if (model := run_dir / layout.POTENTIAL).exists():
        _say(f"potential: {shown}/{layout.POTENTIAL}")
    if (model / layout.LAMMPS).exists():
        _say(f"for LAMMPS: {shown}/{layout.POTENTIAL}/{layout.LAMMPS}")
    if state.closed.failed:
        _say(f"the campaign failed: {state.closed.reason}", "", *_verbs(shown, "why", "resume"))
    return 1 if state.closed.failed else 0


def status(run_dir: Path, *, as_json: bool) -> None:
    """Print how a run stands.

    Raises:
        RunError: no run there.
    """
    from alflow.monitor import status as monitor

    found = monitor.status(run_dir)
    if as_json:
        print(json.dumps(found.to_json(), indent=1))  # noqa: T201  # rich would wrap it
    else:
        Console().print(monitor.render(found))


def why(run_dir: Path, name: str, *, as_json: bool) -> None:
    """Print what became of a structure or a task; of everything that failed if there is no `name`.

    Raises:
        RunError: no run there.
        InputError: the run has nothing of that name.
    """
    from dataclasses import asdict

    from alflow.monitor import why as monitor

    stories = [monitor.why(run_dir, name)] if name else monitor.failures(run_dir)
    if as_json:
        print(json.dumps([asdict(s) for s in stories], indent=1))  # noqa: T201  # rich would wrap it
        return
    _say(*(line for story in stories for line in (monitor.text(story), "")))
    if not name:
        many = f"{len(stories)} structures and tasks" if len(stories) > 1 else "One structure or task"
        _say(f"{many} failed." if stories else "Nothing has failed.")


def stop(run_dir: Path) -> int:
    """Ask the run's coordinator to end, and wait for it; the exit status.

    Raises:
        RunError: no run there, or none at work.
    """
    from alflow.runtime import campaign_run, layout

    shown = _short(run_dir)
    if campaign_run.stop(run_dir):
        _say(f"{shown} has stopped", "", *_verbs(shown, "resume"))
        return 0
    log = _short(run_dir / layout.LOG)
    _say(f"{shown} was asked to stop and is still ending what it does; see {log} if that takes long")
    return 1


def amend(run_dir: Path, words: list[str]) -> int:
    """Change settings of a campaign, running or stopped; the exit status.

    Raises:
        InputError: there is no such run, it is over, or a change cannot be made; then none was.
    """
    from alflow.runtime import campaign_run
    from alflow.spec.workflow import load

    changed = campaign_run.amend(run_dir, words)
    if changed is None:
        _say(f"the coordinator of {_short(run_dir)} did not answer; nothing was changed")
        return 1
    names = [stage.name for stage in load(run_dir / "workflow.yaml").stages]
    _say(*(f"{names[a['stage']]}: {key} is now {text}" for a in changed for key, text in a["changes"].items()))
    return 0


def clean(run_dir: Path, *, models: bool, dry_run: bool) -> None:
    """Free what nothing needs any more; print what.

    Raises:
        RunError: no run there, or it is being run.
    """
    from alflow.runtime.clean import clean as free

    freed = free(run_dir, models=models, dry_run=dry_run)
    for kind, part in freed.items():
        _say(f"  {part.files:7d} files  {_bytes(part.bytes):>9}  {kind}")
    total = sum(part.bytes for part in freed.values())
    words = "would be freed; nothing was touched" if dry_run else "freed"
    _say(f"{_bytes(total)} {words}" if freed else "There is nothing to free.")


def _bytes(n: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} TB"


def report(run_dir: Path) -> None:
    """Write the report of a run; print where.

    Raises:
        RunError: no run there.
    """
    from alflow.monitor.report import write_report

    _say(str(_short(write_report(run_dir))))


def dashboard(run_dir: Path, port: int) -> None:
    """Serve Parsl's dashboard of a run until Ctrl-C.

    Raises:
        RunError: no run there, or Parsl's monitoring was off.
    """
    from alflow.runtime.parsl_dashboard import open_dashboard
    from alflow.runtime.rundir import existing

    existing(run_dir)
    open_dashboard(run_dir, port)


def _verbs(run_dir: Path, *verbs: str) -> list[str]:
    words = {
        "status": "how far it is",
        "stop": "end it; it can be resumed",
        "why": "what failed, with logs",
        "resume": "go on",
        "report": "write the report of what there is",
    }
    return [f"  {f'alflow {verb} {run_dir}':<{len(str(run_dir)) + 16}} {words[verb]}" for verb in verbs]


def _short(path: Path) -> Path:
    """As seen from the working directory, if it is below it."""
    full = path.resolve()
    return full.relative_to(Path.cwd()) if full.is_relative_to(Path.cwd()) else full


def _say(*lines: str) -> None:
    Console(highlight=False).print("\n".join(lines), markup=False, soft_wrap=True)
