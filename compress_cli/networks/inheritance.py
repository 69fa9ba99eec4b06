"""What a student can take of its teacher's weights: which tensor from which, of wider ones the most important channels."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from compress_cli.errors import StageError
from compress_cli.networks import bypassing, narrowing
from compress_cli.networks.alignment import Alignment
from compress_cli.networks.edits.bypass import Bypass
from compress_cli.pruning import dependency_graph
from compress_cli.pruning.channels import Group, Part

Inputs = tuple[Tensor, ...]
Score = Callable[[Sequence[Group]], list[Tensor]]
"""Groups of the teacher -> the importance of each one's channels, (channels,)."""


@dataclass(frozen=True)
class Inherited:
    """Weights for a student, and where each comes from."""

    state: dict[str, Tensor]
    sources: dict[str, str]  # student tensor -> teacher tensor
    cut: tuple[str, ...]  # of the student's tensors, those that are a part of the teacher's
    random: tuple[str, ...]  # those that the teacher has nothing for
    widths: dict[str, tuple[int, int]] = field(default_factory=dict)  # teacher layer -> its channels, and those that are taken


def shallower(teacher: nn.Module, alignment: Alignment, inputs: Inputs) -> tuple[nn.Module, list[str]]:
    """A copy of the teacher without the repeated layers that the student lacks, and their names.

    Only layers that give a tensor of the shape that they take can be left out; the others stay.
    """
    copied = copy.deepcopy(teacher)
    units = bypassing.units(copied, inputs, alignment.dropped)
    layers = [layer for unit in units for layer in unit]
    Bypass(layers=tuple(layers), tuples=tuple(layer for unit, is_tuple in units.items() if is_tuple for layer in unit))(copied)
    return copied, layers


def inherit(student: nn.Module, teacher: nn.Module, alignment: Alignment, inputs: Inputs, score: Score) -> Inherited:
    """Weights for the student from a teacher that is as deep, or, where that can't be, deeper.

    Where the student is narrower, the channels that score highest are taken, the same ones in all layers that share them:
    along residual streams, in normalisations, in depthwise convolutions; of attention whole heads, or the same number of
    narrower ones. A tensor whose channels come from other layers in the student than in the teacher stays random, as does
    one of another shape that no cut explains, such as a classifier of other classes.
    """
    ours, theirs = student.state_dict(), teacher.state_dict()
    sources = dict(_tensors(alignment, ours, theirs))
    our_groups, their_groups = _groups(student, inputs), _groups(teacher, inputs)
    joined = _joined(our_groups, their_groups, sources)
    for name in _misled(our_groups, their_groups, sources):
        del sources[name]
    kept: dict[tuple[str, int], tuple[Part, Tensor]] = {}
    widths: dict[str, tuple[int, int]] = {}
    narrower = [(group, own) for group, own in joined if _is_narrower(group, own, sources)]
    scores = score([group for group, _ in narrower]) if narrower else []
    for (group, own), importance in zip(narrower, scores, strict=True):
        removed = _removed(group, own, importance, sources)
        if removed is None:
            continue
        for part, positions in removed.items():
            _, keep = kept.setdefault((part.name, part.axis), (part, torch.ones(part.length, dtype=torch.bool)))
            keep[positions] = False
        maker = next(part for part in group.parts if part.layer == group.layer and part.role == "makes")
        widths[group.layer] = (maker.length, int(kept[maker.name, maker.axis][1].sum()))
    taken = {other: theirs[other] for other in set(sources.values())}
    for part, keep in kept.values():
        if part.name in taken and bool(keep.any()):
            taken[part.name] = part.as_stored(part.by_channel(taken[part.name])[keep])
    fitting = {name: other for name, other in sources.items() if taken[other].shape == ours[name].shape}
    unsupported = _misled(our_groups, their_groups, fitting)
    fitting = {name: other for name, other in fitting.items() if name not in unsupported}
    state = {name: taken[other].to(ours[name].dtype).clone() for name, other in fitting.items()}
    partial = tuple(name for name, other in fitting.items() if taken[other].shape != theirs[other].shape)
    random = tuple(name for name in ours if name not in fitting)
    return Inherited(state, fitting, partial, random, widths)


def _tensors(alignment: Alignment, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """Pairs of tensors of the layers that correspond, of one name in their layer and as many axes."""
    pairs = []
    for name, tensor in ours.items():
        layer, _, own = name.rpartition(".")
        other = f"{alignment.layers[layer]}.{own}".lstrip(".") if layer in alignment.layers else ""
        if other in theirs and theirs[other].dim() == tensor.dim():
            pairs.append((name, other))
    return pairs


def _groups(body: nn.Module, inputs: Inputs) -> tuple[Group, ...]:
    """The groups of a module; none where its code can't be followed: then only tensors of equal shape can be taken."""
    opened = copy.deepcopy(body)
    narrowing.open_attention(opened)
    try:
        return dependency_graph.build(opened, inputs, but=dependency_graph.OF_CODE).groups
    except StageError:
        return ()


Place = tuple[str, int, int]


def _places(group: Group) -> dict[Place, Part]:
    return {(part.name, part.axis, part.groups): part for part in group.parts}


def _joined(ours: Sequence[Group], theirs: Sequence[Group], sources: Mapping[str, str]) -> list[tuple[Group, Group]]:
    """Each of the teacher's groups with the student's group that has the same place in its first layer."""
    by_place = {place: group for group in reversed(theirs) for place in _places(group)}
    pairs: dict[int, tuple[Group, Group]] = {}
    for own in ours:
        for name, axis, groups in _places(own):
            group = by_place.get((sources.get(name, ""), axis, groups))
            if group is not None:
                pairs.setdefault(id(group), (group, own))
                break
    return list(pairs.values())


def _misled(ours: Sequence[Group], theirs: Sequence[Group], sources: Mapping[str, str]) -> set[str]:
    """The student's tensors that read, or scale, other channels than their counterparts: those of no layer, or of another one.

    A group of the student whose makers have counterparts stands for the teacher's group of the first of these.
    """
    homes: dict[Place, set[int]] = {}
    for number, group in enumerate(theirs):
        for place in _places(group):
            homes.setdefault(place, set()).add(number)
    wrong: set[str] = set()
    for own in ours:
        found = {place: homes.get((sources.get(place[0], ""), *place[1:]), set()) for place in _places(own)}
        makers = [numbers for place, numbers in found.items() if _places(own)[place].role == "makes"]
        home = next((numbers for numbers in makers if numbers), set())
        wrong |= {place[0] for place, numbers in found.items() if place[0] in sources and not numbers & home}
    return wrong


def _is_narrower(group: Group, own: Group, sources: Mapping[str, str]) -> bool:
    theirs = _places(group)
    pairs = [(part, theirs.get((sources.get(part.name, ""), part.axis, part.groups))) for part in own.parts]
    return any(other is not None and part.index.numel() != other.index.numel() for part, other in pairs)


def _removed(group: Group, own: Group, importance: Tensor, sources: Mapping[str, str]) -> dict[Part, Tensor] | None:
    """The positions that each part of the teacher's group loses; None where the student's is wider, or grouped otherwise."""
    if own.channels > group.channels:
        return None
    names = {other: name for name, other in sources.items()}
    ours = _places(own)
    inner: dict[int, int] = {}  # positions behind a channel: in the teacher -> in the student
    for part in group.parts:
        mine = ours.get((names.get(part.name, ""), part.axis, part.groups))
        if mine is not None and inner.setdefault(part.index.shape[1], mine.index.shape[1]) != mine.index.shape[1]:
            return None
    keep = importance.argsort(descending=True, stable=True)[: own.channels].sort().values
    within = _within(group, inner, keep)
    if within is None:
        return None
    removed: dict[Part, Tensor] = {}
    for part in group.parts:
        count = part.index.shape[1]
        rows = part.index[keep]  # (kept channels, positions)
        if within:
            depth = count // min(inner)
            rows = rows.unflatten(1, (depth, -1)).gather(2, within[0][:, None, :].expand(-1, depth, -1)).flatten(1)
        gone = torch.ones(part.length, dtype=torch.bool)
        gone[rows.flatten()] = False
        inside = torch.zeros(part.length, dtype=torch.bool)
        inside[part.index.flatten()] = True  # what belongs to other groups is theirs to remove
        removed[part] = (gone & inside).nonzero().flatten()
    return removed


def _within(group: Group, inner: Mapping[int, int], keep: Tensor) -> tuple[Tensor, ...] | None:
    """Of each kept channel, such as a head of attention, the positions that remain, (kept, n): () where all do, None where
    the student's are wider, or are not simply fewer."""
    if all(theirs == ours for theirs, ours in inner.items()):
        return ()
    least = min(inner)
    if inner[least] > least or any(part.groups > 1 for part in group.parts):
        return None
    if any(theirs % least or theirs // least * inner[least] != ours for theirs, ours in inner.items()):
        return None
    if any(part.index.shape[1] % least for part in group.parts):
        return None
    score = torch.zeros(len(keep), least)
    for part in group.parts:
        rows = part.by_channel(part.tensor.detach())[part.index[keep]]  # (kept, positions, ...)
        squares = rows.float().square().flatten(2).sum(2) if rows.dim() > 2 else rows.float().square()
        score += squares.unflatten(1, (-1, least)).sum(1)
    return (score.argsort(dim=1, descending=True, stable=True)[:, : inner[least]].sort(dim=1).values,)
