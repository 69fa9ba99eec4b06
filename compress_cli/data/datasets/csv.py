"""Rows of numbers from CSV files."""

from __future__ import annotations

import csv
from functools import lru_cache
from pathlib import Path

import numpy as np
from pydantic import Field

from compress_cli.data.datasets import Dataset, Split, SplitName, channel_statistics, fingerprint_of, stratified
from compress_cli.data.signature import Head, Input, Signature
from compress_cli.errors import DataError
from compress_cli.identity import file_digest
from compress_cli.settings import InputFile, suggest


class Csv(Dataset):
    """Tables with a first line of column names, one a split: one column is the label, the others are numbers.

    The numbers of a row are one input (columns,), in the order of the file. Labels are class names, sorted, or class
    numbers 0, 1, ... where all of them are whole numbers. What has no file of its own is taken out of the training file.
    """

    train: InputFile = Field(description="file of the training rows")
    val: InputFile | None = Field(None, description="file of the rows that choices go by")
    test: InputFile | None = Field(None, description="file of the rows that measure")
    label: str = Field("label", description="the column that holds the class")
    input: str = Field("features", description="name of the input that models take")
    normalise: bool = Field(True, description="shift and scale each column by the training rows' statistics")
    val_share: float = Field(0.1, ge=0, lt=0.5, description="share of the training file that is val; unused with a val file")
    test_share: float = Field(0.2, gt=0, lt=0.5, description="share of the training file that is test; unused with a test file")
    split_seed: int = Field(0, ge=0, lt=2**32, description="which rows are taken out")

    def signature(self) -> Signature:
        train = self.split("train").inputs[self.input]
        mean, deviation = channel_statistics(train) if self.normalise and len(train) else ((), ())
        classes = _tables(self, self._digests())[1]
        return Signature(
            inputs={self.input: Input(shape=train.shape[1:], mean=mean, deviation=deviation)},
            heads={"logits": Head(shape=(len(classes),), classes=classes)},
        )

    def split(self, name: SplitName) -> Split:
        return _tables(self, self._digests())[0][name]

    def fingerprint(self) -> str:
        self._digests()
        return fingerprint_of(self, None)  # the files are settings, and enter by content

    def _files(self) -> dict[SplitName, Path]:
        given: dict[SplitName, Path | None] = {"train": self.train, "val": self.val, "test": self.test}
        return {name: path for name, path in given.items() if path}

    def _digests(self) -> tuple[str, ...]:
        for name, path in self._files().items():
            if not path.is_file():
                raise DataError(f"dataset csv: {name}: there is no file {path}")
        return tuple(file_digest(path) for path in self._files().values())


@lru_cache(maxsize=2)
def _tables(dataset: Csv, digests: tuple[str, ...]) -> tuple[dict[SplitName, Split], tuple[str, ...]]:
    """Splits and class names; `digests` are those of the files: a changed file is read again."""
    read = {name: _read(path, dataset.label) for name, path in dataset._files().items()}
    columns = read["train"][0]
    for name, path in dataset._files().items():
        if read[name][0] != columns:
            raise DataError(f"{path}:1: has other columns than {dataset.train} (or in another order)")
    classes = _classes([label for _, _, labels in read.values() for label in labels])
    places = {each: place for place, each in enumerate(classes)}
    found: dict[SplitName, Split] = {}
    ids = 0
    for name, (_, values, labels) in read.items():
        targets = np.array([places[each] for each in labels], np.int64)
        found[name] = Split({dataset.input: values}, {"label": targets}, np.arange(ids, ids + len(values)))
        ids += len(values)
    whole = found["train"]
    missing: dict[SplitName, float] = {"val": dataset.val_share, "test": dataset.test_share}
    shares = {name: share for name, share in missing.items() if name not in found}
    rows = stratified(whole.targets["label"], {**shares, "train": 1.0}, dataset.split_seed)
    return {**found, **{name: whole.take(each) for name, each in rows.items()}}, classes


def _classes(labels: list[str]) -> tuple[str, ...]:
    """Numbers from 0 to the largest where all labels are such, or else the names in order."""
    if labels and all(each.isascii() and each.isdigit() and len(each) < 7 for each in labels):
        return tuple(map(str, range(max(map(int, labels)) + 1)))
    return tuple(sorted(set(labels)))


def _read(path: Path, label: str) -> tuple[tuple[str, ...], np.ndarray, list[str]]:
    """Names of the columns of numbers, their values (N, columns) and the labels; DataError names the line."""
    values: list[list[float]] = []
    labels: list[str] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file, strict=True)
            header = next(rows, [])
            if len(set(header)) < len(header) or not header:
                raise DataError(f"{path}:1: should name each column once (it says: {', '.join(header) or 'nothing'})")
            if label not in header:
                raise DataError(f"{path}:1: has no column '{label}' with the class; {suggest(label, header)}")
            own = header.index(label)
            names = tuple(name for place, name in enumerate(header) if place != own)
            for row in rows:
                if not row:
                    continue
                if len(row) != len(header):
                    raise DataError(f"{path}:{rows.line_num}: has {len(row)} values for {len(header)} columns")
                if not row[own].strip():
                    raise DataError(f"{path}:{rows.line_num}: names no class")
                labels.append(_number_like(row[own].strip()))
                values.append([_number(path, rows.line_num, header[at], row[at]) for at in range(len(row)) if at != own])
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not a text file in UTF-8") from None
    except csv.Error as error:
        raise DataError(f"{path}: is no CSV file ({error})") from None
    if not values or not names:
        raise DataError(f"{path}: holds no {'rows' if names else 'columns of numbers'}")
    return names, np.array(values, np.float32), labels


def _number_like(label: str) -> str:
    """`3.0`, as tools write whole numbers, is the class 3."""
    return label[:-2] if label.endswith(".0") and label[:-2].isdigit() else label


def _number(path: Path, line: int, column: str, text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = float("nan")
    if not abs(found) < 3e38:
        raise DataError(
            f"{path}:{line}: column '{column}': {text[:40]!r} is no finite number; make columns of 0 and 1 of words first, "
            "as pandas.get_dummies does"
        )
    return found
