"""`compress report`"""

from pathlib import Path
from typing import Annotated

import typer

from compress_cli.cli import Gates, Json, JUnit, write_junit


def command(
    run: Annotated[Path, typer.Argument(help="a run's folder: runs/RECIPE", show_default=False)],
    markdown: Annotated[bool, typer.Option("--markdown", help="as Markdown")] = False,
    gates: Gates = [],  # noqa: B006 - typer copies it
    junit: JUnit = None,
    json: Json = False,
) -> None:
    """Show the table of a run again and judge its gates, and those given here; nothing is measured."""
    from compress_cli import gate
    from compress_cli.errors import RecipeError
    from compress_cli.report import gates as promises
    from compress_cli.report import markdown as as_markdown
    from compress_cli.report import terminal

    if json and markdown:
        raise RecipeError("--json and --markdown: choose one")
    made = promises.collect(run, tuple(gate.parse(each) for each in gates))
    if junit and not made.gates:
        raise RecipeError("--junit: this run has no gates to write; name some with --gate")
    write_junit(made, junit)
    if json:
        typer.echo(made.model_dump_json(indent=1))
    elif markdown:
        typer.echo(as_markdown.render(made), nl=False)
    else:
        terminal.show(made)
    promises.decide(made)
