"""Combinations: how a student learns from several teachers at once."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from compress_cli.data.batch import Batch
from compress_cli.plugin import Plugin


class Combination(Plugin):
    """Shares of several teachers, at least two, in what the student learns.

    By default the teachers' outputs (logits) are mixed into one teacher for losses on outputs, and losses on features
    average over teachers.
    """

    weighs_losses: ClassVar[bool] = False
    """Whether the shares multiply every teacher's own loss, sample by sample, on outputs and on features alike; the
    teachers' outputs are then not mixed."""

    def fits(self, teachers: int) -> None:
        """ValueError where it is not for so many teachers."""

    def adapter(self, teachers: int) -> nn.Module:
        """The trainable part, owned by the loop."""
        return nn.Identity()

    @abstractmethod
    def shares(self, logits: Tensor, batch: Batch, adapter: nn.Module) -> Tensor:
        """The teachers' shares by their logits of one head, (teachers, N, classes, ...): (teachers,) or (teachers, N), with sum
        1 over teachers."""

    def loss(self, mixed: Tensor, batch: Batch) -> Tensor | None:
        """The loss of the trainable part, shape (), for a mixed head (N, classes, ...); None where nothing is trained."""
        return None
