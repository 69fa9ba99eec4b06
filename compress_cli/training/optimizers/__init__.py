"""Optimisers, as settings."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

from pydantic import Field
from torch import nn, optim

from compress_cli.plugin import Plugin


class Optimizer(Plugin):
    """How gradients move weights."""

    learning_rate: float = Field(gt=0, description="peak learning rate; the schedule scales it")
    weight_decay: float = Field(0.0, ge=0, description="decay of weights; never of biases and normalisation scales")

    @abstractmethod
    def build(self, parameters: Iterable[nn.Parameter]) -> optim.Optimizer:
        """The optimiser over these parameters."""


def groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: weights decay, vectors and scalars (biases, normalisation scales) do not."""
    trained = list(parameters)
    split = [
        {"params": [weight for weight in trained if weight.ndim > 1], "weight_decay": weight_decay},
        {"params": [weight for weight in trained if weight.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in split if group["params"]]
