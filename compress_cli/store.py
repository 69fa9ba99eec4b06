"""The content-addressed store: `<root>/<key>/` holds one artifact, whole or not at all.

A stage works in `<key>.partial/` and leaves its saves in `<key>.saves/`; a crash may leave both behind, for the next try.
A good artifact is set aside as `<key>.old/` only while its successor, already whole, takes its name; a crash in between is
mended at the next look.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from compress_cli import artifact, durable
from compress_cli.artifact import MANIFEST, Artifact
from compress_cli.errors import ArtifactError


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
        """The artifact of that key, or None; ArtifactError where its manifest is damaged."""
        if self._old(key).exists() or (self.saves(key).exists() and not self.partial(key).exists()):
            with self._locked(key):  # which mends it
                pass
        return artifact.read(self.directory(key))

    @contextmanager
    def working(self, key: str) -> Iterator[Path]:
        """Hold the key's lock and yield its working folder; this and `saves` hold what an interrupted try left."""
        with self._locked(key):
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
                    self._mend(key)
                    yield
                finally:
                    path.unlink(missing_ok=True)
                return

    def _mend(self, key: str) -> None:
        """Finish a commit that a crash cut short: the successor is whole before the old one is set aside."""
        whole, partial, old = self.directory(key), self.partial(key), self._old(key)
        if old.exists() and not whole.exists():
            os.replace(partial if (partial / MANIFEST).is_file() else old, whole)
        shutil.rmtree(old, ignore_errors=True)
        if whole.exists() and not partial.exists():
            shutil.rmtree(self.saves(key), ignore_errors=True)

    def _old(self, key: str) -> Path:
        return self.root / f"{key}.old"


def _same_file(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False
