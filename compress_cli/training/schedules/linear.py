"""A straight line down."""

from __future__ import annotations

from pydantic import Field

from compress_cli.training.schedules import Schedule


class Linear(Schedule):
    """Fall along a straight line (as in BERT's fine-tuning, Devlin et al. 2019, arXiv:1810.04805)."""

    floor: float = Field(0.0, ge=0, le=1, description="share of the peak that is left at the end")

    def factor(self, epoch: float, epochs: float) -> float:
        return self.floor + (1 - self.floor) * max(0.0, 1 - epoch / epochs)
