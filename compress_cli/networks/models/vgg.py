"""VGG for small images."""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar, Literal

from pydantic import Field, PositiveInt
from torch import nn

from compress_cli.data.signature import Signature
from compress_cli.errors import RecipeError
from compress_cli.networks.models import Model, he_normal, last_layer, only_input, small_normal
from compress_cli.settings import Many

_CONVOLUTIONS = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Depth as the literature counts it -> convolutions of the five stages (table 1 of the paper; 8 is the distillation
literature's). The count includes three fully connected layers, of which the form for small images keeps one."""

_FOURTH_POOL = 64  # pixels from which the last stage too is halved, so that it sees 4 x 4 of 64 x 64 pixels as of 32 x 32


class Vgg(Model):
    """VGG for small images: batch normalisation, one fully connected layer (Simonyan & Zisserman 2015, arXiv:1409.1556).

    The form of the distillation literature (Tian et al. 2020, arXiv:1910.10699): three poolings, so 32 x 32 pixels end as
    4 x 4 and at least 8 x 8 are needed; from 64 x 64 pixels a fourth.

    Layers for features: `layer1` to `layer5`, `avgpool`, `fc`; a stage before its last activation is its last batch
    normalisation: `layer5.1` at depth 8 (one convolution a stage), `layer5.4` at depth 13 (two).
    """

    width_fields: ClassVar[tuple[str, ...]] = ("widths",)

    depth: Literal[8, 11, 13, 16, 19] = Field(16, description="8, 11, 13, 16 or 19")
    widths: Many[PositiveInt] = Field(
        (64, 128, 256, 512, 512), min_length=5, max_length=5, description="channels of the five stages"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="share of features dropped before the last layer while training")

    def build(self, signature: Signature) -> nn.Module:
        channels, height, width = only_input(signature, self.type, axes=3)
        if min(height, width) < 8:
            raise RecipeError(
                f"the model 'vgg' halves the image three times and needs 8 x 8 pixels; the dataset gives {height} x {width}"
            )
        pools = 4 if min(height, width) >= _FOURTH_POOL else 3
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        before = channels
        for stage, (after, convolutions) in enumerate(zip(self.widths, _CONVOLUTIONS[self.depth], strict=True), 1):
            layers[f"layer{stage}"] = _stage(before, after, convolutions)
            if stage <= pools:
                layers[f"pool{stage}"] = nn.MaxPool2d(2)
            before = after
        layers |= {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
        if self.dropout:
            layers["dropout"] = nn.Dropout(self.dropout)
        layers["fc"] = last_layer(before, signature, self.type)
        body = nn.Sequential(layers)
        he_normal(body)
        small_normal(body)
        return body


def _stage(before: int, after: int, convolutions: int) -> nn.Sequential:
    steps: list[nn.Module] = []
    for number in range(convolutions):
        # The biases do nothing before a batch normalisation; they are there because published sizes count them.
        conv = nn.Conv2d(before if number == 0 else after, after, 3, padding=1)
        assert conv.bias is not None
        nn.init.zeros_(conv.bias)
        steps += [conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*steps)
