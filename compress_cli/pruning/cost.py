"""The cost of a model, and its cost with fewer channels."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from compress_cli.pruning.channels import Group, attention_unfused, evaluating

Counted = Literal["macs", "parameters"]


class Cost:
    """Multiply-accumulates and parameters of a model, as a function of how many channels each group keeps.

    Convolutions and linear layers count, at batch 1 and the traced input's size, and so do products with what no input and no
    parameter changes, such as the filters of a fixed front end; products of two activations (attention) are left out.
    """

    def __init__(self, body: nn.Module, inputs: tuple[Tensor, ...], groups: Sequence[Group] = ()):
        self._full = [group.channels for group in groups]
        self._shapes = {name: tuple(tensor.shape) for name, tensor in body.named_parameters(remove_duplicate=False)}
        self._trained = [name for name, _ in body.named_parameters()]  # a tensor that two layers share counts once
        self._positions, self.fixed = _positions(body, inputs)
        """`fixed`: the multiply-accumulates that no layer's width changes."""
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
        sizes = (count * self._share(name, now) * self._size(name, now) for name, count in self._positions.items())
        return self.fixed + round(sum(sizes))

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


def _positions(body: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[dict[str, Fraction], int]:
    """Weight name -> how often one sample multiplies by each of its values, on average; and what it multiplies by constants."""
    counter = _Counter(body, inputs)
    with torch.no_grad(), evaluating(body), attention_unfused(), counter:
        body(*inputs)
    samples = inputs[0].shape[0]
    sizes = {name: parameter.numel() for name, parameter in body.named_parameters()}
    positions = {name: Fraction(macs, samples * sizes[name]) for name, macs in counter.macs.items()}
    return positions, counter.fixed // samples


class _Counter(TorchDispatchMode):
    """Counts multiply-accumulates by weight, in convolutions and matrix products of which one side is a weight, or is computed
    from one value by value, as a standardised weight; and those of which one side is constant, together."""

    def __init__(self, body: nn.Module, inputs: tuple[Tensor, ...]):
        super().__init__()
        self._names = {parameter.untyped_storage().data_ptr(): name for name, parameter in body.named_parameters()}
        self._computed = WeakTensorKeyDictionary()  # tensor -> the parameter that it is computed from
        self.macs: dict[str, int] = {}
        self.fixed = 0
        self._varying = WeakTensorKeyDictionary()  # what an input or a parameter changes -> True
        self._varying.update(dict.fromkeys((*inputs, *body.parameters()), True))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if self._varies((args, kwargs)):
            self._varying.update({leaf: True for leaf in tree_leaves(output) if isinstance(leaf, Tensor)})
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

    def _varies(self, values: Any) -> bool:
        return any(isinstance(leaf, Tensor) and leaf in self._varying for leaf in tree_leaves(values))

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
        elif not all(self._varies(tensor) for tensor in tensors):
            self.fixed += macs
