"""Fully connected layers."""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import Annotated, ClassVar

from pydantic import Field
from torch import nn

from compress_cli.data.signature import Signature
from compress_cli.networks.models import Model, last_layer, only_input
from compress_cli.settings import Many


class Mlp(Model):
    """Fully connected layers with ReLU between them; an image is read as a row.

    The default is LeNet-300-100 (LeCun et al. 1998, Proc. IEEE 86:2278).
    """

    width_fields: ClassVar[tuple[str, ...]] = ("hidden",)

    hidden: Many[Annotated[int, Field(ge=1, lt=2**31)]] = Field(
        (300, 100), description="widths of the hidden layers; empty for a linear model"
    )

    def build(self, signature: Signature) -> nn.Module:
        sizes = (prod(only_input(signature, self.type)), *self.hidden)
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), nn.ReLU(inplace=True)]
        return nn.Sequential(*layers, last_layer(sizes[-1], signature, self.type))
