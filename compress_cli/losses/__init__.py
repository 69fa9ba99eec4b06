"""Losses: settings, one formula, and the trainable part where the formula needs one."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from compress_cli.batch import Batch, Outputs
from compress_cli.plugin import Plugin


class Loss(Plugin):
    """What training makes small. `weight` is applied by the loop, not by the formula."""

    weight: float = Field(1.0, ge=0, description="factor of this loss in the sum")

    def student_layers(self) -> tuple[str, ...]:
        """Names of the student's layers whose features the formula reads."""
        return ()

    def teacher_layers(self) -> tuple[str, ...]:
        """Names of the teacher's layers whose features the formula reads; empty for losses on heads alone."""
        return ()

    def adapter(self, student: Outputs, teacher: tuple[Outputs, ...], samples: int) -> nn.Module:
        """The trainable part (a projector, a memory), made on the first batch and owned by the loop.

        `samples` is the size of the train split.
        """
        return nn.Identity()

    def __call__(self, student: Outputs, teacher: tuple[Outputs, ...], batch: Batch, adapter: nn.Module) -> Tensor:
        """The loss, shape (), averaged over samples and unmasked positions."""
        raise NotImplementedError
