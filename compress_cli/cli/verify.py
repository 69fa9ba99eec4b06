"""`compress verify`"""

from pathlib import Path
from typing import Annotated

import typer

from compress_cli.cli import Json


def command(
    run: Annotated[Path, typer.Argument(help="a run's folder (runs/RECIPE), or one artifact's", show_default=False)],
    json: Json = False,
) -> None:
    """Compare a run's files with what was written. Each damaged, missing or strange one is named."""
    from compress_cli.store import integrity

    found = integrity.inspect(run)
    if json:
        typer.echo(found.model_dump_json(indent=1))
    elif not found.corrupt:
        from compress_cli.store.disk import amount

        typer.echo(
            f"{run}: {found.artifacts} artifacts, {found.files} files, {amount(found.bytes)}: all as they were written "
            f"({found.seconds:.2f} s)"
        )
    found.decide()
