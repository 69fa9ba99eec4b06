"""The teachers' weights are learnt along."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from compress_cli.data.batch import Batch, Outputs
from compress_cli.distillation.combinations import Combination
from compress_cli.losses.cross_entropy import CrossEntropy


class Learned(Combination):
    """Learn the teachers' weights while the student learns (stacking; Wolpert 1992, doi:10.1016/S0893-6080(05)80023-1).

    Weights are a softmax of one number a teacher, equal at first, and are trained to make the cross-entropy of the
    combined teacher with the true labels small. That trains the weights alone: the student never moves its own aim.
    """

    target: str = Field("", description="the target that holds the labels; default: the only one")

    def adapter(self, teachers: int) -> nn.Module:
        return _Weights(teachers)

    def shares(self, said: Tensor, batch: Batch, adapter: nn.Module) -> Tensor:
        shares: Tensor = adapter(said)
        return shares

    def loss(self, combined: Tensor, batch: Batch) -> Tensor | None:
        return CrossEntropy(target=self.target)(Outputs({"": combined}), (), batch, nn.Identity())


class _Weights(nn.Module):
    def __init__(self, teachers: int):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(teachers))

    def forward(self, said: Tensor) -> Tensor:
        return torch.softmax(self.weights, 0)
