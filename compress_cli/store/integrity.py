"""Whether what a run refers to is still what was written: every file of every artifact, compared with its hash."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from compress_cli.errors import ArtifactError
from compress_cli.store import artifact
from compress_cli.store.artifact import REMEDY, Artifact
from compress_cli.store.record import RECORD, Record
from compress_cli.store.store import ENTRY, Store


class CorruptFile(BaseModel):
    """One file that is not what it should be."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: str
    path: str
    what: str
    extra: bool = False
    """The artifact itself is whole: the file is none of its own."""


class Inspection(BaseModel):
    """What was looked at, and what was found."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    artifacts: int
    files: int
    bytes: int
    seconds: float
    corrupt: list[CorruptFile]

    def decide(self) -> None:
        """ArtifactError that names every damage."""
        if self.corrupt:
            lines = [f"{each.step}: {each.path}: {each.what}" for each in self.corrupt]
            raise ArtifactError("\n".join([*lines, f"  {REMEDY}"]))


def inspect(path: Path) -> Inspection:
    """Of a run's folder, or of one artifact's; ArtifactError where it is neither."""
    if (path / RECORD).is_file():
        return _inspect(path, artifacts_of(path).items())
    if (path / artifact.MANIFEST).exists() or ENTRY.fullmatch(path.resolve().name):
        return _inspect(path, [(path.name, path)])
    raise ArtifactError(f"{path}: holds neither a run nor an artifact; name runs/RECIPE or runs/RECIPE/STAGE")


def artifacts_of(directory: Path) -> dict[str, Path]:
    """Name -> folder of every artifact that the run in `directory` refers to."""
    record = Record.read(directory)
    store = Store(directory / record.store)
    named = {key: name for name, key in reversed(record.keys(directory).items())}
    return {name: store.directory(key) for key, name in named.items()}


def closure(store: Store, keys: Iterable[str]) -> set[str]:
    """These keys and those of everything their artifacts were made of; a damaged manifest leads no further."""
    found, left = set(keys), list(keys)
    while left:
        try:
            made = artifact.read(store.directory(left.pop()))
        except ArtifactError:
            continue  # `inspect` names it
        sources = {each.key for role in made.manifest.inputs.values() for each in role} if made else set()
        left += sources - found
        found |= sources
    return found


def _inspect(path: Path, artifacts: Iterable[tuple[str, Path]]) -> Inspection:
    begun, corrupt, count = time.monotonic(), [], 0
    whole: dict[str, Artifact] = {}  # name -> one whose manifest can be read
    for name, folder in artifacts:
        count += 1
        try:
            made = whole[name] = _read(folder)
        except ArtifactError as error:
            where, _, what = str(error).partition(": ")
            corrupt.append(CorruptFile(step=name, path=where, what=what.removesuffix(f"; {REMEDY}")))
            continue
        found = [*made.faults(), *made.strays()]
        corrupt += [CorruptFile(step=name, path=str(each.path), what=each.what, extra=each.extra) for each in found]
    manifests = [each.manifest for each in whole.values()]
    return Inspection(
        path=str(path),
        artifacts=count,
        files=sum(len(each.files) + 1 for each in manifests),
        bytes=sum(file.bytes for each in manifests for file in each.files.values()),
        seconds=time.monotonic() - begun,
        corrupt=[*corrupt, *_outdated(whole)],
    )


def _outdated(whole: dict[str, Artifact]) -> list[CorruptFile]:
    """Artifacts made of others than are there now."""
    digests = {each.manifest.key: each.digest for each in whole.values()}
    return [
        CorruptFile(step=name, path=str(made.directory), what=f"was made of another {role} than is there now")
        for name, made in whole.items()
        for role, sources in made.manifest.inputs.items()
        if any(digests.get(each.key, each.digest) != each.digest for each in sources)
    ]


def _read(folder: Path) -> Artifact:
    """The artifact that its folder's name promises."""
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: is missing")
    key = folder.resolve().name
    made = artifact.read(folder)
    if made is None:
        raise ArtifactError(f"{folder / artifact.MANIFEST}: is missing")
    if made.manifest.key != key and ENTRY.fullmatch(key):
        raise ArtifactError(f"{folder}: holds the artifact of another key ({made.manifest.key[:12]})")
    return made
