"""`compress repair`"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compress_cli.cli import Json, Plugins, Quiet, read_plugins

if TYPE_CHECKING:
    from compress_cli.store.integrity import DamagedFile
    from compress_cli.store.record import Record
    from compress_cli.store.store import Store


def command(
    run: Annotated[Path, typer.Argument(help="a run's folder: runs/RECIPE", show_default=False)],
    plugins: Plugins = [],  # noqa: B006 - typer copies it
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Restore a run's damaged files. Damaged artifacts are made again, and later ones too if the bytes differ."""
    import json as format_json

    from compress_cli.store import integrity

    inspection = integrity.inspect(run)
    _refuse_unreadable(inspection.damaged)
    extra = [Path(file.path) for file in inspection.damaged if file.extra]
    restored = [file.path for file in inspection.damaged if not file.step]
    for path in extra:
        path.unlink()
    sealed = _restore(run) if restored else True
    redone: dict[str, str] = {}
    if not sealed or any(file.step and not file.extra for file in inspection.damaged):
        read_plugins(plugins)
        redone = _redo(run, quiet)
    if restored or redone:
        _write_report(run)
    if json:
        removed = [str(path) for path in extra]
        typer.echo(format_json.dumps({"run": str(run), "redone": redone, "removed": removed, "restored": restored}, indent=1))
        return
    for name, outcome in redone.items():
        typer.echo(f"{name}: {outcome}")
    for path in extra:
        typer.echo(f"{path}: removed; it was no file of the artifact")
    for name in restored:
        typer.echo(f"{name}: restored")
    if not inspection.damaged:
        typer.echo(f"{run}: nothing is damaged ({inspection.artifacts} artifacts, {inspection.files} files)")


def _refuse_unreadable(damaged: "list[DamagedFile]") -> None:
    """ArtifactError for files that may be whole, and that this user has no permission to read."""
    from compress_cli.errors import ArtifactError

    closed = [str(file) for file in damaged if file.unreadable]
    if closed:
        raise ArtifactError("\n".join(closed))


def _restore(directory: Path) -> bool:
    """Write the run's record, lock file and links again; False where its seal is damaged, which a new run has to write."""
    from compress_cli.errors import ArtifactError
    from compress_cli.store.record import RECORD, Record
    from compress_cli.store.seal import Seal
    from compress_cli.store.store import Store

    try:
        seal = Seal.read(directory)
    except ArtifactError:
        return False
    record = Record.parse(seal.sources[RECORD], directory / RECORD)
    seal.restore(directory, Store(directory / record.store))
    return True


def _redo(directory: Path, quiet: bool) -> dict[str, str]:
    """Run the lock file again; name of each step that ran -> its outcome."""
    from compress_cli.cli._live import Live
    from compress_cli.pipeline import lock
    from compress_cli.pipeline import run as runs
    from compress_cli.store.record import Record
    from compress_cli.store.store import Store

    before = Record.read(directory)
    planned = lock.planned(directory, before)
    store = Store(directory / before.store)
    digests = _digests(store, before)
    with Live(quiet=quiet) as listener:
        again = runs.Run(planned, store, directory, listener, repair=True)
        again.execute()
    redone = {}
    for step in planned.steps:
        if step.key in again.cached or step.key not in again.artifacts:
            continue
        reason = "was damaged" if step.key in again.damaged else "follows from what was damaged"
        digest, digest_now = digests.get(step.key), again.artifacts[step.key].digest
        outcome = "made anew" if digest is None else f"made anew, {'the same' if digest == digest_now else 'other'} bytes"
        redone[step.name] = f"{reason}: {outcome}"
    return redone


def _write_report(directory: Path) -> None:
    from compress_cli.cli.run import write_report
    from compress_cli.report import gates

    write_report(gates.collect(directory), directory)


def _digests(store: "Store", record: "Record") -> dict[str, str]:
    """Key -> digest in the manifest, where that can still be read."""
    from compress_cli.errors import ArtifactError
    from compress_cli.store import artifact

    digests = {}
    for key in record.steps.values():
        try:
            stored = artifact.read(store.directory(key))
        except ArtifactError:
            continue  # the manifest itself is damaged
        if stored:
            digests[key] = stored.digest
    return digests
