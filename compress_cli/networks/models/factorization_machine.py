"""Factorization machine."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from compress_cli.data.signature import Signature
from compress_cli.networks.models import Model
from compress_cli.networks.models._fields import FieldInput, FieldVectors, field_inputs, head_sizes, pairs, split_heads


class FactorizationMachine(Model):
    """Factorization machine: each pair of columns interacts by the product of their factors (Rendle 2010, ICDM, eq. 1).

        model: {type: factorization_machine, factors: 8}

    It takes rows of any mix of categories, integer inputs such as `user` and `item`, and numbers. All pairs together take time
    linear in the columns (lemma 3.1). Every class has factors of its own; an answer is a score without a sigmoid.

    Layers for features: `factors` (N, columns, classes x factors), `factors.layers.0`, ... one per input, `linear`.
    """

    width_fields: ClassVar[tuple[str, ...]] = ("factors",)

    factors: PositiveInt = Field(8, description="size of a column's vector, for each class")
    deviation: PositiveFloat = Field(0.1, description="of the normal from which factors are drawn (libFM's default)")

    def build(self, signature: Signature) -> nn.Module:
        return _FactorizationMachine(field_inputs(signature, self.type), head_sizes(signature, self.type), self)


class _FactorizationMachine(nn.Module):
    def __init__(self, fields: tuple[FieldInput, ...], sizes: dict[str, int], settings: FactorizationMachine):
        super().__init__()
        self.sizes, outputs = sizes, sum(sizes.values())
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.linear = FieldVectors(fields, outputs, std=0.0)
        self.factors = FieldVectors(fields, outputs * settings.factors, settings.deviation)

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Inputs in order -> head name -> (N, classes)."""
        vectors = self.factors(*inputs).unflatten(2, (len(self.bias), -1))  # (N, columns, classes, factors)
        scores = self.bias + self.linear(*inputs).sum(1) + pairs(vectors)
        return split_heads(scores, self.sizes)
