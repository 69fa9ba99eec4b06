"""What an exported file says of itself: the task, the data it was made for, the step that made it."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from compress_cli.errors import ArtifactError

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
        found = {name.removeprefix(PREFIX): value for name, value in metadata.items() if name.startswith(PREFIX)}
        if not found:
            return None
        try:
            return cls.model_validate({name: json.loads(value) for name, value in found.items()})
        except (ValueError, ValidationError, RecursionError):
            raise ArtifactError("the file's metadata about its task and data is damaged; name them with --data") from None
