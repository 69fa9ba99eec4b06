"""Real samples, drawn from a split: for calibration, and to compare a model with its exported file."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from compress_cli.data.batch import from_arrays
from compress_cli.data.datasets import Split
from compress_cli.data.signature import Signature
from compress_cli.errors import StageError
from compress_cli.randomness import order


def drawn(split: Split, samples: int, seed: int) -> Split:
    """Some samples of a split, chosen by seed and sample id, whatever the order of the split."""
    if len(split) == 0:
        raise StageError("the dataset has no samples to calibrate on or to check with: its train split is empty")
    return split.take(order(seed, 0, split.index)[:samples])


def parts(split: Split, batch: int) -> Iterator[Split]:
    """The split in batches, so that only one is copied at a time."""
    for start in range(0, len(split), batch):
        yield split.take(np.s_[start : start + batch])


def tensors(part: Split, signature: Signature) -> tuple[Tensor, ...]:
    """The inputs of some samples in the signature's order."""
    inputs = from_arrays(part.inputs, {}, part.index).inputs
    return tuple(inputs[name] for name in signature.inputs)


def answers(model: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, np.ndarray]:
    """Head name -> (N, ...)."""
    with torch.inference_mode():
        return {name: head.numpy() for name, head in model(*inputs).items()}
