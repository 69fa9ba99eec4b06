"""`compress report`"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from compress_cli.cli import Gates, Json, JUnit, Tables, write_junit, write_tables

if TYPE_CHECKING:
    from compress_cli.report import Report


def command(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="folders of runs, such as runs/RECIPE; several are shown in one table"),
    ],
    markdown: Annotated[bool, typer.Option("--markdown", help="print Markdown")] = False,
    html: Annotated[bool, typer.Option("--html", help="print an HTML page")] = False,
    benchmark_json: Annotated[
        Literal["smaller", "bigger"] | None,
        typer.Option(
            help="print the figures of which smaller (or bigger) is better as JSON for github-action-benchmark",
            show_default=False,
        ),
    ] = None,
    gates: Gates = [],  # noqa: B006 - typer copies it
    junit: JUnit = None,
    csv: Tables = None,
    latex: Tables = None,
    json: Json = False,
) -> None:
    """Show the table of a run again, or of several runs together. Gates are checked, nothing is measured."""
    import json as format_json

    from compress_cli.errors import RecipeError
    from compress_cli.report import benchmark, rows
    from compress_cli.report import gates as promises
    from compress_cli.statistics import gate

    if json + markdown + html + bool(benchmark_json) > 1:
        raise RecipeError("--json, --markdown, --html and --benchmark-json: choose one")
    promised = tuple(gate.parse(text) for text in gates)
    reports = [promises.collect(folder, promised) for folder in folders]
    if junit and len(reports) > 1:
        raise RecipeError("--junit: name one run")
    if junit and not reports[0].gates:
        raise RecipeError("--junit: this run has no gates to write; name some with --gate")
    write_junit(reports[0], junit)
    write_tables(rows.table([(str(folder), report) for folder, report in zip(folders, reports, strict=True)]), csv, latex)
    form = "json" if json else "markdown" if markdown else "html" if html else ""
    if benchmark_json:
        figures = [entry for report in reports for entry in benchmark.entries(report, benchmark_json)]
        typer.echo(format_json.dumps(figures, indent=1, allow_nan=False))
    elif len(reports) == 1:
        _one(reports[0], folders[0], form)
    else:
        _several(reports, folders, form)
    for report in reports:
        promises.decide(report)


def _one(report: "Report", folder: Path, form: str) -> None:
    from compress_cli.report import markdown, page, terminal

    match form:
        case "json":
            typer.echo(report.model_dump_json(indent=1))
        case "markdown":
            typer.echo(markdown.render(report), nl=False)
        case "html":
            typer.echo(page.render(report, page.background(folder)), nl=False)
        case _:
            terminal.show(report)


def _several(reports: "list[Report]", folders: list[Path], form: str) -> None:
    from compress_cli.report import runs

    together = runs.side_by_side([(str(folder), report) for folder, report in zip(folders, reports, strict=True)])
    match form:
        case "json":
            typer.echo(together.model_dump_json(indent=1))
        case "markdown":
            typer.echo(runs.as_markdown(together), nl=False)
        case "html":
            typer.echo(runs.as_html(together), nl=False)
        case _:
            runs.show(together)
