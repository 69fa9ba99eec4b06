"""Wide & Deep."""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import Annotated, ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from compress_cli.data.signature import Signature
from compress_cli.errors import RecipeError
from compress_cli.networks.models import Model
from compress_cli.networks.models._fields import FieldInput, FieldVectors, field_inputs, head_sizes, numbers, split_heads
from compress_cli.settings import Many, suggest

_LARGEST_CROSS = 10_000_000  # combinations, each with a weight for every class


class WideAndDeep(Model):
    """Wide & Deep: a linear model of columns and of their crosses, and a deep network (Cheng et al. 2016, arXiv:1606.07792).

        model: {type: wide_and_deep, crosses: [[education, occupation]], embedding: 8, hidden: [100, 50]}

    It takes rows of any mix of categories, integer inputs, and numbers. The deep part sees an embedding of each category beside
    the numbers as they are; the wide part is linear in all of them and in each combination of categories that `crosses` names,
    equation 1 of the paper. An answer is a score without a sigmoid.

    Layers for features: `wide` (N, columns, classes), `embedding` (N, categories, width), `embedding.layers.0`, ... one per
    input of categories, `deep`, `fc`.
    """

    width_fields: ClassVar[tuple[str, ...]] = ("embedding", "hidden")

    crosses: Many[Many[str]] = Field((), description="groups of inputs whose combinations have weights in the wide part")
    embedding: PositiveInt = Field(32, description="size of a category's vector in the deep part")
    hidden: Many[Annotated[int, Field(ge=1, lt=2**31)]] = Field(
        (1024, 512, 256), min_length=1, description="widths of the deep part"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="share of values dropped behind each hidden layer while training")

    def build(self, signature: Signature) -> nn.Module:
        fields = field_inputs(signature, self.type)
        crosses = tuple(_Cross(names, fields) for names in self.crosses)
        return _WideAndDeep(fields, crosses, head_sizes(signature, self.type), self)


class _Cross:
    """A combination of categories as one number: of (a, b) with 3 and 5 categories, `5 a + b`."""

    def __init__(self, names: tuple[str, ...], fields: tuple[FieldInput, ...]):
        single = {field.name: (place, field.values) for place, field in enumerate(fields) if field.values and not field.row}
        for name in names:
            if name not in single:
                hint = suggest(name, list(single)) if single else "the dataset has none"
                raise RecipeError(f"crosses: '{name}' is no input of one category; {hint}")
        if len(set(names)) < max(2, len(names)):
            raise RecipeError(f"crosses: takes two different inputs or more in each group (got: {', '.join(names) or 'none'})")
        self.places, sizes = zip(*(single[name] for name in names), strict=True)
        self.field = FieldInput(" x ".join(names), 1, prod(sizes), False)
        self.steps = tuple(prod(sizes[place + 1 :]) for place in range(len(sizes)))
        if self.field.values > _LARGEST_CROSS:
            raise RecipeError(
                f"crosses: {self.field.name} has {self.field.values:,} combinations, more than {_LARGEST_CROSS:,}; leave one "
                "out"
            )

    def __call__(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """(N,)"""
        parts = [inputs[place].long() * step for place, step in zip(self.places, self.steps, strict=True)]
        return torch.stack(parts).sum(0)


class _WideAndDeep(nn.Module):
    def __init__(
        self, fields: tuple[FieldInput, ...], crosses: tuple[_Cross, ...], sizes: dict[str, int], settings: WideAndDeep
    ):
        super().__init__()
        self.fields, self.crosses, self.sizes, outputs = fields, crosses, sizes, sum(sizes.values())
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.wide = FieldVectors((*fields, *(cross.field for cross in crosses)), outputs, std=0.0)
        self.categories = tuple(place for place, field in enumerate(fields) if field.values)
        size, embedded = settings.embedding, tuple(fields[place] for place in self.categories)
        self.embedding = FieldVectors(embedded, size, size**-0.5)
        columns = size * sum(field.columns for field in embedded) + sum(field.columns for field in fields if not field.values)
        widths = (columns, *settings.hidden)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU(inplace=True)]
            layers += [nn.Dropout(settings.dropout)] if settings.dropout else []
        self.deep = nn.Sequential(*layers)
        self.fc = nn.Linear(widths[-1], outputs, bias=False)

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Inputs in order -> head name -> (N, classes)."""
        dense = [numbers(self.fields, inputs)] if len(self.categories) < len(self.fields) else []
        if self.categories:
            dense.append(self.embedding(*(inputs[place] for place in self.categories)).flatten(1))
        wide = self.wide(*inputs, *(cross(inputs) for cross in self.crosses)).sum(1)
        return split_heads(wide + self.bias + self.fc(self.deep(torch.cat(dense, 1))), self.sizes)
