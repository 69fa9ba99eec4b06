"""The content-addressed store: `<root>/<key>/` holds one artifact, whole or not at all.

A stage works in `<key>.partial/`, which a crash may leave behind for resuming. A good artifact is set aside as
`<key>.old/` only while its successor, already whole, takes its name; a crash in between is mended at the next look.
"""

from __future__ import annotations

import fcntl
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from compress_cli import artifact
from compress_cli.artifact import Artifact
from compress_cli.errors import ArtifactError

ENTRY = re.compile(r"([0-9a-f]{64})(\.partial|\.old|\.lock|\.gone)?")
"""Names of what belongs to a key; whatever else lies in the folder is not the store's."""

Waiting = Callable[[str], None]
"""Told who holds a lock that is waited for."""


@dataclass(frozen=True)
class Store:
    """All artifacts of some recipes, shared by whoever names the same folder."""

    root: Path

    def directory(self, key: str) -> Path:
        return self.root / key

    def partial(self, key: str) -> Path:
        return self.root / f"{key}.partial"

    def get(self, key: str) -> Artifact | None:
        """The artifact of that key, or None; ArtifactError where its manifest is damaged, or that of another key."""
        if self._old(key).exists():
            with self.idle(key) as free:  # a commit in another process is not for us to mend
                if free:
                    self._mend(key)
        found = artifact.read(self.directory(key))
        if found is not None and found.manifest.key != key:
            raise ArtifactError(
                f"{found.directory}: is the artifact of another key ({found.manifest.key[:12]}), moved here; {artifact.REMEDY}"
            )
        return found

    @contextmanager
    def working(self, key: str, waiting: Waiting | None = None) -> Iterator[Path]:
        """Hold the key's lock and yield its working folder, which holds what an interrupted try left."""
        with self._locked(key, waiting):
            self._mend(key)
            partial = self.partial(key)
            partial.mkdir(exist_ok=True)
            yield partial

    def commit(self, key: str) -> Artifact:
        """Give the working folder, whose manifest is written, its lasting name."""
        whole, partial, old = self.directory(key), self.partial(key), self._old(key)
        if whole.exists():
            os.replace(whole, old)
        os.replace(partial, whole)
        _flush(self.root)
        shutil.rmtree(old, ignore_errors=True)
        made = artifact.read(whole)
        if made is None:
            raise ArtifactError(f"{whole}: was committed without a manifest")
        return made

    def entries(self) -> dict[str, list[Path]]:
        """Key -> what belongs to it: the artifact, a working folder, a lock."""
        found: dict[str, list[Path]] = {}
        for path in sorted(self.root.iterdir()) if self.root.is_dir() else ():
            if match := ENTRY.fullmatch(path.name):
                found.setdefault(match[1], []).append(path)
        return found

    def remove(self, key: str) -> None:
        """Take away all that belongs to a key, whose lock is held: out of the way in one step, then file by file."""
        for path in (self.directory(key), self.partial(key), self._old(key)):
            gone = self.root / f"{key}.gone"
            shutil.rmtree(gone, ignore_errors=True)
            if path.exists():
                os.replace(path, gone)
                shutil.rmtree(gone)

    @contextmanager
    def idle(self, key: str) -> Iterator[bool]:
        """Hold the key's lock if nobody does; yields whether that is so."""
        with self._lock_file(key) as lock:
            free = _take(lock, fcntl.LOCK_EX | fcntl.LOCK_NB) and _same_file(self._lock(key), lock.fileno())
            try:
                yield free
            finally:
                if free:
                    self._lock(key).unlink(missing_ok=True)

    @contextmanager
    def _locked(self, key: str, waiting: Waiting | None) -> Iterator[None]:
        """The kernel frees the lock when its holder dies. A lock whose file was removed meanwhile counts for nothing."""
        while True:
            with self._lock_file(key) as lock:
                if not _take(lock, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    if waiting:
                        lock.seek(0)
                        waiting(lock.read(200) or "another process")
                    _take(lock, fcntl.LOCK_EX)
                if not _same_file(self._lock(key), lock.fileno()):
                    continue
                lock.truncate(0)
                lock.write(f"process {os.getpid()} on {platform.node()}")
                lock.flush()
                try:
                    yield
                finally:
                    self._lock(key).unlink(missing_ok=True)
                return

    def _lock_file(self, key: str) -> TextIO:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            return self._lock(key).open("a+")
        except OSError as error:
            raise ArtifactError(f"{self.root}: can't be written ({error.strerror}); name another with --store") from None

    def _lock(self, key: str) -> Path:
        return self.root / f"{key}.lock"

    def _old(self, key: str) -> Path:
        return self.root / f"{key}.old"

    def _mend(self, key: str) -> None:
        """What a crash left between the two renames of a commit; the lock is held."""
        whole, old = self.directory(key), self._old(key)
        if old.exists() and not whole.exists():
            os.replace(old, whole)
        elif old.exists():
            shutil.rmtree(old, ignore_errors=True)


def _take(lock: TextIO, how: int) -> bool:
    try:
        fcntl.flock(lock, how)
    except BlockingIOError:
        return False
    return True


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
