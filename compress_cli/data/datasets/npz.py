"""Arrays of your own from NumPy's `.npz` files."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from pydantic import Field

from compress_cli.data import arrays
from compress_cli.data.datasets import Dataset, Split, SplitName, channel_statistics, fingerprint_of, stratified
from compress_cli.data.signature import Head, Input, Signature
from compress_cli.errors import DataError, RecipeError
from compress_cli.identity import file_digest
from compress_cli.settings import InputFile, Many

Part = tuple[Split, np.ndarray | slice]
"""All samples of a file, and the positions of those that are meant."""


class Npz(Dataset):
    """Named arrays in `.npz` files, one a split; what has no file of its own is taken out of the training file.

    All arrays of a file share their first axis, the samples. Bytes (N, channels, height, width) are images. A file that is a
    whole split, saved by `numpy.savez`, is read as it is needed: it may be larger than memory.

    One target of whole numbers makes the head `logits`; of several targets, and of real numbers, `kind` makes `kind_output`.
    Sample ids count the rows, from 0: of the training file, then on through those of val and test.
    """

    train: InputFile = Field(description="file of the training samples")
    val: InputFile | None = Field(None, description="file of the samples that choices go by")
    test: InputFile | None = Field(None, description="file of the samples that measure")
    inputs: Many[str] = Field(min_length=1, description="names of the arrays that models take, in order")
    targets: Many[str] = Field(
        ("label",), description="names of the arrays that hold the truth; [] for samples without, which are all for training"
    )
    classes: Many[str] = Field((), description="class names, in order, for one whole-number target; default: numbers")
    normalise: bool = Field(True, description="shift and scale images and real numbers by the training samples' statistics")
    val_share: float = Field(0.1, ge=0, lt=0.5, description="share of the training file that is val; unused with a val file")
    test_share: float = Field(0.2, gt=0, lt=0.5, description="share of the training file that is test; unused with a test file")
    split_seed: int = Field(0, ge=0, lt=2**32, description="which samples are taken out")

    def signature(self) -> Signature:
        train, rows = self._part("train")
        heads = {}
        for name, every in train.targets.items():
            target = every[rows]
            whole = target.dtype.kind in "iu"
            size = self._classes(target) if whole else int(np.prod(target.shape[1:]))
            names = (self.classes or tuple(map(str, range(size)))) if whole else ()
            heads["logits" if whole and len(self.targets) == 1 else f"{name}_output"] = Head(shape=(size,), classes=names)
        return Signature(inputs={name: self._input(each, rows) for name, each in train.inputs.items()}, heads=heads)

    def split(self, name: SplitName) -> Split:
        whole, rows = self._part(name)
        return whole if isinstance(rows, slice) else _taken(self, self._digests(), name)

    def fingerprint(self) -> str:
        self._check_files()
        return fingerprint_of(self, None)  # the files are settings, and enter by content

    def _part(self, name: SplitName) -> Part:
        self._check_files()
        return _parts(self, self._digests())[name]

    def _digests(self) -> tuple[str, ...]:
        return tuple(file_digest(path) for path in self._files().values())

    def _files(self) -> dict[SplitName, Path]:
        given: dict[SplitName, Path | None] = {"train": self.train, "val": self.val, "test": self.test}
        return {name: path for name, path in given.items() if path}

    def _check_files(self) -> None:
        for name, path in self._files().items():
            if not path.is_file():
                raise DataError(f"dataset npz: {name}: there is no file {path}")

    def _classes(self, target: np.ndarray) -> int:
        if self.classes and len(self.targets) > 1:
            raise RecipeError("dataset npz: 'classes' names the classes of one target, but there are several")
        return len(self.classes) or int(target.max(initial=0)) + 1

    def _input(self, array: np.ndarray, rows: np.ndarray | slice) -> Input:
        real = array.dtype.kind == "f" or (array.dtype == np.uint8 and array.ndim == 4)
        counted = real and self.normalise and array.ndim > 1 and len(np.arange(len(array))[rows])
        mean, deviation = channel_statistics(array, rows) if counted else ((), ())
        return Input(shape=array.shape[1:], dtype="float32" if real else array.dtype.name, mean=mean, deviation=deviation)


@lru_cache(maxsize=6)
def _taken(dataset: Npz, digests: tuple[str, ...], name: SplitName) -> Split:
    whole, rows = _parts(dataset, digests)[name]
    return whole.take(rows)


@lru_cache(maxsize=2)
def _parts(dataset: Npz, digests: tuple[str, ...]) -> dict[SplitName, Part]:
    """`digests` are those of the files: a changed file is read again."""
    found: dict[SplitName, Part] = {}
    ids = 0
    for name, path in dataset._files().items():
        held = arrays.read(path, dataset.inputs + dataset.targets, mapped=True)
        count = len(next(iter(held.values())))
        inputs = {each: _compact(path, each, held[each]) for each in dataset.inputs}
        targets = {each: _labels(path, each, held[each]) for each in dataset.targets}
        found[name] = Split(inputs, targets, np.arange(ids, ids + count)), np.s_[:]
        ids += count
    whole, _ = found["train"]
    if not dataset.targets:
        return {**dict.fromkeys(("val", "test"), (whole.take(np.s_[:0]), np.s_[:])), **found}
    missing: dict[SplitName, float] = {"val": dataset.val_share, "test": dataset.test_share}
    shares = {name: share for name, share in missing.items() if name not in found}
    first = whole.targets[dataset.targets[0]]
    even = first if first.dtype.kind in "iu" and first.ndim == 1 else np.zeros(len(whole), np.int64)
    rows = stratified(even, {**shares, "train": 1.0}, dataset.split_seed)
    return {**found, **{name: (whole, each) for name, each in rows.items()}}


def _compact(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    """Real numbers as float32, without any that are none; others than float32 are converted in memory."""
    if array.dtype.kind != "f":
        return array
    for start in range(0, len(array), 1024):
        if not np.isfinite(array[start : start + 1024]).all():
            raise DataError(f"{path}: array '{name}' holds NaN or infinite values; clean them first")
        arrays.release(array)
    return array.astype(np.float32, copy=False)


def _labels(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "iufb":
        raise DataError(f"{path}: array '{name}' holds {array.dtype}; targets are whole or real numbers, classes from 0 on")
    return array.astype(np.int64) if array.dtype.kind in "iu" else array.astype(np.float32)
