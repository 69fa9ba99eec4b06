"""The binary files of CIFAR-10 and CIFAR-100: one record a picture, its labels first. The pickled form is never read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compress_cli.errors import DataError

PIXELS = (3, 32, 32)  # red, green, blue; rows from the top


@dataclass(frozen=True)
class Archive:
    """The published archive, and the files in it."""

    url: str
    md5: str  # of the archive
    folder: str  # in the archive
    train: tuple[str, ...]
    test: str
    records: int  # in each file for training
    labels: int  # bytes before the pixels; the last one is the finest
    test_records: int = 10_000

    def find(self, homes: tuple[Path, ...], dataset: str) -> tuple[Path, ...]:
        """The files for training, then that for testing, in the first of these folders that holds them all; DataError
        where none does."""
        names = (*self.train, self.test)
        for home in homes:
            if all((home / name).is_file() for name in names):
                return tuple(home / name for name in names)
        missing = f"no {', '.join(names)} in {homes[0]}" if homes else "no data: COMPRESS_DATA is not set"
        raise DataError(
            f"dataset {dataset}: there is {missing}; unpack {self.url} (md5 {self.md5}) and set the dataset's 'root' to its "
            f"{self.folder}/, or COMPRESS_DATA to the folder that holds {self.folder}/"
        )

    def read(self, files: tuple[Path, ...], split: str) -> tuple[np.ndarray, np.ndarray]:
        """Images (N, 3, 32, 32) uint8 and labels (N,) int64 of "train" or "test".

        DataError where a file is not as long as published.
        """
        parts = files[:-1] if split == "train" else files[-1:]
        count = self.records if split == "train" else self.test_records
        rows = np.concatenate([_records(path, count, self.labels) for path in parts])
        return np.ascontiguousarray(rows[:, self.labels :]).reshape(-1, *PIXELS), rows[:, self.labels - 1].astype(np.int64)


def _records(path: Path, count: int, labels: int) -> np.ndarray:
    """(count, labels + 3072) uint8."""
    record = labels + int(np.prod(PIXELS))  # bytes
    if path.stat().st_size != count * record:
        raise DataError(
            f"{path}: has {path.stat().st_size} bytes where {count} pictures are {count * record}: it is damaged, or another "
            "file; unpack the archive again"
        )
    return np.fromfile(path, np.uint8).reshape(count, record)
