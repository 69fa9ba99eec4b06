"""The content-addressed store: `<root>/<key>/` holds one artifact, whole or not at all.

A stage works in `<key>.partial/` and leaves its saves in `<key>.saves/`; a crash may leave both behind, for the next try.
A good artifact is set aside as `<key>.old/` only while its successor, already whole, takes its name; a crash in between is
mended at the next look.
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

ENTRY = re.compile(r"([0-9a-f]{64})(\.partial|\.saves|\.old|\.lock|\.gone)?")
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

    def saves(self, key: str) -> Path:
        """Where a stage at work leaves its state."""
        return self.root / f"{key}.saves"

    def get(self, key: str) -> Artifact | None:
        """The artifact of that key, or None; ArtifactError where its manifest is damaged, or that of another key."""
        if self._old(key).exists() or (self.saves(key).exists() and not self.partial(key).exists()) or self._forgotten(key):
            with self.idle(key) as free:  # what another process commits just now is not for us to mend
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
        """Hold the key's lock and yield its working folder; this and `saves` hold what an interrupted try left."""
        with self._locked(key, waiting):
            for each in (self.partial(key), self.saves(key)):  # in this order: saves alone are of a finished step
                each.mkdir(exist_ok=True)
            yield self.partial(key)

    def leave(self, key: str) -> None:
        """Remove the working folder and the saves: there is nothing to go on from."""
        for each in (self.partial(key), self.saves(key)):
            shutil.rmtree(each)

    def commit(self, key: str) -> Artifact:
        """Give the working folder, whose manifest is written, its lasting name; its saves have served then."""
        whole, partial, old = self.directory(key), self.partial(key), self._old(key)
        if whole.exists():
            os.replace(whole, old)
            durable.reached("old set aside")
        os.replace(partial, whole)
        durable.flush(self.root)
        durable.reached("committed")
        shutil.rmtree(old, ignore_errors=True)
        shutil.rmtree(self.saves(key))
        durable.reached("saves removed")
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
        for path in (self.saves(key), self.partial(key), self._old(key), self.directory(key)):
            gone = self.root / f"{key}.gone"
            shutil.rmtree(gone, ignore_errors=True)
            if path.exists():
                os.replace(path, gone)
                shutil.rmtree(gone)

    @contextmanager
    def idle(self, key: str) -> Iterator[bool]:
        """Hold the key's lock if nobody does; yields whether that is so."""
        with self._lock_file(key) as lock:
            free = _take(lock, fcntl.LOCK_EX | fcntl.LOCK_NB) and durable.same_file(self._lock(key), lock.fileno())
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
                if not durable.same_file(self._lock(key), lock.fileno()):
                    continue
                lock.truncate(0)
                lock.write(f"process {os.getpid()} on {platform.node()}")
                lock.flush()
                try:
                    self._mend(key)
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

    def _forgotten(self, key: str) -> bool:
        """Whether a lock may be left of a process that ended at the last moment; it stays where nothing may be written."""
        return self._lock(key).exists() and os.access(self.root, os.W_OK)

    def _lock(self, key: str) -> Path:
        return self.root / f"{key}.lock"

    def _old(self, key: str) -> Path:
        return self.root / f"{key}.old"

    def _mend(self, key: str) -> None:
        """Finish a commit that a crash cut short: the successor is whole before the old one is set aside."""
        whole, partial, old = self.directory(key), self.partial(key), self._old(key)
        if old.exists() and not whole.exists():
            os.replace(partial if (partial / MANIFEST).is_file() else old, whole)
        shutil.rmtree(old, ignore_errors=True)
        if whole.exists() and not partial.exists():
            shutil.rmtree(self.saves(key), ignore_errors=True)


def _take(lock: TextIO, how: int) -> bool:
    try:
        fcntl.flock(lock, how)
    except BlockingIOError:
        return False
    return True
