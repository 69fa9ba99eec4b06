"""Long short-term memory."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, PositiveInt
from torch import nn

from compress_cli.data.signature import Signature
from compress_cli.networks.models import Model
from compress_cli.networks.models._recurrent import RecurrentNetwork


class Lstm(Model):
    """Long short-term memory (Hochreiter & Schmidhuber 1997, Neural Computation 9:1735), in one direction or both.

        model: {type: lstm, bidirectional: true, summary: mean, padding: 0}

    It takes token ids (length), or vectors (length x features) as they are, with a `mask` input or `padding: 0` for short
    sequences: either direction reads real tokens alone. Heads of (classes) are made of a summary, heads of (positions x
    classes), as in tagging (Huang et al. 2015, arXiv:1508.01991), of every state. Forget gates start open (Gers et al. 2000,
    Neural Computation 12:2451).

    Layers for features: `embedding`, `layers.0`, `layers.1`, ... (N, T, directions x width), `fc`.
    """

    version: ClassVar[int] = 2
    width_fields: ClassVar[tuple[str, ...]] = ("embedding", "width")

    embedding: PositiveInt = Field(300, description="size of a token's vector; unused where the input holds vectors")
    width: PositiveInt = Field(256, description="size of a state, in each direction")
    depth: int = Field(1, ge=1, description="layers")
    bidirectional: bool = Field(False, description="a second direction reads from the end")
    summary: Literal["last", "mean"] = Field(
        "last", description="of each direction the state after its last token, or the mean"
    )
    dropout: float = Field(0.5, ge=0, lt=1, description="share of values dropped before each layer and the last, never in time")
    padding: int | None = Field(
        None,
        ge=0,
        description="token id that fills short sequences, where there is no `mask` input; default: as the dataset says",
    )

    def build(self, signature: Signature) -> nn.Module:
        settings = {name: getattr(self, name) for name in type(self).model_fields}
        body = RecurrentNetwork(nn.LSTM, signature, self.type, **settings)
        for name, parameter in body.layers.named_parameters():
            if "bias" in name:  # of the input, forget, cell and output gate; PyTorch adds two biases
                nn.init.zeros_(parameter)
                if "bias_ih" in name:
                    nn.init.ones_(parameter.data[self.width : 2 * self.width])
        return body
