"""Regression on the teacher's logits."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from compress_cli.batch import Batch, Outputs
from compress_cli.losses import Loss, paired


class LogitMse(Loss):
    """Mean squared difference between the student's and the teacher's outputs (Ba & Caruana 2014, arXiv:1312.6184).

    Averaged over samples, classes, positions and teachers; right for regression heads as well.
    """

    head: str = Field("", description="the head that is compared; default: the only one")

    def __call__(self, student: Outputs, teacher: tuple[Outputs, ...], batch: Batch, adapter: nn.Module) -> Tensor:
        own, others = paired(student, teacher, self.head)
        return torch.stack([functional.mse_loss(own, each) for each in others]).mean()
