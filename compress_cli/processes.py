"""The processes that train one network together; most often there is one, and nothing is sent to anybody."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:  # what only measures works without PyTorch
    import numpy as np
    from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process, alone; `together.Together` is one of several."""

    rank: int = 0  # 0..count - 1; the first writes and decides
    count: int = 1

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.count > 1

    def device(self, name: str) -> str:
        """The device of this process where a recipe means `cuda`."""
        return name

    def share(self, samples: int) -> slice:
        """Which of so many samples are this process's; the shares differ by at most one sample."""
        return slice(0, samples)

    def joined(self, name: str, share: Tensor, samples: int) -> Tensor:
        """(samples, ...) of all processes, from this one's share of them; its gradient goes back to this share alone.

        StageError where the tensor `name` does not have its samples on the first axis.
        """
        return share

    def sum_gradients(self, weights: Iterable[Tensor]) -> None:
        """Give these weights the sum of the gradients of all processes; one that no process has a gradient for gets none."""

    def summed(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by the sum of those of all processes."""
        return tensor

    def same(self, value: T) -> T:
        """What the first process says, which JSON can hold."""
        return value

    def same_bytes(self, data: bytes) -> bytes:
        """Those of the first process."""
        return data

    def gathered(self, arrays: Mapping[str, np.ndarray]) -> list[Mapping[str, np.ndarray]]:
        """At the first process what every process has, in the order of their ranks; an empty list at the others."""
        return [arrays]

    def agree(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the values of the first process; StageError where the tensors are not of the same names and shapes."""

    def check_drift(self, weights: Iterable[Tensor]) -> None:
        """StageError where the weights of the processes are no longer those of one training."""

    def forward(self, device: str, number: int) -> AbstractContextManager[None]:
        """Within, layers draw random numbers of this process's own, and batch norm normalises over the shares of all.

        number: of the pass since the layers were seeded. What is drawn after it is the same in all processes, and is what one
        process draws whose layers draw nothing.
        """
        return nullcontext()


ALONE = Processes()
