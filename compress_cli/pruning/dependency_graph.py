"""Which channels of a model depend on each other: groups of layers that are cut together."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor, nn

from compress_cli.errors import RecipeError, StageError
from compress_cli.pruning.channels import DependencyGroups, Group, Part, evaluating
from compress_cli.pruning.following import follow
from compress_cli.pruning.layer_rules import Followed, Slot
from compress_cli.pruning.units import Grouped, Units, units
from compress_cli.settings import suggest

UNTRACEABLE = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""How a user's model complains about inputs, or about being traced."""

Key = frozenset[tuple[tuple[str, int, int], int]]
"""Slots in which a set of joined channels has places, and how many."""


OF_CODE = frozenset({"it is combined with a tensor of fixed size"})
"""Why channels of a model can't be cut although those of a narrower model of the same code are like them."""


def build(
    body: nn.Module, inputs: tuple[Tensor, ...], ignore: Sequence[str] = (), but: Collection[str] = ()
) -> DependencyGroups:
    """Find the groups of `body` by running it once on `inputs`.

    Layers that make an output of the model, and groups that touch a layer in `ignore` (a name covers the layers below it),
    are left whole. Reasons to stay whole `but` for which they are not. RecipeError where a name in `ignore` matches nothing,
    StageError where the model can't be followed.
    """
    ignored = named(body, ignore)
    with evaluating(body):
        try:
            followed = follow(body, inputs)
        except UNTRACEABLE as error:
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            raise StageError(
                f"channels can't be cut here: the architecture can't be followed ({reason}); its code has to run on two samples"
            ) from error
    return _Grouping(body, followed, ignored).groups(but)


@dataclass(frozen=True)
class _Sets:
    """Sets of joined channels that are alike: they have places in the same slots."""

    key: Key
    numbers: list[int]  # the least number of each


class _Grouping:
    """Groups out of what a run of a model told."""

    def __init__(self, body: nn.Module, followed: Followed, ignored: set[str]):
        self._body, self._followed, self._ignored = body, followed, ignored
        self._layers = [name for name, _ in body.named_modules()]
        self._stored = {name for name, _ in body.named_parameters(remove_duplicate=False)} | body.state_dict().keys()
        self._order = {name: number for number, name in enumerate(self._layers)}
        self._aliases = _aliases(body)
        self._sets = {slot: followed.channels.sets(entry.numbers) for slot, entry in followed.slots.items()}
        self._rows = {name: _counted(followed.channels.sets(torch.cat(rows))) for name, rows in followed.rows.items()}

    def groups(self, but: Collection[str] = ()) -> DependencyGroups:
        groups: list[Group] = []
        whole: dict[str, str] = {}
        fixed = self._followed.channels.fixed(but)
        for alike in self._alike():
            layer = self._first_maker(alike)
            reason = self._reason_to_stay(alike, fixed)
            if layer is None:
                whole |= dict.fromkeys(self._computed(alike), reason or "its weights are computed from others")
                continue
            found = reason or self._group(layer, alike)
            if isinstance(found, Group):
                groups.append(found)
            else:
                whole.setdefault(layer, found)
        return DependencyGroups(tuple(sorted(groups, key=lambda group: self._order[group.layer])), whole)

    def _alike(self) -> list[_Sets]:
        places: dict[int, dict[tuple[str, int, int], int]] = {}
        for slot, sets in self._sets.items():
            for number, count in _counted(sets).items():
                places.setdefault(number, {})[slot] = count
        alike: dict[Key, list[int]] = {}
        for number in sorted(places):
            alike.setdefault(frozenset(places[number].items()), []).append(number)
        return [_Sets(key, numbers) for key, numbers in alike.items()]

    def _slots(self, alike: _Sets) -> list[Slot]:
        slots = [self._followed.slots[key] for key, _ in alike.key]
        return sorted(slots, key=lambda slot: (self._order[slot.name.rpartition(".")[0]], slot.name, slot.axis))

    def _first_maker(self, alike: _Sets) -> str | None:
        """The model's first layer that makes all these channels; a lookup table only where no other does."""
        makers = [slot.name.rpartition(".")[0] for slot in self._slots(alike) if slot.role == "makes"]
        computing = [name for name in makers if not isinstance(self._body.get_submodule(name), nn.Embedding)]
        return next(iter(computing or makers), None)

    def _computed(self, alike: _Sets) -> list[str]:
        """Layers that do not multiply by their weights themselves, but by what is computed from them."""
        weights = [slot.name for slot in self._slots(alike) if slot.role == "other" and slot.axis == 0]
        layers = [name.removesuffix(".weight") for name in weights if name.endswith(".weight")]
        kinds = (nn.Linear, nn.modules.conv._ConvNd)
        return [layer for layer in layers if isinstance(self._body.get_submodule(layer), kinds)]

    def _reason_to_stay(self, alike: _Sets, fixed: dict[int, str]) -> str:
        """Why the channels can't be cut whatever their weights are, or ''."""
        for slot in self._slots(alike):
            layer = slot.name.rpartition(".")[0]
            if slot.name not in self._stored:
                return f"'{slot.name}' is a constant of the model's code, which no file of weights holds"
            if layer in self._ignored:
                return f"'{layer}' is in ignore"
        return next((fixed[number] for number in alike.numbers if number in fixed), "")

    def _group(self, layer: str, alike: _Sets) -> Group | str:
        """The group of these channels, or the reason why it can't be cut."""
        position = {number: place for place, number in enumerate(alike.numbers)}
        channel_units = self._units(alike, position)
        if isinstance(channel_units, str):
            return channel_units
        if channel_units.count < 2:
            return "it has one channel, or one in each group of a grouped convolution"
        parts: list[Part] = []
        for slot in self._slots(alike):
            index = self._index(slot, position, channel_units)
            if index is None:
                return f"its channels do not map one to one onto '{slot.name}'"
            parts += [self._part(name, slot, index) for name in self._aliases.get(slot.name, (slot.name,))]
        made = next(part for part in parts if part.layer == layer and part.role == "makes")
        multiple = made.index.shape[1]
        fixed = made.length - multiple * channel_units.count
        return Group(layer, channel_units.count, multiple, tuple(parts), fixed, self._repeated(position, channel_units))

    def _repeated(self, position: dict[int, int], channel_units: Units) -> dict[str, Fraction]:
        """Weight -> the share of its products that are made channel by channel, as where a layer mixes positions."""
        found = {}
        for name, counts in self._rows.items():
            owned = sum(
                count for number, count in counts.items()
                if number in position and channel_units.owner[position[number]] is not None
            )  # fmt: skip
            if owned:
                found[name] = Fraction(owned, sum(counts.values()))
        return found

    def _part(self, name: str, slot: Slot, index: Tensor) -> Part:
        home, _, tensor = name.rpartition(".")
        normalises = self._followed.normalised.get(home, "")
        held = getattr(self._body.get_submodule(home), tensor)
        return Part(name, slot.role, held, slot.axis, index, slot.groups, normalises)

    def _index(self, slot: Slot, position: dict[int, int], channel_units: Units) -> Tensor | None:
        """(units, n): the places of the units' channels in a slot; None where not all have as many."""
        sets, numbers = self._sets[slot.name, slot.axis, slot.groups].numpy(), np.fromiter(position, np.int64)  # least first
        owners = np.array([-1 if unit is None else unit for unit in channel_units.owner])
        nearest = np.searchsorted(numbers, sets).clip(max=len(numbers) - 1)
        owned = np.where(numbers[nearest] == sets, owners[nearest], -1)  # place -> unit
        places = np.flatnonzero(owned >= 0)
        counts = np.bincount(owned[places], minlength=channel_units.count)
        if counts[0] == 0 or (counts != counts[0]).any():
            return None
        return torch.from_numpy(places[owned[places].argsort(kind="stable")].reshape(channel_units.count, -1))

    def _units(self, alike: _Sets, position: dict[int, int]) -> Units | str:
        """The units of the channels that can be removed alone, or the reason why there are none."""
        layers = []
        for layer in self._followed.grouped:
            numbers = self._followed.channels.sets(layer.numbers).tolist()
            inside = [number in position for number in numbers]
            if any(inside):
                if not all(inside):
                    return f"it makes a part of the channels of a layer in {layer.groups} groups"
                layers.append(Grouped(tuple((place, position[number]) for place, number in enumerate(numbers)), layer.groups))
        return units(len(alike.numbers), layers)


def _counted(numbers: Tensor) -> dict[int, int]:
    """How often there is each number."""
    found, counts = torch.unique(numbers, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def _aliases(body: nn.Module) -> dict[str, tuple[str, ...]]:
    """Name of a parameter or buffer -> all its names, where layers share it."""
    names: dict[int, list[str]] = {}
    for name, parameter in (*body.named_parameters(remove_duplicate=False), *body.named_buffers(remove_duplicate=False)):
        names.setdefault(id(parameter), []).append(name)
    return {shared[0]: tuple(shared) for shared in names.values()}


def named(body: nn.Module, names: Sequence[str]) -> set[str]:
    """The layers that names to ignore cover; RecipeError where one matches nothing."""
    layers = {name for name, _ in body.named_modules() if name}
    for name in names:
        if name not in layers:
            raise RecipeError(f"ignore: the model has no layer '{name}'; {suggest(name, sorted(layers))}")
    return {name for name in layers if any(f"{name}.".startswith(f"{ignored}.") for ignored in names)}
