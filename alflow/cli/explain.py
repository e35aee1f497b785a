"""``alflow explain``: manuals on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from alflow.spec import explain as manuals


def explain(part: str) -> None:
    """Print what there is, the kinds of a role, or the manual of one part."""
    console = Console(highlight=False, soft_wrap=False)
    if not part:
        _overview(console)
        return
    topic, kind = manuals.named(part)
    if not kind and manuals.summaries(topic):
        _kinds(console, topic)
    else:
        _manual(console, manuals.manual(topic, kind))


def _overview(console: Console) -> None:
    table = _table("topic", "kinds")
    for topic, kinds in manuals.topics().items():
        table.add_row(topic, ", ".join(kinds))
    console.print(table)
    console.print("alflow explain sampler       what samplers there are")
    console.print("alflow explain sampler.md    the manual of one")


def _kinds(console: Console, topic: str) -> None:
    table = _table("kind", "what it is")
    for kind, words in manuals.summaries(topic).items():
        table.add_row(kind, escape(words))
    console.print(table)


def _manual(console: Console, manual: manuals.Manual) -> None:
    console.print(f"[bold]{manual.title}[/bold]\n")
    console.print(manual.text, markup=False)
    for fact, words in manual.facts.items():
        console.print(f"\n{fact}: {words}", markup=False, end="")
    console.print("\n" if manual.facts else "")
    table = _table("key", "type", "default", "meaning")
    for key in manual.keys:
        table.add_row(key.name, escape(key.type), escape(key.default), escape(key.words))
    console.print(table)


def _table(*heads: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for head in heads:
        table.add_column(head, overflow="fold")
    return table
