"""Which channels are cut together, what a cut saves, and what is left of the weights after it.

The dependency graph of torch-pruning (Fang et al. 2023, arXiv:2301.12900) says which channels of which layers hang
together. Everything else happens here on tensors by name: no module is changed.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from compress_cli.errors import RecipeError
from compress_cli.plugin import suggest

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

    layer: str  # the first layer that makes these channels
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
class Coupling:
    """The groups of a model that can be cut, and the layers that can't, with the reason."""

    groups: tuple[Group, ...]
    whole: dict[str, str]


def couple(body: nn.Module, inputs: tuple[Tensor, ...], ignore: Sequence[str] = ()) -> Coupling:
    """Find the groups of `body` by tracing it once on `inputs`.

    What makes an output of the model, or touches a layer in `ignore` (a name covers what stands below it), stays
    whole. RecipeError where a name in `ignore` matches nothing.
    """
    ignored = _named(body, ignore)
    groups, whole = [], {}
    with _evaluating(body):
        for items in _trace(body, inputs):
            layer, found = _group(body, items, ignored)
            if isinstance(found, Group):
                groups.append(found)
            else:
                whole[layer] = found
    return Coupling(tuple(groups), whole)


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


class Cost:
    """Multiply-accumulates and parameters of a model, as a function of how many channels each group keeps.

    Convolutions and linear layers count, at batch 1 and the traced input's size; products of two activations
    (attention) do not change with what is cut here and are left out.
    """

    def __init__(self, body: nn.Module, inputs: tuple[Tensor, ...], groups: Sequence[Group] = ()):
        self._full = [group.channels for group in groups]
        self._shapes = {name: tuple(tensor.shape) for name, tensor in body.named_parameters()}
        self._positions = _positions(body, inputs)
        self._loss: dict[str, list[tuple[int, int, int]]] = {}  # tensor -> (axis, group, positions per channel)
        for number, group in enumerate(groups):
            for part in group.parts:
                if part.name in self._shapes:
                    self._loss.setdefault(part.name, []).append((part.axis, number, part.index.shape[1]))

    def macs(self, kept: Sequence[int] | None = None) -> int:
        """Multiply-accumulates for one sample when each group keeps so many channels; all of them by default."""
        return sum(count * self._size(name, kept or self._full) for name, count in self._positions.items())

    def parameters(self, kept: Sequence[int] | None = None) -> int:
        """Trainable values, of every kind, when each group keeps so many channels."""
        return sum(self._size(name, kept or self._full) for name in self._shapes)

    def _size(self, name: str, kept: Sequence[int]) -> int:
        shape = list(self._shapes[name])
        for axis, group, each in self._loss.get(name, ()):
            shape[axis] -= each * (self._full[group] - kept[group])
        return prod(shape)


def _trace(body: nn.Module, inputs: tuple[Tensor, ...]) -> list[Any]:
    """torch-pruning's groups, each over all channels of its first layer."""
    import torch_pruning  # slow to import, and needed only to prune

    frozen = [parameter for parameter in body.parameters() if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)  # it follows autograd's graph
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on its own options, none of them the user's
            graph = torch_pruning.DependencyGraph().build_dependency(body, inputs, verbose=False)
            return [[(dep, graph.is_out_channel_pruning_fn(dep.handler), idxs) for dep, idxs in group]
                    for group in graph.get_all_groups()]  # fmt: skip
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def _group(body: nn.Module, items: list[Any], ignored: set[nn.Module]) -> tuple[str, Group | str]:
    """The root layer's name, and the group or the reason why its channels stay."""
    layers = {module: name for name, module in body.named_modules()}
    bare = {id(tensor): name for name, tensor in body.named_parameters()}
    root = items[0][0].target.module
    owners = _alike(items)
    if isinstance(owners, str):
        return layers[root], owners
    parts: list[Part] = []
    for dep, makes, idxs in items:
        node, module = dep.target, dep.target.module
        if type(module).__name__ == "_OutputOp" or (makes and not node.outputs):
            return layers[root], "it makes an output of the model"
        if module in layers and module in ignored:
            return layers[root], f"'{layers[module]}' is in ignore"
        if isinstance(module, nn.Parameter):
            tensors: list[tuple[str, Tensor, int, Role]] = [(bare[id(module)], module, node.pruning_dim, "other")]
        elif module not in layers or not any(True for _ in module.parameters(recurse=False)):
            continue  # an operation without weights
        else:
            own = _tensors(module, makes)
            if own is None:
                return layers[root], f"'{layers[module]}' is a {type(module).__name__}, which can't be narrowed"
            prefix = f"{layers[module]}." if layers[module] else ""
            tensors = [
                (prefix + name, getattr(module, name), axis, role)
                for name, axis, role in own
                if getattr(module, name) is not None
            ]
        for name, tensor, axis, role in tensors:
            index = _index(idxs, owners, tensor.shape[axis])
            if index is None:
                return layers[root], f"its channels do not map one to one onto '{name}'"
            parts.append(Part(name, role, tensor, axis % tensor.dim(), index))
    channels = max(owners) + 1
    if channels < 2:
        return layers[root], "it has one channel, or one in each group of a grouped convolution"
    return layers[root], Group(layers[root], channels, len(owners) // channels, tuple(parts))


def _tensors(module: nn.Module, makes: bool) -> list[tuple[str, int, Role]] | None:
    """(tensor, axis, role) of a layer for the channels it makes or reads; None for a layer not known here."""
    if isinstance(module, nn.modules.conv._ConvNd):
        depthwise = module.groups == module.in_channels == module.out_channels
        if not depthwise and module.groups == module.out_channels > 1:
            return None  # torch-pruning takes it for depthwise, which it is not
        if depthwise and module.groups > 1:
            return [("weight", 0, "makes"), ("bias", 0, "other")]
        if makes:
            return [("weight", 1 if module.transposed else 0, "makes"), ("bias", 0, "other")]
        return [("weight", 0 if module.transposed else 1, "reads")]
    if isinstance(module, nn.Linear):
        return [("weight", 0, "makes"), ("bias", 0, "other")] if makes else [("weight", 1, "reads")]
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return [("weight", 0, "scales"), *((name, 0, "other") for name in ("bias", "running_mean", "running_var"))]
    if isinstance(module, nn.GroupNorm) or (isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1):
        return [("weight", 0, "scales"), ("bias", 0, "other")]
    if isinstance(module, nn.Embedding):
        return [("weight", 1, "makes")]
    if isinstance(module, nn.PReLU):
        return [("weight", 0, "other")] if module.num_parameters > 1 else []
    return None


def _alike(items: list[Any]) -> list[int] | str:
    """For each channel of the root layer, the number of the channel that stands for it.

    Channels at the same place within the groups of a grouped convolution or normalisation are one; the reason where
    they can't be matched up.
    """
    count = len(items[0][2])
    owner = list(range(count))
    for dep, makes, idxs in items:
        module, groups, width = dep.target.module, 1, 0
        if isinstance(module, nn.modules.conv._ConvNd) and not module.groups == module.in_channels == module.out_channels:
            groups, width = module.groups, module.out_channels if makes else module.in_channels
        elif isinstance(module, nn.GroupNorm):
            groups, width = module.num_groups, module.num_channels
        if groups == 1:
            continue
        if len(idxs) != width:
            return f"it makes a part of the channels of a layer in {groups} groups"
        first: dict[int, int] = {}  # place in its group -> the channel that stands for it
        for each in idxs:
            mine = owner[each.root_idx]
            theirs = owner[first.setdefault(each.idx % (width // groups), each.root_idx)]
            owner = [theirs if old == mine else old for old in owner]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(owner))}
    if count % len(numbers) or any(owner.count(name) != count // len(numbers) for name in numbers):
        return "layers in different numbers of groups read it"
    return [numbers[name] for name in owner]


def _index(idxs: list[Any], owners: list[int], length: int) -> Tensor | None:
    """(channels, n): for each channel its positions on an axis of that length; None if not all have as many."""
    places: dict[int, set[int]] = {}
    for each in idxs:
        if each.root_idx is None:
            return None
        places.setdefault(owners[each.root_idx], set()).add(each.idx % length)  # grouped: position within the group
    rows = [sorted(places.get(channel, ())) for channel in range(max(owners) + 1)]
    one_each = sum(map(len, rows)) == len(set().union(*rows))
    return torch.tensor(rows) if one_each and rows[0] and len({len(row) for row in rows}) == 1 else None


def _named(body: nn.Module, names: Sequence[str]) -> set[nn.Module]:
    layers = {name: module for name, module in body.named_modules() if name}
    for name in names:
        if name not in layers:
            raise RecipeError(f"ignore: the model has no layer '{name}'; {suggest(name, list(layers))}")
    return {module for name, module in layers.items() if any(f"{name}.".startswith(f"{each}.") for each in names)}


def _positions(body: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, int]:
    """Weight name -> how often one sample multiplies by each of its values."""
    counts: dict[str, int] = {}

    def count(name: str, module: nn.Module, taken: tuple[Any, ...], given: Tensor) -> None:
        if isinstance(module, nn.Linear):
            places = given.numel() // given.shape[-1]
        else:
            counted = taken[0] if getattr(module, "transposed", False) else given  # (N, C, ...)
            places = counted.numel() // counted.shape[1]
        counts[name] = counts.get(name, 0) + places // given.shape[0]

    hooks = [
        module.register_forward_hook(lambda m, i, o, n=f"{name}.weight".lstrip("."): count(n, m, i, o))
        for name, module in body.named_modules()
        if isinstance(module, nn.modules.conv._ConvNd | nn.Linear)
    ]
    try:
        with torch.no_grad(), _evaluating(body):
            body(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return counts


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while: BatchNorm's statistics stay as they are."""
    modes = [(each, each.training) for each in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for each, mode in modes:
            each.training = mode
