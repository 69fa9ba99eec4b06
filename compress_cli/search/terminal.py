"""The outcome of a search on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table as Shown

from compress_cli.report.figures import printable
from compress_cli.search import tables
from compress_cli.search.outcome import Outcome
from compress_cli.search.tables import Table

WIDTH = 120


def show(outcome: Outcome) -> None:
    """The front, what fields are worth, and the sentences; all trials stand in the report."""
    console = Console(highlight=False, markup=False)
    console.width = max(console.width, WIDTH)
    for shown in (tables.front(outcome), tables.importances(outcome)):
        if shown.lines:
            console.print(_table(shown))
            console.print()
    for sentence in (*tables.summary(outcome), tables.verdict(outcome), *tables.problems(outcome)):
        console.print(printable(sentence), soft_wrap=True)


def _table(shown: Table) -> Shown:
    table = Shown(box=None, pad_edge=False, header_style="bold")
    for heading in shown.headings:
        table.add_column(printable(heading), overflow="fold")
    for line in shown.lines:
        table.add_row(*map(printable, line))
    return table
