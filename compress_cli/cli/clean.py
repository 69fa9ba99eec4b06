"""`compress clean`"""

from pathlib import Path
from typing import Annotated

import typer

from compress_cli.cli import Json, Output, StoreFolder


def command(
    output: Output = Path("runs"),
    store: StoreFolder = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only list what would go")] = False,
    json: Json = False,
) -> None:
    """Remove from the store what no run refers to. What a run refers to or a process works on stays."""
    from compress_cli.store import reclaim
    from compress_cli.store.disk import amount
    from compress_cli.store.store import Store

    found = reclaim.reclaim(Store(store or output / ".store"), output, remove=not dry_run)
    if json:
        typer.echo(found.model_dump_json(indent=1))
        return
    for each in found.entries:
        if each.in_use or dry_run:
            typer.echo(f"{each.key[:12]}  {'in use, stays' if each.in_use else amount(each.bytes)}")
    count = sum(not each.in_use for each in found.entries)
    typer.echo(
        f"{found.store}: {len(found.runs)} runs; {'would remove' if dry_run else 'removed'} {count} artifacts that none of "
        f"them refers to, {amount(found.bytes)}"
    )
