"""`compress verify`"""

from pathlib import Path
from typing import Annotated

import typer

from compress_cli.cli import Json


def command(
    run: Annotated[Path, typer.Argument(help="a run's folder (runs/RECIPE), or one artifact's", show_default=False)],
    json: Json = False,
) -> None:
    """Check the files of a run and of its artifacts against their hashes. Names each damaged, missing or unknown file."""
    from compress_cli.store import integrity
    from compress_cli.store.disk import amount

    inspection = integrity.inspect(run)
    if json:
        typer.echo(inspection.model_dump_json(indent=1))
    elif not inspection.damaged:
        typer.echo(
            f"{run}: {inspection.artifacts} artifacts, {inspection.files} files, {amount(inspection.bytes)}: all as they were "
            f"written ({inspection.seconds:.2f} s)"
        )
    inspection.decide()
