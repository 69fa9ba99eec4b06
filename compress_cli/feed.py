"""Batches out of memory, augmented whole: their order and changes are a function of (seed, epoch, sample id)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from compress_cli import batch
from compress_cli.augmentations import Augmentation
from compress_cli.batch import Batch
from compress_cli.datasets import Split
from compress_cli.errors import DataError, RecipeError
from compress_cli.randomness import draws, order

VERSION = 1  # raise it when a fixed view of a sample becomes another picture

_FIXED = 0  # the seed of fixed views: they are part of the data, and no recipe's seed moves them
_DRAWN_TOGETHER = 8192  # samples: numbers for a single batch would cost as much as for these


class Feed:
    """A split in batches that differ in size by at most one sample, each in `parts` parts, on a device.

    Each epoch changes the samples anew, or shows them in one of `views` fixed ways in turn, which no seed moves.
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
    ):
        if not len(split):
            raise DataError("the train split is empty: there is nothing to train on")
        if augment and not any(_is_image(each) for each in split.inputs.values()):
            raise RecipeError("augment: changes images (channels, height, width), and the dataset has no such input")
        self.index, self.parts, self.augment, self.seed, self.device = split.index, parts, augment, seed, device
        self.views = views
        self.steps = -(-len(split) // batch)  # of one epoch
        self._inputs, self._targets = split.inputs, split.targets
        self._resident = _resident(split, device)

    def __len__(self) -> int:
        return len(self.index)

    def epoch(self, epoch: int, done: int = 0) -> Iterator[list[Batch]]:
        """The epoch's batches, every sample once, in an order of its own; without the first `done` of them."""
        batches = np.array_split(order(self.seed, epoch, self.index), self.steps)
        if self.views is None:
            return self._drawn(batches, self.seed, epoch, 0, done)
        view = (epoch - 1) % self.views
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
        rows = np.array_split(order(self.seed, 1, self.index), self.steps)[0]
        return self._take(np.array_split(rows, min(self.parts, len(rows)))[0])

    def _parts(self, rows: np.ndarray, numbers: Tensor, view: int) -> list[Batch]:
        places = np.array_split(np.arange(len(rows)), min(self.parts, len(rows)))
        ranges = [slice(each[0], each[-1] + 1) for each in places]
        return [self._augmented(self._take(rows[each]), numbers[each], view) for each in ranges]

    def _take(self, rows: np.ndarray) -> Batch:
        if self._resident:
            return _rows(self._resident, batch.sent(torch.from_numpy(rows), self.device))
        inputs, targets = ({name: each[rows] for name, each in kind.items()} for kind in (self._inputs, self._targets))
        return batch.from_arrays(inputs, targets, self.index[rows]).to(self.device)

    def _augmented(self, given: Batch, numbers: Tensor, view: int) -> Batch:
        inputs, first = dict(given.inputs), 0
        for each in self.augment:
            own = numbers[:, first : first + each.draws]
            first += each.draws
            inputs |= {name: each(images, own) for name, images in inputs.items() if images.ndim == 4}
        return Batch(inputs, given.targets, given.index, view)


def in_order(split: Split, size: int, device: str) -> Iterator[Batch]:
    """Every sample once, as the split has them."""
    for start in range(0, len(split), size):
        part = split.take(np.arange(start, min(start + size, len(split))))  # a copy: a slice of a mapped file is read-only
        yield batch.from_arrays(part.inputs, part.targets, part.index).to(device)


def _is_image(array: np.ndarray) -> bool:
    return array.ndim == 4


def _resident(split: Split, device: str) -> Batch | None:
    """The whole split on an accelerator, in the types it has in memory, where it takes less than half of what is free."""
    if not device.startswith("cuda"):
        return None
    size = sum(each.nbytes for each in (*split.inputs.values(), *split.targets.values()))
    if size > torch.cuda.mem_get_info(device)[0] // 2:
        return None
    inputs, targets = ({name: _put(each, device) for name, each in kind.items()} for kind in (split.inputs, split.targets))
    return Batch(inputs, targets, _put(split.index, device))


def _put(array: np.ndarray, device: str) -> Tensor:
    """In rows, whatever the array's strides say of an axis of one: images of one channel could pass for channels-last."""
    return torch.tensor(array, device=device).clone(memory_format=torch.contiguous_format)


def _rows(whole: Batch, rows: Tensor) -> Batch:
    return Batch(
        {name: _raw(each[rows]) for name, each in whole.inputs.items()},
        {name: each[rows] for name, each in whole.targets.items()},
        whole.index[rows],
    )


def _raw(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.uint8 else tensor
