"""Batches out of memory: their order and augmentation are a function of (seed, epoch, sample id)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from compress_cli.data import batch
from compress_cli.data.batch import Batch
from compress_cli.data.datasets import Split
from compress_cli.data.rows import Rows
from compress_cli.errors import RecipeError
from compress_cli.processes import Processes
from compress_cli.randomness import draws, order
from compress_cli.training import augmentations
from compress_cli.training.augmentations import Augmentation
from compress_cli.training.pool import SamplePool
from compress_cli.training.sampler import BalancedSampler

T = TypeVar("T")
U = TypeVar("U")

VERSION = 1  # raise it when a fixed view of a sample becomes another picture

_FIXED_SEED = 0  # of fixed views: they are part of the data, and no recipe's seed moves them
_BUCKET = 32  # batches whose samples are sorted by length
_AHEAD = 2  # batches that are read before they are needed, where reading takes long
_DRAWN_TOGETHER = 8192  # samples: numbers for a single batch would cost as much as for these


@dataclass(frozen=True)
class Augmenter:
    """Augments samples at random in each pass, or cycles through `views` fixed ones that do not depend on the seed."""

    changes: tuple[Augmentation, ...] = ()
    seed: int = 0
    views: int | None = None

    @property
    def draws(self) -> int:
        """Random numbers that one sample takes."""
        return sum(change.draws for change in self.changes)

    def of_pass(self, number: int) -> tuple[int, int, int]:
        """Seed, epoch and view of the random numbers in a pass over the samples, counted from 1."""
        return (self.seed, number, 0) if self.views is None else self.of_view((number - 1) % self.views)

    def of_view(self, view: int) -> tuple[int, int, int]:
        """The same of a fixed view, counted from 0."""
        return _FIXED_SEED, view + 1, view

    def __call__(self, samples: Batch, numbers: Tensor, view: int) -> Batch:
        """The samples changed by their random numbers (N, draws)."""
        return replace(augmentations.apply(self.changes, samples, numbers), view=view)


class Loader:
    """A pool's samples in batches that differ in size by at most one sample, each in `microbatches`.

    Samples without labels are shuffled among the others: a batch has them in proportion, give or take chance. With
    `epoch_samples` an epoch is as long as if there were so many: samples come again, in another order and changed anew.
    A balanced sampler shows samples of small classes several times in a pass, each time changed anew.
    RecipeError where augmentation has no images to change, or a target that it would leave wrong, and where classes
    can't be balanced.
    """

    def __init__(
        self,
        pool: SamplePool,
        size: int,
        augmenter: Augmenter,
        microbatches: int = 1,
        epoch_samples: int | None = None,
        sampler: Literal["shuffled", "balanced"] = "shuffled",
    ):
        augmentations.check(augmenter.changes, pool.split.inputs, pool.split.targets)
        self.pool, self.augmenter, self.microbatches = pool, augmenter, microbatches
        self._balanced = BalancedSampler(pool.split.targets, pool.index, augmenter.seed) if sampler == "balanced" else None
        self._pass_steps = -(-len(pool) // size)  # that show every sample once
        self.steps = -(-(epoch_samples or len(pool)) // size)  # of one epoch

    def check_divides(self, processes: Processes) -> None:
        """RecipeError where one of the processes that share each microbatch would get no sample."""
        parts = min(self.microbatches, len(self.pool) // self._pass_steps)
        fewest = len(self.pool) // self._pass_steps // parts
        if fewest < processes.count:
            what = f"a batch of {fewest}" if parts == 1 else f"a microbatch of {fewest} (accumulate: {parts})"
            raise RecipeError(
                f"training.batch: {what} can't be divided among {processes.count} processes; choose a larger batch, or start "
                "fewer processes"
            )

    @property
    def shown(self) -> int:
        """Samples that an epoch shows, each as often as it comes."""
        return round(len(self.pool) * self.steps / self._pass_steps)

    def epoch(self, epoch: int, done: int = 0) -> Iterator[list[Batch]]:
        """The epoch's batches after the first `done`: passes that show every sample once, each in an order of its own."""
        step, end = (epoch - 1) * self.steps + done, epoch * self.steps
        while step < end:
            passes, first = divmod(step, self._pass_steps)
            yield from islice(self._pass(passes + 1, first), end - step)
            step += self._pass_steps - first

    def fixed(self, view: int, size: int, done: int = 0, every: int = 1) -> Iterator[Batch]:
        """Every sample once, in the pool's order, in a fixed view counted from 0; without the first `done` batches, and of the
        others only one of `every`."""
        batches = np.array_split(np.arange(len(self.pool)), -(-len(self.pool) // size))[done::every]
        if batches:
            yield from (samples for (samples,) in self._augmented(batches, self.augmenter.of_view(view), 0, microbatches=1))

    def viewed(self, rows: np.ndarray, view: int) -> Batch:
        """The samples at these positions, as a fixed view has them."""
        ((samples,),) = self._augmented([rows], self.augmenter.of_view(view), 0, microbatches=1)
        return samples

    def first(self) -> Batch:
        """The first microbatch of the first batch, as it is in memory."""
        rows = self._order(1)[0]
        return self.pool.batch(np.array_split(rows, min(self.microbatches, len(rows)))[0])

    def _order(self, number: int) -> list[np.ndarray]:
        """Positions of the samples in each batch of a pass. Samples of unequal length share a batch with others of about
        their length, so that little of it is padding."""
        seed, positions = self.augmenter.seed, self._shuffled(number)
        lengths = self.pool.lengths
        if lengths is None:
            return np.array_split(positions, self._pass_steps)
        buckets = np.array_split(positions, -(-self._pass_steps // _BUCKET))
        positions = np.concatenate([bucket[np.argsort(lengths[bucket], kind="stable")] for bucket in buckets])
        batches = np.array_split(positions, self._pass_steps)
        return [batches[place] for place in order(seed, number, np.arange(len(batches)))]

    def _shuffled(self, number: int) -> np.ndarray:
        """(N,) positions of the samples that a pass shows."""
        if self._balanced is None:
            return order(self.augmenter.seed, number, self.pool.index)
        return np.asarray(self._balanced.positions(number)[order(self.augmenter.seed, number, np.arange(len(self.pool)))])

    def _showings(self, batches: list[np.ndarray]) -> list[np.ndarray]:
        """What random numbers of the samples in each batch are drawn for: their ids, unless they come again."""
        if self._balanced is None:
            return [self.pool.index[rows] for rows in batches]
        return np.split(self._balanced.numbered(np.concatenate(batches)), np.cumsum([len(rows) for rows in batches])[:-1])

    def _pass(self, number: int, done: int) -> Iterator[list[Batch]]:
        return self._augmented(self._order(number), self.augmenter.of_pass(number), done, self.microbatches)

    def _augmented(
        self, batches: list[np.ndarray], source: tuple[int, int, int], done: int, microbatches: int
    ) -> Iterator[list[Batch]]:
        """Batches of these positions after the first `done`, with random numbers of a seed, epoch and view."""

        def _read(parts: list[tuple[np.ndarray, Tensor]]) -> list[tuple[Batch, Tensor]]:
            return [(self.pool.batch(rows), numbers) for rows, numbers in parts]

        rows = self._numbered(batches, source, done, microbatches)
        for parts in read_ahead(_read, rows, _AHEAD if self.pool.slow else 0):
            yield [self.augmenter(samples, numbers, source[2]) for samples, numbers in parts]

    def _numbered(
        self, batches: list[np.ndarray], source: tuple[int, int, int], done: int, microbatches: int
    ) -> Iterator[list[tuple[np.ndarray, Tensor]]]:
        """The positions of each batch, in microbatches, with the random numbers of its samples."""
        seed, epoch, _ = source
        ids = self._showings(batches)
        together = max(1, _DRAWN_TOGETHER // len(batches[0]))
        for start in range(done, len(batches), together):
            chunk = batches[start : start + together]
            drawn = draws(seed, epoch, np.concatenate(ids[start : start + together]), self.augmenter.draws)
            numbers = batch.sent(torch.from_numpy(drawn), self.pool.device)
            for rows, row_numbers in zip(chunk, numbers.split([len(rows) for rows in chunk]), strict=True):
                parts = np.array_split(np.arange(len(rows)), min(microbatches, len(rows)))
                slices = [slice(part[0], part[-1] + 1) for part in parts]
                yield [(rows[part], row_numbers[part]) for part in slices]


def in_order(split: Split, size: int, device: str) -> Iterator[Batch]:
    """Every sample once, as the split has them."""

    def _read(start: int) -> Batch:
        part = split.take(np.arange(start, min(start + size, len(split))))  # a copy: a slice of a mapped file is read-only
        return batch.from_arrays(part.inputs, part.targets, part.index).to(device)

    slow = any(isinstance(values, Rows) and values.ahead for values in (*split.inputs.values(), *split.targets.values()))
    return read_ahead(_read, range(0, len(split), size), _AHEAD if slow else 0)


def read_ahead(read: Callable[[T], U], items: Iterable[T], most: int) -> Iterator[U]:
    """`read(item)` of each item in their order, up to `most` of them by another thread before they are asked for."""
    if not most:
        yield from map(read, items)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="read_ahead") as thread:
        waiting: deque[Future[U]] = deque()
        try:
            for item in items:
                waiting.append(thread.submit(read, item))
                if len(waiting) > most:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
