"""Combinations: how what several teachers say becomes one answer."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from compress_cli.data.batch import Batch
from compress_cli.plugin import Plugin


class Combination(Plugin):
    """Shares of several teachers, at least two, in the outputs (logits) that the student learns from."""

    def fits(self, teachers: int) -> None:
        """ValueError where it is not for so many teachers."""

    def adapter(self, teachers: int) -> nn.Module:
        """The trainable part, owned by the loop."""
        return nn.Identity()

    @abstractmethod
    def shares(self, said: Tensor, batch: Batch, adapter: nn.Module) -> Tensor:
        """Of what teachers say in one head, (teachers, N, size, ...): (teachers,) or (teachers, N), of sum 1 over teachers."""

    def loss(self, combined: Tensor, batch: Batch) -> Tensor | None:
        """What its trainable part makes small, shape (), of a head (N, size, ...); None where nothing is trained."""
        return None
