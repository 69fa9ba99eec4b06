"""Intermediate features as hints."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn

from compress_cli.data.batch import Batch, Outputs
from compress_cli.losses import Layers, Loss, matched, over_teachers, unmasked
from compress_cli.losses._projection import Distance, distances, projectors, same_size


class Hints(Loss):
    """Bring the student's features to the teacher's (FitNets; Romero et al. 2015, arXiv:1412.6550).

    The mean over samples, unmasked positions and channels of the distance between projector(student) and teacher, summed
    over layers, averaged over teachers. Where widths differ the projector (1 x 1 convolution or linear map) is trained too;
    images of different size are averaged down to the smaller.
    """

    weighs_samples: ClassVar[bool] = True

    layers: Layers = Field(
        min_length=1, description="what is compared: layer names, positions such as -2, or {student: ..., teacher: ...}"
    )
    distance: Distance = Field("mse", description="squares, absolute values, or 1 - cosine over the channels")
    mask: str = Field(
        "", description="input of shape (N, T) or (N, H, W) that is 0 at positions to leave out; default: none are"
    )

    def adapter(self, student: Outputs, teacher: tuple[Outputs, ...], samples: int) -> nn.Module:
        return projectors(matched(student, teacher, self.layers))

    def __call__(self, student: Outputs, teacher: tuple[Outputs, ...], batch: Batch, adapter: nn.Module) -> Tensor:
        assert isinstance(adapter, nn.ModuleList)
        pairs = zip(adapter, matched(student, teacher, self.layers, batch, self.mask), strict=True)
        terms = [distances(*same_size(project(s), t), self.distance) for project, (s, t) in pairs]
        counts = [unmasked(batch, self.mask, term) for term in terms]
        return over_teachers(terms, counts, teacher)
