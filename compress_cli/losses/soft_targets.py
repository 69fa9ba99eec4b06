"""The teacher's softened probabilities."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from compress_cli.data.batch import Batch, Outputs
from compress_cli.losses import Loss, over_teachers, paired


class SoftTargets(Loss):
    """Match the teacher's softened class probabilities (Hinton et al. 2015, arXiv:1503.02531).

    T^2 * KL(softmax(t/T) || softmax(s/T)), averaged over samples, over positions of dense heads (N, classes, ...), and
    over teachers. A head of one value gives the probabilities of two classes, by its sigmoid.
    """

    weighs_samples: ClassVar[bool] = True

    head: str = Field("", description="the head that is compared; default: the only one")
    temperature: float = Field(4.0, gt=0, description="softens both sides; higher gives the wrong classes more weight")
    standardise: bool = Field(
        False,
        description="bring all logits of a sample to mean 0 and deviation 1 first (Sun et al. 2024); from 3 classes on",
    )
    mask: str = Field("", description="input of shape (N, ...) that is 0 at positions to leave out; default: none are")

    def __call__(self, student: Outputs, teacher: tuple[Outputs, ...], batch: Batch, adapter: nn.Module) -> Tensor:
        student_logits, teacher_logits, counts = paired(self, student, teacher, batch, standardise=self.standardise)
        log_q = _log_probabilities(student_logits / self.temperature)
        divergences = [_divergence(_log_probabilities(logits / self.temperature), log_q) for logits in teacher_logits]
        # T^2 keeps the gradient's size independent of T (section 2)
        return over_teachers(divergences, [counts] * len(teacher), teacher) * self.temperature**2


def _divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    return functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)


def _log_probabilities(logits: Tensor) -> Tensor:
    """(N, classes, ...) -> the same; one value per sample becomes yes and no, (N, 2, ...)."""
    if logits.shape[1] == 1:
        return torch.cat([functional.logsigmoid(logits), functional.logsigmoid(-logits)], 1)
    return functional.log_softmax(logits, 1)
