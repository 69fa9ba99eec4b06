"""What a stage leaves on disk: a directory whose manifest is written last and names every file with its hash."""

from __future__ import annotations

import grp
import hashlib
import json
import os
import pwd
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from compress_cli.errors import ArtifactError
from compress_cli.store import durable

MANIFEST = "manifest.json"
FORMAT = 1
LARGEST_MANIFEST = 16 * 2**20  # bytes


class File(BaseModel):
    """One file of an artifact."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    sha256: str
    bytes: int


class Source(BaseModel):
    """The artifact that a step took in a role: its key and the digest of its content then."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    key: str
    digest: str


class Manifest(BaseModel):
    """An artifact's kind, origin and files."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: int
    kind: str
    key: str
    stage: dict[str, Any]
    """The stage's settings, complete; `type` names the stage."""
    facts: dict[str, Any]
    """What the stage measured while it ran: losses, parity, the precision chosen."""
    inputs: dict[str, list[Source]]
    environment: dict[str, Any]
    """Device, threads, library versions: recorded, not part of the key."""
    wall_time_s: float
    files: dict[str, File]

    @property
    def digest(self) -> str:
        """One hash over the kind and the content of all files: equal digests, equal artifacts."""
        content = {"kind": self.kind, "files": {name: file.sha256 for name, file in sorted(self.files.items())}}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class UnreadableError(ArtifactError):
    """This user may not read a file of an artifact, which may be whole: making it again is no remedy."""


@dataclass(frozen=True)
class FileFault:
    """What is wrong with one file of an artifact."""

    path: Path
    problem: str  # "is missing", "its content is not what was written", ...
    extra: bool = False  # the artifact is whole, and this file does not belong to it
    unreadable: bool = False  # this user may not read it: nobody can tell whether it is damaged

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


@dataclass(frozen=True)
class Artifact:
    """A whole directory of files, and its manifest."""

    directory: Path
    manifest: Manifest

    @property
    def digest(self) -> str:
        return self.manifest.digest

    def file(self, name: str) -> Path:
        """The path of one of its files; ArtifactError where the artifact has none of that name."""
        if name not in self.manifest.files:
            raise ArtifactError(
                f"{self.directory}: this {self.manifest.kind} holds no '{name}' (it holds: {', '.join(self.manifest.files)})"
            )
        return self.directory / name

    def verify(self) -> None:
        """Compare every file with its recorded hash; ArtifactError names all that differ, are missing or extra."""
        faults = [*self.faults(), *self.extra_files()]
        if faults:
            kind = UnreadableError if any(fault.unreadable for fault in faults) else ArtifactError
            raise kind("\n".join(str(fault) if fault.unreadable else f"{fault}; {REMEDY}" for fault in faults))

    def faults(self) -> list[FileFault]:
        """Files that are missing, are links, can't be read, or are not as they were written."""
        checked = (_fault(self.directory, name, recorded) for name, recorded in self.manifest.files.items())
        return [fault for fault in checked if fault]

    def extra_files(self) -> list[FileFault]:
        """Files in its directory that do not belong to it."""
        return [
            FileFault(path, "is no file of this artifact", extra=True)
            for path in sorted(self.directory.rglob("*"))
            if (path.is_symlink() or not path.is_dir())
            and path.relative_to(self.directory).as_posix() not in (MANIFEST, *self.manifest.files)
        ]


class Checkpoint(Artifact):
    """Architecture, weights and edits: can be trained further."""


class Program(Artifact):
    """A quantised graph that PyTorch can run, rebuilt by preparing it again."""


class OnnxModel(Artifact):
    """What ships: one `model.onnx`."""


class Table(Artifact):
    """Arrays by sample id: teacher outputs, sensitivities."""


class Predictions(Artifact):
    """A model file's predictions for every sample of a split."""


class Measurement(Artifact):
    """One model file on one split: metric values with intervals, per-sample predictions."""


class Comparison(Artifact):
    """Two models compared: files timed in turn, or answers sample by sample."""


KINDS: dict[str, type[Artifact]] = {
    kind.__name__: kind for kind in (Checkpoint, Program, OnnxModel, Table, Predictions, Measurement, Comparison)
}
HAVE_FILES = {"Checkpoint", "Program", "OnnxModel", "Measurement"}
"""Kinds of which no artifact is without files; a comparison or a table may consist of facts alone."""


@dataclass(frozen=True)
class Draft:
    """A manifest whose files are not known yet: what an artifact will be, and where it comes from."""

    kind: type[Artifact]
    key: str
    stage: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, list[Source]] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    wall_time_s: float = 0.0

    def commit(self, directory: Path) -> Artifact:
        """Hash the files of `directory`, flush them to disk, and write the manifest that makes them an artifact."""
        paths = {path.relative_to(directory).as_posix(): path for path in sorted(directory.rglob("*")) if path.is_file()}
        files = {name: _flushed(path) for name, path in paths.items() if path.name != MANIFEST}
        durable.crash_point("files flushed")
        manifest = Manifest(format=FORMAT, files=files, **{**vars(self), "kind": self.kind.__name__})
        document = manifest.model_dump(mode="json")
        durable.write(directory / MANIFEST, json.dumps({**document, "seal": _seal(document)}, indent=1).encode())
        return self.kind(directory, Manifest.model_validate(document))


REMEDY = "`compress repair RUN`, or `compress run --repair`, makes it anew"


def read(directory: Path) -> Artifact | None:
    """The artifact in `directory`, of its own kind; None where there is none.

    Raises ArtifactError where the manifest is damaged, was edited, or is of a later format; UnreadableError where this user
    may not read it.
    """
    path = directory / MANIFEST
    try:
        if not path.is_file():
            return None
        if path.stat().st_size > LARGEST_MANIFEST:
            raise ArtifactError(f"{path}: has {path.stat().st_size} bytes, and a manifest at most {LARGEST_MANIFEST}; {REMEDY}")
        text = path.read_text(encoding="utf-8")
        document = json.loads(text)
        if "\\ud" in text.lower():  # which may be half a character, that no report could write
            json.dumps(document, ensure_ascii=False).encode()
        seal = document.pop("seal")
        manifest = Manifest.model_validate(document)
        sealed = _seal(document)
    except PermissionError as error:
        raise UnreadableError(f"{path}: {unreadable(path, error)}") from None
    except OSError as error:
        raise ArtifactError(f"{path}: can't be read ({error.strerror})") from None
    except (ValueError, KeyError, AttributeError, TypeError, ValidationError, RecursionError) as error:
        raise ArtifactError(f"{path}: is not a manifest this version can read ({_first_line(error)}); {REMEDY}") from None
    if manifest.format > FORMAT:
        raise ArtifactError(f"{path}: was written by a later version (format {manifest.format}); upgrade compress-cli")
    if seal != sealed:
        raise ArtifactError(f"{path}: was changed by hand after it was written; {REMEDY}")
    if not manifest.files and manifest.kind in HAVE_FILES:
        raise ArtifactError(f"{path}: names no files, and a {manifest.kind} has some; {REMEDY}")
    unsafe = [name for name in manifest.files if not _inside(name)]
    if manifest.kind not in KINDS or unsafe:
        wrong = (unsafe or [manifest.kind])[0][:100]
        raise ArtifactError(f"{path}: names what an artifact can't hold ({wrong!r}); {REMEDY}")
    return KINDS[manifest.kind](directory, manifest)


def _flushed(path: Path) -> File:
    """The record of a file whose bytes have reached the disk."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return File(sha256=digest, bytes=path.stat().st_size)


def _seal(document: dict[str, Any]) -> str:
    """A hash that shows damage and hasty edits; no signature: whoever can write the store can compute it anew.

    To know that a store is yours, protect its folder.
    """
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _inside(name: str) -> bool:
    """Whether a name is that of a file within the directory."""
    parts = name.split("/")
    plain = name.isprintable() and "\\" not in name and name != MANIFEST
    return plain and all(part not in ("", ".", "..") and len(part.encode()) < 256 for part in parts)


def _fault(directory: Path, name: str, recorded: File) -> FileFault | None:
    """What is wrong with a file; None where nothing is. A link is refused: it may lead out of the directory."""
    path = directory / name
    try:
        problem = _problem(directory, name, recorded)
    except PermissionError as error:
        return FileFault(path, unreadable(path, error), unreadable=True)
    except OSError as error:
        problem = f"can't be read ({error.strerror})"
    return FileFault(path, problem) if problem else None


def _problem(directory: Path, name: str, recorded: File) -> str:
    path = directory
    for part in name.split("/"):
        path = path / part
        if path.is_symlink():
            return "is a link, not the file that was written"
    if (kind := durable.kind_of(path)) != "file":
        return f"is a {kind}, not the file that was written" if kind else "is missing"
    if (size := path.stat().st_size) != recorded.bytes:
        return f"has {size} bytes instead of {recorded.bytes}"
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return "" if digest == recorded.sha256 else "its content is not what was written"


def unreadable(path: Path, error: PermissionError) -> str:
    """Who may read a path, and what to do: `can't be read (Permission denied): it belongs to ...`."""
    closed = next((parent for parent in reversed(path.absolute().parents) if not os.access(parent, os.X_OK)), path)
    try:
        status = closed.stat()
    except OSError:
        return f"can't be read ({error.strerror}); ask the owner of {closed.parent} for permission"
    owner, group = _account(pwd.getpwuid, status.st_uid), _account(grp.getgrgid, status.st_gid)
    grant = f"chmod {'a+rx' if closed.is_dir() else 'a+r'} {closed}"
    return (
        f"can't be read ({error.strerror}): {'it' if closed == path else closed} belongs to user {owner} and group {group}, "
        f"with mode {stat.filemode(status.st_mode)}; its owner permits it with `{grant}`"
    )


def _account(lookup: Callable[[int], Sequence[Any]], number: int) -> str:
    """The name of a user or group, or its number where this machine knows no name."""
    try:
        return str(lookup(number)[0])
    except KeyError:
        return str(number)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
