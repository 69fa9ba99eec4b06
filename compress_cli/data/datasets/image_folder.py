"""Picture files in one folder a class."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from compress_cli.data import pictures
from compress_cli.data.datasets import Dataset, Split, SplitName, channel_statistics, fingerprint_of, stratified
from compress_cli.data.signature import Head, Input, Signature
from compress_cli.errors import DataError
from compress_cli.identity import file_digest
from compress_cli.settings import Folder

Parts = dict[SplitName, tuple[Path, ...]]


class ImageFolder(Dataset):
    """Pictures in one folder a class, resized and held in memory: `root/cat/1.png`, or `root/train/cat/1.png`.

    Folders `train`, `val` and `test` are the splits; one that is missing is taken out of the training pictures.
    """

    root: Folder = Field(description="the folder")
    height: int = Field(32, ge=1, le=4096, description="pixels that pictures are resized to")
    width: int = Field(32, ge=1, le=4096, description="pixels that pictures are resized to")
    channels: Literal[1, 3] = Field(3, description="1 for brightness, 3 for colour")
    val_share: float = Field(
        0.1, ge=0, lt=0.5, description="share of the training pictures that is val; unused with a val folder"
    )
    test_share: float = Field(
        0.2, gt=0, lt=0.5, description="share of the training pictures that is test; unused with a test folder"
    )
    split_seed: int = Field(0, ge=0, lt=2**32, description="which pictures are taken out")

    def signature(self) -> Signature:
        mean, deviation = channel_statistics(self.split("train").inputs["image"])
        classes = self._classes()
        return Signature(
            inputs={"image": Input(shape=(self.channels, self.height, self.width), mean=mean, deviation=deviation)},
            heads={"logits": Head(shape=(len(classes),), classes=classes)},
        )

    def split(self, name: SplitName) -> Split:
        parts = self._files()
        return _splits(self, self._classes(), tuple((part, files) for part, files in parts.items()), self.fingerprint())[name]

    def fingerprint(self) -> str:
        content = {
            f"{part}/{path.relative_to(self._home(part)).as_posix()}": file_digest(path)
            for part, files in self._files().items()
            for path in files
        }
        return fingerprint_of(self, content)

    def _home(self, part: SplitName) -> Path:
        """The training pictures lie in `train`, or in the root itself where there is no such folder."""
        return self.root if part == "train" and not (self.root / "train").is_dir() else self.root / part

    def _classes(self) -> tuple[str, ...]:
        home = self._home("train")
        found = tuple(sorted(each.name for each in home.iterdir() if each.is_dir() and not each.name.startswith(".")))
        if len(found) < 2:
            raise DataError(f"{home}: should hold one folder for each of at least two classes (it holds {len(found)})")
        return found

    def _files(self) -> Parts:
        if not self.root.is_dir():
            raise DataError(f"dataset image_folder: there is no folder {self.root}; set its 'root'")
        classes, found = self._classes(), {}
        names: tuple[SplitName, ...] = ("train", "val", "test")
        own = ("train",) if self._home("train") == self.root else [name for name in names if self._home(name).is_dir()]
        for part in (name for name in names if name in own):
            files = pictures.found(self._home(part))
            strange = [path for path in files if path.relative_to(self._home(part)).parts[0] not in classes]
            if strange:
                raise DataError(f"{strange[0]}: is in no folder of a class ({', '.join(classes)})")
            if not files:
                raise DataError(f"{self._home(part)}: holds no pictures ({', '.join(sorted(pictures.SUFFIXES))})")
            found[part] = tuple(files)
        return found


@lru_cache(maxsize=2)
def _splits(
    dataset: ImageFolder, classes: tuple[str, ...], parts: tuple[tuple[SplitName, tuple[Path, ...]], ...], fingerprint: str
) -> dict[SplitName, Split]:
    """The fingerprint is not read: a changed picture makes another, and is read again."""
    found: dict[SplitName, Split] = {}
    ids = 0
    for part, files in parts:
        home = dataset._home(part)
        images = np.empty((len(files), dataset.channels, dataset.height, dataset.width), np.uint8)
        for place, path in enumerate(files):
            images[place] = pictures.read(path, dataset.channels, dataset.height, dataset.width)
        labels = np.array([classes.index(path.relative_to(home).parts[0]) for path in files], np.int64)
        found[part] = Split({"image": images}, {"label": labels}, np.arange(ids, ids + len(files)))
        ids += len(files)
    whole = found["train"]
    missing: dict[SplitName, float] = {"val": dataset.val_share, "test": dataset.test_share}
    shares = {name: share for name, share in missing.items() if name not in found}
    rows = stratified(whole.targets["label"], {**shares, "train": 1.0}, dataset.split_seed)
    return {**found, **{name: whole.take(each) for name, each in rows.items()}}
