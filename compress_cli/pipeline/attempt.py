"""A try at a step: what it began with, so that the next one goes on from its saves only where the result would be the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from compress_cli.errors import ArtifactError
from compress_cli.store import artifact, durable
from compress_cli.store.artifact import Source

MARK = "attempt.json"
FORMAT = 1  # of saves: raise it where older ones can't be gone on from


class Attempt(BaseModel):
    """What a try began with. The saves themselves hold the precision."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: int = FORMAT
    forced: bool  # the user asked for it although there was a result, or wanted a fresh one
    inputs: dict[str, list[Source]]
    device: str
    libraries: dict[str, str]
    threads: int
    processor: str = ""  # of the machine; empty in a try of an older version
    processes: int = 1  # that train together; any number goes on from what another saved

    def write(self, folder: Path) -> None:
        durable.write(folder / MARK, self.model_dump_json(indent=1).encode())

    def finished(self, output: Path) -> bool:
        """Whether the try came as far as a whole artifact, which lacks only its name."""
        try:
            stored = artifact.read(output)
            if stored is None or stored.manifest.inputs != self.inputs:
                return False
            stored.verify()
        except ArtifactError:
            return False
        return True

    def hindrance(self, earlier: Attempt) -> str:
        """Why this try can't go on from an earlier one; empty where it can."""
        if earlier.format != self.format:
            return "its saves are of another version of compress"
        if self.forced and not earlier.forced:
            return "--force requests a fresh result"
        if earlier.inputs != self.inputs:
            return "its saves were made from other inputs"
        if earlier.device != self.device:
            return f"its saves were made on {earlier.device}, and this is {self.device}"
        changed = [name for name in self.libraries if self.libraries[name] != earlier.libraries.get(name)]
        if changed:
            name = changed[0]
            return f"its saves were made with {name} {earlier.libraries.get(name)}, and this is {self.libraries[name]}"
        return ""


def begin(attempt: Attempt, output: Path, saves: Path, say: Callable[[str], None]) -> Attempt:
    """Take up what an earlier try left in both folders where the result will be the same, or clear it away and say why.

    The number of threads is then the one that the earlier try had, unless other processes go on with it.
    """
    earlier = _read(saves)
    hindrance = attempt.hindrance(earlier) if earlier else "there is nothing"
    if earlier and hindrance and len(list(saves.iterdir())) > 1:
        say(f"begins anew: {hindrance}")
    if earlier and not hindrance and earlier.processor not in ("", attempt.processor):
        say(f"goes on from a save of another processor ({earlier.processor}): last digits may differ from those of either")
    if earlier and not hindrance and earlier.processes == attempt.processes:
        attempt = earlier
    elif earlier and not hindrance:
        attempt = attempt.model_copy(update={"forced": earlier.forced})
    else:
        _empty(saves)
    if hindrance or not attempt.finished(output):
        _empty(output)
    attempt.write(saves)
    return attempt


def _read(folder: Path) -> Attempt | None:
    """The try in this folder; None where there is none, or it can't be read."""
    path = folder / MARK
    if not path.is_file():
        return None
    try:
        return Attempt.model_validate_json(path.read_bytes())
    except ValidationError:
        return None


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
