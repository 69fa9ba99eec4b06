"""Channels are cut out of a module, after a proof on copies that the cut removes nothing else."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from compress_cli.networks import code_widths
from compress_cli.networks.edits import Edit
from compress_cli.networks.edits.narrow import Narrow
from compress_cli.networks.edits.open_attention import OpenAttention, openable
from compress_cli.networks.rescaling import Rescaling
from compress_cli.pruning import channels, coupling
from compress_cli.pruning.channels import Group, evaluating

DOUBLE, SINGLE = 1e-7, 1e-4  # relative rounding error of a deep network's outputs
LEAST, MOST = 0.25, 0.75  # share of a group's channels that a random pattern removes
Inputs = tuple[Tensor, ...]
CUT_ERRORS = (RuntimeError, ValueError, LookupError, AssertionError)  # how a user's model complains about a wrong shape


def narrow(body: nn.Module, groups: Sequence[Group], removed: Sequence[Tensor]) -> Narrow:
    """Cut the body in place; returns the record of the cut."""
    before = {name: tensor.shape for name, tensor in body.state_dict().items()}
    after = channels.cut(body, groups, removed)
    shapes = {name: tuple(tensor.shape) for name, tensor in after.items() if tensor.shape != before[name]}
    edit = Narrow(shapes=shapes, numbers=code_widths.numbers(body, groups, removed))
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
        self._keeps_norms = keeps_norms
        precise = tuple(tensor.double() if tensor.is_floating_point() else tensor for tensor in inputs)
        self._exact, self._exact_inputs, self._tolerance = copy.deepcopy(body).double(), precise, DOUBLE
        self._ran, self._normalises = False, False  # the copy; and normalisations were replaced in it
        self.reason = "the model does not run, or goes wrong, when it is narrower"
        """Why a group is not provable."""
        if keeps_norms:
            self.reason += ", or a normalisation tells its masked channels from removed ones"

    def provable(self, groups: Sequence[Group]) -> list[Group]:
        """The groups that can be cut together, by a random pattern; all of them where that is possible.

        A group that can't be cut as it is may be with numbers of the model's code that follow its width, or coupled with the
        heads of attention that take theirs from it; it is returned so."""
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
        failed = [[group for group in family if group not in proven] for family in families.values()]
        repaired = [group for group in self._repaired(proven, failed) if group not in proven]
        order = {group.layer: number for number, group in enumerate(groups)}
        return sorted((*proven, *repaired), key=lambda group: order[group.layer])

    def holds(self, groups: Sequence[Group], removed: Sequence[Tensor]) -> bool:
        """Whether the body without these channels gives the same outputs as the whole body with them masked."""
        expected = None if self._ran else self._expected(groups, removed)
        if self._normalises and _cut_outputs(self._body, self._inputs, groups, removed, nullcontext()) is None:
            return False
        outputs = _cut_outputs(self._exact, self._exact_inputs, groups, removed, self._rescaling())
        if outputs is None:
            return False
        expected = expected or self._expected(groups, removed)
        same = _shapes(outputs) == _shapes(expected)
        return same and all(_close(outputs[head], expected[head], self._tolerance) for head in expected)

    def _expected(self, groups: Sequence[Group], removed: Sequence[Tensor]) -> dict[str, Tensor]:
        """Head name -> (N, ...) of the whole body with these channels masked.

        The first run tells whether the body normalises, and whether it runs in double precision: a model whose code makes
        tensors of single precision may not."""
        rescaling = self._rescaling()
        try:
            outputs = _masked_outputs(self._exact, self._exact_inputs, groups, removed, rescaling)
        except (*CUT_ERRORS, AttributeError, TypeError):
            if self._ran or self._tolerance == SINGLE:
                raise
            self._exact, self._exact_inputs, self._tolerance = copy.deepcopy(self._body), self._inputs, SINGLE
            return self._expected(groups, removed)
        if not self._ran:
            self._ran, self._normalises = True, isinstance(rescaling, Rescaling) and rescaling.normalisations > 0
        return outputs

    def _rescaling(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._keeps_norms else Rescaling()

    def _extended(self, proven: list[Group], groups: list[Group]) -> list[Group]:
        """Proven groups with those of the others that can be cut together with them, found by halving."""
        if self._survive([*proven, *groups]):
            return [*proven, *groups]
        if len(groups) < 2:
            return proven
        half = len(groups) // 2
        return self._extended(self._extended(proven, groups[:half]), groups[half:])

    def _repaired(self, proven: list[Group], failed: list[list[Group]]) -> list[Group]:
        """Proven groups with those of the other families that can be cut with them in another form."""
        heads = [group for family in failed for group in family if group.multiple > 1]
        taken: set[str] = set()  # heads that go with a stream
        for family in failed:
            for group in (group for group in family if group.layer not in taken):
                free = [head for head in heads if head.layer not in taken]
                forms = _forms(self._body, group, coupling.reading(group, free))
                form = next((form for form in forms if self._survive([*proven, form])), None)
                if form is None:
                    break
                proven = [*proven, form]
                taken |= {group.layer, *form.coupled}
        return proven

    def _survive(self, groups: Sequence[Group]) -> bool:
        return not groups or self.holds(groups, _pattern(groups))


def _forms(body: nn.Module, group: Group, heads: Sequence[Group]) -> Iterator[Group]:
    """Other forms of a group that can't be cut as it is: its width in the code follows, heads go with it, or both."""
    numbers = code_widths.of_width(body, group)
    following = replace(group, numbers=numbers) if numbers else None
    if following:
        yield following
    for form in (group, following):
        together = coupling.coupled(form, heads) if form and heads else None
        if together:
            yield together


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


def _cut_outputs(
    body: nn.Module, inputs: Inputs, groups: Sequence[Group], removed: Sequence[Tensor], norms: AbstractContextManager[Any]
) -> dict[str, Tensor] | None:
    """Head name -> (N, ...) of a cut copy that runs within `norms`; None where it does not run."""
    shared = {id(tensor): tensor for tensor in (*body.parameters(), *body.buffers())}  # what is not cut need not be copied
    narrower = copy.deepcopy(body, shared)
    narrow(narrower, groups, removed)
    try:
        with torch.no_grad(), evaluating(narrower), norms:
            return _heads(narrower(*inputs))
    except CUT_ERRORS:
        return None


def _masked_outputs(
    body: nn.Module, inputs: Inputs, groups: Sequence[Group], removed: Sequence[Tensor], norms: AbstractContextManager[Any]
) -> dict[str, Tensor]:
    """Head name -> (N, ...) of the body with masked weights, run within `norms`."""
    once = {f"{layer}.{tensor}".lstrip(".") for layer, module in body.named_modules() for tensor in _tensors(module)}
    masked = {name: tensor for name, tensor in channels.masked(body, groups, removed).items() if name in once}
    with torch.no_grad(), evaluating(body), norms:
        return _heads(functional_call(body, masked, inputs, tie_weights=False))  # ties put a shared layer's back wrongly


def _tensors(module: nn.Module) -> tuple[str, ...]:
    """The names of a module's own parameters and buffers."""
    return (*module._parameters, *module._buffers)


def _heads(outputs: Any) -> dict[str, Tensor]:
    return outputs if isinstance(outputs, dict) else {"": outputs}


def _shapes(heads: dict[str, Tensor]) -> dict[str, Any]:
    return {name: tensor.shape for name, tensor in heads.items()}


def _close(outputs: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Equal but for rounding, which grows with the size of the numbers."""
    return bool((outputs - expected).abs().max() <= tolerance * expected.abs().max().clamp(min=1e-6))
