"""The runs that a store's artifacts belong to, kept in the store: `.runs/<hash of the run's folder>.json`.

A run enters before it uses or makes anything. A process that removes artifacts locks the register meanwhile, so that no run
takes up what is about to be removed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from compress_cli.errors import ArtifactError
from compress_cli.store import durable
from compress_cli.store.disk import unwritable
from compress_cli.store.store import Store

REGISTER = ".runs"


class RunEntry(BaseModel):
    """A run that refers to artifacts, finished or not."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    directory: str
    host: str
    keys: list[str]

    @property
    def gone(self) -> bool:
        """Its folder vanished; of another machine's folder that can't be told."""
        return self.host == platform.node() and not Path(self.directory).is_dir()


def enter(store: Store, directory: Path, keys: list[str]) -> None:
    """Note that the run in `directory` refers to these keys; its earlier entry is replaced.

    A store that may only be read is used without: nothing can be removed from it either.
    """
    entry = RunEntry(directory=str(directory.resolve()), host=platform.node(), keys=keys)
    if store.root.is_dir() and not os.access(store.root, os.W_OK):
        return
    path, content = _path(store, entry), (entry.model_dump_json(indent=1) + "\n").encode()
    with locked(store):
        if not path.is_file() or path.read_bytes() != content:
            durable.write(path, content)


def entries(store: Store) -> list[RunEntry]:
    """All runs that entered; ArtifactError where an entry can't be read, since what it refers to is not known then."""
    runs = []
    for path in sorted((store.root / REGISTER).glob("*.json")):
        durable.require_file(path)
        try:
            runs.append(RunEntry.model_validate_json(path.read_text(encoding="utf-8")))
        except (ValidationError, ValueError, OSError) as error:
            reason = str(error).partition("\n")[0]
            raise ArtifactError(f"{path}: can't be read ({reason}); delete it and run its recipe again") from None
    return runs


def leave(store: Store, entry: RunEntry) -> None:
    """Forget a run."""
    _path(store, entry).unlink(missing_ok=True)


@contextmanager
def locked(store: Store) -> Iterator[None]:
    """Within, no other process enters a run or removes artifacts; ArtifactError where the store can't be written."""
    folder = store.root / REGISTER
    durable.require_folder(folder)
    durable.require_file(folder / "lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("a")
    except OSError as error:
        raise unwritable(error, store.root, "; name another with --store") from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _path(store: Store, entry: RunEntry) -> Path:
    name = hashlib.sha256(f"{entry.host}:{entry.directory}".encode()).hexdigest()[:32]
    return store.root / REGISTER / f"{name}.json"
