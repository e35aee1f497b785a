"""``alflow check``: everything that can be known before the first job."""

from __future__ import annotations

import dataclasses
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from alflow.errors import InputError
from alflow.spec import workflow as workflows
from alflow.spec.plan import plan
from alflow.spec.site import Site, code_of, load_site
from alflow.spec.workflow import PARTS, POLICIES, Stage, Workflow


def check(workflow: str, site: str, *, scripts: bool) -> None:
    """Check both files; print the stages in words, the blocks, and the scripts that would be submitted.

    Raises:
        InputError: one of them is wrong.
    """
    where = load_site(site)
    what = workflows.load(workflow, where)
    console = Console(highlight=False)
    console.print(f"[bold]{what.name}[/bold]: seed {what.seed}, digest {workflows.digest(what)}")
    for number, stage in enumerate(what.stages):
        _stage(console, what, where, number, stage)
    _blocks(console, where)
    if scripts:
        _scripts(console, where)
    notes = workflows.against(what, where)
    for note in notes:
        console.print(f"note: {note}", markup=False)
    console.print("Both files are right; nothing was started." if not notes else "Otherwise both files are right.")


def _theory(stage: Stage, site: Site) -> str:
    """Fingerprint of the labels; unknown where their program is out of sight."""
    try:
        return stage.labeler.theory(code_of(site, stage.labeler.code)).fingerprint
    except InputError as exc:
        return f"not known here: {exc.where} {exc.problem}"


def _stage(console: Console, workflow: Workflow, site: Site, number: int, stage: Stage) -> None:
    content = workflow.content["stages"][number]
    console.print(f"\nstage {number + 1} of {len(workflow.stages)}: [bold]{stage.name}[/bold]")
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 2))
    for key in PARTS:
        table.add_row(key, content[key]["kind"], escape(_settings(content[key])))
    policy = next(kind for kind, cls in POLICIES.items() if isinstance(stage.policy, cls))
    table.add_row("policy", policy, escape(_settings(content["policy"])))
    table.add_row("thresholds", "", f"select {stage.thresholds.select:g}, stop {stage.thresholds.stop:g}")
    table.add_row("until", "", " or ".join(_endings(stage)))
    for key in ("gates", "patience"):
        table.add_row(key, "", escape(_settings(dataclasses.asdict(getattr(stage, key)))))
    table.add_row("theory", "", _theory(stage, site))
    if stage.same_theory:
        table.add_row("same_theory", "", ", ".join(stage.same_theory))
    if stage.evaluate is not None:
        elements = max(1, len(workflows.elements_of(workflow, number)))
        table.add_row("evaluate", "", f"about {stage.evaluate.cost(elements)} reference calculations at the end")
    console.print(table)


def _settings(content: dict[str, Any]) -> str:
    return ", ".join(f"{k} {_words(v)}" for k, v in content.items() if k != "kind") or "as by default"


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_words(v)}" for k, v in value.items()) + "}"
    return "[" + ", ".join(_words(v) for v in value) + "]" if isinstance(value, list) else str(value)


def _endings(stage: Stage) -> list[str]:
    words = {
        "max_rounds": "after {} rounds",
        "max_labels": "after {} labels",
        "no_candidates": "no candidates are found",
        "median_length_ps": "the median trajectory reaches {:g} ps",
    }
    given = dataclasses.asdict(stage.until)
    return [words.get(k, f"{k} {{}}").format(v) for k, v in given.items() if v is not None and v is not False]


def _blocks(console: Console, site: Site) -> None:
    console.print(f"\nlanes on [bold]{site.name}[/bold]")
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 2))
    for block in plan(site):
        table.add_row(block.lane, escape(block.words()))
        table.add_row("", f"runs {', '.join(block.verbs)}")
    console.print(table)


def _scripts(console: Console, site: Site) -> None:
    if all(lane.scheduler == "local" for lane in site.lanes.values()):
        console.print("\nAll lanes are on this machine: no batch scripts.\n")
        return
    from alflow.runtime.parsl_site import submit_scripts

    for lane, text in submit_scripts(site).items():
        console.rule(f"batch script of lane {lane}", align="left")
        console.print(text, markup=False, soft_wrap=True)
    console.rule()
