"""The last save of a step at work in a bucket, from which another machine goes on.

    <prefix>/<key>.save/<number>-<sha256>.safetensors     the save, as it lies in the folder of the machine that wrote it
    <prefix>/<key>.save/last.json                         written after it: its name, and what the try at the step began with

Only the last save is kept there, until the step is committed. Whoever holds the lease of the key writes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from compress_cli.errors import StageError
from compress_cli.store import durable
from compress_cli.store.saves import NAME, digest, number

if TYPE_CHECKING:
    from compress_cli.store.bucket import Bucket

LAST = "last.json"


class Description(BaseModel):
    """What `last.json` says."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    save: Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
    beside: dict[Annotated[str, Field(pattern=r"^[\w-]+\.json$")], str]  # names and texts of the other files in the folder


@dataclass
class SharedSave:
    """What a bucket holds of a step at work."""

    bucket: Bucket
    key: str
    last: str = ""  # name of the save that it holds; empty where there is none

    def fetch(self, folder: Path) -> None:
        """Copy the bucket's save into the folder of saves, where that one is less far. A save that is gone or torn is left."""
        present = self.bucket.read(self._name(LAST))
        described = _described(present[0]) if present else None
        if described is None:
            return
        self.last = described.save
        if number(self.last) <= max((number(path.name) for path in folder.iterdir() if NAME.fullmatch(path.name)), default=0):
            return
        partial = folder / "save.partial"
        try:
            self.bucket.download(self._name(self.last), partial)
        except StageError:  # replaced or removed meanwhile by a machine whose lease went on
            partial.unlink(missing_ok=True)
            return
        if digest(partial) != self.last.partition("-")[2].partition(".")[0]:
            partial.unlink()
            return
        for path in [path for path in folder.iterdir() if path != partial]:  # of a try that came less far
            path.unlink()
        for name, text in described.beside.items():
            durable.write(folder / name, text.encode())
        durable.flush_and_rename(partial, folder / self.last)

    def put(self, path: Path) -> None:
        """Replace the bucket's save by this one. StageError where the bucket can't be reached."""
        beside = {other.name: other.read_text() for other in path.parent.iterdir() if other.suffix == ".json"}
        before, described = self.last, Description(save=path.name, beside=beside)
        self.bucket.upload(self._name(path.name), path)
        self.bucket.write(self._name(LAST), described.model_dump_json().encode())
        self.last = path.name
        if before not in ("", path.name):
            self.bucket.remove(self._name(before))

    def remove(self) -> None:
        """Remove it: the step is done."""
        if self.last:
            self.bucket.remove(self._name(LAST))
            self.bucket.remove(self._name(self.last))
            self.last = ""

    def _name(self, name: str) -> str:
        return f"{self.key}.save/{name}"


def _described(content: bytes) -> Description | None:
    """None where it is not what this program writes."""
    try:
        return Description.model_validate_json(content)
    except ValidationError:
        return None
