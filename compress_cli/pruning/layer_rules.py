"""How layers with weights join the channels that they take, scale and make."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from compress_cli.pruning.channels import Role
from compress_cli.pruning.joining import JoinedChannels, Plane


@dataclass(eq=False)
class Slot:
    """An axis of a parameter or buffer, and the channel number at each place along it."""

    name: str
    axis: int
    numbers: Tensor  # (length,) int64
    groups: int = 1  # of a grouped convolution whose axis counts the channels within one of its groups
    role: Role = "other"


@dataclass(frozen=True)
class GroupedLayer:
    """A layer that takes or makes its channels in groups of equal size."""

    layer: str
    numbers: Tensor  # (channels,) of the layer's
    groups: int


@dataclass
class Followed:
    """What a run of a model told about its channels."""

    channels: JoinedChannels = field(default_factory=JoinedChannels)
    slots: dict[tuple[str, int, int], Slot] = field(default_factory=dict)  # (tensor, axis, groups)
    grouped: list[GroupedLayer] = field(default_factory=list)
    normalised: dict[str, str] = field(default_factory=dict)  # a normalisation -> the layer whose output it alone takes
    rows: dict[str, list[Tensor]] = field(default_factory=dict)  # weight -> (rows,) channels for each of which it is multiplied


class LayerRules:
    """The rules for convolutions, matrix products, normalisations and lookup tables."""

    def __init__(self) -> None:
        super().__init__()
        self.followed = Followed()
        self.channels = self.followed.channels
        self._planes = WeakTensorKeyDictionary()  # tensor -> its planes
        self._maker = WeakTensorKeyDictionary()  # tensor -> the layer whose output it is
        self._names: dict[int, str] = {}  # where a parameter or buffer lies in memory -> its name

    def planes(self, tensor: Tensor) -> list[Plane]:
        """The planes of a tensor; none where no weight has a part in it."""
        known: list[Plane] = self._planes.get(tensor, [])
        return known

    def _embed(self, args: Any, output: Tensor) -> None:
        weight = args[0]
        for plane in self.planes(weight):
            if plane.shape[0] > 1:
                self.channels.fix(plane, "it is looked up by number")
        slot = self._slot(weight, 1)
        if slot:
            slot.role = "makes"
            self._planes[output] = [slot.numbers.reshape([*(1 for _ in output.shape[1:]), -1])]

    def _slot(self, tensor: Tensor | None, axis: int, groups: int = 1) -> Slot | None:
        """The slot of a parameter or buffer itself, not of a view of one."""
        if tensor is None or tensor.untyped_storage().data_ptr() not in self._names:
            return None
        name = self._names[tensor.untyped_storage().data_ptr()]
        key = (name, axis, groups)
        if key not in self.followed.slots and groups > 1:
            plain = self.followed.slots.pop((name, axis, 1), None)
            length = tensor.shape[axis] * groups
            self.followed.slots[key] = Slot(name, axis, self.channels.fresh(length), groups, plain.role if plain else "other")
        return self.followed.slots.get(key)

    def _convolve(self, args: Any, output: Tensor) -> None:
        source, weight, bias, transposed, groups = args[0], args[1], args[2], args[6], args[8]
        name = self._names.get(weight.untyped_storage().data_ptr())
        reads, makes = (0, 1) if transposed else (1, 0)
        taken = [plane for plane in self.planes(source) if plane.shape[1] > 1]
        incoming = self.channels.along(taken[0], 1) if taken else None
        for plane in (*taken[1:], *(plane for plane in self.planes(source) if plane.shape[1] == 1 and plane.numel() > 1)):
            self.channels.fix(plane, "a convolution takes it along another axis")
        if groups == 1:
            outgoing, read = (self._weight_numbers(weight, axis) for axis in (makes, reads))
        elif weight.shape[1] == 1 and not transposed:  # depthwise: each channel makes its own
            outgoing, read = self._weight_numbers(weight, 0), None
            if incoming is not None and outgoing is not None:
                self.channels.join(incoming.repeat_interleave(len(outgoing) // groups), outgoing)
            elif outgoing is not None:
                self.channels.fix(outgoing, "it takes the model's input channel by channel")
        else:
            by_group = self._slot(weight, 1, groups)
            other = self._weight_numbers(weight, 0)
            grouped = by_group.numbers if by_group else None
            read, outgoing = (other, grouped) if transposed else (grouped, other)
            layer = (name or "").rpartition(".")[0]
            for numbers in (read, outgoing):
                if numbers is not None:
                    self.followed.grouped.append(GroupedLayer(layer, numbers, groups))
        if groups == 1 or weight.shape[1] > 1 or transposed:
            self._read(incoming, read)
        self._roles(name, makes, reads, 1 if groups == 1 or weight.shape[1] == 1 else groups)
        if outgoing is not None:
            shifted = None if bias is None else self._weight_numbers(bias, 0)
            if shifted is not None:
                self.channels.join(shifted, outgoing)
            self._planes[output] = [outgoing.reshape([1, -1, *(1 for _ in output.shape[2:])])]
            if name:
                self._maker[output] = name.rpartition(".")[0]

    def _multiply(self, args: Any, output: Tensor) -> None:
        """(..., I, J) x (..., J, K): channels along J are read; a tensor that mixes several along J makes them one."""
        *added, left, right = [value for value in args if isinstance(value, Tensor)][:3]
        name = self._name(right) or self._name(left)
        planes: list[Plane] = []
        contracted: list[list[Tensor]] = []
        for tensor, axis in ((left, -1), (right, -2)):
            along: list[Tensor] = []
            for plane in self.planes(tensor):
                plane = self.channels.compact(plane)
                if plane.shape[axis] == 1:
                    planes.append(plane)
                    if name and tensor is not (right if self._name(right) else left):
                        self.followed.rows.setdefault(name, []).append(plane.flatten())
                elif plane.numel() == plane.shape[axis]:
                    along.append(plane.flatten())
                else:
                    planes.append(self.channels.join_along(plane, axis % plane.dim()))
            contracted.append(along)
        self._read(*(along[0] if along else None for along in contracted))
        for along in contracted:
            for numbers in along[1:]:
                self.channels.join(numbers, along[0])
        if name:
            of_weight = 1 if self._name(right) else 0
            self._role_of(name, contracted[of_weight], "reads")
            self._role_of(
                name, [p.flatten() for p in self.planes((left, right)[of_weight]) if p.shape[-2 + of_weight] > 1], "makes"
            )
        for tensor in added:
            planes += [plane.reshape((1,) * (output.dim() - plane.dim()) + tuple(plane.shape)) for plane in self.planes(tensor)]
        self._planes[output] = self.channels.merged(planes, output.dim())
        if name:
            self._maker[output] = name.rpartition(".")[0]

    def _name(self, tensor: Tensor) -> str | None:
        return self._names.get(tensor.untyped_storage().data_ptr())

    def _role_of(self, name: str, along: list[Tensor], role: Role) -> None:
        """Set the role of the slots of a parameter that hold these numbers."""
        for slot in self.followed.slots.values():
            if slot.name == name and any(bool(torch.isin(slot.numbers, numbers).any()) for numbers in along):
                slot.role = role

    def _roles(self, name: str | None, makes: int, reads: int, groups: int) -> None:
        for axis, role in ((makes, "makes"), (reads, "reads")):
            for count in {1, groups}:
                slot = self.followed.slots.get((name or "", axis, count))
                if slot:
                    slot.role = role  # type: ignore[assignment]

    def _read(self, incoming: Tensor | None, read: Tensor | None) -> None:
        """Join the channels that come with those that a weight reads; where one of them has none, the others remain."""
        if incoming is not None and read is not None and len(incoming) == len(read):
            self.channels.join(incoming, read)
            return
        for numbers in (incoming, read):
            if numbers is not None:
                self.channels.fix(numbers, "it is multiplied by a tensor of fixed size")

    def _weight_numbers(self, tensor: Tensor, axis: int) -> Tensor | None:
        """(n,): the channel numbers along one axis of a tensor; None where it has none there."""
        found = [plane for plane in self.planes(tensor) if plane.shape[axis] > 1]
        return self.channels.along(found[0], axis) if found else None

    def _normalise(self, source: Tensor, tensors: Any, axis: int, axes: int, output: Tensor) -> None:
        """A normalisation with a weight for each place along an axis: scale and bias first."""
        planes = self.planes(source)
        incoming = self._weight_numbers(source, axis)
        for position, tensor in enumerate(tensors):
            if tensor is None:
                continue
            numbers = [self._weight_numbers(tensor, number) for number in range(tensor.dim())]
            for along in numbers:
                if along is None:
                    continue
                if axes > 1 or incoming is None:
                    self.channels.fix(along, "it is normalised with weights of fixed size")
                else:
                    self.channels.join(incoming, along)
            name = self._name(tensor)
            slot = self.followed.slots.get((name or "", 0, 1))
            if slot and position == 0:
                slot.role = "scales"
            if name and source in self._maker:
                self.followed.normalised[name.rpartition(".")[0]] = self._maker[source]
        if axes > 1:
            for plane in planes:
                self.channels.fix(plane, "it is normalised with weights of fixed size")
        self._planes[output] = planes

    def _normalise_groups(self, args: Any, output: Tensor) -> None:
        source, weight, bias, groups = args[0], args[1], args[2], args[6]
        self._normalise(source, (weight, bias), 1, 1, output)
        incoming = self._weight_numbers(source, 1)
        if groups > 1 and incoming is not None:
            self.followed.grouped.append(GroupedLayer((self._name(weight) or "").rpartition(".")[0], incoming, groups))
