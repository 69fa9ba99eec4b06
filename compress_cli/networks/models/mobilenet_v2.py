"""Inverted residuals with linear bottlenecks."""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar, Literal

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from compress_cli.data.signature import Signature
from compress_cli.networks.models import Model, he_normal, last_layer, only_input, small_normal
from compress_cli.settings import Many

_STEM, _LAST = 32, 1280  # channels of the first and the last convolution, before `width`
_CHANNELS = (16, 24, 32, 64, 96, 160, 320)  # table 2 of the paper: c
_BLOCKS = (1, 2, 3, 4, 3, 3, 1)  # n


class MobilenetV2(Model):
    """MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381), by default with fewer strides, for images of 32 x 32 pixels.

    The distillation literature's student (Tian et al. 2020, arXiv:1910.10699) is `{width: 0.5, activation: relu}`; the paper's
    network for 224 x 224 pixels is `{strides: [2, 1, 2, 2, 2, 1, 2, 1], multiple: 8, dropout: 0.2}`.

    Layers for features: `conv1`, `layer1` to `layer7` (the paper's seven rows, none with an activation at its end; hints are
    commonly taken from 2, 3, 5 and 7), `conv2`, `avgpool`, `fc`.
    """

    width_fields: ClassVar[tuple[str, ...]] = ("width",)

    width: float = Field(1.0, gt=0, description="all channels are multiplied by it; the last convolution only where above 1")
    expansion: int = Field(6, ge=1, description="channels inside a block per channel at its ends, from layer2 on")
    strides: Many[Literal[1, 2]] = Field(
        (2, 1, 1, 2, 2, 1, 2, 1), min_length=8, max_length=8, description="of the first convolution and the seven layers"
    )
    multiple: PositiveInt = Field(1, description="channels are rounded to a multiple of it (8 in the authors' code)")
    activation: Literal["relu6", "relu"] = Field("relu6", description="relu6 is cut off at 6")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of features dropped before the last layer while training")

    def build(self, signature: Signature) -> nn.Module:
        channels, _, _ = only_input(signature, self.type, axes=3)
        before = self._scaled(_STEM)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["conv1"] = nn.Sequential(*self._convolve(channels, before, 3, self.strides[0]))
        for stage, (width, blocks, stride) in enumerate(zip(_CHANNELS, _BLOCKS, self.strides[1:], strict=True), 1):
            after = self._scaled(width)
            layers[f"layer{stage}"] = nn.Sequential(
                self._block(before, after, stride, 1 if stage == 1 else self.expansion),
                *(self._block(after, after, 1, 1 if stage == 1 else self.expansion) for _ in range(blocks - 1)),
            )
            before = after
        last = _rounded(_LAST * max(self.width, 1.0), self.multiple)
        layers["conv2"] = nn.Sequential(*self._convolve(before, last, 1))
        layers |= {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
        if self.dropout:
            layers["dropout"] = nn.Dropout(self.dropout)
        layers["fc"] = last_layer(last, signature, self.type)
        body = nn.Sequential(layers)
        he_normal(body)
        small_normal(body)
        return body

    def _scaled(self, channels: int) -> int:
        return _rounded(channels * self.width, self.multiple)

    def _block(self, before: int, after: int, stride: int, expansion: int) -> _Block:
        inside = before * expansion
        steps = self._convolve(before, inside, 1) if expansion > 1 else []
        steps += self._convolve(inside, inside, 3, stride, groups=inside)
        steps += [nn.Conv2d(inside, after, 1, bias=False), nn.BatchNorm2d(after)]
        return _Block(nn.Sequential(*steps), shortcut=stride == 1 and before == after)

    def _convolve(self, before: int, after: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
        return [
            nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU6(inplace=True) if self.activation == "relu6" else nn.ReLU(inplace=True),
        ]


class _Block(nn.Module):
    """Expand, convolve each channel on its own, project: (N, before, H, W) -> (N, after, H / stride, W / stride)."""

    def __init__(self, conv: nn.Sequential, shortcut: bool):
        super().__init__()
        self.conv, self.shortcut = conv, shortcut

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return x + out if self.shortcut else out


def _rounded(channels: float, multiple: int) -> int:
    """The nearest multiple, at least one, and never more than a tenth below `channels` (the authors' rule)."""
    nearest = max(multiple, int(channels + multiple / 2) // multiple * multiple)
    return nearest if nearest >= 0.9 * channels else nearest + multiple
