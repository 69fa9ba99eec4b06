"""Regression on the teacher's logits."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from compress_cli.data.batch import Batch, Outputs
from compress_cli.losses import Loss, average, paired


class LogitMse(Loss):
    """Mean squared difference between the student's and the teacher's outputs (Ba & Caruana 2014, arXiv:1312.6184).

    Averaged over samples, classes, positions and teachers; right for regression heads as well.
    """

    head: str = Field("", description="the head that is compared; default: the only one")
    standardise: bool = Field(
        False, description="bring all logits of a sample to mean 0 and deviation 1 first (Sun et al. 2024)"
    )
    mask: str = Field("", description="input of shape (N, ...) that is 0 at positions to leave out; default: none are")

    def __call__(self, student: Outputs, teacher: tuple[Outputs, ...], batch: Batch, adapter: nn.Module) -> Tensor:
        own, others, kept = paired(student, teacher, batch, self.head, self.mask, self.standardise)
        return torch.stack([average((own - each).square().mean(1), kept) for each in others]).mean()
