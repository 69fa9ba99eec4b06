"""Whether a run is intact: the files in its folder, and every file of the artifacts that it refers to."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from compress_cli.errors import ArtifactError
from compress_cli.store import artifact, durable
from compress_cli.store.artifact import REMEDY, Artifact, FileFault, UnreadableError
from compress_cli.store.record import RECORD, Record, search_at
from compress_cli.store.seal import SEAL, Seal
from compress_cli.store.store import ENTRY, Store


class DamagedFile(BaseModel):
    """One damaged file or link of a run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: str
    """Of the artifact; empty for a file in the run's own folder."""
    path: str
    problem: str
    extra: bool = False
    """The artifact itself is whole, and this file does not belong to it."""
    unreadable: bool = False
    """This user may not read it; it may be whole."""

    def __str__(self) -> str:
        return f"{self.step}: {self.path}: {self.problem}" if self.step else f"{self.path}: {self.problem}"


class Inspection(BaseModel):
    """The counts of a check, and the damaged files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    artifacts: int
    files: int
    bytes: int
    seconds: float
    damaged: list[DamagedFile]

    def decide(self) -> None:
        """ArtifactError that names every damage."""
        if self.damaged:
            lines = [str(file) for file in self.damaged]
            if not all(file.unreadable for file in self.damaged):
                lines.append(f"  {REMEDY}")
            raise ArtifactError("\n".join(lines))


def inspect(path: Path) -> Inspection:
    """Check a run's folder, or an artifact's; ArtifactError where it is neither."""
    if any(durable.kind_of(path / name) for name in (RECORD, SEAL)):
        return _inspect_run(path)
    if (path / artifact.MANIFEST).exists() or ENTRY.fullmatch(path.resolve().name):
        return _inspect([(path.name, path)], path)
    remedy = "holds neither a run nor an artifact; name runs/RECIPE or runs/RECIPE/STAGE"
    raise ArtifactError(search_at(path) or f"{path}: {remedy}")


def _inspect_run(directory: Path) -> Inspection:
    """A run's own files are compared with its seal, which knows also what a damaged record said."""
    try:
        seal = Seal.read(directory)
    except ArtifactError as error:
        return _inspect(_artifacts(directory, Record.read(directory)), directory, [_as_damage("", directory / SEAL, error)])
    record = Record.parse(seal.sources[RECORD], directory / SEAL)
    store = Store(directory / record.store)
    damaged = [
        DamagedFile(step="", path=str(path), problem=problem) for path, problem in seal.problems(directory, store).items()
    ]
    return _inspect(_artifacts(directory, record), directory, damaged, files=len(seal.sources) + len(seal.reports) + 1)


def _artifacts(directory: Path, record: Record) -> list[tuple[str, Path]]:
    """Name and folder of every artifact that a run refers to."""
    store = Store(directory / record.store)
    names = {key: name for name, key in reversed(record.keys(directory).items())}
    return [(name, store.directory(key)) for key, name in names.items()]


def closure(store: Store, keys: Iterable[str]) -> set[str]:
    """These keys and those of everything their artifacts were made of; a damaged manifest leads no further."""
    reached, to_visit = set(keys), list(keys)
    while to_visit:
        try:
            stored = artifact.read(store.directory(to_visit.pop()))
        except ArtifactError:
            continue  # `inspect` names it
        sources = {source.key for role in stored.manifest.inputs.values() for source in role} if stored else set()
        to_visit += sources - reached
        reached |= sources
    return reached


def _inspect(
    artifacts: Iterable[tuple[str, Path]], path: Path, damaged: Iterable[DamagedFile] = (), files: int = 0
) -> Inspection:
    """Compare every file of these artifacts with its hash, and add what was found `damaged` before, among `files` others."""
    begun, all_damaged, count = time.monotonic(), list(damaged), 0
    readable: dict[str, Artifact] = {}  # by name: those whose manifest can be read
    for name, folder in artifacts:
        count += 1
        try:
            stored = readable[name] = _read(folder)
        except ArtifactError as error:
            all_damaged.append(_as_damage(name, folder, error))
            continue
        all_damaged += [_of_step(name, fault) for fault in (*stored.faults(), *stored.extra_files())]
    disputed = _disputed(readable)
    all_damaged = [file.model_copy(update={"extra": False}) if file.step in disputed else file for file in all_damaged]
    manifests = [stored.manifest for stored in readable.values()]
    return Inspection(
        path=str(path),
        artifacts=count,
        files=files + sum(len(manifest.files) + 1 for manifest in manifests),
        bytes=sum(file.bytes for manifest in manifests for file in manifest.files.values()),
        seconds=time.monotonic() - begun,
        damaged=[*all_damaged, *_outdated(readable)],
    )


def _of_step(name: str, fault: FileFault) -> DamagedFile:
    return DamagedFile(step=name, path=str(fault.path), problem=fault.problem, extra=fault.extra, unreadable=fault.unreadable)


def _as_damage(name: str, path: Path, error: ArtifactError) -> DamagedFile:
    """An error `PATH: PROBLEM; REMEDY` as damage to a file."""
    where, _, problem = str(error).removesuffix(f"; {REMEDY}").partition(": ")
    if not problem:
        where, problem = str(path), where
    return DamagedFile(step=name, path=where, problem=problem, unreadable=isinstance(error, UnreadableError))


def _outdated(readable: dict[str, Artifact]) -> list[DamagedFile]:
    """Artifacts made of others than are there now."""
    digests = {stored.manifest.key: stored.digest for stored in readable.values()}
    return [
        DamagedFile(step=name, path=str(stored.directory), problem=f"was made of another {role} than is there now")
        for name, stored in readable.items()
        for role, sources in stored.manifest.inputs.items()
        if any(digests.get(source.key, source.digest) != source.digest for source in sources)
    ]


def _disputed(readable: dict[str, Artifact]) -> set[str]:
    """Names of artifacts that others were made of when they held something else: no file in them is sure to be extra."""
    recorded = {
        (source.key, source.digest)
        for stored in readable.values()
        for sources in stored.manifest.inputs.values()
        for source in sources
    }
    keys = {key for key, _ in recorded}
    return {
        name
        for name, stored in readable.items()
        if stored.manifest.key in keys and (stored.manifest.key, stored.digest) not in recorded
    }


def _read(folder: Path) -> Artifact:
    """The artifact that its folder's name promises."""
    kind = durable.kind_of(folder)
    if kind not in ("folder", "link to a folder"):
        raise ArtifactError(f"{folder}: {f'is a {kind}, where a folder should be' if kind else 'is missing'}")
    key = folder.resolve().name
    stored = artifact.read(folder)
    if stored is None:
        kind = durable.kind_of(folder / artifact.MANIFEST)
        raise ArtifactError(f"{folder / artifact.MANIFEST}: {f'is a {kind}, not a manifest' if kind else 'is missing'}")
    if stored.manifest.key != key and ENTRY.fullmatch(key):
        raise ArtifactError(f"{folder}: holds the artifact of another key ({stored.manifest.key[:12]})")
    return stored
