"""Residual networks that are wide rather than deep."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, PositiveInt, field_validator
from torch import Tensor, nn

from compress_cli.data.signature import Signature
from compress_cli.networks.models import Model, he_normal, last_layer, only_input
from compress_cli.settings import Many


class WideResnet(Model):
    """Wide residual networks WRN-depth-widening for small images (Zagoruyko & Komodakis 2016, arXiv:1605.07146).

    Layers for features: `conv1`, `layer1` to `layer3` (sums, not yet normalised), `relu`, `avgpool`, `fc`; the stages before
    their activation are `layer2.0.bn1`, `layer3.0.bn1` and `bn1`.
    """

    width_fields: ClassVar[tuple[str, ...]] = ("widths", "stem")

    depth: int = Field(40, ge=10, description="layers with weights, 6n + 4: 10, 16, 22, 28, 40")
    widening: int = Field(2, ge=1, description="every stage has that many times its width")
    widths: Many[PositiveInt] = Field(
        (16, 32, 64), min_length=3, max_length=3, description="channels of the three stages before widening"
    )
    stem: int = Field(16, ge=1, description="channels of the first convolution")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of values dropped between the convolutions of a block")

    @field_validator("depth")
    @classmethod
    def _whole_blocks(cls, value: int) -> int:
        if (value - 4) % 6:
            near = round((value - 4) / 6) * 6 + 4
            raise ValueError(f"must be 6n + 4, such as {near}")
        return value

    def build(self, signature: Signature) -> nn.Module:
        channels, _, _ = only_input(signature, self.type, axes=3)
        return _WideResnet(channels, signature, self)


class _WideResnet(nn.Module):
    def __init__(self, channels: int, signature: Signature, settings: WideResnet):
        super().__init__()
        stem, blocks, dropout = settings.stem, (settings.depth - 4) // 6, settings.dropout
        first, second, third = (settings.widening * width for width in settings.widths)
        self.conv1 = nn.Conv2d(channels, stem, 3, padding=1, bias=False)
        self.layer1 = _stage(stem, first, blocks, 1, dropout)
        self.layer2 = _stage(first, second, blocks, 2, dropout)
        self.layer3 = _stage(second, third, blocks, 2, dropout)
        self.bn1 = nn.BatchNorm2d(third)
        self.relu = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = last_layer(third, signature, settings.type)
        he_normal(self)
        for module in self.fc.modules():
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """(N, channels, H, W) -> (N, classes), or head name -> (N, size)."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))  # (N, widening * widths[2], H / 4, W / 4)
        heads: Tensor | dict[str, Tensor] = self.fc(self.avgpool(self.relu(self.bn1(x))).flatten(1))
        return heads


class _Block(nn.Module):
    def __init__(self, channels: int, width: int, stride: int, dropout: float):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        changes = stride != 1 or channels != width
        self.shortcut = nn.Conv2d(channels, width, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        activated = self.relu1(self.bn1(x))
        # Where the width changes, both branches start from the activated input, as in the authors' code.
        kept = x if self.shortcut is None else self.shortcut(activated)
        out: Tensor = kept + self.conv2(self.dropout(self.relu2(self.bn2(self.conv1(activated)))))
        return out


def _stage(channels: int, width: int, blocks: int, stride: int, dropout: float) -> nn.Sequential:
    first = _Block(channels, width, stride, dropout)
    return nn.Sequential(first, *(_Block(width, width, 1, dropout) for _ in range(blocks - 1)))
