"""Which layer of one module each layer of a smaller one corresponds to: by name, and by order where blocks are repeated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

UNMATCHED = 1e6  # what leaving a unit without a counterpart costs: more than any choice among counterparts


@dataclass
class Alignment:
    """The layers of a student and those of its teacher."""

    layers: dict[str, str] = field(default_factory=dict)
    """Student layer -> teacher layer, of those that hold tensors themselves."""
    chosen: dict[str, str] = field(default_factory=dict)
    """Student block -> teacher block, where the teacher repeats more of them."""
    dropped: list[tuple[str, ...]] = field(default_factory=list)
    """The teacher's units without a counterpart, among those that are repeated: the names of consecutive layers."""


def align(student: nn.Module, teacher: nn.Module, changes: Mapping[str, float] | None = None) -> Alignment:
    """Pair the layers of two modules.

    Children of one name correspond. In lists and sequences that are not alike, units (a block, or a layer with weights and what
    follows it) correspond in order and by kind: evenly spread over the teacher's, from its first to its last (for 6 of 12
    layers 0, 2, 4, 7, 9, 11, as in DistilBERT, Sanh et al. 2019, arXiv:1910.01108), or, given by name how much each of its
    layers `changes` what it takes, those that change most.
    """
    alignment = Alignment()
    _pair(student, teacher, "", "", alignment, changes)
    return alignment


def _pair(
    student: nn.Module, teacher: nn.Module, name: str, other: str, alignment: Alignment, changes: Mapping[str, float] | None
) -> None:
    if _leaf(student) or _leaf(teacher):
        if type(student).__name__ == type(teacher).__name__:
            alignment.layers[name] = other
        return
    if any(True for _ in student.parameters(recurse=False)) or any(True for _ in student.buffers(recurse=False)):
        alignment.layers[name] = other
    ours, theirs = dict(student.named_children()), dict(teacher.named_children())
    if _numbered(ours) and _numbered(theirs):
        pairs = _by_order(ours, theirs, name, other, alignment, changes)
    else:
        pairs = [(child, child) for child in ours if child in theirs]
    for our, their in pairs:
        _pair(ours[our], theirs[their], _join(name, our), _join(other, their), alignment, changes)


def _by_order(
    ours: Mapping[str, nn.Module],
    theirs: Mapping[str, nn.Module],
    name: str,
    other: str,
    alignment: Alignment,
    changes: Mapping[str, float] | None,
) -> list[tuple[str, str]]:
    """Pairs of children's names, unit by unit."""
    units, candidates = _units(ours), _units(theirs)
    kinds, others = ([_kind(unit, children) for unit in parts] for parts, children in ((units, ours), (candidates, theirs)))
    if kinds == others:
        matches: list[int | None] = list(range(len(units)))
    else:
        weights = None if changes is None else [sum(changes.get(_join(other, c), 0.0) for c in unit) for unit in candidates]
        matches = _matched(kinds, others, weights)
    for unit, match in zip(units, matches, strict=True):
        if match is not None and len(units) < len(candidates):
            alignment.chosen[_join(name, unit[0])] = _join(other, candidates[match][0])
    if len(units) < len(candidates):
        taken = {match for match in matches if match is not None}
        rest = [unit for number, unit in enumerate(candidates) if number not in taken]
        alignment.dropped += [tuple(_join(other, child) for child in unit) for unit in rest]
    return [
        pair
        for unit, match in zip(units, matches, strict=True)
        if match is not None
        for pair in zip(unit, candidates[match], strict=False)
    ]


def _matched(kinds: Sequence[object], others: Sequence[object], weights: Sequence[float] | None) -> list[int | None]:
    """For each unit the number of its counterpart, ascending: as many as fit by kind, of these the evenly spread ones, or
    those of the largest weights."""
    ours, theirs = len(kinds), len(others)
    spread = [number * (theirs - 1) / max(1, ours - 1) for number in range(ours)]

    def cost(number: int, match: int) -> float:
        if kinds[number] != others[match]:
            return float("inf")
        return abs(match - spread[number]) if weights is None else -weights[match]

    # best[i][j]: the least cost of the units from i on, with counterparts from j on, and the first one's counterpart
    best: list[list[tuple[float, int | None]]] = [[(0.0, None)] * (theirs + 1) for _ in range(ours + 1)]
    for i in range(ours - 1, -1, -1):
        for j in range(theirs, -1, -1):
            choices: list[tuple[float, int | None]] = [(UNMATCHED + best[i + 1][j][0], None)]
            if j < theirs:
                later = best[i][j + 1]
                choices = [(cost(i, j) + best[i + 1][j + 1][0], j), later if later[1] is not None else choices[0], *choices]
            best[i][j] = min(choices, key=lambda choice: choice[0])  # of equal ones the first
    matches, j = [], 0
    for i in range(ours):
        match = best[i][j][1]
        matches.append(match)
        j = j if match is None else match + 1
    return matches


def _units(children: Mapping[str, nn.Module]) -> list[tuple[str, ...]]:
    """Names of consecutive children: each layer with weights begins a unit, and what has none belongs to the one before."""
    units: list[list[str]] = []
    for name, child in children.items():
        if not units or _weighs(child):
            units.append([])
        units[-1].append(name)
    return [tuple(unit) for unit in units]


def _kind(unit: Sequence[str], children: Mapping[str, nn.Module]) -> tuple[object, ...]:
    """What a unit has to share with its counterpart: classes, kernels and strides, and whether a block has a branch more."""
    return tuple(_of_kind(children[name]) for name in unit)


def _of_kind(module: nn.Module) -> tuple[object, ...]:
    first = next(module.children(), None)
    if type(module) in (nn.Sequential, nn.ModuleList) and first is not None and not _leaf(first):
        return (type(module).__name__, type(first).__name__)  # a stage: its blocks are aligned in turn
    inner = tuple(
        (type(layer).__name__, getattr(layer, "kernel_size", None), getattr(layer, "stride", None))
        for layer in module.modules()
        if _leaf(layer) and not isinstance(layer, nn.Identity | nn.Dropout)
    )
    return (type(module).__name__, inner)


def _weighs(module: nn.Module) -> bool:
    return any(parameter.dim() > 1 for parameter in module.parameters()) or not _leaf(module)


def _leaf(module: nn.Module) -> bool:
    return not any(True for _ in module.children())


def _numbered(children: Mapping[str, nn.Module]) -> bool:
    return bool(children) and all(name.isdigit() for name in children)


def _join(name: str, child: str) -> str:
    return f"{name}.{child}".lstrip(".")
