"""The encoder of a transformer."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional

from compress_cli.data.signature import Signature
from compress_cli.networks.models import Model
from compress_cli.networks.models._sequence import SequenceHeads, SequenceInput, masked_mean, sequence_input

_FAR = -1e4  # what a score of padding becomes: its weight is 0 in float32 and float16; all padding stays finite
_SLOWEST = 10_000  # section 3.5: wavelengths up to that many times 2 pi


class TransformerEncoder(Model):
    """Transformer encoder (Vaswani et al. 2017, arXiv:1706.03762); the defaults are the paper's base model.

        model: {type: transformer_encoder, width: 128, hidden: 512, depth: 2, attention_heads: 2, norm: before, padding: 0}

    It takes token ids (length) or vectors (length x features), which a linear layer brings to its width, with a `mask` input or
    `padding: 0` for short sequences. Heads of (classes) are made of a summary, heads of (positions x classes), as in tagging or
    a masked language model, of every state. `norm: before` normalises what a sub-layer takes, and the last state (Xiong et al.
    2020, arXiv:2002.04745); the paper normalises each sum.

    Layers for features: `embedding`, `layers.0`, `layers.1`, ... (N, T, width), `layers.0.attention.weights`
    (N, attention heads, T, T), `norm`, `fc`.
    """

    version: ClassVar[int] = 2
    width_fields: ClassVar[tuple[str, ...]] = ("width", "hidden")

    width: PositiveInt = Field(512, description="size of a hidden state")
    hidden: PositiveInt = Field(2048, description="width between the two linear layers of a block")
    depth: int = Field(6, ge=1, description="blocks")
    attention_heads: PositiveInt = Field(8, description="they share the width")
    norm: Literal["after", "before"] = Field("after", description="normalisation after each sum, or before each sub-layer")
    activation: Literal["relu", "gelu"] = Field("relu", description="between the two linear layers")
    positions: Literal["sinusoidal", "learned", "none"] = Field("sinusoidal", description="what tells positions apart")
    longest: PositiveInt = Field(512, description="learned positions there are where the length is open")
    summary: Literal["mean", "first"] = Field("mean", description="of the states: their mean, or that of the first token")
    dropout: float = Field(0.1, ge=0, lt=1, description="share of values dropped while training")
    padding: int | None = Field(
        None,
        ge=0,
        description="token id that fills short sequences, where there is no `mask` input; default: as the dataset says",
    )

    @model_validator(mode="after")
    def _whole_heads(self) -> TransformerEncoder:
        if self.width % self.attention_heads:
            raise ValueError(f"width: must be a multiple of attention_heads ({self.attention_heads}), not {self.width}")
        if self.positions == "sinusoidal" and self.width % 2:
            raise ValueError(f"width: must be even where positions are sinusoidal, not {self.width}")
        return self

    @property
    def width_multiple(self) -> int:
        """Attention heads share the width, and sines and cosines are as many."""
        return 2 * self.attention_heads

    def build(self, signature: Signature) -> nn.Module:
        return _TransformerEncoder(sequence_input(signature, self.type, self.padding), signature, self)


class _TransformerEncoder(nn.Module):
    def __init__(self, sequence: SequenceInput, signature: Signature, settings: TransformerEncoder):
        super().__init__()
        self.sequence, self.summary = sequence, settings.summary
        self.embedding = sequence.embedding(settings.width)
        self.positions = _positions(settings, sequence.length or settings.longest)
        self.dropout = nn.Dropout(settings.dropout)
        self.layers = nn.ModuleList(_Block(settings) for _ in range(settings.depth))
        self.norm = nn.LayerNorm(settings.width) if settings.norm == "before" else nn.Identity()
        self.fc = SequenceHeads(settings.width, signature, sequence, settings.type)
        for layer in self.layers.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        # Section 3.4 multiplies embeddings by sqrt(width): they are drawn so that a value then has a variance of 1.
        self.scale = 1.0
        if isinstance(self.embedding, nn.Embedding):
            self.scale = math.sqrt(settings.width)
            nn.init.normal_(self.embedding.weight, std=1 / self.scale)
            if self.embedding.padding_idx is not None:
                nn.init.zeros_(self.embedding.weight[self.embedding.padding_idx])

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        """(N, T) token ids or (N, T, features), and a mask if there is one -> head name -> (N, classes) or (N, T, classes)."""
        x, real = self.embedding(self.sequence.values(inputs)), self.sequence.real(inputs)  # (N, T, width)
        x = self.dropout(self.positions(x * self.scale))
        bias = None if real is None else (~real).to(x.dtype)[:, None, None, :] * _FAR  # (N, 1, 1, T)
        for layer in self.layers:
            x = layer(x, bias)
        x = self.norm(x)
        heads: dict[str, Tensor] = self.fc(x, x[:, 0] if self.summary == "first" else masked_mean(x, real))
        return heads


def _positions(settings: TransformerEncoder, length: int) -> nn.Module:
    if settings.positions == "none":
        return nn.Identity()
    return _Sinusoids(settings.width) if settings.positions == "sinusoidal" else _Learned(length, settings.width)


class _Sinusoids(nn.Module):
    """Adds sin(t / 10000^(2i / width)) to the even and the cosine to the odd values of position t (section 3.5)."""

    frequencies: Tensor

    def __init__(self, width: int):
        super().__init__()
        exponents = torch.arange(0, width, 2, dtype=torch.float64) / width
        self.register_buffer("frequencies", (_SLOWEST**-exponents).float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) -> the same."""
        position = torch.arange(x.shape[1], device=x.device, dtype=torch.float32)
        angles = position[:, None] * self.frequencies  # (T, width / 2)
        return x + torch.stack([angles.sin(), angles.cos()], -1).flatten(1).to(x.dtype)


class _Learned(nn.Module):
    """Adds a learned vector to each position; a longer sequence than there are positions is an error, in the file too."""

    def __init__(self, length: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(0.02 * torch.randn(length, width))  # as in BERT (Devlin et al. 2019, arXiv:1810.04805)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) -> the same."""
        return x + functional.embedding(torch.arange(x.shape[1], device=x.device), self.weight)


class _Block(nn.Module):
    def __init__(self, settings: TransformerEncoder):
        super().__init__()
        width, hidden = settings.width, settings.hidden
        self.before = settings.norm == "before"
        self.attention = _Attention(width, settings.attention_heads, settings.dropout)
        activation = nn.ReLU() if settings.activation == "relu" else nn.GELU()
        self.mlp = nn.Sequential(nn.Linear(width, hidden), activation, nn.Dropout(settings.dropout), nn.Linear(hidden, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        if self.before:
            x = x + self.dropout(self.attention(self.norm1(x), bias))
            out: Tensor = x + self.dropout(self.mlp(self.norm2(x)))
        else:
            x = self.norm1(x + self.dropout(self.attention(x, bias)))
            out = self.norm2(x + self.dropout(self.mlp(x)))
        return out


class _Attention(nn.Module):
    """Multi-head attention whose weights are a layer of their own, so that a loss can compare them."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.weights = nn.Softmax(-1)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """(N, T, width), (N, 1, 1, T) -> (N, T, width)."""
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])  # (N, heads, T, T)
        weights = self.weights(scores if bias is None else scores + bias)
        out: Tensor = self.out((self.dropout(weights) @ v).transpose(1, 2).flatten(2))
        return out
