"""What a stage may use besides its settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from compress_cli.artifact import Artifact
from compress_cli.datasets import Dataset, Split, SplitName
from compress_cli.errors import DataError
from compress_cli.progress import Log
from compress_cli.saves import Saves
from compress_cli.tasks import Task


@dataclass(frozen=True)
class Context:
    """All a stage may use besides its settings; a new field needs a reason."""

    inputs: dict[str, tuple[Artifact, ...]]  # by role; empty = not given
    output: Path  # an empty folder that becomes the artifact
    dataset: Dataset
    task: Task
    device: str  # "cpu", "cuda", "cuda:1"
    seed: int
    log: Log
    key: str  # of this step: an exported file names it
    memory: Path  # a folder that remembers choices made once per machine (precision)
    saves: Saves = field(default_factory=Saves)  # where it goes on, and where it leaves its state now and then
    transfer: Dataset | None = None  # whose train split, without labels, stands for that of `dataset`
    limit: int | None = None  # at most this many training steps and batches anywhere: the smoke run's two
    splits: tuple[SplitName, ...] = ("train", "val")  # what the stage may see
    environment: dict[str, Any] = field(default_factory=dict)  # for the manifest; a stage adds what it chose

    def split(self, name: SplitName, batch: int = 32) -> Split:
        """A split of the dataset; in a smoke run its first `limit` batches of that size."""
        if name not in self.splits:
            raise PermissionError(f"this stage may not see the {name} split")  # a bug of ours: choices never see test
        whole = self.whole(name)
        return whole if self.limit is None else whole.take(np.s_[: self.limit * batch])

    def whole(self, name: SplitName) -> Split:
        """A split of the dataset, or its stand-in for training; in a smoke run too."""
        if name != "train" or self.transfer is None:
            return self.dataset.split(name)
        given = self.transfer.split("train")
        wanted = {key: each.shape for key, each in self.dataset.signature().inputs.items()}
        there = {key: each.shape[1:] for key, each in given.inputs.items()}
        if wanted != there:
            raise DataError(f"transfer: its inputs are {there}, and those of the recipe's dataset {wanted}; they must agree")
        return Split(given.inputs, {}, given.index)
