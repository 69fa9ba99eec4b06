"""The state of the token that represents the whole input."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from compress_cli.data.batch import Batch, Outputs
from compress_cli.losses import Layers, Loss, matched, over_teachers
from compress_cli.losses._projection import Distance, distances, first_token, projectors


class FirstToken(Loss):
    """Match the first token's state, norm included (a hint on one token; Romero et al. 2015, arXiv:1412.6550).

    Features (N, T, C), of which position 0 is read; averaged over channels, samples and teachers, summed over layers. A linear
    projector is trained where widths differ. `cls_token` compares the directions alone.
    """

    weighs_samples: ClassVar[bool] = True

    layers: Layers = Field(
        min_length=1, description="what is compared: layer names, positions such as -2, or {student: ..., teacher: ...}"
    )
    distance: Distance = Field("mse", description="squares, absolute values, or 1 - cosine over the channels")

    def adapter(self, student: Outputs, teacher: tuple[Outputs, ...], samples: int) -> nn.Module:
        return projectors((first_token(s), first_token(t)) for s, t in matched(student, teacher, self.layers))

    def __call__(self, student: Outputs, teacher: tuple[Outputs, ...], batch: Batch, adapter: nn.Module) -> Tensor:
        assert isinstance(adapter, nn.ModuleList)
        pairs = zip(adapter, matched(student, teacher, self.layers), strict=True)
        terms = [distances(project(first_token(s)), first_token(t), self.distance) for project, (s, t) in pairs]
        return over_teachers(terms, [torch.ones_like(term) for term in terms], teacher)
