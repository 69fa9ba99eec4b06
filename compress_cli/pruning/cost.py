"""The cost of a model, and its cost with fewer channels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from compress_cli.pruning.channels import Group, evaluating

Counted = Literal["macs", "parameters"]


class Cost:
    """Multiply-accumulates and parameters of a model, as a function of how many channels each group keeps.

    Convolutions and linear layers count, at batch 1 and the traced input's size; products of two activations
    (attention) are left out.
    """

    def __init__(self, body: nn.Module, inputs: tuple[Tensor, ...], groups: Sequence[Group] = ()):
        self._full = [group.channels for group in groups]
        self._shapes = {name: tuple(tensor.shape) for name, tensor in body.named_parameters(remove_duplicate=False)}
        self._trained = [name for name, _ in body.named_parameters()]  # a tensor that two layers share counts once
        self._positions = _positions(body, inputs)
        self._cuts: dict[str, list[tuple[int, int, int]]] = {}  # tensor -> (axis, group, positions per channel)
        for number, group in enumerate(groups):
            for part in group.parts:
                if part.name in self._shapes:
                    self._cuts.setdefault(part.name, []).append((part.axis, number, part.index.shape[1] // part.groups))

    def of(self, counted: Counted, kept: Sequence[int] | None = None) -> int:
        """Multiply-accumulates or parameters when each group keeps so many channels; all of them by default."""
        return self.macs(kept) if counted == "macs" else self.parameters(kept)

    def macs(self, kept: Sequence[int] | None = None) -> int:
        """Multiply-accumulates for one sample when each group keeps so many channels; all of them by default."""
        return sum(count * self._size(name, kept or self._full) for name, count in self._positions.items())

    def by_weight(self) -> dict[str, int]:
        """Weight name -> multiply-accumulates for one sample, uncut."""
        return {name: count * prod(self._shapes[name]) for name, count in self._positions.items()}

    def parameters(self, kept: Sequence[int] | None = None) -> int:
        """Trainable values, of every kind, when each group keeps so many channels."""
        return sum(self._size(name, kept or self._full) for name in self._trained)

    def _size(self, name: str, kept: Sequence[int]) -> int:
        shape = list(self._shapes[name])
        for axis, group, positions in self._cuts.get(name, ()):
            shape[axis] -= positions * (self._full[group] - kept[group])
        return prod(shape)


def _positions(body: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, int]:
    """Weight name -> how often one sample multiplies by each of its values."""
    counts: dict[str, int] = {}

    def count(name: str, module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
        if isinstance(module, nn.Linear):
            positions = output.numel() // output.shape[-1]
        else:
            counted = arguments[0] if getattr(module, "transposed", False) else output  # (N, C, ...)
            positions = counted.numel() // counted.shape[1]
        counts[name] = counts.get(name, 0) + positions // output.shape[0]

    hooks = [
        module.register_forward_hook(partial(count, f"{name}.weight".lstrip(".")))
        for name, module in body.named_modules()
        if isinstance(module, nn.modules.conv._ConvNd | nn.Linear) and "weight" in module._parameters
    ]
    try:
        with torch.no_grad(), evaluating(body):
            body(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return counts
