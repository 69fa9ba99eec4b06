"""The outcome of a search as Markdown."""

from __future__ import annotations

from compress_cli.report.markdown import plain, table
from compress_cli.search import tables
from compress_cli.search.outcome import Outcome
from compress_cli.search.tables import Table


def render(outcome: Outcome) -> str:
    """Headings, sentences and tables."""
    parts = [f"# Search: {plain(outcome.study)}", *(plain(sentence) for sentence in tables.summary(outcome))]
    parts += ["## Best", plain(tables.verdict(outcome)), _table(tables.front(outcome))]
    parts += ["## What each field is worth", _table(tables.importances(outcome))]
    parts += ["## Trials", _table(tables.trials(outcome)), *(f"- {plain(line)}" for line in tables.problems(outcome))]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(shown: Table) -> str:
    lines = [[plain(cell) for cell in line] for line in shown.lines]
    return "\n".join(table([plain(heading) for heading in shown.headings], lines))
