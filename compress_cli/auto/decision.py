"""What was decided for a model, and the figures that a recipe stands on."""

from __future__ import annotations

from dataclasses import dataclass, field

from compress_cli.auto.formats import Format, Measured
from compress_cli.auto.given import Given
from compress_cli.auto.promises import Budget
from compress_cli.auto.students import Sized
from compress_cli.auto.training_settings import TrainingSettings


@dataclass
class Decision:
    """What the recipe will be, and the figures that it stands on."""

    given: Given
    budget: Budget
    tried: list[Measured] = field(default_factory=list)  # formats, then candidates after a short training, on val
    sizes: list[Sized] = field(default_factory=list)  # every size that was tried
    compared: dict[str, Measured] = field(default_factory=dict)  # after a short training
    brief: dict[str, int] = field(default_factory=dict)  # epochs of it
    skipped: list[str] = field(default_factory=list)  # candidates for which there was no time
    fmt: Format | None = None
    chosen: Sized | None = None  # what is trained; None where nothing is
    training: TrainingSettings | None = None  # of that
    aware: bool = False  # whether training goes on through the rounding
    whole: bool = False  # the given model itself is trained, in integers: nothing smaller was looked for
    left_s: float = 0.0  # for the run
    alone: Measured | None = None  # int8 of the given model
    holds: bool = False  # on val, without training
    undecided: bool = False  # val has too few samples to be certain, and no goal is missed
    why_nothing: str = ""  # why no training could follow, where goals are missed

    @property
    def fastest(self) -> float:
        """Times as fast as the given model, each in turn with it: the fastest of all files that were timed."""
        sized = (file.speedup for one in self.sizes for file in one.rehearsal.files.values() if file.latency_ms)
        return max([*sized, *(one.speedup for one in self.tried if one.latency_ms)], default=0.0)
