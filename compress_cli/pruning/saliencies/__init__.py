"""Saliencies: how much a single weight matters. The lowest are masked first."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

from torch import Tensor

from compress_cli.plugin import Plugin


class Saliency(Plugin):
    """Scores the weights of a layer, one by one."""

    reads: ClassVar[Literal["weights", "gradient", "batch_gradients", "training"]] = "weights"
    """What it reads besides the weights: nothing; the gradient of the task's loss over some training samples; that of each
    batch of them, over which its scores are averaged; that of each step of a training, over which they are summed."""
    batch: ClassVar[int] = 64
    """Training samples of a batch whose gradient it reads."""
    across_layers: ClassVar[bool] = False
    """Whether it only says something new where the weights of several layers are compared."""

    @abstractmethod
    def __call__(self, name: str, weight: Tensor, gradient: Tensor | None) -> Tensor:
        """Scores of the weight's shape; `name` is that of the parameter, the gradient None where it reads none."""
