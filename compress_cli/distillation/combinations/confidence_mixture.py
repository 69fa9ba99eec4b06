"""Outputs mixed by confidence."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from compress_cli.data.batch import Batch
from compress_cli.distillation.combinations import Combination
from compress_cli.distillation.combinations._confidence import By, confidences


class ConfidenceMixture(Combination):
    """Mix the teachers' logits, sample by sample, by confidence (weights of CA-MKD; Zhang et al. 2022, arXiv:2201.00007).

    The weight of teacher k of K is (1 - exp(l_k) / sum_j exp(l_j)) / (K - 1), where l is its cross-entropy with the true
    label, or, without labels, the entropy of its probabilities. The student learns from one mixed teacher; the paper weighs
    each teacher's loss instead, as `confidence` does. Losses on features average over teachers. For heads (N, classes).
    """

    by: By = Field("label", description="by the true label, or by the entropy of the teacher's probabilities")
    target: str = Field("", description="the target that holds the labels, for by: label; default: the only one")

    def shares(self, logits: Tensor, batch: Batch, adapter: nn.Module) -> Tensor:
        return confidences(logits, batch, self.by, self.target)
