"""Which channels of a model depend on each other, by the graph of torch-pruning (Fang et al. 2023, arXiv:2301.12900)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from compress_cli.errors import RecipeError, StageError
from compress_cli.pruning.channels import DependencyGroups, Group, Part, Role, evaluating
from compress_cli.pruning.units import Grouped, Shuffled, Units, units
from compress_cli.settings import suggest


def build(body: nn.Module, inputs: tuple[Tensor, ...], ignore: Sequence[str] = ()) -> DependencyGroups:
    """Find the groups of `body` by tracing it once on `inputs`.

    Layers that make an output of the model, and groups that touch a layer in `ignore` (a name covers the layers below it),
    are left whole. RecipeError where a name in `ignore` matches nothing.
    """
    ignored = _named(body, ignore)
    layers = {module: name for name, module in body.named_modules()}
    groups, whole = [], {}
    with evaluating(body):
        for links in _trace(body, inputs):
            layer = _first(links, layers)
            group = _reason_to_stay(links, layers, ignored) or _group(body, layer, links, layers)
            if isinstance(group, Group):
                groups.append(group)
            else:
                whole[layer] = group
    order = list(layers.values())
    return DependencyGroups(tuple(sorted(groups, key=lambda group: order.index(group.layer))), whole)


_UNTRACEABLE = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""Exceptions that torch-pruning raises for a model that it can't handle; it has no class of its own for them."""


@dataclass(frozen=True)
class _Link:
    """One layer or operation that the channels of a group pass."""

    node: Any  # torch-pruning's
    makes: bool  # it makes the channels, or passes them on; else it reads them
    pairs: list[tuple[int, int]]  # (its channel, the channel of the group's first layer)
    shuffled: int = 0  # of a channel shuffle: how many channels it shuffles


def _trace(body: nn.Module, inputs: tuple[Tensor, ...]) -> list[list[_Link]]:
    """torch-pruning's groups, each over all channels of its first layer."""
    import torch_pruning  # slow to import, and needed only to prune

    frozen = [parameter for parameter in body.parameters() if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)  # it follows autograd's graph
    try:
        with torch.enable_grad(), warnings.catch_warnings(), _traceable_shuffles(body) as orders:
            warnings.simplefilter("ignore")  # advice on its own options, none of them the user's
            pruners = {type(module): torch_pruning.ops.DummyPruner() for module in _shuffles(body)}
            graph = torch_pruning.DependencyGraph()
            try:
                graph.build_dependency(body, inputs, customized_pruners=pruners, verbose=False)
            except _UNTRACEABLE as error:
                reason = f"{type(error).__name__}: {error}"
                raise StageError(
                    f"channels can't be cut here: torch-pruning can't follow the architecture ({reason})"
                ) from error
            for module, order in orders.items():
                _map_positions(graph.module2node[module], order)
            return [
                [
                    _Link(
                        item.dep.target,
                        graph.is_out_channel_pruning_fn(item.dep.handler),
                        list(zip(item.idxs, item.root_idxs, strict=True)),
                        len(orders.get(item.dep.target.module, ())),
                    )
                    for item in group.items
                ]
                for group in graph.get_all_groups()
            ]
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def _shuffles(body: nn.Module) -> list[nn.ChannelShuffle]:
    return [module for module in body.modules() if isinstance(module, nn.ChannelShuffle)]


@contextmanager
def _traceable_shuffles(body: nn.Module) -> Iterator[dict[nn.Module, list[int]]]:
    """Let each channel shuffle compute by two operations that the trace sees; fills shuffle -> its order of channels.

    Behind its own multiplication a shuffle's only neighbour in the graph is one without a mapping of positions.
    """
    orders: dict[nn.Module, list[int]] = {}

    def gather(module: nn.ChannelShuffle, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        groups, channels = module.groups, inputs[0].shape[1]
        orders[module] = torch.arange(channels).reshape(groups, -1).T.flatten().tolist()
        return (inputs[0] * 1).index_select(1, torch.tensor(orders[module]))

    hooks = [module.register_forward_hook(gather) for module in _shuffles(body)]
    try:
        yield orders
    finally:
        for hook in hooks:
            hook.remove()


def _map_positions(node: Any, order: list[int]) -> None:
    """Tell torch-pruning's graph at which position of a shuffle's output each channel of its input comes out."""
    position = {channel: output for output, channel in enumerate(order)}
    (before,) = node.inputs
    for source, target, mapping in ((before, node, position), (node, before, dict(enumerate(order)))):
        for edge in source.dependencies:
            if edge.target is target:
                edge.index_mapping[0] = partial(_moved, mapping)


def _moved(mapping: dict[int, int], positions: list[Any]) -> list[Any]:
    return [index._replace(idx=mapping[index.idx]) for index in positions]


def _first(links: list[_Link], layers: dict[nn.Module, str]) -> str:
    """The name of the model's first convolution or linear layer that makes all channels of the group."""
    whole = len(links[0].pairs)
    makers = {
        link.node.module
        for link in links
        if link.makes and len(link.pairs) == whole and isinstance(link.node.module, nn.modules.conv._ConvNd | nn.Linear)
    }
    return next(name for module, name in layers.items() if module in makers)


def _reason_to_stay(links: list[_Link], layers: dict[nn.Module, str], ignored: set[nn.Module]) -> str:
    """Why the channels can't be cut whatever their weights are, or ''."""
    for link in links:
        module = link.node.module
        if type(module).__name__ == "_OutputOp" or (link.makes and not link.node.outputs):
            return "it makes an output of the model"
        if module in layers and module in ignored:
            return f"'{layers[module]}' is in ignore"
    return ""


def _group(body: nn.Module, layer: str, links: list[_Link], layers: dict[nn.Module, str]) -> Group | str:
    """The group of these links, or the reason why it can't be cut."""
    channel_units = _units(links)
    if isinstance(channel_units, str):
        return channel_units
    if channel_units.count < 2:
        return "it has one channel, or one in each group of a grouped convolution"
    bare = {id(tensor): name for name, tensor in body.named_parameters()}
    parts: list[Part] = []
    for link in links:
        module = link.node.module
        if isinstance(module, nn.Parameter):
            slots = [_Slot(bare[id(module)], link.node.pruning_dim, "other")]
        elif module not in layers or not any(True for _ in module.parameters(recurse=False)):
            continue  # an operation without weights
        else:
            known = _slots(module, link.makes)
            if known is None:
                return f"'{layers[module]}' is a {type(module).__name__}, which can't be narrowed"
            slots = [slot.within(layers[module]) for slot in known if getattr(module, slot.name) is not None]
        for slot in slots:
            part = _part(slot, body, link, channel_units, _normalised_by(link, layers))
            if part is None:
                return f"its channels do not map one to one onto '{slot.name}'"
            parts.append(part)
    return Group(layer, channel_units.count, channel_units.size, tuple(parts), channel_units.fixed)


@dataclass(frozen=True)
class _Slot:
    """Where in a layer's tensor its channels are."""

    name: str
    axis: int
    role: Role
    groups: int = 1  # the axis counts the channels of one of so many groups

    def within(self, layer: str) -> _Slot:
        """The same with the layer's name before the tensor's."""
        return _Slot(f"{layer}.{self.name}".lstrip("."), self.axis, self.role, self.groups)


def _slots(module: nn.Module, makes: bool) -> list[_Slot] | None:
    """The slots for the channels that a layer makes or reads; None for a layer not known here."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return _slots_of_convolution(module, makes)
    if isinstance(module, nn.Linear):
        return [_Slot("weight", 0, "makes"), _Slot("bias", 0, "other")] if makes else [_Slot("weight", 1, "reads")]
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return [_Slot("weight", 0, "scales"), *(_Slot(name, 0, "other") for name in ("bias", "running_mean", "running_var"))]
    if isinstance(module, nn.GroupNorm) or (isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1):
        return [_Slot("weight", 0, "scales"), _Slot("bias", 0, "other")]
    if isinstance(module, nn.Embedding):
        return [_Slot("weight", 1, "makes")]
    if isinstance(module, nn.PReLU):
        return [_Slot("weight", 0, "other")] if module.num_parameters > 1 else []
    return None


def _slots_of_convolution(module: nn.modules.conv._ConvNd, makes: bool) -> list[_Slot] | None:
    """A convolution's weight has one axis for all its channels, the other for those of one group."""
    if not _is_depthwise(module) and module.groups == module.out_channels > 1:
        return None  # torch-pruning takes it for depthwise, which it is not
    if _is_depthwise(module) and module.groups > 1:
        return [_Slot("weight", 0, "makes"), _Slot("bias", 0, "other")]
    axis = int(makes == module.transposed)  # out and in swap places in a transposed convolution
    weight = _Slot("weight", axis, "makes" if makes else "reads", module.groups if axis else 1)
    return [weight, _Slot("bias", 0, "other")] if makes else [weight]


def _is_depthwise(module: nn.modules.conv._ConvNd) -> bool:
    return module.groups == module.in_channels == module.out_channels


def _units(links: list[_Link]) -> Units | str:
    """The units of the group's channels that can be removed alone, or the reason why there are none."""
    layers: list[Grouped] = []
    for link in links:
        module, groups, width = link.node.module, 1, 0
        kind: Callable[..., Grouped] = Grouped
        if isinstance(module, nn.modules.conv._ConvNd) and not _is_depthwise(module):
            groups, width = module.groups, module.out_channels if link.makes else module.in_channels
        elif isinstance(module, nn.GroupNorm):
            groups, width = module.num_groups, module.num_channels
        elif isinstance(module, nn.ChannelShuffle):
            kind, groups, width = Shuffled, module.groups, link.shuffled
        if groups == 1:
            continue
        if len(link.pairs) != width:
            return f"it makes a part of the channels of a layer in {groups} groups"
        layers.append(kind(tuple(link.pairs), groups))
    return units(len(links[0].pairs), layers)


def _normalised_by(link: _Link, layers: dict[nn.Module, str]) -> str:
    """The layer whose output a normalisation takes directly, where nothing else takes that; else ''."""
    if not isinstance(link.node.module, nn.modules.batchnorm._NormBase | nn.GroupNorm | nn.LayerNorm):
        return ""
    sources = link.node.inputs
    alone = len(sources) == 1 and sources[0].module in layers and sources[0].outputs == [link.node]
    return layers[sources[0].module] if alone else ""


def _part(slot: _Slot, body: nn.Module, link: _Link, channel_units: Units, normalises: str) -> Part | None:
    """The slices of one tensor that belong to the units; None if not all units have as many."""
    tensor = _tensor(body, slot.name)
    positions: list[set[int]] = [set() for _ in range(channel_units.count)]
    for position, channel in link.pairs:
        unit = channel_units.owner[channel]
        if unit is not None:
            positions[unit].add(position)
    rows = [sorted(row) for row in positions]
    one_each = sum(map(len, rows)) == len(set().union(*rows))
    if not one_each or not rows[0] or len({len(row) for row in rows}) > 1:
        return None
    return Part(slot.name, slot.role, tensor, slot.axis % tensor.dim(), torch.tensor(rows), slot.groups, normalises)


def _tensor(body: nn.Module, name: str) -> Tensor:
    layer, _, tensor = name.rpartition(".")
    held = getattr(body.get_submodule(layer), tensor)
    assert isinstance(held, Tensor), name
    return held


def _named(body: nn.Module, names: Sequence[str]) -> set[nn.Module]:
    layers = {name: module for name, module in body.named_modules() if name}
    for name in names:
        if name not in layers:
            raise RecipeError(f"ignore: the model has no layer '{name}'; {suggest(name, list(layers))}")
    return {module for name, module in layers.items() if any(f"{name}.".startswith(f"{ignored}.") for ignored in names)}
