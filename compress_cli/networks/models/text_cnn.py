"""Convolutions over words."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from compress_cli.data.signature import Signature
from compress_cli.networks.models import Model, row_heads
from compress_cli.networks.models._sequence import SequenceInput, sequence_input
from compress_cli.settings import Many


class TextCnn(Model):
    """TextCNN: convolutions of several widths over a sentence, each reduced to its maximum (Kim 2014, arXiv:1408.5882).

        model: {type: text_cnn, windows: [3, 4, 5], maps: 100}

    It takes token ids (length), with a `mask` input or `padding: 0` for short sentences, or vectors (length x features). As in
    the author's code sentences are widened by zeros, so that every token stands in as many windows as any other; windows that
    hold nothing but padding don't count, so an answer does not depend on how far a sentence was padded.

    Layers for features: `embedding` (N, T, width), `convolutions.0`, ... (N, maps, positions), `dropout`
    (N, windows x maps), `fc`.
    """

    version: ClassVar[int] = 2
    width_fields: ClassVar[tuple[str, ...]] = ("width", "maps")

    width: PositiveInt = Field(300, description="size of a word vector")
    windows: Many[Annotated[int, Field(ge=1, le=1024)]] = Field((3, 4, 5), min_length=1, description="words a convolution sees")
    maps: PositiveInt = Field(100, description="channels of each convolution")
    dropout: float = Field(0.5, ge=0, lt=1, description="share of features dropped before the last layer while training")
    padding: int | None = Field(
        None,
        ge=0,
        description="token id that fills short sentences, where there is no `mask` input; default: as the dataset says",
    )

    def build(self, signature: Signature) -> nn.Module:
        return _TextCnn(sequence_input(signature, self.type, self.padding), signature, self)


class _TextCnn(nn.Module):
    def __init__(self, sequence: SequenceInput, signature: Signature, settings: TextCnn):
        super().__init__()
        self.sequence, self.windows = sequence, settings.windows
        self.embedding = sequence.embedding(settings.width)
        if isinstance(self.embedding, nn.Embedding):
            nn.init.uniform_(self.embedding.weight, -0.25, 0.25)  # as the author draws words that have no vector
            if self.embedding.padding_idx is not None:
                nn.init.zeros_(self.embedding.weight[self.embedding.padding_idx])
        self.convolutions = nn.ModuleList(
            nn.Sequential(nn.Conv1d(settings.width, settings.maps, window, padding=window - 1), nn.ReLU(inplace=True))
            for window in settings.windows
        )
        self.dropout = nn.Dropout(settings.dropout)
        self.fc = row_heads(settings.maps * len(settings.windows), signature, settings.type)

    def forward(self, *inputs: Tensor) -> Tensor | dict[str, Tensor]:
        """(N, T) token ids, and a mask if there is one -> (N, classes), or head name -> (N, classes)."""
        x, real = self.embedding(self.sequence.values(inputs)), self.sequence.real(inputs)  # (N, T, width)
        if real is not None:
            x = x * real[:, :, None]
        x = x.transpose(1, 2)
        maxima = []
        for window, convolution in zip(self.windows, self.convolutions, strict=True):
            responses = convolution(x)  # (N, maps, T + window - 1), 0 or more
            if real is not None:
                responses = responses * _windows(real.to(x.dtype), window)
            maxima.append(responses.amax(2))
        heads: Tensor | dict[str, Tensor] = self.fc(self.dropout(torch.cat(maxima, 1)))
        return heads


def _windows(real: Tensor, size: int) -> Tensor:
    """(N, T) of 0 and 1 -> (N, 1, T + size - 1): 1 where a window of that size holds a real token."""
    return functional.conv1d(real[:, None], real.new_ones(1, 1, size), padding=size - 1).clamp(max=1)
