"""Split channels, transform half of them, shuffle."""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated, ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from compress_cli.data.signature import Signature
from compress_cli.networks.models import Model, Shuffle, last_layer, only_input
from compress_cli.settings import Many


class ShufflenetV2(Model):
    """ShuffleNetV2 (Ma et al. 2018, arXiv:1807.11164) for small images: a stem that does not halve them, three stages that do.

    The default is the student of the distillation literature (Tian et al. 2020, arXiv:1910.10699), the paper's 1x. The
    paper's other widths: 48, 96, 192 (0.5x); 176, 352, 704 (1.5x); 244, 488, 976 with `last: 2048` (2x).

    Layers for features: `conv1`, `layer1` to `layer3`, `conv2`, `avgpool`, `fc`. Channels can be cut
    inside a branch and around the stages (`conv1`, `conv2`), not where they are shuffled.
    """

    width_fields: ClassVar[tuple[str, ...]] = ("widths", "stem", "last")

    widths: Many[Annotated[int, Field(ge=2, multiple_of=2)]] = Field(
        (116, 232, 464), min_length=3, max_length=3, description="channels of the three stages, even numbers"
    )
    blocks: Many[PositiveInt] = Field((4, 8, 4), min_length=3, max_length=3, description="blocks of the three stages")
    stem: int = Field(24, ge=1, description="channels of the first convolution")
    last: int = Field(1024, ge=1, description="channels of the last convolution")

    def build(self, signature: Signature) -> nn.Module:
        channels, _, _ = only_input(signature, self.type, axes=3)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["conv1"] = _pointwise(channels, self.stem)
        before = self.stem
        for stage, (after, blocks) in enumerate(zip(self.widths, self.blocks, strict=True), 1):
            layers[f"layer{stage}"] = nn.Sequential(_Halve(before, after), *(_Block(after) for _ in range(blocks - 1)))
            before = after
        layers["conv2"] = _pointwise(before, self.last)
        layers |= {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
        layers["fc"] = last_layer(self.last, signature, self.type)
        return nn.Sequential(layers)


class _Block(nn.Module):
    """One half of the channels passes, the other is transformed; both are dealt round."""

    def __init__(self, width: int):
        super().__init__()
        half = width // 2
        self.branch = nn.Sequential(_pointwise(half, half), _depthwise(half, 1), _pointwise(half, half))
        self.shuffle = Shuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = x.chunk(2, dim=1)
        out: Tensor = self.shuffle(torch.cat([kept, self.branch(changed)], dim=1))
        return out


class _Halve(nn.Module):
    """Both branches take all channels and halve the image: (N, before, H, W) -> (N, after, H / 2, W / 2)."""

    def __init__(self, before: int, after: int):
        super().__init__()
        half = after // 2
        self.short = nn.Sequential(_depthwise(before, 2), _pointwise(before, half))
        self.branch = nn.Sequential(_pointwise(before, half), _depthwise(half, 2), _pointwise(half, half))
        self.shuffle = Shuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.shuffle(torch.cat([self.short(x), self.branch(x)], dim=1))
        return out


def _pointwise(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True))


def _depthwise(channels: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels))
