"""Tables: what a model made of samples, as arrays on disk by sample id, read where they lie."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from compress_cli.errors import ArtifactError
from compress_cli.store.artifact import Artifact

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


class TableIndex(BaseModel):
    """The document of a StoredOutputs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    views: int
    columns: tuple[Column, ...]


class StoredOutputs:
    """A table that can be read: memory-mapped, so that only the rows at hand are in memory."""

    def __init__(self, artifact: Artifact):
        path = artifact.file(CONTENTS)
        try:
            contents = TableIndex.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise ArtifactError(f"{path}: does not describe a table ({str(error).partition(chr(10))[0]})") from None
        self.views = contents.views
        self.ids = _mapped(artifact.file(IDS))  # (N,) ascending
        self.rows = _mapped(artifact.file(ROWS))  # (N,) row of each of `ids`
        self.arrays = {(each.kind, each.name): _mapped(artifact.file(each.file)) for each in contents.columns}


class Writer:
    """A table in the making, written in whole chunks of rows, one view after another."""

    def __init__(self, folder: Path, index: np.ndarray, rows: int, views: int, first: Arrays, empty: bool = False):
        """Rows are of shape and number type of `first`, and begin with it unless `empty`; samples with the ids `index` (N,)
        share `rows` rows in turn. OSError where the disk has no room for all of them."""
        self.folder, self.views, self.done, self._columns = folder, views, 0, {}
        order = np.argsort(index, kind="stable")
        np.save(folder / IDS, index[order])
        np.save(folder / ROWS, order % rows)
        for place, ((kind, name), each) in enumerate(sorted(first.items(), key=lambda item: item[0])):
            column = Column(kind=kind, name=name, file=f"{place}.npy")
            shape = (views, rows, *each.shape[1:])
            self._columns[column] = _reserved(folder / column.file, each.dtype, shape)
        if not empty:
            self.write(first)

    def write(self, arrays: Arrays) -> None:
        """The next rows; past the last one of a view those of the next."""
        count = len(next(iter(arrays.values())))
        for column, target in self._columns.items():
            _flat(target)[self.done : self.done + count] = arrays[column.kind, column.name]
        self.done += count

    def written(self) -> dict[str, np.ndarray]:
        """What is there so far, `heads logits` -> (rows, ...)."""
        return {f"{column.kind} {column.name}": _flat(target)[: self.done] for column, target in self._columns.items()}

    def close(self) -> None:
        """Bring everything to the disk; only then does the folder describe itself as a table."""
        for target in self._columns.values():
            target.flush()
        contents = TableIndex(views=self.views, columns=tuple(self._columns))
        (self.folder / CONTENTS).write_text(json.dumps(contents.model_dump(), indent=1) + "\n")

    def size_bytes(self, samples: int) -> int:
        """What it takes on disk with rows of its own for so many samples."""
        return size_bytes(samples, self.views, {(each.kind, each.name): array[0] for each, array in self._columns.items()})


def unflattened(written: dict[str, np.ndarray]) -> Arrays:
    """What a writer had `written`, by kind and name."""
    parts = {name.partition(" ")[::2]: each for name, each in written.items()}
    return {("heads" if kind == "heads" else "features", name): each for (kind, name), each in parts.items()}


def size_bytes(samples: int, views: int, first: Arrays) -> int:
    """What a table takes on disk whose rows are like those of `first`."""
    return sum(each[:1].nbytes for each in first.values()) * samples * views + 2 * 8 * samples


def _reserved(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.memmap:
    """An array on disk, with room for all of it: a mapped page that finds none would end the process."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _flat(array: np.ndarray) -> np.ndarray:
    """(views, rows, ...) -> (views * rows, ...), the same memory."""
    return array.reshape(-1, *array.shape[2:])


def _mapped(path: Path) -> np.ndarray:
    """Pages are private to this process and never written back: torch takes only arrays that may be written."""
    try:
        found: np.ndarray = np.load(path, mmap_mode="c", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ArtifactError(f"{path}: is not a whole array ({error})") from None
    return found
