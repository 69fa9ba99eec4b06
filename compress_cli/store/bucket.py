"""A store in a bucket (S3, Google Cloud, Azure), which machines share without a common file system.

    <prefix>/<key>/manifest.json     written last: an artifact is whole or not there
    <prefix>/<key>/<sha256>          its files, by their content
    <prefix>/<key>.lease             who makes it now; a lease that nobody renews any more may be taken over
    <prefix>/<key>.save/             the last save of whoever makes it

A folder of this machine holds copies of the artifacts that were made or used here, and it is what links lead to.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compress_cli.errors import ArtifactError, RecipeError, StageError
from compress_cli.store import artifact, durable
from compress_cli.store.artifact import MANIFEST, Artifact
from compress_cli.store.shared_saves import SharedSave
from compress_cli.store.store import Store, Waiting

RENEW_S = 20.0
DEAD_S = 90.0  # a lease that did not change for so long has no holder any more
POLL_S = 2.0


def opened(named: str | None, output: Path) -> Store:
    """The store that `--store` names, a folder or a bucket; by default the folder `.store` in `output`.

    RecipeError for a bucket that can't be named so, or whose library is missing.
    """
    if named is None or "://" not in named:
        return Store(Path(named) if named else output / ".store")
    return BucketStore(output / ".store", Bucket.at(named))


class Bucket:
    """The objects under one prefix. StageError where the bucket can't be reached or refuses."""

    def __init__(self, objects: Any, url: str):
        self.objects, self.url = objects, url

    @classmethod
    def at(cls, url: str) -> Bucket:
        try:
            import obstore.exceptions
            import obstore.store
        except ImportError:
            raise RecipeError(f"--store {url}: needs `pip install compress-cli[bucket]`") from None
        try:
            objects = obstore.store.from_url(url)
        except (obstore.exceptions.BaseError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise RecipeError(f"--store {url}: names no bucket ({reason}); write s3://bucket/prefix, gs:// or az://") from None
        return cls(objects, url.rstrip("/"))

    def read(self, name: str) -> tuple[bytes, str] | None:
        """An object and its ETag; None where there is none."""
        with self._told(name):
            try:
                found = self.objects.get(name)
                return bytes(found.bytes()), str(found.meta["e_tag"])
            except FileNotFoundError:
                return None

    def has(self, name: str) -> bool:
        with self._told(name):
            try:
                self.objects.head(name)
            except FileNotFoundError:
                return False
            return True

    def create(self, name: str, content: bytes) -> str | None:
        """Write an object that was not there; its ETag, or None where it is there."""
        from obstore.exceptions import AlreadyExistsError

        with self._told(name):
            try:
                return str(self.objects.put(name, content, mode="create")["e_tag"])
            except AlreadyExistsError:
                return None

    def replace(self, name: str, content: bytes, tag: str) -> str | None:
        """Write an object whose ETag is still this one; its new ETag, or None where it is not."""
        from obstore.exceptions import PreconditionError

        with self._told(name):
            try:
                return str(self.objects.put(name, content, mode={"e_tag": tag})["e_tag"])
            except (PreconditionError, FileNotFoundError):
                return None

    def write(self, name: str, content: bytes) -> None:
        with self._told(name):
            self.objects.put(name, content)

    def remove(self, name: str) -> None:
        with self._told(name):
            self.objects.delete(name)

    def upload(self, name: str, path: Path) -> None:
        with self._told(name):
            self.objects.put(name, path)

    def download(self, name: str, path: Path) -> None:
        """StageError where it is not there either."""
        with self._told(name), path.open("wb") as file:
            for piece in self.objects.get(name).stream():
                file.write(bytes(piece))

    @contextmanager
    def _told(self, name: str) -> Iterator[None]:
        """The library's errors as one line of ours."""
        from obstore.exceptions import BaseError

        try:
            yield
        except (BaseError, FileNotFoundError) as error:
            reason = str(error).partition("\n")[0][:300]
            raise StageError(f"{self.url}/{name}: {reason}") from error


@dataclass(frozen=True)
class BucketStore(Store):
    """Artifacts in a bucket, with copies in the folder `root`."""

    bucket: Bucket
    at_work: dict[str, tuple[SharedSave, Lease]] = field(default_factory=dict, compare=False)  # by key

    @property
    def name(self) -> str:
        return self.bucket.url

    def get(self, key: str) -> Artifact | None:
        """The artifact of that key, fetched where it is only in the bucket."""
        stored = super().get(key)
        if stored is not None:
            return stored
        self.root.mkdir(parents=True, exist_ok=True)
        with self.try_lock(key) as locked:  # the process that holds it fetches or makes the artifact itself
            if locked:
                self._fetch(key)
        return super().get(key)

    @contextmanager
    def working(self, key: str, waiting: Waiting | None = None) -> Iterator[Path]:
        """Hold the key's lock here and its lease in the bucket; an artifact that another machine made meanwhile is fetched, and
        so is the save of one that did not come to the end."""
        lease, saved = Lease(self.bucket, key), SharedSave(self.bucket, key)
        with super().working(key, waiting) as output, lease.held(waiting):
            if super().get(key) is None and self._fetch(key):
                for folder in (output, self.saves(key)):  # in case it is made anew all the same
                    folder.mkdir(exist_ok=True)
            saved.fetch(self.saves(key))
            self.at_work[key] = saved, lease
            try:
                yield output
            finally:
                del self.at_work[key]

    def share(self, key: str, save: Path) -> None:
        """Replace the bucket's save of a key, unless another machine took the lease over."""
        saved, lease = self.at_work[key]
        if lease.tag:
            saved.put(save)

    def leave(self, key: str) -> None:
        super().leave(key)
        if key in self.at_work:
            self.at_work[key][0].remove()

    def commit(self, key: str) -> Artifact:
        """The artifact under its lasting name here, then in the bucket: files first, the manifest last."""
        stored = super().commit(key)
        for name, recorded in stored.manifest.files.items():
            if not self.bucket.has(f"{key}/{recorded.sha256}"):
                self.bucket.upload(f"{key}/{recorded.sha256}", stored.directory / name)
        manifest, name = (stored.directory / MANIFEST).read_bytes(), f"{key}/{MANIFEST}"
        while self.bucket.create(name, manifest) is None:  # it was made anew, or by another machine whose lease went on
            present = self.bucket.read(name)
            if present and (present[0] == manifest or self.bucket.replace(name, manifest, present[1])):
                break
        self.at_work[key][0].remove()
        return stored

    def _fetch(self, key: str) -> bool:
        """Copy an artifact out of the bucket, whose local lock is held; whether there was one.

        ArtifactError where a file is not what its manifest says.
        """
        found = self.bucket.read(f"{key}/{MANIFEST}")
        if found is None:
            return False
        whole, partial = self.directory(key), self.partial(key)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        (partial / MANIFEST).write_bytes(found[0])
        try:
            copied = artifact.read(partial)
            if copied is None:
                raise ArtifactError("its manifest is gone")
            for name, recorded in copied.manifest.files.items():
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                self.bucket.download(f"{key}/{recorded.sha256}", partial / name)
            copied.verify()
        except ArtifactError as error:
            shutil.rmtree(partial)
            raise ArtifactError(f"{self.bucket.url}/{key}: the copy in the bucket is damaged: {error}") from error
        os.replace(partial, whole)
        durable.flush(self.root)
        shutil.rmtree(self.saves(key), ignore_errors=True)
        return True


class Lease:
    """The right to make one key, which its holder renews. No clock is compared: an ETag that stays is a holder that died."""

    def __init__(self, bucket: Bucket, key: str):
        self.bucket, self.name = bucket, f"{key}.lease"
        self.holder = f"process {os.getpid()} on {platform.node()}"
        self.renewals = 0
        self.tag = ""

    @contextmanager
    def held(self, waiting: Waiting | None) -> Iterator[None]:
        """Wait for the lease, renew it in a thread, and give it back."""
        self._take(waiting)
        ended = threading.Event()
        renewing = threading.Thread(target=self._renew, args=(ended,), daemon=True)
        renewing.start()
        try:
            yield
        finally:
            ended.set()
            renewing.join()
            present = self.bucket.read(self.name) if self.tag else None
            if present and present[1] == self.tag:
                self.bucket.remove(self.name)

    def _take(self, waiting: Waiting | None) -> None:
        seen, since, told = "", time.monotonic(), False
        while True:
            tag = self.bucket.create(self.name, self._content())
            if tag is None and (present := self.bucket.read(self.name)):
                if present[1] != seen:
                    seen, since = present[1], time.monotonic()
                elif time.monotonic() - since > DEAD_S:
                    tag = self.bucket.replace(self.name, self._content(), seen)
                if waiting and not told:
                    waiting(str(json.loads(present[0])["holder"]))
                    told = True
            if tag:
                self.tag = tag
                return
            time.sleep(POLL_S)

    def _renew(self, ended: threading.Event) -> None:
        """A renewal that fails changes nothing here: whoever takes the lease over makes the same artifact."""
        while not ended.wait(RENEW_S):
            self.renewals += 1
            try:
                self.tag = self.bucket.replace(self.name, self._content(), self.tag) or ""
            except StageError:
                continue  # the network is away; the next one may pass
            if not self.tag:
                return

    def _content(self) -> bytes:
        return json.dumps({"holder": self.holder, "renewals": self.renewals}).encode()
