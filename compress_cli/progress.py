"""What a stage tells while it works; whoever listens decides how to show it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """One report of work done. `done` of `total` units (steps, batches); an epoch's end carries its figures."""

    what: str  # "train", "calibrate", "measure", ...
    done: int
    total: int
    epoch: int = 0  # counted from 1; 0 where the work has no epochs
    epochs: int = 0
    figures: dict[str, float] = field(default_factory=dict)  # loss, accuracy on val, samples per second
    epoch_ended: bool = False
    note: str = ""  # a sentence for the user: a warning, a choice made


Log = Callable[[Progress], None]
