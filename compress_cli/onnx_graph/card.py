"""The card of an exported file: its task, the data it was trained for, the step that wrote it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from compress_cli.errors import ArtifactError
from compress_cli.identity import path_marks
from compress_cli.plugin import Plugin, find

PREFIX = "compress."


class Card(BaseModel):
    """Kept in the metadata of an ONNX file, one entry a field, so that `compress eval model.onnx` needs no flags.

    Read from a stranger's file it is only names and settings: nothing in it leads to a path or a download.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    task: dict[str, Any]  # the task plugin's settings, `type` included
    dataset: dict[str, Any]  # the dataset plugin's settings without locations, `type` included
    fingerprint: str  # of the dataset
    classes: dict[str, tuple[str, ...]]  # head name -> class names, in order
    key: str  # of the step that exported it

    def to_metadata(self) -> dict[str, str]:
        """Entries for the file's `metadata_props`."""
        return {PREFIX + name: json.dumps(value, sort_keys=True) for name, value in self.model_dump(mode="json").items()}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str]) -> Card | None:
        """The card in a file's metadata, None where there is none; ArtifactError where it can't be read."""
        entries = {name.removeprefix(PREFIX): value for name, value in metadata.items() if name.startswith(PREFIX)}
        if not entries:
            return None
        try:
            return cls.model_validate({name: json.loads(value) for name, value in entries.items()})
        except (ValueError, ValidationError, RecursionError):
            raise ArtifactError("the file's metadata about its task and data is damaged; name them with --data") from None


def chosen(contract: type[Plugin], settings: dict[str, Any]) -> Plugin:
    """The plugin that a file's card names, without any path that it may name.

    ArtifactError where it can't be built here: it is not installed, or needs files that only the user can name.
    """
    what = contract.__name__.lower()
    try:
        cls = find(contract, str(settings.get("type")))
        known = {
            field: info for field, info in cls.model_fields.items() if not path_marks(info) and not _holds_path(info.annotation)
        }
        return cls.model_validate_json(json.dumps({name: value for name, value in settings.items() if name in known}))
    except ValueError as error:  # ValidationError and PydanticCustomError are both
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
        at = ".".join(map(str, first["loc"]))
        reason = (
            f"it does not say where its '{at}' lies"
            if first.get("type") == "missing"
            else f"{at}: {first['msg']}"
            if at
            else first["msg"]
        )
        raise ArtifactError(
            f"the file's metadata names a {what} that can't be opened from its settings ({reason}); name it with "
            f"--{'data' if what == 'dataset' else what}"
        ) from None


def _holds_path(annotation: Any) -> bool:
    return annotation is Path or any(map(_holds_path, get_args(annotation)))
