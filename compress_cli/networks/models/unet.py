"""U-Net."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from compress_cli.data.signature import Head, Signature
from compress_cli.errors import RecipeError
from compress_cli.networks.models import Model, described, floating, he_normal
from compress_cli.settings import Many


class Unet(Model):
    """U-Net for segmentation (Ronneberger et al. 2015, arXiv:1505.04597): a head (classes x height x width) per target.

        model: {type: unet, widths: [16, 32, 64]}

    Two 3 x 3 convolutions at each of several scales down, and up again beside what the way down saw there. Convolutions are
    padded and followed by batch normalisation, as in most code since, so that an answer has the picture's size; where that is
    odd, the way up gets a row or column of zeros.

    Layers for features: `down.0`, ... one per width, the last the coarsest, `up.0`, ... from coarse to fine, `fc`.
    """

    width_fields: ClassVar[tuple[str, ...]] = ("widths",)

    widths: Many[Annotated[int, Field(ge=1, lt=2**31)]] = Field(
        (64, 128, 256, 512, 1024), min_length=2, description="channels; between two widths the picture is halved"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="share of values dropped at the coarsest scale while training")

    def build(self, signature: Signature) -> nn.Module:
        shapes = [spec.shape for spec in signature.inputs.values() if floating(spec)]
        if len(shapes) != len(signature.inputs) or len(shapes) != 1 or len(shapes[0]) != 3 or shapes[0][0] is None:
            raise RecipeError(
                f"the model 'unet' takes one picture (channels x height x width); the dataset gives {described(signature)}"
            )
        channels, size = shapes[0][0], shapes[0][1:]
        halvings = len(self.widths) - 1
        if any(side is not None and side >> halvings == 0 for side in size):
            raise RecipeError(
                f"the model 'unet' halves the picture between {len(self.widths)} widths: {size[0]} x {size[1]} pixels are too "
                f"few"
            )
        if not signature.heads:
            raise RecipeError("the model 'unet' needs a head; the dataset asks for none: it has no targets")
        for name, head in signature.heads.items():
            _check(name, head, size)
        return _Unet(channels, size, signature, self)


def _check(name: str, head: Head, size: tuple[int | None, ...]) -> None:
    """RecipeError where a head is not for each pixel."""
    fits = len(head.shape) == 3 and head.shape[0] is not None and head.class_axis in (0, None)
    if not fits or any(None not in (asked, side) and asked != side for asked, side in zip(head.shape[1:], size, strict=True)):
        asked, given = (" x ".join(str(side or "any") for side in sides) for sides in (head.shape, size))
        raise RecipeError(
            f"the model 'unet' gives heads (classes x height x width) of the picture's size, {given}; the dataset asks for "
            f"'{name}' ({asked})"
        )


class _Unet(nn.Module):
    def __init__(self, channels: int, size: tuple[int | None, ...], signature: Signature, settings: Unet):
        super().__init__()
        widths = settings.widths
        self.pool = nn.MaxPool2d(2)
        self.down = nn.ModuleList(_convolve(before, after) for before, after in pairwise((channels, *widths)))
        self.dropout = nn.Dropout(settings.dropout)
        self.up = nn.ModuleList(_Up(before, after, None in size) for before, after in pairwise(reversed(widths)))
        he_normal(self)
        self.names = tuple(signature.heads)
        layers = [nn.Conv2d(widths[0], head.shape[0] or 0, 1) for head in signature.heads.values()]
        self.fc = layers[0] if len(layers) == 1 else nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """(N, channels, H, W) -> (N, classes, H, W), or head name -> (N, classes, H, W)."""
        seen = []
        for number, layer in enumerate(self.down):
            x = layer(self.pool(x) if number else x)
            seen.append(x)
        x = self.dropout(x)
        for layer, finer in zip(self.up, reversed(seen[:-1]), strict=True):
            x = layer(x, finer)
        if isinstance(self.fc, nn.ModuleList):
            return {name: layer(x) for name, layer in zip(self.names, self.fc, strict=True)}
        logits: Tensor = self.fc(x)
        return logits


class _Up(nn.Module):
    def __init__(self, before: int, after: int, any_size: bool):
        super().__init__()
        self.any_size = any_size
        self.grow = nn.ConvTranspose2d(before, after, 2, stride=2)
        self.convolve = _convolve(2 * after, after)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """(N, before, h, w), (N, after, H, W) with h = H // 2 -> (N, after, H, W)."""
        grown = self.grow(coarse)
        if self.any_size or grown.shape[2:] != fine.shape[2:]:  # halving dropped a last row or column
            grown = functional.pad(grown, (0, fine.shape[3] - grown.shape[3], 0, fine.shape[2] - grown.shape[2]))
        merged: Tensor = self.convolve(torch.cat([fine, grown], 1))
        return merged


def _convolve(before: int, after: int) -> nn.Sequential:
    steps: list[nn.Module] = []
    for channels in (before, after):
        steps += [nn.Conv2d(channels, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*steps)
