"""The teacher's softened probabilities."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from compress_cli.data.batch import Batch, Outputs
from compress_cli.losses import Loss, average, paired


class SoftTargets(Loss):
    """Match the teacher's softened class probabilities (Hinton et al. 2015, arXiv:1503.02531).

    T^2 * KL(softmax(t/T) || softmax(s/T)), averaged over samples, over positions of dense heads (N, classes, ...), and
    over teachers. For a head of one value the probabilities are those of a yes and a no.
    """

    head: str = Field("", description="the head that is compared; default: the only one")
    temperature: float = Field(4.0, gt=0, description="softens both sides; higher shows more of the wrong classes")
    standardise: bool = Field(
        False, description="bring all logits of a sample to mean 0 and deviation 1 first (Sun et al. 2024)"
    )
    mask: str = Field("", description="input of shape (N, ...) that is 0 at positions to leave out; default: none are")

    def __call__(self, student: Outputs, teacher: tuple[Outputs, ...], batch: Batch, adapter: nn.Module) -> Tensor:
        own, others, kept = paired(student, teacher, batch, self.head, self.mask, self.standardise)
        log_q = _log_probabilities(own / self.temperature)
        divergences = [_divergence(_log_probabilities(each / self.temperature), log_q) for each in others]
        # T^2 keeps the gradient's size independent of T (section 2)
        return torch.stack([average(each, kept) for each in divergences]).mean() * self.temperature**2


def _divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    return functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)


def _log_probabilities(logits: Tensor) -> Tensor:
    """(N, classes, ...) -> the same; one value per sample becomes yes and no, (N, 2, ...)."""
    if logits.shape[1] == 1:
        return torch.cat([functional.logsigmoid(logits), functional.logsigmoid(-logits)], 1)
    return functional.log_softmax(logits, 1)
