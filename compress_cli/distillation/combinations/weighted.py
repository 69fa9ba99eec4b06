"""Fixed weights."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from compress_cli.data.batch import Batch, sent
from compress_cli.distillation.combinations import Combination
from compress_cli.settings import Many


class Weighted(Combination):
    """The mean of the teachers' outputs with fixed weights, divided by their sum."""

    weights: Many[Annotated[float, Field(ge=0)]] = Field(
        min_length=2, description="one for each teacher, in the order of `teacher`"
    )

    @field_validator("weights")
    @classmethod
    def _something_weighs(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not sum(value):
            raise ValueError("the weights sum to 0: the student would learn from no teacher")
        return value

    def fits(self, teachers: int) -> None:
        if teachers != len(self.weights):
            raise ValueError(f"there are {teachers} teachers and {len(self.weights)} weights; give one for each teacher")

    def shares(self, logits: Tensor, batch: Batch, adapter: nn.Module) -> Tensor:
        weights = torch.tensor(self.weights, dtype=logits.dtype)
        return sent(weights / weights.sum(), str(logits.device))
