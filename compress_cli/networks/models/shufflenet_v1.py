"""Grouped 1 x 1 convolutions with channel shuffle."""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from compress_cli.data.signature import Signature
from compress_cli.networks.models import Model, Shuffle, Sum, last_layer, only_input
from compress_cli.settings import Many


class ShufflenetV1(Model):
    """ShuffleNet (Zhang et al. 2018, arXiv:1707.01083) for small images: a stem that does not halve them, three stages that do.

    The default is the student of the distillation literature (Tian et al. 2020, arXiv:1910.10699); the paper's widths for
    other `groups` are 144, 200, 272 and 384 at 1, 2, 4 and 8, doubled from stage to stage.

    Layers for features: `conv1`, `layer1` to `layer3`, `avgpool`, `fc`; a stage before its last activation is the `join`
    of its last block, counted from 0: `layer3.3.join`. Channels can be cut inside the blocks, between their grouped
    convolutions in units of groups x groups, where widths leave room for units; those that blocks pass on can't be cut.
    """

    width_fields: ClassVar[tuple[str, ...]] = ("widths", "stem")

    widths: Many[PositiveInt] = Field((240, 480, 960), min_length=3, max_length=3, description="channels of the three stages")
    blocks: Many[PositiveInt] = Field((4, 8, 4), min_length=3, max_length=3, description="blocks of the three stages")
    groups: int = Field(3, ge=1, description="groups of the 1 x 1 convolutions")
    stem: int = Field(24, ge=1, description="channels of the first convolution")

    @model_validator(mode="after")
    def _whole_groups(self) -> ShufflenetV1:
        channels = (self.stem, *self.widths)
        if odd := [width for width in channels if width % self.groups]:
            raise ValueError(f"widths and stem must be multiples of groups ({self.groups}); {odd[0]} is not")
        for before, after in zip(channels, self.widths, strict=False):
            least = before + 4 * self.groups
            if after < least:
                raise ValueError(f"widths: {after} after {before} is too narrow: {least} or more (4 * groups are added)")
        return self

    @property
    def width_multiple(self) -> int:
        """Groups of the 1 x 1 convolutions, within blocks a quarter as wide too."""
        return 4 * self.groups

    def build(self, signature: Signature) -> nn.Module:
        channels, _, _ = only_input(signature, self.type, axes=3)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["conv1"] = nn.Conv2d(channels, self.stem, 1, bias=False)
        layers |= {"bn1": nn.BatchNorm2d(self.stem), "relu": nn.ReLU(inplace=True)}
        before = self.stem
        for stage, (after, blocks) in enumerate(zip(self.widths, self.blocks, strict=True), 1):
            # The stem has too few channels for its first convolution to be grouped (section 3.2 of the paper).
            first = _Block(before, after - before, 2, 1 if stage == 1 else self.groups, self.groups)
            rest = (_Block(after, after, 1, self.groups, self.groups) for _ in range(blocks - 1))
            layers[f"layer{stage}"] = nn.Sequential(first, *rest)
            before = after
        layers |= {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
        layers["fc"] = last_layer(before, signature, self.type)
        return nn.Sequential(layers)


class _Block(nn.Module):
    """A bottleneck of grouped convolutions with a shortcut: added to the output, or pooled and concatenated at stride 2."""

    def __init__(self, channels: int, width: int, stride: int, groups_in: int, groups: int):
        super().__init__()
        narrow = width // 4 // groups * groups
        self.conv1 = nn.Conv2d(channels, narrow, 1, groups=groups_in, bias=False)
        self.bn1 = nn.BatchNorm2d(narrow)
        self.shuffle = Shuffle(groups_in)
        self.conv2 = nn.Conv2d(narrow, narrow, 3, stride, padding=1, groups=narrow, bias=False)
        self.bn2 = nn.BatchNorm2d(narrow)
        self.conv3 = nn.Conv2d(narrow, width, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.join = Sum() if stride == 1 else _Append()

    def forward(self, x: Tensor) -> Tensor:
        out = self.shuffle(self.relu(self.bn1(self.conv1(x))))
        # The distillation literature, unlike the paper, activates the middle convolution too.
        out = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(out)))))
        activated: Tensor = self.relu(self.join(out, x))
        return activated


class _Append(nn.Module):
    """Halves the second branch and puts its channels behind those of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(3, stride=2, padding=1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([x, self.pool(y)], dim=1)
