"""`compress repair`"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compress_cli.cli import Json, Plugins, Quiet, read_plugins

if TYPE_CHECKING:
    from compress_cli.store.record import Record
    from compress_cli.store.store import Store


def command(
    run: Annotated[Path, typer.Argument(help="a run's folder: runs/RECIPE", show_default=False)],
    plugins: Plugins = [],  # noqa: B006 - typer copies it
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a run's damaged artifacts anew. What follows from them is made only if other bytes come out."""
    import json as format_json

    from compress_cli.store import integrity
    from compress_cli.store.record import Record

    before = Record.read(run)
    found = integrity.inspect(run)
    for each in found.corrupt:
        if each.extra:
            Path(each.path).unlink()
    redone: dict[str, str] = {}
    if not all(each.extra for each in found.corrupt):
        read_plugins(plugins)
        redone = _redo(run, before, quiet)
    removed = [each.path for each in found.corrupt if each.extra]
    if json:
        typer.echo(format_json.dumps({"run": str(run), "redone": redone, "removed": removed}, indent=1))
        return
    for name, what in redone.items():
        typer.echo(f"{name}: {what}")
    for path in removed:
        typer.echo(f"{path}: removed; it was no file of the artifact")
    if not found.corrupt:
        typer.echo(f"{run}: nothing is damaged ({found.artifacts} artifacts, {found.files} files)")


def _redo(directory: Path, before: "Record", quiet: bool) -> dict[str, str]:
    """Go through the run again from its lock file; name of each step that ran -> what came of it."""
    from compress_cli.cli._live import Live
    from compress_cli.cli.run import write_report
    from compress_cli.pipeline import lock
    from compress_cli.pipeline import run as runs
    from compress_cli.report import gates
    from compress_cli.store.store import Store

    planned = lock.planned(directory, before)
    store = Store(directory / before.store)
    digests = _digests(store, before)
    with Live(quiet=quiet) as listener:
        again = runs.Run(planned, store, directory, listener, repair=True)
        again.execute()
    write_report(gates.collect(directory), directory)
    redone = {}
    for step in planned.steps:
        if step.key in again.cached or step.key not in again.artifacts:
            continue
        why = "was damaged" if step.key in again.damaged else "follows from what was damaged"
        known, made = digests.get(step.key), again.artifacts[step.key].digest
        what = "made anew" if known is None else "made anew, the same bytes" if known == made else "made anew, other bytes"
        redone[step.name] = f"{why}: {what}"
    return redone


def _digests(store: "Store", record: "Record") -> dict[str, str]:
    """Key -> digest of what was written, where the manifest still says it."""
    from compress_cli.errors import ArtifactError
    from compress_cli.store import artifact

    found = {}
    for key in record.steps.values():
        try:
            made = artifact.read(store.directory(key))
        except ArtifactError:
            continue  # the manifest itself is what is damaged
        if made:
            found[key] = made.digest
    return found
