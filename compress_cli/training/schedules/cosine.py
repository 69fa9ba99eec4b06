"""Half a cosine."""

from __future__ import annotations

import math

from pydantic import Field

from compress_cli.training.schedules import Schedule


class Cosine(Schedule):
    """Fall along half a cosine, without restarts (Loshchilov & Hutter 2017, arXiv:1608.03983)."""

    floor: float = Field(0.0, ge=0, le=1, description="share of the peak that is left at the end")

    def factor(self, epoch: float, epochs: float) -> float:
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * min(1.0, epoch / epochs))) / 2
