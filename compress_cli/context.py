"""What a stage may use in addition to its settings."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from compress_cli.data.datasets import Dataset, Split, SplitName
from compress_cli.data.tasks import Task
from compress_cli.errors import DataError
from compress_cli.processes import ALONE, Processes
from compress_cli.progress import Log
from compress_cli.store.artifact import Artifact
from compress_cli.store.saves import Saves


@dataclass(frozen=True)
class Context:
    """All that a stage may use in addition to its settings; a new field needs a reason."""

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
    transfer: Dataset | None = None  # whose train split, without labels, replaces that of `dataset`
    join: bool = False  # or is added to it
    samples: int | None = None  # how many an epoch shows, by repeating those that there are; default: each once
    limit: int | None = None  # at most this many training steps and batches anywhere: the smoke run's two
    splits: tuple[SplitName, ...] = ("train", "val")  # what the stage may see
    processes: Processes = ALONE  # those that train together
    environment: dict[str, Any] = field(default_factory=dict)  # for the manifest; a stage adds what it chose

    def split(self, name: SplitName, batch: int = 32) -> Split:
        """A split of the dataset; in a smoke run its first `limit` batches of that size."""
        if name not in self.splits:
            raise PermissionError(f"this stage may not see the {name} split")  # a bug of ours: choices never see test
        return self._limited(self.whole(name), batch, shared=name == "train")

    def unlabelled(self, batch: int = 32) -> Split | None:
        """Samples without labels that training sees in addition to the train split, if any; no id is in both.

        In a smoke run they share its batches."""
        if self.transfer is None or not self.join:
            return None
        return self._limited(_renamed(self.dataset.split("train"), self._without_labels(self.transfer)), batch, shared=True)

    def whole(self, name: SplitName) -> Split:
        """A split of the dataset, or its stand-in for training; in a smoke run too."""
        if name != "train" or self.transfer is None or self.join:
            return self.dataset.split(name)
        return self._without_labels(self.transfer)

    def index(self) -> np.ndarray:
        """(N,) ids of all samples that training sees, those without labels last; in a smoke run too."""
        unlabelled = replace(self, limit=None).unlabelled()
        index = self.whole("train").index
        return index if unlabelled is None else np.concatenate([index, unlabelled.index])

    def _limited(self, whole: Split, batch: int, shared: bool) -> Split:
        if self.limit is None:
            return whole
        return whole.take(np.s_[: self.limit * batch // (2 if self.join and shared else 1)])

    def _without_labels(self, dataset: Dataset) -> Split:
        """The train split of other data than the recipe's, whose labels nobody reads."""
        split = dataset.split("train")
        expected = {key: array.shape for key, array in self.dataset.signature().inputs.items()}
        shapes = {key: array.shape[1:] for key, array in split.inputs.items()}
        if expected != shapes:
            raise DataError(f"transfer: its inputs are {shapes}, and those of the recipe's dataset {expected}; they must agree")
        return Split(split.inputs, {}, split.index)


def _renamed(labelled: Split, others: Split) -> Split:
    """Samples to be joined to `labelled`: the one with the id n gets -1 - n, whatever it is joined to."""
    for name, array in others.inputs.items():
        if array.dtype != labelled.inputs[name].dtype:
            raise DataError(
                f"transfer: its input '{name}' is {array.dtype}, and the recipe's dataset has "
                f"{labelled.inputs[name].dtype}; to join them, store both alike"
            )
    if not len(others):
        raise DataError("transfer: its train split is empty: there is nothing to join")
    if min(labelled.index.min(initial=0), others.index.min()) < 0:
        raise DataError(
            "transfer: sample ids below 0 are those of joined samples; number the samples of both datasets from 0 on"
        )
    return Split(others.inputs, {}, -1 - others.index)
