"""The content-addressed store: `<root>/<key>/` holds one artifact, whole or not at all.

A stage works in `<key>.partial/` and leaves its saves in `<key>.saves/`; a crash may leave both behind, for the next try.
A good artifact is set aside as `<key>.old/` only while its successor, already whole, takes its name; the next process that
looks at the key finishes what a crash cut short.
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

from compress_cli.errors import ArtifactError
from compress_cli.store import artifact, durable
from compress_cli.store.artifact import MANIFEST, Artifact
from compress_cli.store.disk import unwritable

KEY = re.compile(r"[0-9a-f]{64}")
ENTRY = re.compile(rf"({KEY.pattern})(\.partial|\.saves|\.old|\.lock|\.gone)?")
"""Names of files that belong to a key; any other file in the folder is not the store's."""

Waiting = Callable[[str], None]
"""Called with the holder of a lock while waiting for it."""


@dataclass(frozen=True)
class Store:
    """All artifacts of some recipes, shared by whoever names the same folder."""

    root: Path

    @property
    def name(self) -> str:
        """As `--store` takes it, from any folder."""
        return str(self.root.resolve())

    def directory(self, key: str) -> Path:
        return self.root / key

    def partial(self, key: str) -> Path:
        return self.root / f"{key}.partial"

    def saves(self, key: str) -> Path:
        """Where a stage at work leaves its state."""
        return self.root / f"{key}.saves"

    def get(self, key: str) -> Artifact | None:
        """The artifact of that key, or None; ArtifactError where its manifest is damaged, or that of another key."""
        for path in self._folders(key):
            durable.require_folder(path)
        if self._old(key).exists() or (self.saves(key).exists() and not self.partial(key).exists()) or self._lock_left(key):
            with self.try_lock(key) as locked:  # the process that holds the lock finishes its commit itself
                if locked:
                    self._finish_commit(key)
        stored = artifact.read(self.directory(key))
        if stored is not None and stored.manifest.key != key:
            raise ArtifactError(
                f"{stored.directory}: is the artifact of another key ({stored.manifest.key[:12]}); {artifact.REMEDY}"
            )
        return stored

    @contextmanager
    def working(self, key: str, waiting: Waiting | None = None) -> Iterator[Path]:
        """Hold the key's lock and yield its working folder; this and `saves` hold what an interrupted try left."""
        with self._locked(key, waiting):
            for folder in self._folders(key):
                durable.require_folder(folder)
            for folder in (self.partial(key), self.saves(key)):  # in this order: saves alone are of a finished step
                folder.mkdir(exist_ok=True)
            yield self.partial(key)

    def share(self, key: str, save: Path) -> None:
        """Copy a save to where other machines find it; here they see this folder, if any."""

    def leave(self, key: str) -> None:
        """Remove the working folder and the saves: there is nothing to go on from."""
        for folder in (self.partial(key), self.saves(key)):
            _delete(folder)

    def commit(self, key: str) -> Artifact:
        """Give the working folder, whose manifest is written, its lasting name; its saves have served then."""
        whole, partial, old = self.directory(key), self.partial(key), self._old(key)
        durable.share(partial, like=partial / MANIFEST)
        if whole.exists():
            os.replace(whole, old)
            durable.crash_point("old set aside")
        os.replace(partial, whole)
        durable.flush(self.root)
        durable.crash_point("committed")
        _delete(old)
        shutil.rmtree(self.saves(key))
        durable.crash_point("saves removed")
        stored = artifact.read(whole)
        if stored is None:
            raise ArtifactError(f"{whole}: was committed without a manifest")
        return stored

    def entries(self) -> dict[str, list[Path]]:
        """Key -> paths that belong to it: the artifact, a working folder, a lock. Each may be anything, such as a FIFO."""
        paths: dict[str, list[Path]] = {}
        for path in sorted(self.root.iterdir()) if self.root.is_dir() else ():
            if match := ENTRY.fullmatch(path.name):
                paths.setdefault(match[1], []).append(path)
        return paths

    def check(self) -> None:
        """ArtifactError where a lock is no file, so that nobody can hold it."""
        for key in self.entries():
            durable.require_file(self._lock(key))

    def remove(self, key: str) -> None:
        """Remove all that belongs to a key, whose lock is held: each folder by one rename, then file by file."""
        gone = self._gone(key)
        for path in self._folders(key):
            _delete(gone)
            if durable.kind_of(path):
                os.replace(path, gone)
                _delete(gone)

    @contextmanager
    def try_lock(self, key: str) -> Iterator[bool]:
        """Hold the key's lock unless another process does; yields whether it is held."""
        with self._lock_file(key) as lock:
            locked = _flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB) and durable.same_file(self._lock(key), lock.fileno())
            try:
                yield locked
            finally:
                if locked:
                    self._lock(key).unlink(missing_ok=True)

    @contextmanager
    def _locked(self, key: str, waiting: Waiting | None) -> Iterator[None]:
        """The kernel frees the lock when its holder dies. A lock whose file was removed meanwhile counts for nothing."""
        while True:
            with self._lock_file(key) as lock:
                if not _flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    if waiting:
                        lock.seek(0)
                        waiting(lock.read(200) or "another process")
                    _flock(lock, fcntl.LOCK_EX)
                if not durable.same_file(self._lock(key), lock.fileno()):
                    continue
                lock.truncate(0)
                lock.write(f"process {os.getpid()} on {platform.node()}")
                lock.flush()
                try:
                    self._finish_commit(key)
                    yield
                finally:
                    self._lock(key).unlink(missing_ok=True)
                return

    def _lock_file(self, key: str) -> TextIO:
        durable.require_file(self._lock(key))
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            return self._lock(key).open("a+")
        except OSError as error:
            raise unwritable(error, self.root, "; name another with --store") from None

    def _lock_left(self, key: str) -> bool:
        """Whether there is a lock, perhaps of a process that was killed; False where this user can't remove it."""
        return self._lock(key).exists() and os.access(self.root, os.W_OK)

    def _lock(self, key: str) -> Path:
        return self.root / f"{key}.lock"

    def _old(self, key: str) -> Path:
        return self.root / f"{key}.old"

    def _gone(self, key: str) -> Path:
        return self.root / f"{key}.gone"

    def _folders(self, key: str) -> tuple[Path, ...]:
        """All folders of a key in the order in which they are removed: the artifact last."""
        return self.saves(key), self.partial(key), self._old(key), self.directory(key)

    def _finish_commit(self, key: str) -> None:
        """Finish a commit that a crash cut short: the successor is whole before the old artifact is set aside."""
        whole, partial, old = self.directory(key), self.partial(key), self._old(key)
        if old.exists() and not whole.exists():
            os.replace(partial if (partial / MANIFEST).is_file() else old, whole)
        _delete(old)
        if whole.exists() and not partial.exists():
            _delete(self.saves(key))


def _delete(path: Path) -> None:
    """Remove a folder with its content, or a file of that name."""
    match durable.kind_of(path):
        case "":
            return
        case "folder":
            shutil.rmtree(path)
        case _:
            path.unlink()


def _flock(lock: TextIO, how: int) -> bool:
    """Whether the lock was taken."""
    try:
        fcntl.flock(lock, how)
    except BlockingIOError:
        return False
    return True
