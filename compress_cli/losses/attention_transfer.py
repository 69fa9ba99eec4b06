"""Where the teacher looks."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from compress_cli.data.batch import Batch, Outputs
from compress_cli.losses import Layers, Loss, matched, over_teachers, unmasked
from compress_cli.losses._projection import channel_axis, comparable, same_size


class AttentionTransfer(Loss):
    """Match spatial attention maps (Zagoruyko & Komodakis 2017, arXiv:1612.03928).

    A map is sum_c |F_c|^power over the channels, of length 1 (L2) over the positions of a sample; the loss is the mean
    over samples and unmasked positions of the squared difference (the form that the usual weight of 1000 goes with), summed
    over layers, averaged over teachers. Widths may differ; images are averaged down to the smaller size.
    """

    weighs_samples: ClassVar[bool] = True

    layers: Layers = Field(
        min_length=1, description="what is compared: layer names, positions such as -2, or {student: ..., teacher: ...}"
    )
    power: int = Field(2, ge=1, description="how much the strongest activations count")
    mask: str = Field(
        "", description="input of shape (N, T) or (N, H, W) that is 0 at positions to leave out; default: none are"
    )

    def adapter(self, student: Outputs, teacher: tuple[Outputs, ...], samples: int) -> nn.Module:
        for pair in matched(student, teacher, self.layers):
            comparable(*pair, axes=(3, 4))
        return nn.Identity()

    def __call__(self, student: Outputs, teacher: tuple[Outputs, ...], batch: Batch, adapter: nn.Module) -> Tensor:
        pairs = [same_size(*pair) for pair in matched(student, teacher, self.layers, batch, self.mask)]
        terms = [(self._map(s) - self._map(t)).square() for s, t in pairs]
        counts = [unmasked(batch, self.mask, term) for term in terms]
        return over_teachers(terms, counts, teacher)

    def _map(self, features: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, H, W), (N, T, C) -> (N, T)."""
        attention = features.abs().pow(self.power).sum(channel_axis(features))
        return functional.normalize(attention.flatten(1), dim=1).view_as(attention)
