"""The teacher's probabilities as labels."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from compress_cli.batch import Batch, Outputs
from compress_cli.losses import Loss, paired


class SoftCrossEntropy(Loss):
    """Cross-entropy with the teacher's probabilities as labels (Ba & Caruana 2014, arXiv:1312.6184, section 2).

    -T^2 * sum_j t_j log s_j with t = softmax(teacher/T), s = softmax(student/T), averaged over samples, positions and
    teachers. Its gradient is that of `soft_targets`; its value keeps the teacher's own entropy. Needs no true labels.
    """

    head: str = Field("", description="the head that is compared; default: the only one")
    temperature: float = Field(1.0, gt=0, description="softens both sides")

    def __call__(self, student: Outputs, teacher: tuple[Outputs, ...], batch: Batch, adapter: nn.Module) -> Tensor:
        own, others = paired(student, teacher, self.head)
        entropies = [self._entropy(own / self.temperature, each / self.temperature) for each in others]
        return torch.stack(entropies).mean() * self.temperature**2

    @staticmethod
    def _entropy(student: Tensor, teacher: Tensor) -> Tensor:
        if student.shape[1] == 1:  # one logit: yes against no
            return functional.binary_cross_entropy_with_logits(student, teacher.sigmoid())
        return -(functional.softmax(teacher, 1) * functional.log_softmax(student, 1)).sum(1).mean()
