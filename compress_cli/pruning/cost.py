"""The cost of a model, and its cost with fewer channels."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

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
        self._repeated: dict[str, list[tuple[int, Fraction]]] = {}  # weight -> (group, share of its products made by channel)
        for number, group in enumerate(groups):
            for name, share in group.repeated.items():
                self._repeated.setdefault(name, []).append((number, share))
            for part in group.parts:
                if part.name in self._shapes:
                    self._cuts.setdefault(part.name, []).append((part.axis, number, part.index.shape[1] // part.groups))

    def of(self, counted: Counted, kept: Sequence[int] | None = None) -> int:
        """Multiply-accumulates or parameters when each group keeps so many channels; all of them by default."""
        return self.macs(kept) if counted == "macs" else self.parameters(kept)

    def macs(self, kept: Sequence[int] | None = None) -> int:
        """Multiply-accumulates for one sample when each group keeps so many channels; all of them by default."""
        now = kept or self._full
        return round(sum(count * self._share(name, now) * self._size(name, now) for name, count in self._positions.items()))

    def by_weight(self) -> dict[str, int]:
        """Weight name -> multiply-accumulates for one sample, uncut."""
        return {name: round(count * prod(self._shapes[name])) for name, count in self._positions.items()}

    def parameters(self, kept: Sequence[int] | None = None) -> int:
        """Trainable values, of every kind, when each group keeps so many channels."""
        return sum(self._size(name, kept or self._full) for name in self._trained)

    def _share(self, name: str, kept: Sequence[int]) -> Fraction:
        """Of the products with a weight's values that remain, where they are made channel by channel."""
        gone = (share * (1 - Fraction(kept[group], self._full[group])) for group, share in self._repeated.get(name, ()))
        return 1 - sum(gone, Fraction(0))

    def _size(self, name: str, kept: Sequence[int]) -> int:
        shape = list(self._shapes[name])
        for axis, group, positions in self._cuts.get(name, ()):
            shape[axis] -= positions * (self._full[group] - kept[group])
        return prod(shape)


def _positions(body: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, Fraction]:
    """Weight name -> how often one sample multiplies by each of its values, on average."""
    counter = _Counter(body)
    with torch.no_grad(), evaluating(body), counter:
        body(*inputs)
    samples = inputs[0].shape[0]
    sizes = {name: parameter.numel() for name, parameter in body.named_parameters()}
    return {name: Fraction(macs, samples * sizes[name]) for name, macs in counter.macs.items()}


class _Counter(TorchDispatchMode):
    """Counts multiply-accumulates by weight, in convolutions and matrix products of which one side is a weight, or is computed
    from one value by value, as a standardised weight."""

    def __init__(self, body: nn.Module):
        super().__init__()
        self._names = {parameter.untyped_storage().data_ptr(): name for name, parameter in body.named_parameters()}
        self._computed = WeakTensorKeyDictionary()  # tensor -> the parameter that it is computed from
        self.macs: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name == "convolution":
            weight, transposed = args[1], args[6]
            counted = args[0] if transposed else output  # (N, C, ...)
            self._add((weight,), counted.numel() // counted.shape[1] * weight.numel())
        elif name in ("mm", "addmm", "bmm", "baddbmm"):
            left, right = args[-2:]
            self._add((right, left), output.numel() * left.shape[-1])
        else:
            self._follow(args, output)
        return output

    def _follow(self, args: Any, output: Any) -> None:
        """Note the parameter that the operator's first result is computed from, where it has as many values."""
        first = next((tensor for tensor in (output if isinstance(output, tuple) else (output,))), None)
        for tensor in args:
            name = self._name(tensor) if isinstance(tensor, Tensor) else None
            if name and isinstance(first, Tensor) and tensor.numel() == first.numel() > 1:
                self._computed.setdefault(first, name)

    def _name(self, tensor: Tensor) -> str | None:
        return self._names.get(tensor.untyped_storage().data_ptr()) or self._computed.get(tensor)

    def _add(self, tensors: tuple[Tensor, ...], macs: int) -> None:
        """Count for the first of the tensors that is a weight, or a view of one."""
        name = next((name for tensor in tensors if (name := self._name(tensor))), None)
        if name:
            self.macs[name] = self.macs.get(name, 0) + macs
