"""What goes into a model and what comes out, with every tensor under its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from compress_cli.data.rows import Values


@dataclass(frozen=True)
class Labels:
    """The targets of those samples of a batch that have any."""

    rows: Tensor  # (L,) int64, ascending: which samples of the batch they are
    targets: dict[str, Tensor]  # target name -> (L,) or (L, ...)

    def to(self, device: str) -> Labels:
        """The same on another device."""
        return Labels(sent(self.rows, device), _placed(self.targets, device))


@dataclass(frozen=True)
class Batch:
    """Some samples. All tensors share their first axis, N."""

    inputs: dict[str, Tensor]  # input name -> (N, ...)
    targets: dict[str, Tensor]  # target name -> (N,) or (N, ...); empty where not every sample has them
    index: Tensor  # (N,) int64: stable sample ids, equal in every epoch and every run
    view: int = 0  # which of the fixed augmented views this is, counted from 0; 0 where every epoch draws anew
    labels: Labels | None = None  # where only some samples have targets: which, and what they are

    def to(self, device: str) -> Batch:
        """The same samples on another device."""
        return Batch(
            _placed(self.inputs, device),
            _placed(self.targets, device),
            sent(self.index, device),
            self.view,
            self.labels and self.labels.to(device),
        )

    @property
    def known(self) -> int:
        """How many samples count in losses that read labels."""
        return len(self.index) if self.labels is None else len(self.labels.rows)

    def part(self, rows: slice) -> Batch:
        """Some of the samples, without targets: what a model needs to compute its outputs."""
        return Batch({name: tensor[rows] for name, tensor in self.inputs.items()}, {}, self.index[rows], self.view)

    def labelled(self) -> Batch:
        """Only the samples that have targets."""
        if self.labels is None:
            return self
        rows = self.labels.rows
        inputs = {name: tensor[rows] for name, tensor in self.inputs.items()}
        return Batch(inputs, self.labels.targets, self.index[rows], self.view)


@dataclass(frozen=True)
class Outputs:
    """What a model computed for a batch."""

    heads: dict[str, Tensor]  # head name -> (N, ...)
    features: dict[str, Tensor] = field(default_factory=dict)  # layer name -> (N, ...), only the requested layers
    class_axes: dict[str, int | None] = field(default_factory=dict)
    """Head name -> the axis of its tensor on which classes compete, None where there are none; absent where it is unknown."""
    weights: Tensor | None = None
    """(N,): of a teacher, the weight of its loss for each sample; they sum to 1 over teachers. None: all teachers alike."""
    deviations: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Head name -> the deviation of its numbers in the train split, one for all or one a value; absent where none is stated."""

    def of(self, rows: Tensor) -> Outputs:
        """The outputs for these samples of the batch, (L,)."""
        heads, features = ({name: values[rows] for name, values in kind.items()} for kind in (self.heads, self.features))
        return replace(self, heads=heads, features=features, weights=None if self.weights is None else self.weights[rows])


def sent(tensor: Tensor, device: str) -> Tensor:
    """A tensor of the CPU, copied to a device without waiting for it; its pinned memory is not reused before the copy ends."""
    return tensor if device == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def from_arrays(inputs: Mapping[str, Values], targets: Mapping[str, Values], index: np.ndarray) -> Batch:
    """A batch on the CPU; unsigned bytes (images in memory) become float32 in their raw range."""
    return Batch(
        {name: _float(values) for name, values in inputs.items()},
        {name: torch.from_numpy(np.asarray(values)) for name, values in targets.items()},
        torch.from_numpy(index),
    )


def _placed(tensors: dict[str, Tensor], device: str) -> dict[str, Tensor]:
    return {name: sent(tensor, device) for name, tensor in tensors.items()}


def _float(values: Values) -> Tensor:
    array = np.asarray(values)
    tensor = torch.from_numpy(np.asarray(array, order="C"))
    return tensor.float() if tensor.dtype == torch.uint8 else tensor
