"""The same learning rate throughout."""

from __future__ import annotations

from compress_cli.training.schedules import Schedule


class Constant(Schedule):
    """Stay at the peak after the warm-up."""

    def factor(self, epoch: float, epochs: float) -> float:
        return 1.0
