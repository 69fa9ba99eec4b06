"""Removes artifacts that no run refers to any more; those in use, and those that may be resumed, stay."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, computed_field

from compress_cli.errors import ArtifactError
from compress_cli.store import artifact, durable, integrity, run_index, scratch
from compress_cli.store.record import RECORD, Record
from compress_cli.store.store import Store


class StoreEntry(BaseModel):
    """An artifact, or what an interrupted try at one left, that no run needs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    bytes: int
    in_use: bool
    """Another process holds it, so it stays."""


class Reclaimed(BaseModel):
    """The files that were removed, or would be."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    store: str
    removed: bool
    runs: list[str]
    """Folders of the runs whose artifacts stay."""
    entries: list[StoreEntry]
    scratch: list[str]
    """Folders under TMPDIR that processes left which were killed."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def bytes(self) -> int:
        return sum(entry.bytes for entry in self.entries if not entry.in_use)


def reclaim(store: Store, output: Path, remove: bool) -> Reclaimed:
    """Remove what neither a run in the store's register nor one in `output` refers to, and what killed processes left.

    Runs whose folder vanished are forgotten; those of other machines stay, since their folders can't be seen from here.
    ArtifactError, before anything is removed, where what a run refers to can't be known or an entry is odd.
    """
    if not store.root.is_dir():
        raise ArtifactError(f"{store.root}: there is no store; name its folder with --store")
    with run_index.locked(store):
        registered = run_index.entries(store)
        present = [entry for entry in registered if not entry.gone]
        runs = {Path(entry.directory) for entry in present} | set(_runs(store, output))
        keys = {key for entry in present for key in entry.keys} | {key for run in runs for key in _keys(run)}
        needed = integrity.closure(store, keys)
        store.check()
        entries = [*_unneeded(store, needed, remove), *_left_behind(store, needed, remove)]
        for entry in registered:
            if remove and entry.gone:
                run_index.leave(store, entry)
    abandoned = scratch.abandoned()
    if remove:
        scratch.remove_abandoned()
    return Reclaimed(
        store=str(store.root),
        removed=remove,
        runs=sorted(map(str, runs)),
        entries=entries,
        scratch=[str(path) for path in abandoned],
    )


def _runs(store: Store, output: Path) -> Iterator[Path]:
    """Runs in `output` of that store."""
    for run in sorted(output.iterdir()) if output.is_dir() else ():
        if durable.kind_of(run / RECORD) and (run / Record.read(run).store).resolve() == store.root.resolve():
            yield run.resolve()


def _keys(run: Path) -> set[str]:
    """Keys that a finished run refers to; those of one that never finished only the register knows."""
    if not durable.kind_of(run / RECORD):
        return set()
    return set(Record.read(run).keys(run).values())


def _unneeded(store: Store, needed: set[str], remove: bool) -> Iterator[StoreEntry]:
    for key, paths in store.entries().items():
        if key in needed:
            continue
        with store.try_lock(key) as locked:
            size = _size(paths)
            if locked and remove:
                store.remove(key)
            yield StoreEntry(key=key, bytes=size, in_use=not locked)


def _left_behind(store: Store, needed: set[str], remove: bool) -> Iterator[StoreEntry]:
    """Folders of tries at artifacts that are whole: a killed repair left them, and there is nothing to resume."""
    for key, paths in store.entries().items():
        folders = [path for path in paths if path in (store.partial(key), store.saves(key))]
        if key not in needed or not folders or not _whole(store, key):
            continue
        with store.try_lock(key) as locked:
            size = _size(folders)
            if locked and remove:
                store.leave(key)
            yield StoreEntry(key=key, bytes=size, in_use=not locked)


def _whole(store: Store, key: str) -> bool:
    try:
        stored = artifact.read(store.directory(key))
        if stored is not None:
            stored.verify()
    except ArtifactError:
        return False
    return stored is not None


def _size(paths: Iterable[Path]) -> int:
    """Bytes of all files in these paths, each of which may be anything; links are not followed."""
    sizes = 0
    for path in paths:
        for file in (path, *path.rglob("*")):
            status = file.lstat()
            sizes += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return sizes
