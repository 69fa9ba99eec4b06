"""Which channels of a model hang together, from the dependency graph of torch-pruning (Fang et al. 2023, arXiv:2301.12900)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compress_cli.errors import RecipeError, StageError
from compress_cli.pruning.channels import DependencyGroups, Group, Part, Role, evaluating
from compress_cli.settings import suggest


def build(body: nn.Module, inputs: tuple[Tensor, ...], ignore: Sequence[str] = ()) -> DependencyGroups:
    """Find the groups of `body` by tracing it once on `inputs`.

    What makes an output of the model, or touches a layer in `ignore` (a name covers what stands below it), stays
    whole. RecipeError where a name in `ignore` matches nothing.
    """
    ignored = _named(body, ignore)
    layers = {module: name for name, module in body.named_modules()}
    groups, whole = [], {}
    with evaluating(body):
        for links in _trace(body, inputs):
            layer = _first(links, layers)
            found = _kept(links, layers, ignored) or _group(body, layer, links, layers)
            if isinstance(found, Group):
                groups.append(found)
            else:
                whole[layer] = found
    order = list(layers.values())
    return DependencyGroups(tuple(sorted(groups, key=lambda group: order.index(group.layer))), whole)


_LOST = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What torch-pruning raises, without a class of its own, where a model is beyond it."""


@dataclass(frozen=True)
class _Link:
    """One layer or operation that channels of a group pass."""

    node: Any  # torch-pruning's
    makes: bool  # it makes the channels, or passes them on; else it reads them
    pairs: list[tuple[int, int]]  # (its channel, the channel of the group's first layer)


def _trace(body: nn.Module, inputs: tuple[Tensor, ...]) -> list[list[_Link]]:
    """torch-pruning's groups, each over all channels of its first layer."""
    import torch_pruning  # slow to import, and needed only to prune

    frozen = [parameter for parameter in body.parameters() if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)  # it follows autograd's graph
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on its own options, none of them the user's
            try:
                graph = torch_pruning.DependencyGraph().build_dependency(body, inputs, verbose=False)
            except _LOST as error:
                reason = f"{type(error).__name__}: {error}"
                raise StageError(
                    f"channels can't be cut here: torch-pruning can't follow the architecture ({reason})"
                ) from error
            return [
                [
                    _Link(
                        item.dep.target,
                        graph.is_out_channel_pruning_fn(item.dep.handler),
                        list(zip(item.idxs, item.root_idxs, strict=True)),
                    )
                    for item in group.items
                ]
                for group in graph.get_all_groups()
            ]
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def _first(links: list[_Link], layers: dict[nn.Module, str]) -> str:
    """The name of the model's first convolution or linear layer that makes all channels of the group."""
    whole = len(links[0].pairs)
    makers = {
        link.node.module
        for link in links
        if link.makes and len(link.pairs) == whole and isinstance(link.node.module, nn.modules.conv._ConvNd | nn.Linear)
    }
    return next(name for module, name in layers.items() if module in makers)


def _kept(links: list[_Link], layers: dict[nn.Module, str], ignored: set[nn.Module]) -> str:
    """Why the channels have to stay, or ''."""
    for link in links:
        module = link.node.module
        if type(module).__name__ == "_OutputOp" or (link.makes and not link.node.outputs):
            return "it makes an output of the model"
        if module in layers and module in ignored:
            return f"'{layers[module]}' is in ignore"
    return ""


def _group(body: nn.Module, layer: str, links: list[_Link], layers: dict[nn.Module, str]) -> Group | str:
    """The group of these links, or the reason why it can't be cut."""
    owners = _alike(links)
    if isinstance(owners, str):
        return owners
    channels = max(owners) + 1
    if channels < 2:
        return "it has one channel, or one in each group of a grouped convolution"
    bare = {id(tensor): name for name, tensor in body.named_parameters()}
    parts: list[Part] = []
    for link in links:
        module = link.node.module
        if isinstance(module, nn.Parameter):
            tensors: list[tuple[str, Tensor, int, Role]] = [(bare[id(module)], module, link.node.pruning_dim, "other")]
        elif module not in layers or not any(True for _ in module.parameters(recurse=False)):
            continue  # an operation without weights
        else:
            own = _tensors(module, link.makes)
            if own is None:
                return f"'{layers[module]}' is a {type(module).__name__}, which can't be narrowed"
            prefix = f"{layers[module]}." if layers[module] else ""
            held = [(name, getattr(module, name), axis, role) for name, axis, role in own]
            tensors = [(prefix + name, tensor, axis, role) for name, tensor, axis, role in held if tensor is not None]
        for name, tensor, axis, role in tensors:
            index = _index(link.pairs, owners, tensor.shape[axis])
            if index is None:
                return f"its channels do not map one to one onto '{name}'"
            parts.append(Part(name, role, tensor, axis % tensor.dim(), index))
    return Group(layer, channels, len(owners) // channels, tuple(parts))


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


def _alike(links: list[_Link]) -> list[int] | str:
    """For each channel of the root layer, the number of the group's channel it belongs to.

    Channels at the same place within the groups of a grouped convolution or normalisation are one; the reason where
    they can't be matched up.
    """
    count = len(links[0].pairs)
    owner = list(range(count))
    for link in links:
        module, groups, width = link.node.module, 1, 0
        if isinstance(module, nn.modules.conv._ConvNd) and not module.groups == module.in_channels == module.out_channels:
            groups, width = module.groups, module.out_channels if link.makes else module.in_channels
        elif isinstance(module, nn.GroupNorm):
            groups, width = module.num_groups, module.num_channels
        if groups == 1:
            continue
        if len(link.pairs) != width:
            return f"it makes a part of the channels of a layer in {groups} groups"
        first: dict[int, int] = {}  # place in its group -> the channel that stands for it
        for place, channel in link.pairs:
            mine = owner[channel]
            theirs = owner[first.setdefault(place % (width // groups), channel)]
            owner = [theirs if old == mine else old for old in owner]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(owner))}
    if count % len(numbers) or any(owner.count(name) != count // len(numbers) for name in numbers):
        return "layers in different numbers of groups read it"
    return [numbers[name] for name in owner]


def _index(pairs: list[tuple[int, int]], owners: list[int], length: int) -> Tensor | None:
    """(channels, n): for each channel its positions on an axis of that length; None if not all have as many."""
    places: dict[int, set[int]] = {}
    for place, channel in pairs:
        places.setdefault(owners[channel], set()).add(place % length)  # of a grouped convolution: within the group
    rows = [sorted(places.get(channel, ())) for channel in range(max(owners) + 1)]
    one_each = sum(map(len, rows)) == len(set().union(*rows))
    return torch.tensor(rows) if one_each and rows[0] and len({len(row) for row in rows}) == 1 else None


def _named(body: nn.Module, names: Sequence[str]) -> set[nn.Module]:
    layers = {name: module for name, module in body.named_modules() if name}
    for name in names:
        if name not in layers:
            raise RecipeError(f"ignore: the model has no layer '{name}'; {suggest(name, list(layers))}")
    return {module for name, module in layers.items() if any(f"{name}.".startswith(f"{each}.") for each in names)}
