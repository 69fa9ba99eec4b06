"""`compress reproduce`"""

from pathlib import Path
from typing import Annotated

import typer

from compress_cli.cli import Json, Plugins, Quiet, read_plugins


def command(
    run: Annotated[Path, typer.Argument(help="a run's folder: runs/RECIPE", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="an empty folder for the new run", show_default=False)
    ] = None,
    plugins: Plugins = [],  # noqa: B006 - typer copies it
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Repeat a run from its lock file and compare the results. By bytes on the same kind of machine, else by figures."""
    from compress_cli.cli._live import Live
    from compress_cli.pipeline import reproduce
    from compress_cli.store.scratch import scratch

    read_plugins(plugins)
    with scratch("reproduce") as temporary, Live(quiet=quiet) as listener:
        reproduction = reproduce.reproduce(run, output or temporary, listener)
    if json:
        typer.echo(reproduction.model_dump_json(indent=1))
    else:
        for artifact in reproduction.artifacts:
            typer.echo(f"{artifact.step}: {artifact.outcome}{f' ({artifact.detail})' if artifact.detail else ''}")
        typer.echo(
            "compared by figures, since this machine differs: " + "; ".join(reproduction.differs)
            if reproduction.differs
            else "compared by bytes: the same kind of machine, libraries and threads"
        )
    reproduction.decide()
