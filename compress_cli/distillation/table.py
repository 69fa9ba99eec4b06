"""Tables: a model's outputs as arrays on disk by sample id, memory-mapped."""

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
ClassAxes = Mapping[str, int | None]
"""Head name -> the axis of (N, ...) on which its classes compete, None where there are none; absent where it is unknown."""


class Column(BaseModel):
    """One array of a table, of shape (views, rows, ...)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    name: str
    file: str
    class_axis: int | Literal["none", "unknown"] = "unknown"
    """Of a head, the axis of (N, ...) on which its classes compete."""


class TableIndex(BaseModel):
    """The document of a table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    views: int
    columns: tuple[Column, ...]


class StoredOutputs:
    """A table opened for reading: memory-mapped, so that only the rows in use are in memory."""

    def __init__(self, artifact: Artifact):
        path = artifact.file(CONTENTS)
        try:
            contents = TableIndex.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise ArtifactError(f"{path}: does not describe a table ({str(error).partition(chr(10))[0]})") from None
        self.views = contents.views
        self.ids = _mapped(artifact.file(IDS))  # (N,) ascending
        self.rows = _mapped(artifact.file(ROWS))  # (N,) row of each of `ids`
        self.arrays = {(column.kind, column.name): _mapped(artifact.file(column.file)) for column in contents.columns}
        self.class_axes = {
            column.name: None if column.class_axis == "none" else column.class_axis
            for column in contents.columns
            if column.kind == "heads" and column.class_axis != "unknown"
        }


class Writer:
    """Writes a table in whole chunks of rows, one view after another."""

    def __init__(self, folder: Path, index: np.ndarray, rows: int, views: int, first: Arrays, class_axes: ClassAxes):
        """Reserve rows of the shapes and number types of `first`; samples with the ids `index` (N,) share `rows` rows in turn.

        OSError where the disk has no room for all of them."""
        self.folder, self.views, self.done, self.class_axes = folder, views, 0, dict(class_axes)
        self._columns: dict[Column, np.memmap] = {}
        order = np.argsort(index, kind="stable")
        np.save(folder / IDS, index[order])
        np.save(folder / ROWS, order % rows)
        for number, ((kind, name), array) in enumerate(sorted(first.items(), key=lambda item: item[0])):
            axis = class_axes.get(name, "unknown") if kind == "heads" else "unknown"
            column = Column(kind=kind, name=name, file=f"{number}.npy", class_axis="none" if axis is None else axis)
            shape = (views, rows, *array.shape[1:])
            self._columns[column] = _reserved(folder / column.file, array.dtype, shape)

    def write(self, arrays: Arrays) -> None:
        """The next rows; past the last one of a view those of the next."""
        count = len(next(iter(arrays.values())))
        for column, target in self._columns.items():
            _flat(target)[self.done : self.done + count] = arrays[column.kind, column.name]
        self.done += count

    def written(self) -> dict[str, np.ndarray]:
        """The rows written so far, `heads logits` -> (rows, ...)."""
        return {f"{column.kind} {column.name}": _flat(target)[: self.done] for column, target in self._columns.items()}

    def close(self) -> None:
        """Flush everything to disk, then write the document that makes the folder a table."""
        for target in self._columns.values():
            target.flush()
        contents = TableIndex(views=self.views, columns=tuple(self._columns))
        (self.folder / CONTENTS).write_text(json.dumps(contents.model_dump(), indent=1) + "\n")

    def size_bytes(self, samples: int) -> int:
        """Its size on disk if each of so many samples had a row to itself."""
        return size_bytes(
            samples, self.views, {(column.kind, column.name): array[0] for column, array in self._columns.items()}
        )


def unflattened(written: Mapping[str, np.ndarray]) -> Arrays:
    """The arrays that a writer had `written`, by kind and name."""
    parts = {name.partition(" ")[::2]: array for name, array in written.items()}
    return {("heads" if kind == "heads" else "features", name): array for (kind, name), array in parts.items()}


def size_bytes(samples: int, views: int, first: Arrays) -> int:
    """The size on disk of a table whose rows are like those of `first`."""
    return sum(array[:1].nbytes for array in first.values()) * samples * views + 2 * 8 * samples


def _reserved(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.memmap:
    """An array on disk, with its space reserved: a mapped page for which the disk has no room would end the process."""
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
        array: np.ndarray = np.load(path, mmap_mode="c", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ArtifactError(f"{path}: is not a whole array ({error})") from None
    return array
