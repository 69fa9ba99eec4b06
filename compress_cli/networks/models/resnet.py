"""The residual networks for small images."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator
from torch import Tensor, nn
from torch.nn import functional

from compress_cli.data.signature import Signature
from compress_cli.networks.models import Model, Sum, he_normal, last_layer, only_input
from compress_cli.settings import Many


class Resnet(Model):
    """The CIFAR family of residual networks (He et al. 2016, arXiv:1512.03385, section 4.2), depth 6n + 2.

    The x4 networks of the distillation literature (resnet8x4, resnet32x4) have `widths: [64, 128, 256]` and `stem: 32`.

    Layers for features: `conv1`, `layer1` to `layer3`, `avgpool`, `fc`; a stage before its last activation is the `sum` of its
    last block, counted from 0: `layer3.2.sum` at depth 20 (three blocks a stage), `layer3.8.sum` at depth 56.
    """

    version: ClassVar[int] = 2
    width_fields: ClassVar[tuple[str, ...]] = ("widths", "stem")

    depth: int = Field(20, ge=8, description="layers with weights: 8, 14, 20, 32, 44, 56, 110")
    widths: Many[PositiveInt] = Field((16, 32, 64), min_length=3, max_length=3, description="channels of the three stages")
    stem: int | None = Field(None, ge=1, description="channels of the first convolution; as the first stage where not given")
    shortcut: Literal["projection", "padding", "padding_behind"] = Field(
        "projection",
        description="where widths change: a 1 x 1 convolution (the paper's option B), or channels of zeros (option A). "
        "`padding` puts half of them before the old channels and half behind, as the widely used weights for CIFAR were "
        "trained; `padding_behind` puts all behind. State dicts of the two look alike, and each gives wrong answers in the "
        "other form. Without a projection channels can be cut inside the blocks only",
    )

    @field_validator("depth")
    @classmethod
    def _whole_blocks(cls, value: int) -> int:
        if (value - 2) % 6:
            near = round((value - 2) / 6) * 6 + 2
            raise ValueError(f"must be 6n + 2, such as {near}")
        return value

    @model_validator(mode="after")
    def _room_for_padding(self) -> Resnet:
        if self.shortcut != "projection" and list(self.channels) != sorted(self.channels):
            raise ValueError(f"shortcut: '{self.shortcut}' adds channels, so widths must not shrink (got {self.channels})")
        return self

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the stem and the three stages."""
        return (self.stem or self.widths[0], *self.widths)

    def build(self, signature: Signature) -> nn.Module:
        channels, _, _ = only_input(signature, self.type, axes=3)
        return _Resnet(channels, signature, self)


class _Resnet(nn.Module):
    def __init__(self, channels: int, signature: Signature, settings: Resnet):
        super().__init__()
        stem, first, second, third = settings.channels
        blocks, shortcut = (settings.depth - 2) // 6, settings.shortcut
        self.conv1 = nn.Conv2d(channels, stem, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(stem, first, blocks, 1, shortcut)
        self.layer2 = _stage(first, second, blocks, 2, shortcut)
        self.layer3 = _stage(second, third, blocks, 2, shortcut)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = last_layer(third, signature, settings.type)
        he_normal(self)

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """(N, channels, H, W) -> (N, classes), or head name -> (N, size)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))  # (N, widths[2], H / 4, W / 4)
        heads: Tensor | dict[str, Tensor] = self.fc(self.avgpool(x).flatten(1))
        return heads


class _Block(nn.Module):
    def __init__(self, channels: int, width: int, stride: int, shortcut: str):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.sum = Sum()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            self.shortcut = _shortcut(channels, width, stride, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        activated: Tensor = self.relu(self.sum(out, self.shortcut(x)))
        return activated


class _Padding(nn.Module):
    """Every `stride`-th pixel, and channels of zeros before and behind the old ones."""

    def __init__(self, before: int, behind: int, stride: int):
        super().__init__()
        self.before, self.behind, self.stride = before, behind, stride

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.behind))


def _shortcut(channels: int, width: int, stride: int, kind: str) -> nn.Module:
    """From one number of channels to another, in one of the forms that a recipe may name."""
    if kind == "projection":
        return nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))
    before = (width - channels) // 2 if kind == "padding" else 0
    return _Padding(before, width - channels - before, stride)


def _stage(channels: int, width: int, blocks: int, stride: int, shortcut: str) -> nn.Sequential:
    first = _Block(channels, width, stride, shortcut)
    return nn.Sequential(first, *(_Block(width, width, 1, shortcut) for _ in range(blocks - 1)))
