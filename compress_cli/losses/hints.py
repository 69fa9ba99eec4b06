"""Intermediate features as hints."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from compress_cli.batch import Batch, Outputs
from compress_cli.losses import Distance, Layers, Loss, distances, matched, projectors, same_size


class Hints(Loss):
    """Bring the student's features to the teacher's (FitNets; Romero et al. 2015, arXiv:1412.6550).

    The mean over samples, positions and channels of the distance between projector(student) and teacher, summed over
    layers, averaged over teachers. Where widths differ the projector (1 x 1 convolution or linear map) is trained along;
    images of different size are averaged down to the smaller.
    """

    layers: Layers = Field(min_length=1, description="what is compared: layer names, or {student: ..., teacher: ...}")
    distance: Distance = Field("mse", description="squares, absolute values, or 1 - cosine over the channels")

    def adapter(self, student: Outputs, teacher: tuple[Outputs, ...], samples: int) -> nn.Module:
        return projectors(student, teacher, self.layers)

    def __call__(self, student: Outputs, teacher: tuple[Outputs, ...], batch: Batch, adapter: nn.Module) -> Tensor:
        assert isinstance(adapter, nn.ModuleList)
        pairs = zip(adapter, matched(student, teacher, self.layers), strict=True)
        terms = [distances(*same_size(project(own), other), self.distance).mean() for project, (own, other) in pairs]
        return torch.stack(terms).sum() / len(teacher)
