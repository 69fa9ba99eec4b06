"""Channels that are cut together, and what is left of the weights after a cut: tensors by name, no module is changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

VERSION = 1

Role = Literal["makes", "reads", "scales", "other"]
"""What a tensor does for a channel: filters that make it, weights that read it, a normalisation's scale; or biases,
running statistics and bare parameters."""


@dataclass(frozen=True, eq=False)
class Part:
    """The slices of one tensor that go when channels go."""

    name: str  # of the parameter or buffer, relative to the model's body
    role: Role
    tensor: Tensor
    axis: int
    index: Tensor  # (channels, n) int64: positions on the axis that belong to each channel

    def of(self, tensor: Tensor) -> Tensor:
        """(channels, values): each channel's slices of a tensor shaped as this one (its gradient, say), flattened."""
        rows = tensor.detach().movedim(self.axis, 0)[self.index]  # (channels, n, ...)
        return rows.reshape(len(self.index), -1)

    @property
    def values(self) -> Tensor:
        """(channels, values): what each channel owns of this tensor."""
        return self.of(self.tensor)


@dataclass(frozen=True, eq=False)
class Group:
    """Layers whose channels can only be cut together.

    A channel of a grouped convolution stands for one channel in each of its groups: they are cut alike.
    """

    layer: str  # the model's first layer that makes all these channels
    channels: int
    multiple: int  # channels of `layer` behind each channel here: the groups of a grouped convolution, else 1
    parts: tuple[Part, ...]

    @property
    def width(self) -> int:
        """Output channels of `layer`."""
        return self.channels * self.multiple

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
    kept: dict[tuple[str, int], Tensor] = {}
    for group, gone in zip(groups, removed, strict=True):
        for part in group.parts:
            length = part.tensor.shape[part.axis]
            kept.setdefault((part.name, part.axis), torch.ones(length, dtype=torch.bool))[part.index[gone].flatten()] = False
    for (name, axis), keep in kept.items():
        state[name] = state[name].index_select(axis, keep.nonzero().flatten())
    return state


def masked(body: nn.Module, groups: Iterable[Group], removed: Iterable[Tensor]) -> dict[str, Tensor]:
    """The body's state dict with all that belongs to these channels set to zero: it computes what a cut one does."""
    state = {name: tensor.detach().clone() for name, tensor in body.state_dict().items()}
    for group, gone in zip(groups, removed, strict=True):
        for part in group.parts:
            state[part.name].movedim(part.axis, 0)[part.index[gone].flatten()] = 0
    return state


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while: BatchNorm's statistics stay as they are."""
    modes = [(each, each.training) for each in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for each, mode in modes:
            each.training = mode
