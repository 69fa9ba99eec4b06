"""Every teacher at its own fixed weight."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from compress_cli.data.batch import Batch, sent
from compress_cli.distillation.combinations import Combination
from compress_cli.settings import Many


class Weighted(Combination):
    """The mean of the teachers' outputs with fixed weights, as shares of their sum."""

    weights: Many[Annotated[float, Field(ge=0)]] = Field(min_length=2, description="one a teacher, in the order of `teacher`")

    @field_validator("weights")
    @classmethod
    def _something_weighs(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not sum(value):
            raise ValueError("the weights sum to nothing: no teacher would be heard")
        return value

    def fits(self, teachers: int) -> None:
        if teachers != len(self.weights):
            raise ValueError(f"there are {teachers} teachers and {len(self.weights)} weights; give one a teacher")

    def shares(self, said: Tensor, batch: Batch, adapter: nn.Module) -> Tensor:
        weights = torch.tensor(self.weights, dtype=said.dtype)
        return sent(weights / weights.sum(), str(said.device))
