"""`compress run`"""

from pathlib import Path
from typing import Annotated

import typer

from compress_cli.cli import Json, Output, Plugins, Quiet, Recipe, Set, StoreFolder, read_plugins


def command(
    recipe: Recipe,
    overrides: Set = [],  # noqa: B006 - typer copies it
    output: Output = Path("runs"),
    store: StoreFolder = None,
    force: Annotated[list[str], typer.Option(help="run this stage although it is up to date", show_default=False)] = [],  # noqa: B006
    until: Annotated[str, typer.Option(help="stop after this stage", show_default=False)] = "",
    smoke: Annotated[bool, typer.Option("--smoke", help="only try two batches through every stage")] = False,
    plugins: Plugins = [],  # noqa: B006
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run a recipe: stages that are up to date are skipped, the report is printed."""
    import json as format_json

    from compress_cli import plan as plans
    from compress_cli import recipe as recipes
    from compress_cli.report.live import Live

    read_plugins(plugins)
    planned = plans.plan(recipes.load(recipe, overrides))
    if until:
        planned = planned.until(until)

    from compress_cli import report, run  # PyTorch comes with it: only after the recipe proved right
    from compress_cli import smoke as smoke_run
    from compress_cli.report import markdown, terminal
    from compress_cli.store import Store

    directory = output / planned.recipe.name
    with Live(quiet=quiet) as listener:
        if smoke:
            trials = smoke_run.smoke(planned, listener)
            if json:
                typer.echo(format_json.dumps([{"step": each.step.name, "seconds": each.seconds} for each in trials], indent=1))
            return
        run.Run(planned, Store(store or output / ".store"), directory, listener, frozenset(force)).execute()
    made = report.collect(directory)
    (directory / "report.json").write_text(made.model_dump_json(indent=1) + "\n")
    (directory / "report.md").write_text(markdown.render(made))
    if json:
        typer.echo(made.model_dump_json(indent=1))
    else:
        terminal.show(made)
        if not quiet:
            typer.echo(f"report: {directory}/report.md, report.json", err=True)
