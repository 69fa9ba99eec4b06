"""Autoencoder."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from typing import Annotated, ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from compress_cli.data.signature import Head, Input, Signature
from compress_cli.errors import RecipeError
from compress_cli.networks.models import Model, described, floating
from compress_cli.settings import Many

RECONSTRUCTION, SCORE = "reconstruction", "score"  # the model's own heads
_ROW_CODE, _PICTURE_CODE = 8, 100
_SLOPE = 0.2  # of the pictures' leaky ReLU (Bergmann et al. 2019, table 1)


class Autoencoder(Model):
    """Autoencoder: the input again, out of a code too small to hold anything (Hinton & Salakhutdinov 2006, Science 313:504).

        model: {type: autoencoder, hidden: [64, 32], code: 4}          # rows
        model: {type: autoencoder, channels: [16, 32], code: 32}       # pictures

    Of rows (features) it is fully connected with batch normalisation; the defaults are the baseline of anomalous sound
    detection, DCASE 2020 task 2 (Koizumi et al. 2020, arXiv:2006.05822). Of pictures (channels x height x width) it has
    4 x 4 convolutions that halve them and transposed ones that double them, after Bergmann et al. (2019, arXiv:1807.02011).
    Its head has the input's shape and no classes, and is in the input's raw units: where the input is normalised, the output is
    scaled back. Where the data asks for no such head, it has two of its own: `reconstruction`, and `score` (N, 1), the mean
    squared difference from the input in normalised units, which is large for samples unlike those of training.

    Layers for features: `encoder`, `code` (N, code), `decoder`; with a score behind `network.`.
    """

    width_fields: ClassVar[tuple[str, ...]] = ("hidden", "channels")

    hidden: Many[Annotated[int, Field(ge=1, lt=2**31)]] = Field(
        (128, 128, 128, 128), description="rows: widths before the code; behind it in reverse"
    )
    channels: Many[Annotated[int, Field(ge=1, lt=2**31)]] = Field(
        (32, 64, 128), min_length=1, description="pictures: channels of the convolutions, each of which halves the picture"
    )
    code: PositiveInt | None = Field(
        None, description="values of the code; 8 for rows and 100 for pictures where none is given"
    )

    def heads_for(self, signature: Signature) -> dict[str, Head]:
        shapes = [spec.shape for spec in signature.inputs.values()]
        if any(head.shape in shapes and head.class_axis is None for head in signature.heads.values()) or len(shapes) != 1:
            return signature.heads
        return {RECONSTRUCTION: Head(shape=shapes[0], class_axis=None), SCORE: Head(shape=(1,), class_axis=None)}

    def build(self, signature: Signature) -> nn.Module:
        specs = list(signature.inputs.values())
        shape = specs[0].shape if len(specs) == 1 and floating(specs[0]) else ()
        sizes = tuple(size for size in shape if size is not None)
        if len(sizes) not in (1, 3) or len(sizes) != len(shape):
            raise RecipeError(
                f"the model 'autoencoder' takes one row (features) or one picture (channels x height x width) of a fixed size; "
                f"the dataset gives {described(signature)}"
            )
        scored = set(signature.heads) == {RECONSTRUCTION, SCORE}
        heads = [(head.shape, head.class_axis) for head in signature.heads.values()]
        if heads != [(sizes, None)] and not scored:
            asked = ", ".join(f"{name} {head.shape}" for name, head in signature.heads.items()) or "none"
            raise RecipeError(
                f"the model 'autoencoder' has one head, of its input's shape {sizes} and without classes; the dataset asks for "
                f"{asked}"
            )
        layers = self._of_rows(*sizes) if len(sizes) == 1 else self._of_pictures(*sizes)
        raw = _Raw(specs[0]) if specs[0].mean else nn.Identity()
        if scored:
            return _Scored(nn.Sequential(layers), raw)
        if specs[0].mean:
            layers["raw"] = raw
        return nn.Sequential(layers)

    def _of_rows(self, features: int) -> OrderedDict[str, nn.Module]:
        widths, code = (features, *self.hidden), self.code or _ROW_CODE
        encoder = [layer for before, after in pairwise(widths) for layer in _dense(before, after)]
        turned = (code, *reversed(self.hidden))
        decoder = [layer for before, after in pairwise(turned) for layer in _dense(before, after)]
        return OrderedDict(
            encoder=nn.Sequential(*encoder),
            code=nn.Sequential(*_dense(widths[-1], code)),
            decoder=nn.Sequential(*decoder, nn.Linear(turned[-1], features)),
        )

    def _of_pictures(self, channels: int, height: int, width: int) -> OrderedDict[str, nn.Module]:
        step = 2 ** len(self.channels)
        if height % step or width % step:
            raise RecipeError(
                f"the model 'autoencoder' halves pictures {len(self.channels)} times: {height} x {width} pixels are no "
                f"multiples of {step}; give fewer `channels`, or another size"
            )
        widths, code, sides = (channels, *self.channels), self.code or _PICTURE_CODE, (height // step, width // step)
        encoder: list[nn.Module] = []
        for before, after in pairwise(widths):
            encoder += [nn.Conv2d(before, after, 4, 2, padding=1), nn.LeakyReLU(_SLOPE, inplace=True)]
        decoder: list[nn.Module] = [
            nn.Unflatten(1, (code, 1, 1)), nn.ConvTranspose2d(code, widths[-1], sides), nn.LeakyReLU(_SLOPE, inplace=True),
        ]  # fmt: skip
        for before, after in pairwise(reversed(widths)):
            decoder += [nn.ConvTranspose2d(before, after, 4, 2, padding=1), nn.LeakyReLU(_SLOPE, inplace=True)]
        return OrderedDict(
            encoder=nn.Sequential(*encoder),
            code=nn.Sequential(nn.Conv2d(widths[-1], code, sides), nn.Flatten()),
            decoder=nn.Sequential(*decoder[:-1]),  # the last layer may give any number
        )


class _Scored(nn.Module):
    """What the network makes of an input, in raw units, and how far that is from the input."""

    def __init__(self, network: nn.Module, raw: nn.Module):
        super().__init__()
        self.network, self.raw = network, raw

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """x (N, ...), normalised."""
        reconstruction = self.network(x)
        return {RECONSTRUCTION: self.raw(reconstruction), SCORE: ((reconstruction - x) ** 2).flatten(1).mean(1, keepdim=True)}


class _Raw(nn.Module):
    """x * deviation + mean per channel: back from normalised values to raw ones."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, spec: Input):
        super().__init__()
        shape = (-1, *(1 for _ in spec.shape[1:]))
        self.register_buffer("mean", torch.tensor(spec.mean).reshape(shape))
        self.register_buffer("deviation", torch.tensor(spec.deviation).reshape(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.deviation + self.mean


def _dense(before: int, after: int) -> list[nn.Module]:
    return [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU(inplace=True)]
