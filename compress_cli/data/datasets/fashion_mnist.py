"""Fashion-MNIST from the four files that its authors publish."""

from __future__ import annotations

import gzip
import zlib
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from compress_cli.data.datasets import Dataset, Split, SplitName, channel_statistics, fingerprint_of, homes, with_val
from compress_cli.data.signature import Head, Input, Signature
from compress_cli.errors import DataError
from compress_cli.identity import file_digest
from compress_cli.settings import Folder

CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")

KNOWN = {  # file -> SHA-256 of it as published (.gz), and of what is in it
    "train-images-idx3-ubyte": (
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    ),
    "train-labels-idx1-ubyte": (
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    ),
    "t10k-images-idx3-ubyte": (
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    ),
    "t10k-labels-idx1-ubyte": (
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
}


class FashionMnist(Dataset):
    """70,000 pictures of clothes, 28x28 pixels, 10 classes (Xiao et al. 2017, arXiv:1708.07747); nothing is downloaded.

    Takes the published `.gz` files or the same unpacked, also where torchvision keeps them. Test is the published test
    set; val comes out of the published training set.
    """

    root: Folder | None = Field(
        None, description="folder of the files; default: fashion-mnist in the folder COMPRESS_DATA names"
    )
    val: Annotated[int, Field(ge=10, lt=60_000)] | Literal["none"] = Field(5000, description="training pictures kept for val")
    split_seed: int = Field(0, ge=0, lt=2**32, description="which training pictures are val")

    def signature(self) -> Signature:
        mean, deviation = _statistics(self._files(), self.val, self.split_seed)
        return Signature(
            inputs={"image": Input(shape=(1, 28, 28), mean=mean, deviation=deviation)},
            heads={"logits": Head(shape=(10,), classes=CLASSES)},
        )

    def split(self, name: SplitName) -> Split:
        return _splits(self._files(), self.val, self.split_seed)[name]

    def fingerprint(self) -> str:
        self._files()
        return fingerprint_of(self, [content for _, content in KNOWN.values()])  # packed or not is the same data

    def _files(self) -> tuple[Path, ...]:
        """The four files, checked against what is published; DataError where one is missing or differs."""
        folders = homes(self.root, "fashion-mnist", "FashionMNIST/raw")
        files = []
        for name, digests in KNOWN.items():
            candidates = [folder / file for folder in folders for file in (f"{name}.gz", name)]
            path = next((candidate for candidate in candidates if candidate.is_file()), None)
            if path is None:
                where = f"not in {folders[0]}" if folders else "COMPRESS_DATA is not set"
                raise DataError(
                    f"dataset fashion_mnist: {name}.gz is missing ({where}); get the four files from "
                    "https://github.com/zalandoresearch/fashion-mnist and set the dataset's 'root', or COMPRESS_DATA to the "
                    "folder that holds fashion-mnist/"
                )
            if file_digest(path) not in digests:
                raise DataError(f"{path}: is damaged, or not the published file (sha256 differs); fetch it again")
            files.append(path)
        return tuple(files)


def read_idx(path: Path) -> np.ndarray:
    """An array of unsigned bytes in LeCun's IDX format, gzipped or not; DataError where it is damaged."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: can't be unpacked ({error}); fetch it again") from None
    # two zero bytes, 8 for unsigned bytes, the number of axes, then each axis as a big-endian 32-bit integer
    if data[:3] != b"\0\0\x08" or len(data) < 4 + 4 * data[3]:
        raise DataError(f"{path}: is not an IDX file of bytes")
    start = 4 + 4 * data[3]
    shape = tuple(int(axis) for axis in np.frombuffer(data[4:start], ">u4"))
    if len(data) - start != int(np.prod(shape)):
        raise DataError(f"{path}: holds {len(data) - start} values instead of {int(np.prod(shape))}; fetch it again")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape).copy()


@cache
def _published(files: tuple[Path, ...]) -> tuple[Split, Split]:
    """The training set and the test set."""
    images, labels, test_images, test_labels = (read_idx(path) for path in files)
    ids = np.arange(len(labels) + len(test_labels))
    return (
        Split({"image": images[:, None]}, {"label": labels.astype(np.int64)}, ids[: len(labels)]),
        Split({"image": test_images[:, None]}, {"label": test_labels.astype(np.int64)}, ids[len(labels) :]),
    )


@cache
def _splits(files: tuple[Path, ...], val: int | str, seed: int) -> dict[SplitName, Split]:
    return with_val(*_published(files), 0 if isinstance(val, str) else val, seed)


@cache
def _statistics(files: tuple[Path, ...], val: int | str, seed: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return channel_statistics(_splits(files, val, seed)["train"].inputs["image"])
