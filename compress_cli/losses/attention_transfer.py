"""Where the teacher looks."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from compress_cli.data.batch import Batch, Outputs
from compress_cli.losses import Layers, Loss, average, matched, unmasked
from compress_cli.losses._projection import channel_axis, comparable, same_size


class AttentionTransfer(Loss):
    """Match maps of where activations are large (Zagoruyko & Komodakis 2017, arXiv:1612.03928).

    A map is sum_c |F_c|^power over the channels, of length 1 (L2) over the positions of a sample; the loss is the mean
    over samples and unmasked positions of the squared difference (the form that the usual weight of 1000 goes with), summed
    over layers, averaged over teachers. Widths may differ; images are averaged down to the smaller size.
    """

    layers: Layers = Field(
        min_length=1, description="what is compared: layer names, positions such as -2, or {student: ..., teacher: ...}"
    )
    power: int = Field(2, ge=1, description="how much the strongest activations count")
    mask: str = Field(
        "", description="input of shape (N, T) or (N, H, W) that is 0 at positions to leave out; default: none are"
    )

    def adapter(self, student: Outputs, teacher: tuple[Outputs, ...], samples: int) -> nn.Module:
        for own, other in matched(student, teacher, self.layers):
            comparable(own, other, axes=(3, 4))
        return nn.Identity()

    def __call__(self, student: Outputs, teacher: tuple[Outputs, ...], batch: Batch, adapter: nn.Module) -> Tensor:
        pairs = [same_size(*pair) for pair in matched(student, teacher, self.layers, batch, self.mask)]
        terms = [(self._map(own) - self._map(other)).square() for own, other in pairs]
        return torch.stack([average(each, unmasked(batch, self.mask, each)) for each in terms]).sum() / len(teacher)

    def _map(self, features: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, H, W), (N, T, C) -> (N, T)."""
        found = features.abs().pow(self.power).sum(channel_axis(features))
        return functional.normalize(found.flatten(1), dim=1).view_as(found)
