"""Trackers: where the figures of a run go while it runs, besides its own folder.

tracking:
  - tensorboard
  - {type: mlflow, server: "http://localhost:5000", experiment: keywords}
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from compress_cli.plugin import Plugin

Ending = Literal["finished", "failed", "interrupted"]
Figures = Mapping[str, float]


@dataclass(frozen=True)
class TrackedRun:
    """The run whose figures are sent."""

    name: str
    directory: Path  # runs/<recipe>
    settings: Mapping[str, Any]
    """The recipe's fields by path: `stages.1.ratio` -> 0.5."""
    identity: str = ""
    """What an interrupted run of the same folder was known by; empty for a new one."""


class Tracking(ABC):
    """One run at one tracker. StageError or OSError from any method ends the tracking, never the run."""

    identity: str = ""
    """Under which an interrupted run goes on; empty where the tracker needs none."""

    @abstractmethod
    def epoch(self, stage: str, epoch: int, figures: Figures) -> None:
        """An epoch of a stage's training ended: `loss`, `learning_rate`, `val/accuracy`."""

    @abstractmethod
    def results(self, models: Mapping[str, Figures], gates: Mapping[str, str], files: Sequence[Path]) -> None:
        """The report: model -> figures (`test/accuracy`, `size_bytes`, `speedup`), promise -> outcome, the report's files."""

    @abstractmethod
    def close(self, ending: Ending) -> None:
        """No more will come."""


class Tracker(Plugin):
    """A program that shows and compares runs."""

    @abstractmethod
    def open(self, run: TrackedRun) -> Tracking:
        """Begin to track a run, or go on with an interrupted one.

        RecipeError where a package or a login is missing, StageError where the tracker can't be reached.
        """
