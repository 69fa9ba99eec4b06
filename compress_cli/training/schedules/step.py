"""Steps down at given epochs."""

from __future__ import annotations

from itertools import pairwise

from pydantic import Field, field_validator

from compress_cli.settings import Many
from compress_cli.training.schedules import Schedule


class Step(Schedule):
    """Multiply the rate by `drop` at each milestone (as He et al. 2016, arXiv:1512.03385, section 4.2)."""

    milestones: Many[float] = Field(description="epochs at which the rate drops, rising, counted after the warm-up")
    drop: float = Field(0.1, gt=0, lt=1, description="factor at each milestone")

    @field_validator("milestones")
    @classmethod
    def _rising(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or value[0] <= 0 or any(later <= earlier for earlier, later in pairwise(value)):
            raise ValueError("must be epochs above 0 in rising order, such as [150, 180, 210]")
        return value

    def factor(self, epoch: float, epochs: float) -> float:
        return float(self.drop ** sum(epoch >= milestone for milestone in self.milestones))
