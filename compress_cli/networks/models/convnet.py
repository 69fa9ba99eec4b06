"""A plain stack of convolutions."""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated, ClassVar

from pydantic import Field
from torch import nn

from compress_cli.data.signature import Signature
from compress_cli.errors import RecipeError
from compress_cli.networks.models import Model, last_layer, only_input
from compress_cli.settings import Many


class Convnet(Model):
    """3 x 3 convolutions with batch normalisation, pooling in between, as VGG (Simonyan & Zisserman 2015, arXiv:1409.1556).

    Layers for features: `layer1`, `layer2`, ... one per width; then global average pooling and `fc`.
    """

    width_fields: ClassVar[tuple[str, ...]] = ("widths",)

    widths: Many[Annotated[int, Field(ge=1, lt=2**31)]] = Field(
        (32, 64, 128), min_length=1, description="channels; between two widths the image is halved"
    )
    convs: int = Field(2, ge=1, description="convolutions per width")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of features dropped before the last layer while training")

    def build(self, signature: Signature) -> nn.Module:
        channels, height, width = only_input(signature, self.type, axes=3)
        if min(height, width) >> (len(self.widths) - 1) == 0:
            raise RecipeError(
                f"the model 'convnet' halves the image between {len(self.widths)} widths: {height} x {width} pixels are too few"
            )
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for stage, (before, after) in enumerate(zip((channels, *self.widths), self.widths, strict=False), 1):
            if stage > 1:
                layers[f"pool{stage - 1}"] = nn.MaxPool2d(2)
            layers[f"layer{stage}"] = _layer(before, after, self.convs)
        layers |= {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
        if self.dropout:
            layers["dropout"] = nn.Dropout(self.dropout)
        layers["fc"] = last_layer(self.widths[-1], signature, self.type)
        return nn.Sequential(layers)


def _layer(before: int, after: int, convs: int) -> nn.Sequential:
    steps: list[nn.Module] = []
    for number in range(convs):
        conv = nn.Conv2d(before if number == 0 else after, after, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        steps += [conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*steps)
