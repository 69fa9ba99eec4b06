"""What no run refers to any more goes; what is in use, or may be taken up again, stays."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, computed_field

from compress_cli.errors import ArtifactError
from compress_cli.store import integrity, run_index
from compress_cli.store.record import RECORD, Record
from compress_cli.store.store import Store


class StoreEntry(BaseModel):
    """An artifact or an interrupted try at one that no run refers to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    bytes: int
    in_use: bool
    """Another process holds it, so it stays."""


class Reclaimed(BaseModel):
    """What went, or would go."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    store: str
    removed: bool
    runs: list[str]
    """Folders of the runs whose artifacts stay."""
    entries: list[StoreEntry]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def bytes(self) -> int:
        return sum(each.bytes for each in self.entries if not each.in_use)


def reclaim(store: Store, output: Path, remove: bool) -> Reclaimed:
    """Take away what neither a run of the store's register nor one in `output` refers to.

    Runs whose folder vanished are forgotten; those of other machines stay, since their folders can't be seen from here.
    ArtifactError where what a run refers to can't be known.
    """
    if not store.root.is_dir():
        raise ArtifactError(f"{store.root}: there is no store; name its folder with --store")
    with run_index.held(store):
        known = run_index.entries(store)
        kept = [each for each in known if not each.gone]
        runs = {Path(each.directory) for each in kept} | set(_runs(store, output))
        keys = {key for each in kept for key in each.keys} | {key for run in runs for key in _keys(run)}
        found = list(_unneeded(store, integrity.closure(store, keys), remove))
        for each in known:
            if remove and each.gone:
                run_index.leave(store, each)
    return Reclaimed(store=str(store.root), removed=remove, runs=sorted(map(str, runs)), entries=found)


def _runs(store: Store, output: Path) -> Iterable[Path]:
    """Runs in `output` of that store."""
    for path in sorted(output.glob(f"*/{RECORD}")):
        if (path.parent / Record.read(path.parent).store).resolve() == store.root.resolve():
            yield path.parent.resolve()


def _keys(run: Path) -> set[str]:
    """What a finished run refers to; of one that never finished the register alone knows."""
    if not (run / RECORD).is_file():
        return set()
    return set(Record.read(run).keys(run).values())


def _unneeded(store: Store, keys: set[str], remove: bool) -> Iterable[StoreEntry]:
    for key, paths in store.entries().items():
        if key in keys:
            continue
        with store.idle(key) as free:
            size = sum(_size(path) for path in paths)
            if free and remove:
                store.remove(key)
            yield StoreEntry(key=key, bytes=size, in_use=not free)


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file() and not each.is_symlink()]
    return sum(each.stat().st_size for each in files)
