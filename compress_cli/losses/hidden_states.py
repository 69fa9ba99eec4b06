"""Hidden states of transformers."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from compress_cli.data.batch import Batch, Outputs
from compress_cli.losses import Layers, Loss, average, matched, unmasked
from compress_cli.losses._projection import Distance, distances, projectors


class HiddenStates(Loss):
    """Match the hidden states of tokens (cosine, as DistilBERT; Sanh et al. 2019, arXiv:1910.01108).

    Or by MSE with a trained projection, as TinyBERT (Jiao et al. 2020, arXiv:1909.10351). Features (N, T, C); the mean
    over tokens that are not masked, summed over layers, averaged over teachers. A linear projector is trained where
    widths differ.
    """

    layers: Layers = Field(
        min_length=1, description="what is compared: layer names, positions such as -2, or {student: ..., teacher: ...}"
    )
    distance: Distance = Field("cosine", description="squares, absolute values, or 1 - cosine over the channels")
    mask: str = Field("", description="input of shape (N, T) that is 0 at padding, such as attention_mask; default: none")

    def adapter(self, student: Outputs, teacher: tuple[Outputs, ...], samples: int) -> nn.Module:
        return projectors(matched(student, teacher, self.layers), axes=(3,))

    def __call__(self, student: Outputs, teacher: tuple[Outputs, ...], batch: Batch, adapter: nn.Module) -> Tensor:
        assert isinstance(adapter, nn.ModuleList)
        pairs = zip(adapter, matched(student, teacher, self.layers, batch, self.mask), strict=True)
        terms = [distances(project(own), other, self.distance) for project, (own, other) in pairs]
        return torch.stack([average(each, unmasked(batch, self.mask, each)) for each in terms]).sum() / len(teacher)
