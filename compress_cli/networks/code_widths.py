"""Numbers in a model's code that follow a cut: how many heads an attention layer has, how wide a residual stream is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from compress_cli.networks.edits.narrow import code_number
from compress_cli.pruning.channels import Group

INNER_WIDTHS = {"split_size", "all_head_size", "attn_dim", "inner_dim", "attention_dim", "d_attn"}
"""Attributes in which attention layers keep heads x width of a head, to split or reshape by."""

WIDTH = re.compile(r"(dim|dims|size|width|channels|features|chs|planes|d_model|shape)(\.\d+)?$")
NO_WIDTH = re.compile(r"(image|img|patch|window|kernel|pool|grid|head|vocab|sequence|seq)_")


def numbers(body: nn.Module, groups: Sequence[Group], removed: Sequence[Tensor]) -> dict[str, int]:
    """Attribute of a layer -> the number that its code has to read there after a cut."""
    found: dict[str, int] = {}
    for group, channels_removed in zip(groups, removed, strict=True):
        kept = group.channels - len(channels_removed)
        if group.multiple > 1:
            found |= _of_heads(body, group, kept)
        for name, step in group.numbers.items():
            before = code_number(body, name)
            if before is not None:
                found[name] = before - step * len(channels_removed)
    return found


def _of_heads(body: nn.Module, group: Group, kept: int) -> dict[str, int]:
    """The number of heads, or their width, where whole heads are cut."""
    found = {}
    per_head = {part.index.shape[1] for part in group.parts}
    for layer in dict.fromkeys(name for part in group.parts for name in (part.layer, part.layer.rpartition(".")[0])):
        for attribute, value in vars(body.get_submodule(layer)).items():
            name = f"{layer}.{attribute}".lstrip(".")
            counts_heads = "head" in attribute and not attribute.endswith(("dim", "size"))
            if type(value) is int and counts_heads and value == group.channels:
                found[name] = kept
            elif type(value) is int and attribute in INNER_WIDTHS and value in (group.channels * places for places in per_head):
                found[name] = value // group.channels * kept
    return found


def of_width(body: nn.Module, group: Group) -> dict[str, int]:
    """Attributes that hold the width of a group's channels in layers that hold these, or around them -> what a channel takes.

    Whether code reads them as that width only a proof can tell: two widths may be equal by chance."""
    found: dict[str, int] = {}
    for part in group.parts:
        for layer in _around(part.layer):
            module = body.get_submodule(layer)
            if type(module).__module__.startswith("torch.nn."):
                continue  # its widths follow its tensors
            for attribute, value in _whole_numbers(module):
                if value == part.length and WIDTH.search(attribute) and not NO_WIDTH.search(attribute):
                    found[f"{layer}.{attribute}".lstrip(".")] = part.index.shape[1]
    return found


def _whole_numbers(module: nn.Module) -> Iterator[tuple[str, int]]:
    """A module's own attributes that are whole numbers, and those in tuples: `shape.0`."""
    for attribute, value in vars(module).items():
        if type(value) is int:
            yield attribute, value
        elif isinstance(value, tuple):
            yield from ((f"{attribute}.{place}", length) for place, length in enumerate(value) if type(length) is int)


def _around(layer: str) -> Iterator[str]:
    """The layer's name, and those of the modules around it, the model's own ('') last."""
    while layer:
        yield layer
        layer = layer.rpartition(".")[0]
    yield ""
