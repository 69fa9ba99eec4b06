"""Groups of channels that are cut together, and the weights that remain after a cut: tensors by name, no module is changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor, nn

VERSION = 5

Role = Literal["makes", "reads", "scales", "other"]
"""What a tensor does for a channel: filters that make it, weights that read it, a normalisation's scale; or biases,
running statistics and bare parameters."""


@dataclass(frozen=True, eq=False)
class Part:
    """The slices of one tensor that are removed with the channels of a group."""

    name: str  # of the parameter or buffer, relative to the model's body
    role: Role
    tensor: Tensor
    axis: int
    index: Tensor  # (channels, n) int64: which of the layer's channels belong to each channel of the group
    groups: int = 1  # of a grouped convolution whose `axis` counts the channels within one of its groups
    normalises: str = ""  # of a normalisation's tensor: the layer whose output it takes, where nothing else takes that

    @property
    def layer(self) -> str:
        """The name of the layer that holds the tensor."""
        return self.name.rpartition(".")[0]

    @property
    def length(self) -> int:
        """How many channels the layer has here, over all its groups."""
        return self.tensor.shape[self.axis] * self.groups

    def by_channel(self, tensor: Tensor) -> Tensor:
        """A view of a tensor shaped as this one with the layer's channels as its first axis: (length, ...)."""
        if self.groups == 1:
            return tensor.movedim(self.axis, 0)
        split = tensor.unflatten(0, (self.groups, -1))  # (out, in / groups, ...) -> (groups, out / groups, in / groups, ...)
        rows: Tensor = split.transpose(1, 2).flatten(0, 1)
        return rows

    def as_stored(self, rows: Tensor) -> Tensor:
        """The inverse of `by_channel`, also for fewer channels: each of the groups must have lost as many."""
        if self.groups == 1:
            return rows.movedim(0, self.axis)
        stored: Tensor = rows.unflatten(0, (self.groups, -1)).transpose(1, 2).flatten(0, 1)
        return stored

    def keeping(self, tensor: Tensor, places: Tensor) -> Tensor:
        """A tensor shaped as this one with these of the layer's channels only."""
        if self.groups == 1:
            return tensor.index_select(self.axis, places)
        return self.as_stored(self.by_channel(tensor)[places])

    def clear(self, tensor: Tensor, places: Tensor) -> Tensor:
        """A tensor shaped as this one after these of the layer's channels were set to zero in it."""
        if self.groups == 1:
            return tensor.index_fill_(self.axis, places, 0)
        rows = self.by_channel(tensor)
        rows[places] = 0
        return self.as_stored(rows)

    def of(self, tensor: Tensor) -> Tensor:
        """(channels, values): each channel's slices of a tensor shaped as this one (its gradient, say), flattened."""
        rows = self.by_channel(tensor.detach())[self.index]  # (channels, n, ...)
        return rows.reshape(len(self.index), -1)

    def taken(self, activation: Tensor) -> Tensor:
        """(length, values): by channel what a layer that reads them takes: (N, channels, ...) of a convolution, (N, ...,
        channels) of a linear layer."""
        return activation.movedim(1 if self.tensor.dim() > 2 else -1, 0).flatten(1)

    @property
    def values(self) -> Tensor:
        """(channels, values): each channel's slices of this tensor."""
        return self.of(self.tensor)


@dataclass(frozen=True, eq=False)
class Group:
    """Layers whose channels can only be cut together.

    A channel of a grouped convolution represents channels in each of its groups: all groups lose the same number.
    """

    layer: str  # the model's first layer that makes all these channels
    channels: int
    multiple: int  # channels of `layer` behind each channel here: with grouped convolutions, at least one for each group
    parts: tuple[Part, ...]
    fixed: int = 0  # channels of `layer` that always remain: no other group of a convolution could lose one with them
    repeated: Mapping[str, Fraction] = field(default_factory=dict)  # weight -> share of its products made channel by channel
    numbers: Mapping[str, int] = field(
        default_factory=dict
    )  # attribute that the model's code reads -> what a channel takes of it
    coupled: tuple[str, ...] = ()  # layers of the groups of heads that lose one with each channel here

    @property
    def width(self) -> int:
        """Output channels of `layer`."""
        return self.width_of(self.channels)

    def width_of(self, kept: int) -> int:
        """Output channels of `layer` when so many channels of the group are kept."""
        return kept * self.multiple + self.fixed

    def playing(self, *roles: Role) -> list[Part]:
        """The parts in these roles."""
        return [part for part in self.parts if part.role in roles]


@dataclass(frozen=True)
class DependencyGroups:
    """The groups of a model that can be cut, and the layers that can't, with the reason."""

    groups: tuple[Group, ...]
    whole: dict[str, str]


def cut(body: nn.Module, groups: Iterable[Group], removed: Iterable[Tensor]) -> dict[str, Tensor]:
    """The body's state dict without the removed channels (per group: their numbers, int64)."""
    state = {name: tensor.detach() for name, tensor in body.state_dict().items()}
    kept: dict[tuple[str, int], tuple[Part, Tensor]] = {}
    for group, numbers in zip(groups, removed, strict=True):
        for part in group.parts:
            _, keep = kept.setdefault((part.name, part.axis), (part, torch.ones(part.length, dtype=torch.bool)))
            keep[part.index[numbers].flatten()] = False
    for part, keep in kept.values():
        state[part.name] = part.keeping(state[part.name], keep.nonzero().flatten())
    return state


def masked(body: nn.Module, groups: Iterable[Group], removed: Iterable[Tensor]) -> dict[str, Tensor]:
    """The body's state dict with the removed channels' slices set to zero: it computes what the cut one computes."""
    return cleared({name: tensor.detach() for name, tensor in body.state_dict().items()}, groups, removed)


def cleared(tensors: Mapping[str, Tensor], groups: Iterable[Group], removed: Iterable[Tensor]) -> dict[str, Tensor]:
    """Tensors shaped as the parameters and buffers of their names, with the removed channels' slices set to zero."""
    state = dict(tensors)
    own: set[str] = set()  # names of tensors that are copies already
    for group, numbers in zip(groups, removed, strict=True):
        for part in group.parts:
            if part.name in state:
                whole = state[part.name] if part.name in own else state[part.name].clone()
                state[part.name] = part.clear(whole, part.index[numbers].flatten())
                own.add(part.name)
    return state


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while: BatchNorm's statistics stay as they are."""
    modes = [(layer, layer.training) for layer in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for layer, mode in modes:
            layer.training = mode


@contextmanager
def attention_unfused() -> Iterator[None]:
    """PyTorch's attention computes by single operators for a while: one for a whole layer shows no weight's part."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
