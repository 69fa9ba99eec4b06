"""Channels are cut out of a module, after a proof on copies that the cut removes nothing else."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from compress_cli.networks.edits import Edit
from compress_cli.networks.edits.narrow import Narrow
from compress_cli.networks.edits.open_attention import OpenAttention, openable
from compress_cli.pruning import channels
from compress_cli.pruning.channels import Group, evaluating

LEAST, MOST = 0.25, 0.75  # share of a group's channels that a random pattern removes
CUT_ERRORS = (RuntimeError, ValueError, LookupError, AssertionError)  # how a user's model complains about a wrong shape


def narrow(body: nn.Module, groups: Sequence[Group], removed: Sequence[Tensor]) -> Narrow:
    """Cut the body in place; returns the record of the cut."""
    before = {name: tensor.shape for name, tensor in body.state_dict().items()}
    after = channels.cut(body, groups, removed)
    shapes = {name: tuple(tensor.shape) for name, tensor in after.items() if tensor.shape != before[name]}
    edit = Narrow(shapes=shapes, numbers=_numbers(body, groups, removed))
    edit(body)
    load(body, after)
    return edit


def narrow_edited(
    body: nn.Module, edits: Sequence[Edit], groups: Sequence[Group], removed: Sequence[Tensor]
) -> tuple[Edit, ...]:
    """Cut the body in place; returns its edits and the record of the cut, as they are replayed.

    An edit that the cut changes, such as a mask, loses what is removed, and comes after it."""
    cut = cut_of(body, groups, removed)
    after = [edit.narrowed(cut) for edit in edits]
    pairs = list(zip(edits, after, strict=True))
    unchanged, changed = [old for old, new in pairs if new is old], [new for old, new in pairs if new is not old]
    return (*unchanged, narrow(body, groups, removed), *changed)


Cut = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""What remains of tensors shaped as the parameters of their names."""


def cut_of(body: nn.Module, groups: Sequence[Group], removed: Sequence[Tensor]) -> Cut:
    """The cut of a body as it is now, which may have been narrowed when this is called."""
    whole = copy.deepcopy(body)

    def cut(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        load(whole, {name: tensor.to(torch.float32) for name, tensor in tensors.items()})
        after = channels.cut(whole, groups, removed)
        return {name: after[name] for name in tensors}

    return cut


def load(body: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put these tensors into the body, with the versions that its own state carries: some modules ask for them."""
    state = body.state_dict()
    state.update(tensors)
    body.load_state_dict(state)


WIDTHS = {"split_size", "all_head_size", "attn_dim", "inner_dim", "attention_dim", "d_attn"}
"""Attributes in which attention layers keep heads x width of a head, to split or reshape by."""


def _numbers(body: nn.Module, groups: Sequence[Group], removed: Sequence[Tensor]) -> dict[str, int]:
    """What the code of attention layers reads after a cut of whole heads: attribute -> number of heads, or their width."""
    numbers = {}
    for group, channels_removed in zip(groups, removed, strict=True):
        if group.multiple == 1:
            continue
        kept = group.channels - len(channels_removed)
        per_head = {part.index.shape[1] for part in group.parts}
        for layer in dict.fromkeys(name for part in group.parts for name in (part.layer, part.layer.rpartition(".")[0])):
            for attribute, value in vars(body.get_submodule(layer)).items():
                name = f"{layer}.{attribute}".lstrip(".")
                counts_heads = "head" in attribute and not attribute.endswith(("dim", "size"))
                if type(value) is int and counts_heads and value == group.channels:
                    numbers[name] = kept
                elif type(value) is int and attribute in WIDTHS and value in (group.channels * places for places in per_head):
                    numbers[name] = value // group.channels * kept
    return numbers


def open_attention(body: nn.Module) -> list[Edit]:
    """Let heads of PyTorch's attention layers be cut; the record of it, if there are any."""
    layers = tuple(name for name, module in body.named_modules() if openable(module))
    if not layers:
        return []
    edit = OpenAttention(layers=layers)
    edit(body)
    return [edit]


class Proof:
    """Compares what a cut body computes with what the whole body computes when the removed channels are masked.

    Code that fixes a width (heads of attention) or reorders channels unseen (a shuffle made of reshapes) fails when it is
    narrower, or computes something else. In double precision, where the body runs in it: a wrong channel changes the
    outputs of a deep network by less than single precision rounds.

    keeps_norms: whether normalisations over channels, which see masked channels and not removed ones, compute as they do; where
    one would, the cut is no longer equal to the mask. Otherwise something that treats each channel by itself stands for them.
    """

    def __init__(self, body: nn.Module, inputs: tuple[Tensor, ...], keeps_norms: bool = False):
        self._body, self._inputs = body, inputs
        self._exact, self._exact_inputs, self._tolerance = _comparable(body, inputs, keeps_norms)
        self.reason = "the model does not run, or goes wrong, when it is narrower"
        """Why a group is not provable."""
        if keeps_norms:
            self.reason += ", or a normalisation tells its masked channels from removed ones"
        self._replaced = any(isinstance(module, _Rescale) for module in self._exact.modules())

    def provable(self, groups: Sequence[Group]) -> list[Group]:
        """The groups that can be cut together, by a random pattern; all of them where that is possible."""
        if self._survive(groups):
            return list(groups)
        families: dict[str, list[Group]] = {}  # layers of one name in repeated blocks stand or fall together
        for group in groups:
            families.setdefault(re.sub(r"\d+", "*", group.layer), []).append(group)
        proven: list[Group] = []
        for family in families.values():
            if self._survive([*proven, *family]):
                proven += family
            elif len(family) > 1 and self._survive([*proven, family[0]]):
                proven = self._extended([*proven, family[0]], family[1:])
        return [group for group in groups if group in proven]

    def holds(self, groups: Sequence[Group], removed: Sequence[Tensor]) -> bool:
        """Whether the body without these channels gives the same outputs as the whole body with them masked."""
        if self._replaced and _cut_outputs(self._body, self._inputs, groups, removed) is None:
            return False
        outputs = _cut_outputs(self._exact, self._exact_inputs, groups, removed)
        expected = _masked_outputs(self._exact, self._exact_inputs, groups, removed)
        if outputs is None or _shapes(outputs) != _shapes(expected):
            return False
        return all(_close(outputs[head], expected[head], self._tolerance) for head in expected)

    def _extended(self, proven: list[Group], groups: list[Group]) -> list[Group]:
        """Proven groups with those of the others that can be cut together with them, found by halving."""
        if self._survive([*proven, *groups]):
            return [*proven, *groups]
        if len(groups) < 2:
            return proven
        half = len(groups) // 2
        return self._extended(self._extended(proven, groups[:half]), groups[half:])

    def _survive(self, groups: Sequence[Group]) -> bool:
        return not groups or self.holds(groups, _pattern(groups))


def _pattern(groups: Sequence[Group]) -> list[Tensor]:
    """The numbers of the channels that are removed from each group: a share of its own and channels, both drawn at random."""
    generator = torch.Generator().manual_seed(len(groups))
    shares = [LEAST + (MOST - LEAST) * float(torch.rand((), generator=generator)) for _ in groups]
    return [
        torch.randperm(group.channels, generator=generator)[: _some(share, group.channels)]
        for share, group in zip(shares, groups, strict=True)
    ]


def _some(share: float, count: int) -> int:
    return min(max(1, round(share * count)), count - 1)


def _comparable(body: nn.Module, inputs: tuple[Tensor, ...], keeps_norms: bool) -> tuple[nn.Module, tuple[Tensor, ...], float]:
    """A copy of the body whose channels do not mix but in its weights, inputs for it, and the relative rounding error.

    A model whose code makes tensors of single precision, or reads a normalisation's attributes, stays as it is there.
    """
    exact_inputs = tuple(tensor.double() if tensor.is_floating_point() else tensor for tensor in inputs)
    attempts = ((True, False),) if keeps_norms else ((True, True), (False, True), (True, False))
    for precise, replaced in attempts:
        exact = copy.deepcopy(body).double() if precise else copy.deepcopy(body)
        if replaced:
            _replace_normalisations(exact)
        try:
            _heads(exact, exact_inputs if precise else inputs)
        except (*CUT_ERRORS, AttributeError, TypeError):
            continue
        return (exact, exact_inputs, 1e-7) if precise else (exact, inputs, 1e-4)
    return copy.deepcopy(body), inputs, 1e-4


class _Rescale(nn.Module):
    """Stands for a normalisation over channels: bounded, with the same parameters, and each channel by itself."""

    def __init__(self, norm: nn.LayerNorm | nn.GroupNorm):
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.channels_first = isinstance(norm, nn.GroupNorm)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(x)
        for parameter, apply in ((self.weight, torch.mul), (self.bias, torch.add)):
            if parameter is not None:
                shaped = parameter.reshape(-1, *(1 for _ in x.shape[2:])) if self.channels_first else parameter
                x = apply(x, shaped)
        return x


def _replace_normalisations(body: nn.Module) -> None:
    """Replace layers that normalise over channels: their statistics differ over fewer of them."""
    norms = [(parent, name, module) for parent in body.modules() for name, module in parent.named_children()
             if isinstance(module, nn.LayerNorm | nn.GroupNorm)]  # fmt: skip
    for parent, name, norm in norms:
        setattr(parent, name, _Rescale(norm))


def _cut_outputs(
    body: nn.Module, inputs: tuple[Tensor, ...], groups: Sequence[Group], removed: Sequence[Tensor]
) -> dict[str, Tensor] | None:
    """Head name -> (N, ...) of a cut copy; None where it does not run."""
    shared = {id(tensor): tensor for tensor in (*body.parameters(), *body.buffers())}  # what is not cut need not be copied
    narrower = copy.deepcopy(body, shared)
    narrow(narrower, groups, removed)
    try:
        return _heads(narrower, inputs)
    except CUT_ERRORS:
        return None


def _masked_outputs(
    body: nn.Module, inputs: tuple[Tensor, ...], groups: Sequence[Group], removed: Sequence[Tensor]
) -> dict[str, Tensor]:
    with torch.no_grad(), evaluating(body):
        outputs = functional_call(body, channels.masked(body, groups, removed), inputs)
    return outputs if isinstance(outputs, dict) else {"": outputs}


def _heads(body: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    with torch.no_grad(), evaluating(body):
        outputs = body(*inputs)
    return outputs if isinstance(outputs, dict) else {"": outputs}


def _shapes(heads: dict[str, Tensor]) -> dict[str, Any]:
    return {name: tensor.shape for name, tensor in heads.items()}


def _close(outputs: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Equal but for rounding, which grows with the size of the numbers."""
    return bool((outputs - expected).abs().max() <= tolerance * expected.abs().max().clamp(min=1e-6))
