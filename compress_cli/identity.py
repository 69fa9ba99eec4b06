"""What a key depends on: settings, versions, the content of named files, the source of code from outside."""

from __future__ import annotations

import hashlib
import inspect
import json
from pathlib import Path
from typing import Any, get_args

from pydantic import (
    BaseModel,
)
from pydantic.fields import FieldInfo

from compress_cli.errors import ArtifactError
from compress_cli.plugin import Plugin
from compress_cli.settings import ByContent, Location, NotInKey, NotInKeyAtDefault


def identity(value: Any) -> Any:
    """What a key depends on: settings, versions, the content of named files and data, the source of code from outside.

    Returns JSON-ready data. Locations, fields marked `NotInKey`, and defaults marked `NotInKeyAtDefault` do not enter. Of a
    dataset these are its settings alone, from which it makes its fingerprint; of a field that holds a dataset, both.
    """
    if isinstance(value, BaseModel):
        cls = type(value)
        known: dict[str, Any] = {}
        if isinstance(value, Plugin):
            known = {"type": value.type, "version": value.version}
            if not cls.__module__.startswith("compress_cli."):
                known["source"] = hashlib.sha256(_source(cls)).hexdigest()
        for field, info in cls.model_fields.items():
            marks = path_marks(info)
            if not_in_key(info) or any(isinstance(mark, Location) for mark in marks):
                continue
            setting = getattr(value, field)
            if setting == info.default and any(isinstance(mark, NotInKeyAtDefault) for mark in info.metadata):
                continue
            known[field] = _contents(setting) if marks else _part(setting)
        return known
    if isinstance(value, dict):
        return {key: _part(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [_part(part) for part in value]
    return value


def _part(value: Any) -> Any:
    """The identity of a field's value, or of one of several values."""
    known = identity(value)
    fingerprint = getattr(value, "fingerprint", None) if isinstance(value, Plugin) else None
    return {**known, "fingerprint": fingerprint()} if callable(fingerprint) else known


def not_in_key(info: FieldInfo) -> bool:
    """Whether a field changes no byte of a result."""
    return any(isinstance(mark, NotInKey) for mark in info.metadata)


def path_marks(info: FieldInfo) -> list[Location | ByContent]:
    """The marks of a field that holds paths, also within `Folder | None` or a list of files."""
    marks, types = list(info.metadata), [info.annotation]
    while types:
        part = types.pop()
        marks += getattr(part, "__metadata__", ())
        types += get_args(part)
    return [mark for mark in marks if isinstance(mark, Location | ByContent)]


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, remembered by path, size and time of change for the life of the process.

    ArtifactError where there is no such file."""
    if not path.is_file():
        raise ArtifactError(f"{path}: there is no such file")
    status = path.stat()
    return _digest(str(path.resolve()), status.st_size, status.st_mtime_ns)


def _contents(paths: Any) -> Any:
    """Digests instead of paths: of one, of several, or of none."""
    if isinstance(paths, Path):
        return {"sha256": file_digest(paths)}
    return [_contents(path) for path in paths] if isinstance(paths, tuple) else paths


_DIGESTS: dict[tuple[str, int, int], str] = {}


def _digest(path: str, size: int, changed: int) -> str:
    if (path, size, changed) not in _DIGESTS:
        with open(path, "rb") as file:
            _DIGESTS[path, size, changed] = hashlib.file_digest(file, "sha256").hexdigest()
    return _DIGESTS[path, size, changed]


def _source(cls: type) -> bytes:
    path = inspect.getsourcefile(cls)
    return Path(path).read_bytes() if path else json.dumps(cls.__qualname__).encode()
