"""Hidden states of transformers."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn

from compress_cli.data.batch import Batch, Outputs
from compress_cli.losses import Layers, Loss, matched, over_teachers, unmasked
from compress_cli.losses._projection import Distance, distances, projectors


class HiddenStates(Loss):
    """Match the hidden states of tokens (cosine, as DistilBERT; Sanh et al. 2019, arXiv:1910.01108).

    Or by MSE with a trained projection, as TinyBERT (Jiao et al. 2020, arXiv:1909.10351). Features (N, T, C); the mean
    over tokens that are not masked, summed over layers, averaged over teachers. A linear projector is trained where
    widths differ.
    """

    weighs_samples: ClassVar[bool] = True

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
        terms = [distances(project(s), t, self.distance) for project, (s, t) in pairs]
        counts = [unmasked(batch, self.mask, term) for term in terms]
        return over_teachers(terms, counts, teacher)
