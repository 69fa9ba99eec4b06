"""The content-addressed store: `<root>/<key>/` holds one artifact, whole or not at all.

A stage works in `<key>.partial/`, which a crash may leave behind for resuming. A good artifact is set aside as
`<key>.old/` only while its successor, already whole, takes its name; a crash in between is mended at the next look.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from compress_cli import artifact
from compress_cli.artifact import Artifact
from compress_cli.errors import ArtifactError


@dataclass(frozen=True)
class Store:
    """All artifacts of some recipes, shared by whoever names the same folder."""

    root: Path

    def directory(self, key: str) -> Path:
        return self.root / key

    def partial(self, key: str) -> Path:
        return self.root / f"{key}.partial"

    def get(self, key: str) -> Artifact | None:
        """The artifact of that key, or None; ArtifactError where its manifest is damaged."""
        self._mend(key)
        return artifact.read(self.directory(key))

    @contextmanager
    def working(self, key: str) -> Iterator[Path]:
        """Hold the key's lock and yield its working folder, which holds what an interrupted try left."""
        with self._locked(key):
            partial = self.partial(key)
            partial.mkdir(exist_ok=True)
            yield partial

    def commit(self, key: str) -> Artifact:
        """Give the working folder, whose manifest is written, its lasting name."""
        whole, partial, old = self.directory(key), self.partial(key), self.root / f"{key}.old"
        if whole.exists():
            os.replace(whole, old)
        os.replace(partial, whole)
        _flush(self.root)
        shutil.rmtree(old, ignore_errors=True)
        made = artifact.read(whole)
        if made is None:
            raise ArtifactError(f"{whole}: was committed without a manifest")
        return made

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        """The kernel frees the lock when its holder dies. A lock whose file was removed meanwhile counts for nothing."""
        path = self.root / f"{key}.lock"
        while True:
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                lock = path.open("w")
            except OSError as error:
                raise ArtifactError(f"{self.root}: can't be written ({error.strerror}); name another with --store") from None
            with lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not _same_file(path, lock.fileno()):
                    continue
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
                return

    def _mend(self, key: str) -> None:
        whole, old = self.directory(key), self.root / f"{key}.old"
        if old.exists() and not whole.exists():
            os.replace(old, whole)
        elif old.exists():
            shutil.rmtree(old, ignore_errors=True)


def _same_file(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _flush(directory: Path) -> None:
    """Make renames in a folder last through a power cut."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
