"""Confidence of teachers, sample by sample."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from compress_cli.data.batch import Batch
from compress_cli.errors import RecipeError
from compress_cli.losses import chosen

By = Literal["label", "entropy"]


def confidences(logits: Tensor, batch: Batch, by: By, target: str) -> Tensor:
    """(1 - exp(l_k) / sum_j exp(l_j)) / (K - 1) for K teachers' logits (K, N, classes): (K, N), with sum 1 over teachers.

    l is a teacher's cross-entropy with the true label, or the entropy of its probabilities; a label of -100 is none, and weighs
    all teachers alike. RecipeError for dense heads, heads of one value and missing labels.
    """
    if logits.dim() != 3 or logits.shape[2] == 1:
        raise RecipeError(
            "the confidence of a teacher is read from heads (N, classes) of two classes or more; choose another `combine`, "
            "such as weighted"
        )
    log_p = functional.log_softmax(logits, 2)
    if by == "label":
        if not batch.targets:
            raise RecipeError("the confidence by label needs the label of every sample; without labels set by: entropy")
        classes = chosen(batch.targets, target, "target").long().expand(len(logits), -1)
        entropies = -log_p.gather(2, classes.clamp(min=0)[:, :, None])[:, :, 0]
        losses = torch.where(classes == -100, 0, entropies)
    else:
        losses = -(log_p.exp() * log_p).sum(2)
    return (1 - torch.softmax(losses, 0)) / (len(logits) - 1)
