"""Tasks: what counts as good, in NumPy. Nothing here imports torch."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

import numpy as np

from compress_cli.damage import Answers
from compress_cli.intervals import Estimate
from compress_cli.plugin import Plugin
from compress_cli.signature import Signature


class Task(Plugin):
    """Metrics, the primary one with its direction, and the name of the loss on hard labels."""

    loss: ClassVar[str]
    """The file in `losses/` that trains on the true targets."""
    primary: ClassVar[str]
    """The metric that choices (best epoch) and the report go by."""
    metrics: ClassVar[tuple[str, ...]] = ()
    """All that it may give; a gate on anything else is refused before a run."""
    better: ClassVar[Literal["higher", "lower"]] = "higher"

    def chance(self, signature: Signature) -> float | None:
        """The primary metric of a model that guesses; None where that means nothing."""
        return None

    @abstractmethod
    def check(self, signature: Signature, targets: dict[str, np.ndarray]) -> None:
        """DataError where targets do not fit the signature: a missing name, a label out of range."""

    @abstractmethod
    def evaluate(self, heads: dict[str, np.ndarray], targets: dict[str, np.ndarray]) -> dict[str, Estimate]:
        """Metric name -> estimate with interval. heads: name -> (N, size); targets: name -> (N,)."""

    @abstractmethod
    def correct(self, heads: dict[str, np.ndarray], targets: dict[str, np.ndarray]) -> np.ndarray:
        """(N,) float: the primary metric's share of each sample, for paired comparisons."""

    def answers(self, heads: dict[str, np.ndarray], targets: dict[str, np.ndarray]) -> Answers | None:
        """Class scores and labels, where the task is to name one class for each sample; None for any other task."""
        return None

    def classes(self, signature: Signature) -> tuple[str, ...]:
        """Names of those classes, in order; empty where there are none."""
        return ()
