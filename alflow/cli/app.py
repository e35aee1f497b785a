"""The verbs of ``alflow`` and the border where errors become messages and exit statuses."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from alflow import __version__
from alflow.errors import AlflowError, InputError, JournalError

FAILED: Final = 1
BAD_INPUT: Final = 2
INTERRUPTED: Final = 130

app = typer.Typer(
    name="alflow",
    help="Active learning of interatomic potentials: from a workflow YAML to a dataset, a potential and a report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich is loaded by the verbs that draw: --help must be quick
    suggest_commands=True,
)

WorkflowFile = Annotated[str, typer.Argument(metavar="WORKFLOW", help="A workflow file, or the name of a shipped one.")]
SiteFile = Annotated[
    str, typer.Option("--site", "-s", metavar="SITE", help="A site file, or the name of a shipped one.")
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; its exit status. Errors of alflow become one message on stderr, without a traceback."""
    try:
        app(args=list(arguments) if arguments is not None else None, prog_name="alflow", standalone_mode=True)
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else FAILED
    except (InputError, JournalError) as exc:
        return _say(exc, BAD_INPUT)
    except AlflowError as exc:
        return _say(exc, FAILED)
    except BrokenPipeError:  # the reader of a pipe has gone; nothing more can be said
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _say(error: AlflowError, status: int) -> int:
    sys.stderr.write(f"error: {error}\n")
    return status


def _verb(module: str, name: str) -> Any:
    """The function behind a verb; found by name so that no verb loads what another needs."""
    return getattr(importlib.import_module(f"alflow.cli.{module}"), name)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"alflow {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Active learning of interatomic potentials: from a workflow YAML to a dataset, a potential and a report."""


@app.command()
def check(
    workflow: WorkflowFile,
    site: SiteFile = "laptop",
    scripts: Annotated[bool, typer.Option(help="Print the batch scripts of the site's lanes.")] = True,
) -> None:
    """Check a workflow and a site in full; print what would run where. Runs nothing."""
    _verb("check", "check")(workflow, site, scripts=scripts)


@app.command()
def plan(
    workflow: Annotated[
        list[str] | None, typer.Argument(metavar="[WORKFLOW]...", help="Workflow files, or names of shipped ones.")
    ] = None,
    site: Annotated[
        list[str] | None, typer.Option("--site", "-s", metavar="SITE", help="A site; several are compared.")
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option("--policy", metavar="KIND", help="In place of each stage's; several are compared."),
    ] = None,
    model: Annotated[
        Path | None, typer.Option("--model", metavar="FILE", help="Durations, failures and queues, as YAML.")
    ] = None,
    run: Annotated[  # noqa: A002,RUF100  # a run directory
        Path | None, typer.Option("--from", metavar="RUN", help="Measure durations and failures in a finished run.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of all chance.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Forecast campaigns in virtual time: how long, how many node-hours, how much idle and why. Runs nothing."""
    _verb("plan", "plan")(
        workflow or [], site or [], model=model, run=run, policies=policy or [], seed=seed, as_json=json
    )


@app.command()
def submit(
    workflow: WorkflowFile,
    site: SiteFile = "laptop",
    run: Annotated[  # noqa: A002,RUF100  # the option is called --run
        Path | None, typer.Option("--run", metavar="DIR", help="The run directory; runs/NAME-NN by default.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Leave the campaign running and return.")] = False,
) -> None:
    """Start a campaign."""
    raise typer.Exit(_verb("campaign", "submit")(workflow, site, run, detach=detach))


@app.command()
def resume(run: RunFolder) -> None:
    """Go on with a campaign that was stopped or killed."""
    raise typer.Exit(_verb("campaign", "resume")(run))


@app.command()
def status(
    run: RunFolder, json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False
) -> None:
    """Say how far a campaign is."""
    _verb("campaign", "status")(run, as_json=json)


@app.command()
def why(
    run: RunFolder,
    name: Annotated[
        str, typer.Argument(metavar="[ID]", help="A structure's id or its first digits, TASK/NUMBER, or a task.")
    ] = "",
    json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Say what became of a structure or a task, and why; without ID, of everything that failed."""
    _verb("campaign", "why")(run, name, as_json=json)


@app.command()
def stop(run: RunFolder) -> None:
    """End a running campaign; it can be resumed."""
    raise typer.Exit(_verb("campaign", "stop")(run))


@app.command()
def amend(
    run: RunFolder,
    changes: Annotated[
        list[str],
        typer.Argument(metavar="KEY=VALUE...", help="Such as until.max_labels=500, or STAGE.policy.sampling=8."),
    ],
) -> None:
    """Change thresholds, levels, goals, gates or patience of a campaign, running or stopped."""
    raise typer.Exit(_verb("campaign", "amend")(run, changes))


@app.command()
def clean(
    run: RunFolder,
    models: Annotated[bool, typer.Option("--models", help="Superseded model versions too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be freed; touch nothing.")] = False,
) -> None:
    """Free scratch that a campaign does not need any more; resume, why, report and dataset are left whole."""
    _verb("campaign", "clean")(run, models=models, dry_run=dry_run)


@app.command()
def report(run: RunFolder) -> None:
    """Write the report of a campaign, finished or not, as one HTML file."""
    _verb("campaign", "report")(run)


@app.command()
def dashboard(
    run: RunFolder, port: Annotated[int, typer.Option(help="On this machine only.", min=1, max=65535)] = 8080
) -> None:
    """Serve Parsl's dashboard of a campaign, until Ctrl-C."""
    _verb("campaign", "dashboard")(run, port)


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="A run directory, a folder of shards, a shard, or extxyz.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another.")],
    twojmax: Annotated[int, typer.Option("--twojmax", min=0, max=14, help="8 gives 55 components.")] = 8,
    cutoff_A: Annotated[float, typer.Option("--cutoff", metavar="ANGSTROM", help="Of the descriptors.")] = 4.73,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where compare.html and .json go.")] = Path(),
    json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Compare two datasets: energies, groups, and how broad each is in the descriptor space of the other."""
    _verb("compare", "compare")(a, b, twojmax=twojmax, cutoff_A=cutoff_A, out=out, as_json=json)


@app.command()
def explain(
    part: Annotated[str, typer.Argument(metavar="[ROLE[.KIND]]", help="Such as sampler, or sampler.md.")] = "",
) -> None:
    """Print the manual of a part: what its keys mean, their types and defaults."""
    _verb("explain", "explain")(part)


@app.command()
def doctor(
    site: SiteFile = "laptop",
    workflow: Annotated[
        str, typer.Option("--workflow", "-w", metavar="WORKFLOW", help="Take the labelers' settings from it.")
    ] = "",
    run: Annotated[Path, typer.Option("--run", metavar="DIR", help="Where runs would be kept.")] = Path("runs"),
) -> None:
    """Try the machine for real: packages, threads, GPUs, scheduler, disk, and a tiny calculation with each program."""
    raise typer.Exit(_verb("doctor", "doctor")(site, workflow, run))
