"""The seal of a run: `seal.json`, written last, with which every file in the run's folder can be checked and restored.

It holds copies of `run.json` and `recipe.lock.yaml`, from which all else follows, the hash of each report, and the artifact
to which each link leads. It guards against accidents, not against forgers: whoever can write it can write it anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from compress_cli.errors import ArtifactError
from compress_cli.store import durable
from compress_cli.store.artifact import UnreadableError, unreadable
from compress_cli.store.record import LOCK, RECORD, Record
from compress_cli.store.store import KEY, Store

SEAL = "seal.json"
FORMAT = 1
SOURCES = (RECORD, LOCK)
REPORTS = ("report.json", "report.md", "report.html")
LARGEST = 64 * 2**20  # bytes


class Seal(BaseModel):
    """The files that a run wrote into its folder, except for its log."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: int
    sources: dict[str, str]
    """`run.json` and `recipe.lock.yaml`: name -> text."""
    reports: dict[str, str] = {}
    """File name -> sha256; empty until the reports are written."""
    links: dict[str, str]
    """Stage -> key of its artifact."""

    @field_validator("links")
    @classmethod
    def _stay_inside(cls, links: dict[str, str]) -> dict[str, str]:
        for name, key in links.items():
            if "/" in name or "\0" in name or name in ("", ".", "..") or not KEY.fullmatch(key):
                raise ValueError(f"links: {name[:80]!r} can't be a link to an artifact")
        return links

    @classmethod
    def read(cls, directory: Path) -> Seal:
        """The seal of the run in `directory`; ArtifactError where it is missing or damaged."""
        path = directory / SEAL
        durable.require_file(path)
        if not path.is_file():
            raise ArtifactError(f"{path}: is missing: the run ended before all its files were written")
        try:
            document = json.loads(path.read_bytes()[:LARGEST])
            if document.pop("seal") != _hash(document):
                raise ArtifactError(f"{path}: was changed after it was written")
            seal = cls.model_validate(document)
            Record.parse(seal.sources[RECORD], path)
        except PermissionError as error:
            raise UnreadableError(f"{path}: {unreadable(path, error)}") from None
        except (ValueError, KeyError, AttributeError, TypeError, ValidationError, RecursionError):
            raise ArtifactError(f"{path}: is not a seal this version can read") from None
        return seal

    def write(self, directory: Path) -> None:
        document = self.model_dump(mode="json")
        durable.write(directory / SEAL, json.dumps({**document, "seal": _hash(document)}, indent=1).encode())

    def problems(self, directory: Path, store: Store) -> dict[Path, str]:
        """Path -> its fault, for every damaged file and link of the run."""
        files = {name: _sha256(text.encode()) for name, text in self.sources.items()} | self.reports
        checked = {directory / name: _file_problem(directory / name, digest) for name, digest in files.items()}
        for name in REPORTS:
            if name not in self.reports and durable.kind_of(directory / name):
                checked[directory / name] = "is of an earlier run: this one ended before its reports were written"
        for name, key in self.links.items():
            checked[directory / name] = _link_problem(directory / name, store.directory(key))
        return {path: problem for path, problem in checked.items() if problem}

    def restore(self, directory: Path, store: Store) -> None:
        """Write the record and the lock file again, and lead every link to its artifact."""
        for name, text in self.sources.items():
            if _file_problem(directory / name, _sha256(text.encode())):
                durable.write(directory / name, text.encode())
        for name, key in self.links.items():
            link(directory / name, store.directory(key))


def seal(directory: Path, links: Mapping[str, str]) -> None:
    """Seal the record, the lock file and the links (stage -> key) of the run in `directory`; its reports come later."""
    sources = {name: (directory / name).read_text(encoding="utf-8") for name in SOURCES}
    Seal(format=FORMAT, sources=sources, links=dict(links)).write(directory)


def unseal(directory: Path) -> None:
    """Take the seal away before the files that it holds are written."""
    durable.require_file(directory / SEAL)
    (directory / SEAL).unlink(missing_ok=True)


def seal_reports(directory: Path) -> None:
    """Add the reports' hashes to a run's seal."""
    digests = {name: _sha256((directory / name).read_bytes()) for name in REPORTS}
    Seal.read(directory).model_copy(update={"reports": digests}).write(directory)


def link(path: Path, artifact: Path) -> None:
    """Lead the link at `path` to an artifact's folder; ArtifactError where something else has its name.

    Two processes at once take turns; a crash leaves at most `.<name>.partial`, which the next one takes.
    """
    kind = durable.kind_of(path)
    if kind and not kind.startswith("link"):
        raise ArtifactError(f"{path}: is a {kind}, in the way of the link to stage '{path.name}'; move it elsewhere")
    target = os.path.relpath(artifact.resolve(), path.parent.resolve())
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        fresh = path.with_name(f".{path.name}.partial")
        if durable.kind_of(fresh) == "folder":
            raise ArtifactError(f"{fresh}: is a folder, in the way of a link; move it elsewhere")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(target, target_is_directory=True)
        os.replace(fresh, path)
    finally:
        os.close(folder)


def _file_problem(path: Path, digest: str) -> str:
    """Empty where the file has that hash."""
    kind = durable.kind_of(path)
    if kind != "file":
        return f"is a {kind}, not the file that was written" if kind else "is missing"
    try:
        return "" if _sha256(path.read_bytes()) == digest else "its content is not what was written"
    except PermissionError as error:
        return unreadable(path, error)


def _link_problem(path: Path, artifact: Path) -> str:
    """Empty where the link leads to that artifact, which itself may be missing."""
    kind = durable.kind_of(path)
    if not kind.startswith("link"):
        return f"is a {kind}, not the link to the stage's artifact" if kind else "is missing: the link to the stage's artifact"
    if os.path.realpath(path) == os.path.realpath(artifact):
        return ""
    return f"leads to {os.readlink(path)}, not to the artifact of this run (a later run that did not end may have changed it)"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _hash(document: dict[str, Any]) -> str:
    return _sha256(json.dumps(document, sort_keys=True).encode())
