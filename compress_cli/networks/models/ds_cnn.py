"""Depthwise separable convolutions for keyword spotting."""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import nn

from compress_cli.data.signature import Signature
from compress_cli.errors import RecipeError
from compress_cli.networks.models import Model, described, floating, he_normal, row_heads
from compress_cli.networks.models._log_mel import LogMel, mel_filters
from compress_cli.settings import Many


class DsCnn(Model):
    """DS-CNN for keyword spotting (Zhang et al. 2017, "Hello Edge", arXiv:1711.07128), by default DS-CNN-S of its table 7.

        model: {type: ds_cnn, channels: 172, strides: [2, 1], block_stride: 2}              # DS-CNN-M
        model: {type: ds_cnn, channels: 276, blocks: 5, strides: [2, 1], block_stride: 2}   # DS-CNN-L

    It takes raw sound (samples), out of which `frontend` makes the paper's 10 MFCC of 40 bands, from 20 to 4000 Hz, every 20 ms
    over 40 ms (`coefficients: 0`: the logarithms of the bands' energies); or such features, (frames x features) or
    (1 x frames x features), and then has no front end. The front end is part of the exported file and has no weights.

    Layers for features: `frontend`, `conv1`, `layer1`, ... one per block, `avgpool`, `fc`.
    """

    width_fields: ClassVar[tuple[str, ...]] = ("channels",)

    channels: PositiveInt = Field(64, description="of every convolution")
    blocks: int = Field(4, ge=1, description="depthwise separable convolutions")
    kernel: Many[PositiveInt] = Field(
        (10, 4), min_length=2, max_length=2, description="of the first convolution: frames, features"
    )
    strides: Many[PositiveInt] = Field(
        (2, 2), min_length=2, max_length=2, description="of the first convolution: frames, features"
    )
    block_stride: Literal[1, 2] = Field(1, description="of the first block, on both axes")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of features dropped before the last layer while training")
    rate: PositiveInt = Field(16_000, description="samples per second of raw sound")
    window_ms: PositiveFloat = Field(40.0, description="length of sound that a frame hears")
    hop_ms: PositiveFloat = Field(20.0, description="from one frame to the next")
    mels: PositiveInt = Field(40, description="bands")
    low_hz: float = Field(20.0, ge=0, description="where the lowest band begins")
    high_hz: PositiveFloat = Field(4000.0, description="where the highest band ends")
    coefficients: int = Field(
        10, ge=0, description="MFCC: first values of the bands' cosine transform; 0: the bands themselves"
    )

    @model_validator(mode="after")
    def _bands(self) -> DsCnn:
        if not self.low_hz < self.high_hz <= self.rate / 2:
            raise ValueError(
                f"high_hz: must be above low_hz and at most half the rate, {self.rate / 2:g} (got {self.high_hz:g})"
            )
        if self.coefficients > self.mels:
            raise ValueError(f"coefficients: there are at most as many as bands, {self.mels} (got {self.coefficients})")
        if min(self._samples(self.window_ms), self._samples(self.hop_ms)) < 1:
            raise ValueError(f"window_ms: window and hop are shorter than one sample at {self.rate} a second")
        if not mel_filters(self.rate, self._samples(self.window_ms), self.mels, self.low_hz, self.high_hz).any(1).all():
            raise ValueError(f"mels: {self.mels} bands are too narrow for a window of {self.window_ms:g} ms: some hear nothing")
        return self

    def build(self, signature: Signature) -> nn.Module:
        shapes = [spec.shape for spec in signature.inputs.values() if floating(spec)]
        shape = shapes[0] if len(shapes) == len(signature.inputs) == 1 else ()
        if len(shape) not in (1, 2, 3) or (len(shape) == 3 and shape[0] is None):
            raise RecipeError(
                f"the model 'ds_cnn' takes raw sound (samples), or features (frames x features) or (1 x frames x features); "
                f"the dataset gives {described(signature)}"
            )
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        rates = {spec.rate for spec in signature.inputs.values() if spec.rate} - {self.rate}
        if len(shape) == 1 and rates:
            raise RecipeError(
                f"the model 'ds_cnn' takes {self.rate} samples a second, and the dataset gives {rates.pop()}: it would hear "
                "other pitches; give both the same `rate`"
            )
        if len(shape) == 1:
            layers["frontend"] = self._frontend(shape[0])
        elif len(shape) == 2:
            layers["frontend"] = nn.Unflatten(1, (1, -1))
        maps = (shape[0] if len(shape) == 3 else 1) or 1
        # As many frames come out as TensorFlow's padding SAME gives: size / stride, rounded up.
        frames, features = ((size - 1) // 2 for size in self.kernel)
        pad = nn.ZeroPad2d((features, self.kernel[1] - 1 - features, frames, self.kernel[0] - 1 - frames))
        first = nn.Conv2d(maps, self.channels, (self.kernel[0], self.kernel[1]), (self.strides[0], self.strides[1]), bias=False)
        layers["conv1"] = nn.Sequential(pad, first, nn.BatchNorm2d(self.channels), nn.ReLU(inplace=True))
        for block in range(1, self.blocks + 1):
            layers[f"layer{block}"] = _separable(self.channels, self.block_stride if block == 1 else 1)
        layers |= {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
        if self.dropout:
            layers["dropout"] = nn.Dropout(self.dropout)
        layers["fc"] = row_heads(self.channels, signature, self.type)
        body = nn.Sequential(layers)
        he_normal(body)
        return body

    def _frontend(self, samples: int | None) -> LogMel:
        window, hop = self._samples(self.window_ms), self._samples(self.hop_ms)
        if samples is not None and samples < window:
            raise RecipeError(
                f"the model 'ds_cnn' hears {self.window_ms:g} ms at once, {window} samples; the dataset's sounds have {samples}"
            )
        return LogMel(self.rate, window, hop, self.mels, self.low_hz, self.high_hz, self.coefficients)

    def _samples(self, milliseconds: float) -> int:
        return round(self.rate * milliseconds / 1000)


def _separable(channels: int, stride: int) -> nn.Sequential:
    """A depthwise and a pointwise convolution, each with batch normalisation and ReLU."""
    steps: list[nn.Module] = []
    for conv in (
        nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
    ):
        steps += [conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*steps)
