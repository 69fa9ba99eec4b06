"""The token that stands for the whole input."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from compress_cli.data.batch import Batch, Outputs
from compress_cli.errors import RecipeError
from compress_cli.losses import Layers, Loss, matched
from compress_cli.losses._projection import Distance, distances, projectors


class ClsToken(Loss):
    """Match the state of the first token, which stands for the whole input (patient KD; Sun et al. 2019, arXiv:1908.09355).

    Features (N, T, C), of which position 0 is read; averaged over samples and teachers, summed over layers. A linear
    projector is trained where widths differ.
    """

    layers: Layers = Field(
        min_length=1, description="what is compared: layer names, positions such as -2, or {student: ..., teacher: ...}"
    )
    distance: Distance = Field("mse", description="squares, absolute values, or 1 - cosine over the channels")

    def adapter(self, student: Outputs, teacher: tuple[Outputs, ...], samples: int) -> nn.Module:
        return projectors((_first(own), _first(other)) for own, other in matched(student, teacher, self.layers))

    def __call__(self, student: Outputs, teacher: tuple[Outputs, ...], batch: Batch, adapter: nn.Module) -> Tensor:
        assert isinstance(adapter, nn.ModuleList)
        pairs = zip(adapter, matched(student, teacher, self.layers), strict=True)
        terms = [distances(project(_first(own)), _first(other), self.distance).mean() for project, (own, other) in pairs]
        return torch.stack(terms).sum() / len(teacher)


def _first(features: Tensor) -> Tensor:
    if features.dim() != 3:
        raise RecipeError(f"the first token is read from features (N, T, C); these have shape {tuple(features.shape)}")
    return features[:, 0]
