"""Tables: what a model made of samples, as arrays on disk by sample id, read where they lie."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from compress_cli.artifact import Artifact
from compress_cli.errors import ArtifactError

CONTENTS, IDS, ROWS = "table.json", "ids.npy", "rows.npy"

Kind = Literal["heads", "features"]
Arrays = Mapping[tuple[Kind, str], np.ndarray]
"""(kind, name of head or layer) -> (N, ...)."""


class Column(BaseModel):
    """One array of a table, of shape (views, rows, ...)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    name: str
    file: str


class Contents(BaseModel):
    """The document of a Table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    views: int
    columns: tuple[Column, ...]


class Table:
    """A table that can be read: memory-mapped, so that only the rows at hand are in memory."""

    def __init__(self, artifact: Artifact):
        path = artifact.file(CONTENTS)
        try:
            contents = Contents.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise ArtifactError(f"{path}: does not describe a table ({str(error).partition(chr(10))[0]})") from None
        self.views = contents.views
        self.ids = _mapped(artifact.file(IDS))  # (N,) ascending
        self.rows = _mapped(artifact.file(ROWS))  # (N,) row of each of `ids`
        self.arrays = {(each.kind, each.name): _mapped(artifact.file(each.file)) for each in contents.columns}


class Writer:
    """A table in the making, written in whole chunks of rows, one view after another."""

    def __init__(self, folder: Path, index: np.ndarray, rows: int, views: int, first: Arrays):
        """Rows are of shape and number type of `first`; samples with the ids `index` (N,) share `rows` rows in turn."""
        self.folder, self.views, self.rows, self._columns = folder, views, rows, {}
        order = np.argsort(index, kind="stable")
        np.save(folder / IDS, index[order])
        np.save(folder / ROWS, order % rows)
        for place, ((kind, name), each) in enumerate(first.items()):
            column = Column(kind=kind, name=name, file=f"{place}.npy")
            shape = (views, rows, *each.shape[1:])
            array = np.lib.format.open_memmap(folder / column.file, mode="w+", dtype=each.dtype, shape=shape)
            self._columns[column] = array

    def write(self, view: int, start: int, arrays: Arrays) -> None:
        """Rows of one view, from `start` on."""
        for column, target in self._columns.items():
            given = arrays[column.kind, column.name]
            target[view, start : start + len(given)] = given

    def close(self) -> None:
        """Bring everything to the disk; only then does the folder describe itself as a table."""
        for target in self._columns.values():
            target.flush()
        contents = Contents(views=self.views, columns=tuple(self._columns))
        (self.folder / CONTENTS).write_text(json.dumps(contents.model_dump(), indent=1) + "\n")


def size_bytes(samples: int, views: int, first: Arrays) -> int:
    """What a table takes on disk whose rows are like those of `first`."""
    return sum(each[:1].nbytes for each in first.values()) * samples * views + 2 * 8 * samples


def _mapped(path: Path) -> np.ndarray:
    """Pages are private to this process and never written back: torch takes only arrays that may be written."""
    try:
        found: np.ndarray = np.load(path, mmap_mode="c", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ArtifactError(f"{path}: is not a whole array ({error})") from None
    return found
