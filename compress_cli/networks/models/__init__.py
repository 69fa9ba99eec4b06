"""Architectures: settings that build a module for a signature."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from compress_cli.data.signature import Head, Input, Signature
from compress_cli.errors import RecipeError
from compress_cli.networks.edits import Edit
from compress_cli.plugin import Plugin


class Model(Plugin):
    """An architecture; it holds nothing about training, pruning or quantisation."""

    width_fields: ClassVar[tuple[str, ...]] = ()
    """Fields that hold widths, numbers of channels or a factor of them, which a budget may multiply; all by one factor."""

    @property
    def width_multiple(self) -> int:
        """What every width has to be a multiple of."""
        return 1

    def scaled(self, factor: float) -> Self:
        """The same architecture with all widths times a factor, rounded as processors like them; ValueError where such
        widths do not do, RecipeError where it has none."""
        if not self.width_fields:
            raise RecipeError(f"budget: the model '{self.type}' has no widths that a budget could choose")
        settings = {name: getattr(self, name) for name in type(self).model_fields}
        settings |= {name: _scaled(settings[name], factor, self.width_multiple) for name in self.width_fields}
        return type(self).model_validate(settings)

    def heads_for(self, signature: Signature) -> dict[str, Head]:
        """The heads of the model for this data: by default those that the data proposes. A model whose outputs do not follow
        from the targets, such as an embedding or a reconstruction, says its own."""
        return signature.heads

    @abstractmethod
    def build(self, signature: Signature) -> nn.Module:
        """A fresh module. It takes the signature's inputs in order, already normalised, and gives a tensor
        (N, ...) for the one head there is, or a dict of them by head name. `signature.heads` are those of `heads_for`."""

    def load_pretrained(self, body: nn.Module, signature: Signature) -> None:
        """Put the weights that training starts from into a fresh module; never called where a checkpoint is restored."""


def _scaled(value: Any, factor: float, multiple: int) -> Any:
    """Widths to multiples of 8 from 16 on, of 4 from 8 on, of 2 from 4 on; a factor of widths to hundredths; None as it is."""
    if isinstance(value, tuple):
        return tuple(_scaled(width, factor, multiple) for width in value)
    if isinstance(value, float):
        return max(0.01, round(value * factor, 2))
    if value is None:
        return None
    width = value * factor
    unit = math.lcm(multiple, next((unit for least, unit in ((16, 8), (8, 4), (4, 2)) if width >= least), 1))
    return max(unit, round(width / unit) * unit)


class Network(nn.Module):
    """A model with the normalisation of its inputs inside, and of the numbers that it predicts: it takes and gives raw values
    wherever it goes.

    Names of parameters begin with `body.`; layer names in recipes are written without it.
    """

    edits: tuple[Edit, ...]
    """What was changed since its architecture built it; training holds what these demand of its weights."""
    trained_on: str = ""
    """What weights from elsewhere were trained on before, as the stage `load` says; empty where there are none in it."""

    def __init__(self, body: nn.Module, signature: Signature):
        super().__init__()
        self.signature = signature
        self.edits = ()
        self.normalise = nn.ModuleList(Normalise(spec) if spec.mean else nn.Identity() for spec in signature.inputs.values())
        self.body = body
        self.denormalise = nn.ModuleDict(
            {str(position): Denormalise(head) for position, head in enumerate(signature.heads.values()) if head.deviation}
        )

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Raw inputs in the signature's order -> head name -> (N, size)."""
        heads = self.body(*(normalise(values) for normalise, values in zip(self.normalise, inputs, strict=True)))
        named = heads if isinstance(heads, dict) else {next(iter(self.signature.heads)): heads}
        names = list(self.signature.heads)
        raw = {names[int(position)]: module for position, module in self.denormalise.items()}
        return {name: raw[name](values) if name in raw else values for name, values in named.items()} if raw else named


class Normalise(nn.Module):
    """(x - mean) / deviation per channel, for x of shape (N, channels, ...)."""

    mean: Tensor
    scale: Tensor

    def __init__(self, spec: Input):
        super().__init__()
        shape = (-1, *(1 for _ in spec.shape[1:]))
        self.register_buffer("mean", torch.tensor(spec.mean).reshape(shape))
        self.register_buffer("scale", (1 / torch.tensor(spec.deviation)).reshape(shape))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) * self.scale


class Denormalise(nn.Module):
    """x * deviation + mean per value, for x of shape (N, values), or of any shape with one deviation for all.

    A network of which little is known yet then predicts about the mean, whatever the unit, and its steps do not depend on it.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, head: Head):
        super().__init__()
        self.register_buffer("mean", torch.tensor(head.mean))
        self.register_buffer("deviation", torch.tensor(head.deviation))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.deviation + self.mean


class Sum(nn.Module):
    """Adds two branches: a layer of its own, so that a sum can be observed before the activation that follows it."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class Shuffle(nn.ChannelShuffle):
    """Deals channels round: the first of every group, then the second of every group, and so on.

    With two groups of three, channels 0 1 2 | 3 4 5 leave as 0 3 1 4 2 5. PyTorch's module by other operators, which
    every exporter knows; pruning follows channels through both.
    """

    def forward(self, x: Tensor) -> Tensor:
        return x if self.groups == 1 else x.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)


def he_normal(body: nn.Module) -> None:
    """Draw every convolution from a normal of variance 2 / (filters x kernel area) (He et al. 2015, arXiv:1502.01852)."""
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def small_normal(body: nn.Module) -> None:
    """Draw every linear layer from a normal of deviation 0.01, with biases of 0, as VGG and MobileNetV2 do."""
    for module in body.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)


def only_input(signature: Signature, model: str, axes: int = 0) -> tuple[int, ...]:
    """The shape of the only input, with that many axes where it matters; RecipeError where the data differs, or leaves an
    axis open."""
    shapes = {name: spec.shape for name, spec in signature.inputs.items()}
    shape = tuple(length for length in next(iter(shapes.values()), ()) if length is not None)
    if len(shapes) != 1 or (axes and len(shape) != axes) or len(shape) < len(next(iter(shapes.values()))):
        expected = {
            0: "one input of a fixed shape" if len(shapes) == 1 else "one input",
            3: "one image input (channels, height, width)",
        }[axes]
        remedy = "; name it in `inputs`" if len(shapes) > 1 else ""
        raise RecipeError(f"the model '{model}' takes {expected}; the dataset gives {shapes}{remedy}")
    return shape


class Heads(nn.Module):
    """A linear layer for each of several heads, on the same features."""

    def __init__(self, width: int, signature: Signature):
        super().__init__()
        self.names = tuple(signature.heads)
        self.layers = nn.ModuleList(nn.Linear(width, head.size) for head in signature.heads.values())

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """(N, width) -> head name -> (N, size)."""
        return {name: layer(features) for name, layer in zip(self.names, self.layers, strict=True)}


def last_layer(width: int, signature: Signature, model: str) -> nn.Module:
    """The layer that makes heads of (N, width): a linear one, or one for each of several heads."""
    return Heads(width, signature) if len(signature.heads) > 1 else nn.Linear(width, only_head(signature, model))


def replace_last_layer(body: nn.Module, signature: Signature, model: str) -> nn.Module:
    """Put a linear layer for each of several heads in the place of a linear layer of one value, the module's last.

    RecipeError where there is no such layer, or no head.
    """
    linear = [(name, module) for name, module in body.named_modules() if isinstance(module, nn.Linear)]
    if not signature.heads or not linear or linear[-1][1].out_features != 1:
        raise RecipeError(f"{model} can't have the heads {', '.join(signature.heads) or 'of no target'}")
    name, last = linear[-1]
    body.set_submodule(name, Heads(last.in_features, signature))
    return body


def only_head(signature: Signature, model: str) -> int:
    """The size of the only head; RecipeError where the data asks for none or several."""
    if len(signature.heads) != 1:
        asked = f"{', '.join(signature.heads)}; name it in `heads`" if signature.heads else "none: it has no targets"
        raise RecipeError(f"the model '{model}' has one head; the dataset asks for {asked}")
    return next(iter(signature.heads.values())).size


def row_heads(width: int, signature: Signature, model: str) -> nn.Module:
    """`last_layer`; RecipeError where a head is more than one row of values for each sample."""
    dense = [name for name, head in signature.heads.items() if len(head.shape) != 1 or head.shape[0] is None]
    if dense:
        shape = " x ".join(str(size or "any") for size in signature.heads[dense[0]].shape)
        raise RecipeError(f"the model '{model}' gives heads (classes); the dataset asks for '{dense[0]}' ({shape})")
    return last_layer(width, signature, model)


def floating(spec: Input) -> bool:
    """Whether an input holds real numbers, rather than ids."""
    return spec.dtype.startswith(("float", "bfloat"))


def described(signature: Signature) -> str:
    """The inputs as an error shows them: `text (any) int64, age () float32`."""
    shapes = {name: " x ".join(str(size or "any") for size in spec.shape) for name, spec in signature.inputs.items()}
    return ", ".join(f"{name} ({shapes[name]}) {spec.dtype}" for name, spec in signature.inputs.items())
