"""The convolutional network for handwritten digits."""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar

from pydantic import Field, PositiveInt
from torch import nn

from compress_cli.data.signature import Signature
from compress_cli.errors import RecipeError
from compress_cli.networks.models import Model, last_layer, only_input
from compress_cli.settings import Many


class Lenet(Model):
    """LeNet-5 (LeCun et al. 1998, Proc. IEEE 86:2278) in Caffe's form, which Deep Compression compresses (arXiv:1510.00149).

    Two 5 x 5 convolutions without padding, each with a max pooling and, as in Caffe, without an activation of its own; then
    two fully connected layers. It needs at least 16 x 16 pixels.

    Layers for features: `conv1`, `pool1`, `conv2`, `pool2`, `relu`, `fc2`.
    """

    width_fields: ClassVar[tuple[str, ...]] = ("widths", "hidden")

    widths: Many[PositiveInt] = Field((20, 50), min_length=2, max_length=2, description="channels of the two convolutions")
    hidden: int = Field(500, ge=1, description="width of the hidden layer")

    def build(self, signature: Signature) -> nn.Module:
        channels, height, width = only_input(signature, self.type, axes=3)
        rows, columns = (((pixels - 4) // 2 - 4) // 2 for pixels in (height, width))
        if min(rows, columns) < 1:
            raise RecipeError(
                f"the model 'lenet' does not pad its convolutions: it needs 16 x 16 pixels, not {height} x {width}"
            )
        first, second = self.widths
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers |= {"conv1": nn.Conv2d(channels, first, 5), "pool1": nn.MaxPool2d(2)}
        layers |= {"conv2": nn.Conv2d(first, second, 5), "pool2": nn.MaxPool2d(2), "flatten": nn.Flatten()}
        layers |= {"fc1": nn.Linear(second * rows * columns, self.hidden), "relu": nn.ReLU(inplace=True)}
        layers["fc2"] = last_layer(self.hidden, signature, self.type)
        body = nn.Sequential(layers)
        for layer in body.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                # Caffe's filler "xavier": uniform, of variance 1 / inputs
                nn.init.kaiming_uniform_(layer.weight, nonlinearity="linear")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        return body
