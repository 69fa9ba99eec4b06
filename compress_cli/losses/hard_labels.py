"""The teacher's decision as the label."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from compress_cli.data.batch import Batch, Outputs
from compress_cli.losses import Loss, average, paired


class HardLabels(Loss):
    """Cross-entropy with the class the teacher decides for (hard distillation; Touvron et al. 2021, arXiv:2012.12877).

    Works on data without labels. Averaged over samples, positions and teachers. A head of one value decides for yes
    where it is above 0.
    """

    head: str = Field("", description="the head that is compared; default: the only one")
    mask: str = Field("", description="input of shape (N, ...) that is 0 at positions to leave out; default: none are")

    def __call__(self, student: Outputs, teacher: tuple[Outputs, ...], batch: Batch, adapter: nn.Module) -> Tensor:
        own, others, kept = paired(student, teacher, batch, self.head, self.mask)
        return torch.stack([average(_entropy(own, each), kept) for each in others]).mean()


def _entropy(student: Tensor, teacher: Tensor) -> Tensor:
    """(N, classes, ...) -> (N, ...)."""
    if student.shape[1] == 1:
        return functional.binary_cross_entropy_with_logits(student, (teacher > 0).to(student.dtype), reduction="none")[:, 0]
    return functional.cross_entropy(student, teacher.argmax(1), reduction="none")
