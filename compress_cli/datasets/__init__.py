"""Datasets: NumPy arrays by name, in three splits, with stable sample ids. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from compress_cli.plugin import Plugin
from compress_cli.signature import Signature

SplitName = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Split:
    """Some samples in memory or memory-mapped. All arrays share their first axis, N."""

    inputs: dict[str, np.ndarray]  # input name -> (N, ...); images uint8 (N, channels, height, width)
    targets: dict[str, np.ndarray]  # target name -> (N,) or (N, ...)
    index: np.ndarray  # (N,) int64: sample ids, unique over all splits

    def __len__(self) -> int:
        return len(self.index)

    def take(self, rows: np.ndarray | slice) -> Split:
        """The samples at these positions."""
        return Split(
            {name: each[rows] for name, each in self.inputs.items()},
            {name: each[rows] for name, each in self.targets.items()},
            self.index[rows],
        )


class Dataset(Plugin):
    """Data at hand. Its split's seed is a setting of its own, so that a recipe's seed never moves a test sample."""

    def signature(self) -> Signature:
        """Names, shapes and types of inputs and heads; mean and deviation from the train split."""
        raise NotImplementedError

    def split(self, name: SplitName) -> Split:
        """Train, val or test; DataError where the files are not at hand. An empty val means there is none."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """A hash of the content and of what the settings make of it; cheap, and never of a place on disk.

        DataError where the files are not at hand."""
        raise NotImplementedError
