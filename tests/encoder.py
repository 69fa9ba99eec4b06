"""An encoder of tokens, as a user's plugin file brings one."""

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from compress_cli.data.signature import Signature
from compress_cli.networks.models import Model


class Encoder(Model):
    """A transformer encoder (Vaswani et al. 2017, arXiv:1706.03762) over `ids` and `attention_mask`; token 0 decides.

    Layers for features: `embedding`, `layers.0`, `layers.1`, ... (N, T, width), `fc`.
    """

    vocabulary: int = Field(24, ge=2, description="token ids there are")
    width: int = Field(16, ge=2, description="size of a hidden state")
    depth: int = Field(2, ge=1, description="layers")
    heads: int = Field(2, ge=1, description="attention heads")

    def build(self, signature: Signature) -> nn.Module:
        (length,) = signature.inputs["ids"].shape
        return _Encoder(self, length, next(iter(signature.heads.values())).size)


class _Encoder(nn.Module):
    def __init__(self, settings: Encoder, length: int, classes: int):
        super().__init__()
        self.embedding = nn.Embedding(settings.vocabulary, settings.width)
        self.position = nn.Parameter(0.02 * torch.randn(length, settings.width))
        self.layers = nn.ModuleList(_Layer(settings.width, settings.heads) for _ in range(settings.depth))
        self.fc = nn.Linear(settings.width, classes)

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(N, T), (N, T) -> (N, classes)."""
        x = self.embedding(ids) + self.position  # (N, T, width)
        seen = (attention_mask != 0)[:, None, None, :]  # (N, 1, 1, T)
        for layer in self.layers:
            x = layer(x, seen)
        logits: Tensor = self.fc(x[:, 0])
        return logits


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        q, k, v = (each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in self.qkv(self.norm1(x)).chunk(3, -1))
        bias = torch.zeros_like(seen, dtype=x.dtype).masked_fill(~seen, -1e4)
        attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)  # (N, heads, T, width / heads)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))
