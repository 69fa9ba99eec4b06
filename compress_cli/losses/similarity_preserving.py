"""Similarity of the samples of a batch."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from compress_cli.data.batch import Batch, Outputs
from compress_cli.losses import Layers, Loss, matched
from compress_cli.losses._relations import unit


class SimilarityPreserving(Loss):
    """Match the similarities between the samples of a batch (Tung & Mori 2019, arXiv:1907.09682).

    ||G_t - G_s||^2 / N^2 with G = Q Q', Q the flattened features (N, ...), and the rows of G of length 1 (L2); summed
    over layers, averaged over teachers. Shapes may differ.
    """

    layers: Layers = Field(
        min_length=1, description="what is compared: layer names, positions such as -2, or {student: ..., teacher: ...}"
    )
    mask: str = Field(
        "", description="input of shape (N, T) or (N, H, W) that is 0 at positions to leave out; default: none are"
    )

    def __call__(self, student: Outputs, teacher: tuple[Outputs, ...], batch: Batch, adapter: nn.Module) -> Tensor:
        pairs = matched(student, teacher, self.layers, batch, self.mask)
        terms = [functional.mse_loss(_similarity(s), _similarity(t)) for s, t in pairs]
        return torch.stack(terms).sum() / len(teacher)


def _similarity(features: Tensor) -> Tensor:
    flat = features.flatten(1)
    return unit(flat @ flat.T)  # (N, N)
