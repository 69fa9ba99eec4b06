"""Sets of channels that stay or go together, and planes: which channel each element of a tensor belongs to."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

Plane = Tensor
"""Channel numbers of a tensor's elements, int64, in the tensor's shape but of length 1 along axes on which they do not vary.

A tensor has one plane for each kind of channels that its elements belong to: a convolution's weight one for its filters and
one for those that it reads.
"""


class JoinedChannels:
    """Disjoint sets of channel numbers; some sets have to remain, for a reason."""

    def __init__(self) -> None:
        self._parent = np.empty(0, np.int64)
        self._fixed: list[tuple[np.ndarray, str]] = []

    def fresh(self, count: int) -> Tensor:
        """(count,): numbers that nothing is joined with yet."""
        start = len(self._parent)
        self._parent = np.concatenate([self._parent, np.arange(start, start + count)])
        return torch.arange(start, start + count)

    def sets(self, numbers: Tensor) -> Tensor:
        """For each number the least one of its set, in the same shape."""
        return torch.from_numpy(self._roots(numbers.numpy()))

    def join(self, one: Tensor, other: Tensor) -> None:
        """Join the sets of numbers at the same place; shapes are broadcast."""
        first, second = (array.ravel() for array in np.broadcast_arrays(one.numpy(), other.numpy()))
        while True:
            first, second = self._roots(first), self._roots(second)
            differ = first != second
            if not differ.any():
                return
            first, second = first[differ], second[differ]
            np.minimum.at(self._parent, np.maximum(first, second), np.minimum(first, second))

    def fix(self, numbers: Tensor, reason: str) -> None:
        """Say that the sets of these numbers have to remain."""
        self._fixed.append((numbers.numpy().ravel(), reason))

    def fixed(self, but: Collection[str] = ()) -> dict[int, str]:
        """Least number of a set that has to remain -> the first reason why, of reasons other than these."""
        reasons: dict[int, str] = {}
        for numbers, reason in self._fixed:
            if reason in but:
                continue
            for number in np.unique(self._roots(numbers)).tolist():
                reasons.setdefault(number, reason)
        return reasons

    def _roots(self, numbers: np.ndarray) -> np.ndarray:
        roots: np.ndarray = self._parent[numbers]
        while not np.array_equal(above := self._parent[roots], roots):
            roots = above
        self._parent[numbers] = roots
        return roots

    def varying(self, plane: Plane) -> list[int]:
        """The axes along which a plane's sets differ."""
        sets = self.sets(plane)
        return [axis for axis in range(plane.dim()) if plane.shape[axis] > 1 and not _constant(sets, axis)]

    def compact(self, plane: Plane) -> Plane:
        """The plane with length 1 along every axis on which its sets do not vary."""
        for axis in range(plane.dim()):
            if plane.stride(axis) == 0 and plane.shape[axis] > 1:
                plane = plane.narrow(axis, 0, 1)
        for axis in set(range(plane.dim())) - set(self.varying(plane)):
            plane = plane.narrow(axis, 0, 1)
        return plane

    def join_along(self, plane: Plane, axis: int) -> Plane:
        """Join all sets along an axis; the plane without it (of length 1)."""
        self.join(plane, plane.narrow(axis, 0, 1))
        return plane.narrow(axis, 0, 1)

    def moved(self, plane: Plane, shape: torch.Size, move: Callable[[Tensor], Tensor]) -> Plane:
        """The plane of a tensor of that shape after its elements were moved, selected or repeated."""
        return self.compact(move(plane.expand(shape)))

    def merged(self, planes: Iterable[Plane], dimensions: int) -> list[Plane]:
        """The planes of operands that are combined element by element: those that vary along a common axis become one."""
        result: list[Plane] = []
        for plane in planes:
            plane = plane.reshape((1,) * (dimensions - plane.dim()) + tuple(plane.shape))
            for position, known in enumerate(result):
                if any(a > 1 and b > 1 for a, b in zip(plane.shape, known.shape, strict=True)):
                    self.join(plane, known)
                    wider = plane if plane.numel() > known.numel() else known
                    result[position] = self.compact(wider)
                    break
            else:
                result.append(plane)
        return [plane for plane in result if plane.numel() > 1]

    def concatenated(self, parts: Sequence[tuple[torch.Size, list[Plane]]], axis: int) -> list[Plane]:
        """The planes of tensors (shape, planes) that are joined along an axis; those that vary along others are merged."""
        along, across = [], []
        some = any(plane.shape[axis] > 1 for _, planes in parts for plane in planes)
        for shape, planes in parts:
            across += [plane for plane in planes if plane.shape[axis] == 1]
            rows = [plane for plane in planes if plane.shape[axis] > 1]
            for plane in rows[1:]:
                self.join(plane, rows[0])
            if some:
                along.append(self.along(rows[0], axis) if rows else self._constants(shape[axis]))
        dimensions = len(parts[0][0])
        whole = [torch.cat(along).reshape([-1 if number == axis else 1 for number in range(dimensions)])] if some else []
        return [*whole, *self.merged(across, dimensions)]

    def along(self, plane: Plane, axis: int) -> Tensor:
        """(n,): the plane along one axis; what differs along others is joined."""
        for other in set(range(plane.dim())) - {axis}:
            plane = self.join_along(plane, other)
        return plane.flatten()

    def _constants(self, count: int) -> Tensor:
        """Numbers for elements that no weight makes."""
        numbers = self.fresh(count)
        self.fix(numbers, "it is joined with channels that no weight makes")
        return numbers

    def padded(self, plane: Plane, shape: torch.Size, padding: Sequence[int]) -> Plane:
        """The plane of a tensor of that shape after constants were added at its sides (last axis first, as `pad` counts)."""
        for number in range(len(padding) // 2):
            axis, before, after = plane.dim() - 1 - number, padding[2 * number], padding[2 * number + 1]
            if plane.shape[axis] == 1 or not (before or after):
                continue
            plane = plane.narrow(axis, max(0, -before), plane.shape[axis] + min(0, before) + min(0, after))
            sides = [
                self._constants(max(0, count)).reshape([-1 if other == axis else 1 for other in range(plane.dim())])
                for count in (before, after)
            ]
            ends = [side.expand(*plane.shape[:axis], -1, *plane.shape[axis + 1 :]) for side in sides]
            plane = torch.cat([ends[0], plane, ends[1]], axis)
        return plane


def _constant(sets: Tensor, axis: int) -> bool:
    return bool((sets == sets.narrow(axis, 0, 1)).all())
