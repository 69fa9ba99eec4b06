"""Tasks: what counts as good, in NumPy. Nothing here imports torch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection
from typing import ClassVar, Literal

import numpy as np

from compress_cli.data.signature import Signature
from compress_cli.plugin import Plugin
from compress_cli.statistics.intervals import Estimate
from compress_cli.statistics.predictions import ScoredSamples


class Task(Plugin):
    """Metrics, the primary one with its direction, and the name of the loss on hard labels."""

    loss: ClassVar[str] = ""
    """The file in `losses/` that trains on the true targets; a task of several parts leaves it to them."""

    @property
    @abstractmethod
    def primary(self) -> str:
        """The metric that choices (best epoch) and the report go by; mostly a plain attribute of the class."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """All that it may give; a gate on anything else is refused before a run."""
        return ()

    @property
    def better(self) -> Literal["higher", "lower"]:
        """Which values of the primary metric are the good ones."""
        return "higher"

    @property
    def parts(self) -> dict[str, Task]:
        """The tasks that it is made of, by name; one alone has no name."""
        return {"": self}

    def within(self, heads: Collection[str]) -> Task | None:
        """The task as far as a model with these heads can do it; None where it can do nothing of it."""
        return self

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

    def answers(self, heads: dict[str, np.ndarray], targets: dict[str, np.ndarray]) -> ScoredSamples | None:
        """Class scores and labels, where the task is to name one class for each sample; None for any other task."""
        return None

    def classes(self, signature: Signature) -> tuple[str, ...]:
        """Names of those classes, in order; empty where there are none."""
        return ()
