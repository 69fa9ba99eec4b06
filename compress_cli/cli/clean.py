"""`compress clean`"""

from pathlib import Path
from typing import Annotated

import typer

from compress_cli.cli import Json, Output, StoreFolder


def command(
    output: Output = Path("runs"),
    store: StoreFolder = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only list what would be removed")] = False,
    json: Json = False,
) -> None:
    """Remove artifacts that no run refers to, and leftovers of killed processes. Artifacts in use by a process stay."""
    from compress_cli.errors import RecipeError
    from compress_cli.store import reclaim
    from compress_cli.store.disk import amount
    from compress_cli.store.store import Store

    if store and "://" in store:
        raise RecipeError(f"--store {store}: a bucket keeps what its own rules say; leave --store out to clean {output}/.store")
    kept = Store(Path(store) if store else output / ".store")
    reclaimed = reclaim.reclaim(kept, output, remove=not dry_run)
    if json:
        typer.echo(reclaimed.model_dump_json(indent=1))
        return
    for entry in reclaimed.entries:
        if entry.in_use or dry_run:
            typer.echo(f"{entry.key[:12]}  {'in use, stays' if entry.in_use else amount(entry.bytes)}")
    verb = "would remove" if dry_run else "removed"
    for folder in reclaimed.scratch:
        typer.echo(f"{folder}: {verb}; a process that was killed left it")
    count = sum(not entry.in_use for entry in reclaimed.entries)
    typer.echo(
        f"{reclaimed.store}: {len(reclaimed.runs)} runs; {verb} {count} artifacts that none of them refers to, "
        f"{amount(reclaimed.bytes)}"
    )
