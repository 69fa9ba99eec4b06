"""CIFAR-10 from the binary files that its authors publish."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from compress_cli.data.datasets import Dataset, Split, SplitName, channel_statistics, fingerprint_of, homes, with_val
from compress_cli.data.datasets._cifar import Archive
from compress_cli.data.signature import Head, Input, Signature
from compress_cli.identity import file_digest
from compress_cli.settings import Folder

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

ARCHIVE = Archive(
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    md5="c32a1d4ab5d03f1284b67883e8d87530",
    folder="cifar-10-batches-bin",
    train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    test="test_batch.bin",
    records=10_000,
    labels=1,
)


class Cifar10(Dataset):
    """60,000 colour pictures of 32x32 pixels, 10 classes (Krizhevsky 2009, "Learning multiple layers of features").

    Takes the published binary version, unpacked; nothing is downloaded, and the pickled version is never read. Test is
    the published test set; val comes out of the published training set.
    """

    root: Folder | None = Field(
        None, description="folder of the files; default: cifar-10-batches-bin in the folder COMPRESS_DATA names"
    )
    val: Annotated[int, Field(ge=10, lt=50_000)] | Literal["none"] = Field(5000, description="training pictures kept for val")
    split_seed: int = Field(0, ge=0, lt=2**32, description="which training pictures are val")

    def signature(self) -> Signature:
        mean, deviation = _statistics(self._files(), self.val, self.split_seed)
        return Signature(
            inputs={"image": Input(shape=(3, 32, 32), mean=mean, deviation=deviation)},
            heads={"logits": Head(shape=(10,), classes=CLASSES)},
        )

    def split(self, name: SplitName) -> Split:
        return _splits(self._files(), self.val, self.split_seed)[name]

    def fingerprint(self) -> str:
        return fingerprint_of(self, [file_digest(path) for path in self._files()])

    def _files(self) -> tuple[Path, ...]:
        return ARCHIVE.find(homes(self.root, ARCHIVE.folder, ARCHIVE.folder), self.type)


@cache
def _splits(files: tuple[Path, ...], val: int | str, seed: int) -> dict[SplitName, Split]:
    (images, labels), (test_images, test_labels) = ARCHIVE.read(files, "train"), ARCHIVE.read(files, "test")
    ids = np.arange(len(labels) + len(test_labels))
    train = Split({"image": images}, {"label": labels}, ids[: len(labels)])
    test = Split({"image": test_images}, {"label": test_labels}, ids[len(labels) :])
    return with_val(train, test, 0 if isinstance(val, str) else val, seed)


@cache
def _statistics(files: tuple[Path, ...], val: int | str, seed: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return channel_statistics(_splits(files, val, seed)["train"].inputs["image"])
