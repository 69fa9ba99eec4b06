"""DeepFM."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, ClassVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from compress_cli.data.signature import Signature
from compress_cli.networks.models import Model
from compress_cli.networks.models._fields import FieldInput, FieldVectors, field_inputs, head_sizes, pairs, split_heads
from compress_cli.settings import Many


class Deepfm(Model):
    """DeepFM: a factorization machine and a deep network on the same vectors (Guo et al. 2017, arXiv:1703.04247).

        model: {type: deepfm, factors: 10, hidden: [400, 400, 400]}

    It takes rows of any mix of categories, integer inputs such as `user` and `item`, and numbers; the defaults are those of the
    paper's section 3.1. An answer is a score without a sigmoid. With several classes, weights of the linear part, of the
    products and of the last layer are a class's own, the vectors are shared.

    Layers for features: `factors` (N, columns, factors), `factors.layers.0`, ... one per input, `linear`, `deep`, `fc`.
    """

    width_fields: ClassVar[tuple[str, ...]] = ("factors", "hidden")

    factors: PositiveInt = Field(10, description="size of a column's vector")
    hidden: Many[Annotated[int, Field(ge=1, lt=2**31)]] = Field(
        (400, 400, 400), min_length=1, description="widths of the deep part"
    )
    dropout: float = Field(0.5, ge=0, lt=1, description="share of values dropped behind each hidden layer while training")
    deviation: PositiveFloat = Field(0.1, description="of the normal from which vectors are drawn")

    def build(self, signature: Signature) -> nn.Module:
        return _Deepfm(field_inputs(signature, self.type), head_sizes(signature, self.type), self)


class _Deepfm(nn.Module):
    def __init__(self, fields: tuple[FieldInput, ...], sizes: dict[str, int], settings: Deepfm):
        super().__init__()
        self.sizes, outputs = sizes, sum(sizes.values())
        self.linear = FieldVectors(fields, outputs, std=0.0)
        self.factors = FieldVectors(fields, settings.factors, settings.deviation)
        widths = (sum(field.columns for field in fields) * settings.factors, *settings.hidden)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU(inplace=True), nn.Dropout(settings.dropout)]
        self.deep = nn.Sequential(*layers)
        self.fc = nn.Linear(widths[-1], outputs)
        # Of one class the plain sum of all products, as in the paper; of several each weighs it for itself.
        self.products = nn.Parameter(torch.randn(outputs)) if outputs > 1 else None

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Inputs in order -> head name -> (N, classes)."""
        vectors = self.factors(*inputs)  # (N, columns, factors)
        products = pairs(vectors)[:, None]
        if self.products is not None:
            products = products * self.products
        scores = self.linear(*inputs).sum(1) + products + self.fc(self.deep(vectors.flatten(1)))
        return split_heads(scores, self.sizes)
