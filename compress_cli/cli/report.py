"""`compress report`"""

from pathlib import Path
from typing import Annotated

import typer

from compress_cli.cli import Json


def command(
    run: Annotated[Path, typer.Argument(help="a run's folder: runs/RECIPE", show_default=False)],
    markdown: Annotated[bool, typer.Option("--markdown", help="as Markdown")] = False,
    json: Json = False,
) -> None:
    """Show the table of a run again; nothing is measured."""
    from compress_cli import report
    from compress_cli.errors import RecipeError
    from compress_cli.report import markdown as as_markdown
    from compress_cli.report import terminal

    if json and markdown:
        raise RecipeError("--json and --markdown: choose one")
    made = report.collect(run)
    if json:
        typer.echo(made.model_dump_json(indent=1))
    elif markdown:
        typer.echo(as_markdown.render(made), nl=False)
    else:
        terminal.show(made)
