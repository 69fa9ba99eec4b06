"""Whoever knows a sample better says more about it."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from compress_cli.data.batch import Batch
from compress_cli.distillation.combinations import Combination
from compress_cli.errors import RecipeError
from compress_cli.losses import chosen


class Confidence(Combination):
    """Weigh the teachers sample by sample (CA-MKD; Zhang et al. 2022, arXiv:2201.00007, equation 2).

    The share of teacher k of K is (1 - exp(l_k) / sum_j exp(l_j)) / (K - 1), where l is its cross-entropy with the true
    label, or, without labels, the entropy of its own probabilities. For heads (N, classes).
    """

    by: Literal["label", "entropy"] = Field("label", description="near the true label, or sure of itself: for unlabelled data")
    target: str = Field("", description="the target that holds the labels, for by: label; default: the only one")

    def shares(self, said: Tensor, batch: Batch, adapter: nn.Module) -> Tensor:
        if said.dim() != 3 or said.shape[2] == 1:
            raise RecipeError("combine: confidence needs heads (N, classes) of two classes or more; give weights instead")
        logs = functional.log_softmax(said, 2)  # (teachers, N, classes)
        if self.by == "label":
            if not batch.targets:
                raise RecipeError(
                    "combine: confidence by label needs the label of every sample; without labels set by: entropy"
                )
            labels = chosen(batch.targets, self.target, "target").long().expand(len(said), -1)
            doubts = -logs.gather(2, labels[:, :, None])[:, :, 0]
        else:
            doubts = -(logs.exp() * logs).sum(2)
        return (1 - torch.softmax(doubts, 0)) / (len(said) - 1)  # (teachers, N)
