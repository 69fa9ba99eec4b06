"""Batches out of memory, augmented whole: their order and changes are a function of (seed, epoch, sample id)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from compress_cli.data import batch
from compress_cli.data.batch import Batch, Labels
from compress_cli.data.datasets import Split
from compress_cli.errors import DataError
from compress_cli.randomness import draws, order
from compress_cli.training import augmentations
from compress_cli.training.augmentations import Augmentation

VERSION = 1  # raise it when a fixed view of a sample becomes another picture

_FIXED = 0  # the seed of fixed views: they are part of the data, and no recipe's seed moves them
_DRAWN_TOGETHER = 8192  # samples: numbers for a single batch would cost as much as for these


class Loader:
    """A split in batches that differ in size by at most one sample, each in `parts` parts, on a device.

    Each epoch changes the samples anew, or shows them in one of `views` fixed ways in turn, which no seed moves. Samples
    without labels `unlabelled` the others are shuffled among them: a batch has them in proportion, give or take chance. With
    `samples` an epoch is as long as if there were so many, and what there is comes again, in another order and changed anew.
    """

    def __init__(
        self,
        split: Split,
        batch: int,
        parts: int,
        augment: tuple[Augmentation, ...],
        seed: int,
        device: str,
        views: int | None = None,
        unlabelled: Split | None = None,
        samples: int | None = None,
    ):
        if not len(split):
            raise DataError("the train split is empty: there is nothing to train on")
        augmentations.check(augment, split.inputs, split.targets)
        self._splits, self._mixed = [split] if unlabelled is None else [split, unlabelled], unlabelled is not None
        self.index = np.concatenate([each.index for each in self._splits])
        self.labelled = len(split)  # samples; the first ones
        self.parts, self.augment, self.seed, self.device, self.views = parts, augment, seed, device, views
        self._pass_steps = -(-len(self) // batch)  # that show every sample once
        self.steps = -(-(samples or len(self)) // batch)  # of one epoch
        self._resident = _resident(self._splits, device)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def shown(self) -> int:
        """How many samples an epoch shows, as often as it shows them."""
        return round(len(self) * self.steps / self._pass_steps)

    def epoch(self, epoch: int, done: int = 0) -> Iterator[list[Batch]]:
        """The epoch's batches, without the first `done` of them: passes that show every sample once, in an order of its own."""
        at, end = (epoch - 1) * self.steps + done, epoch * self.steps
        while at < end:
            passes, first = divmod(at, self._pass_steps)
            yield from islice(self._pass(passes + 1, first), end - at)
            at += self._pass_steps - first

    def _pass(self, number: int, done: int) -> Iterator[list[Batch]]:
        batches = np.array_split(order(self.seed, number, self.index), self._pass_steps)
        if self.views is None:
            return self._drawn(batches, self.seed, number, 0, done)
        view = (number - 1) % self.views
        return self._drawn(batches, _FIXED, view + 1, view, done)

    def fixed(self, view: int, size: int, done: int = 0) -> Iterator[Batch]:
        """Every sample once, in the split's order, in one of the fixed ways, counted from 0; without the first batches."""
        batches = np.array_split(np.arange(len(self)), -(-len(self) // size))
        return (parts[0] for parts in self._drawn(batches, _FIXED, view + 1, view, done))

    def _drawn(self, batches: list[np.ndarray], seed: int, epoch: int, view: int, done: int = 0) -> Iterator[list[Batch]]:
        """Batches of these positions, from the one at `done` on, changed by the numbers of an epoch."""
        count = sum(each.draws for each in self.augment)
        together = max(1, _DRAWN_TOGETHER // len(batches[0]))
        for start in range(done, len(batches), together):
            some = batches[start : start + together]
            drawn = draws(seed, epoch, self.index[np.concatenate(some)], count)
            numbers = batch.sent(torch.from_numpy(drawn), self.device)
            for rows, own in zip(some, numbers.split([len(rows) for rows in some]), strict=True):
                yield self._parts(rows, own, view)

    def first(self) -> Batch:
        """The first part of the first batch, as it is in memory."""
        rows = np.array_split(order(self.seed, 1, self.index), self._pass_steps)[0]
        return self._take(np.array_split(rows, min(self.parts, len(rows)))[0])

    def _parts(self, rows: np.ndarray, numbers: Tensor, view: int) -> list[Batch]:
        places = np.array_split(np.arange(len(rows)), min(self.parts, len(rows)))
        ranges = [slice(each[0], each[-1] + 1) for each in places]
        return [self._augmented(self._take(rows[each]), numbers[each], view) for each in ranges]

    def _take(self, rows: np.ndarray) -> Batch:
        if self._resident:
            taken = _rows(self._resident, batch.sent(torch.from_numpy(rows), self.device))
        else:
            inputs = {name: _chained([each.inputs[name] for each in self._splits], rows) for name in self._splits[0].inputs}
            targets = {} if self._mixed else {name: each[rows] for name, each in self._splits[0].targets.items()}
            taken = batch.from_arrays(inputs, targets, self.index[rows]).to(self.device)
        return replace(taken, labels=self._labels(rows)) if self._mixed else taken

    def _labels(self, rows: np.ndarray) -> Labels:
        """Those of these samples, some of which have none."""
        places = np.flatnonzero(rows < self.labelled)
        targets = {name: torch.from_numpy(each[rows[places]]) for name, each in self._splits[0].targets.items()}
        return Labels(torch.from_numpy(places), targets).to(self.device)

    def _augmented(self, given: Batch, numbers: Tensor, view: int) -> Batch:
        return replace(augmentations.apply(self.augment, given, numbers), view=view)


def in_order(split: Split, size: int, device: str) -> Iterator[Batch]:
    """Every sample once, as the split has them."""
    for start in range(0, len(split), size):
        part = split.take(np.arange(start, min(start + size, len(split))))  # a copy: a slice of a mapped file is read-only
        yield batch.from_arrays(part.inputs, part.targets, part.index).to(device)


def _chained(arrays: list[np.ndarray], rows: np.ndarray) -> np.ndarray:
    """These rows of arrays that are taken to lie one after the other; they may be files, and larger than memory."""
    if len(arrays) == 1:
        (whole,) = arrays
        only: np.ndarray = whole[rows]
        return only
    found, start = np.empty((len(rows), *arrays[0].shape[1:]), arrays[0].dtype), 0
    for each in arrays:
        own = (rows >= start) & (rows < start + len(each))
        found[own] = each[rows[own] - start]
        start += len(each)
    return found


def _resident(splits: list[Split], device: str) -> Batch | None:
    """All samples on an accelerator, in the types they have in memory, where they take less than half of what is free."""
    if not device.startswith("cuda"):
        return None
    arrays = [array for each in splits for array in (*each.inputs.values(), *each.targets.values())]
    if sum(each.nbytes for each in arrays) > torch.cuda.mem_get_info(device)[0] // 2:
        return None
    inputs = {name: _together([each.inputs[name] for each in splits], device) for name in splits[0].inputs}
    targets = {name: _together([each], device) for name, each in splits[0].targets.items() if len(splits) == 1}
    return Batch(inputs, targets, _together([each.index for each in splits], device))


def _together(arrays: list[np.ndarray], device: str) -> Tensor:
    """One after the other, in rows, whatever strides an axis of one has: images of one channel could pass for channels-last."""
    kind = torch.tensor(arrays[0][:0]).dtype
    whole, start = torch.empty((sum(map(len, arrays)), *arrays[0].shape[1:]), dtype=kind, device=device), 0
    for each in arrays:
        whole[start : start + len(each)] = torch.tensor(each)
        start += len(each)
    return whole


def _rows(whole: Batch, rows: Tensor) -> Batch:
    return Batch(
        {name: _raw(each[rows]) for name, each in whole.inputs.items()},
        {name: each[rows] for name, each in whole.targets.items()},
        whole.index[rows],
    )


def _raw(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.uint8 else tensor
