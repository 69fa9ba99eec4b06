"""Adam with decoupled weight decay."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field
from torch import nn, optim

from compress_cli.training.optimizers import Optimizer, groups


class AdamW(Optimizer):
    """Adam with weight decay decoupled from the gradient (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

    learning_rate: float = Field(1e-3, gt=0, description="peak learning rate; the schedule scales it")
    weight_decay: float = Field(0.01, ge=0, description="decay of weights; never of biases and normalisation scales")
    beta1: float = Field(0.9, ge=0, lt=1, description="memory of the gradient's mean")
    beta2: float = Field(0.999, ge=0, lt=1, description="memory of the gradient's square")
    epsilon: float = Field(1e-8, gt=0, description="keeps the step finite where gradients vanish")

    def build(self, parameters: Iterable[nn.Parameter]) -> optim.Optimizer:
        return optim.AdamW(
            groups(parameters, self.weight_decay),
            lr=self.learning_rate,
            betas=(self.beta1, self.beta2),
            eps=self.epsilon,
            fused=True,  # one pass over memory, a fifth of the time of a loop over tensors on a CPU
        )
