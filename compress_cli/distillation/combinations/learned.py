"""Weights learnt with the student."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from compress_cli.data.batch import Batch, Outputs
from compress_cli.distillation.combinations import Combination
from compress_cli.losses.cross_entropy import CrossEntropy


class Learned(Combination):
    """Learn the teachers' weights while the student learns (stacking; Wolpert 1992, doi:10.1016/S0893-6080(05)80023-1).

    The weights are a softmax of one number for each teacher, equal at first; training minimises the cross-entropy of the
    mixed teacher with the true labels, whose gradient reaches the weights alone: the student never moves its own target.
    """

    target: str = Field("", description="the target that holds the labels; default: the only one")

    def adapter(self, teachers: int) -> nn.Module:
        return _Weights(teachers)

    def shares(self, logits: Tensor, batch: Batch, adapter: nn.Module) -> Tensor:
        shares: Tensor = adapter(logits)
        return shares

    def loss(self, mixed: Tensor, batch: Batch) -> Tensor | None:
        return CrossEntropy(target=self.target)(Outputs({"": mixed}, class_axes={"": 1}), (), batch, nn.Identity())


class _Weights(nn.Module):
    def __init__(self, teachers: int):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(teachers))

    def forward(self, logits: Tensor) -> Tensor:
        return torch.softmax(self.weights, 0)
