"""Every teacher's losses, weighed by its confidence in each sample."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn

from compress_cli.data.batch import Batch
from compress_cli.distillation.combinations import Combination
from compress_cli.distillation.combinations._confidence import By, confidences


class Confidence(Combination):
    """Weigh the losses of each teacher, sample by sample, by its confidence (CA-MKD; Zhang et al. 2022, arXiv:2201.00007).

    A loss is sum_k w_k * loss_k, averaged over samples, where loss_k compares the student with teacher k of K and (equation 2)
    w_k = (1 - exp(l_k) / sum_j exp(l_j)) / (K - 1). l is the teacher's cross-entropy with the true label, or, without labels,
    the entropy of its probabilities. Heads (N, classes).

    All losses with a term for each sample take part: on outputs soft_targets, soft_cross_entropy, hard_labels, logit_mse,
    multi_label_targets and dkd; on features hints, hidden_states, cls_token, first_token, attention_transfer, vid and
    review_kd. Losses that relate samples to each other (dist, rkd, pkt, crd, ...) have none: they name their `teacher`, or
    are refused.
    Features are weighed by the teacher's own outputs, too, where the paper takes the cross-entropy of the student's projected
    features under the teacher's classifier, which a table of stored outputs does not have.
    """

    version: ClassVar[int] = 2
    weighs_losses: ClassVar[bool] = True

    by: By = Field("label", description="by the true label, or by the entropy of the teacher's probabilities")
    target: str = Field("", description="the target that holds the labels, for by: label; default: the only one")
    head: str = Field("", description="the head that tells the confidence; default: that of the loss, or the only one")

    def shares(self, logits: Tensor, batch: Batch, adapter: nn.Module) -> Tensor:
        return confidences(logits, batch, self.by, self.target)
