"""The given model, and what was decided for it: the figures that a recipe stands on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compress_cli.auto.architectures import Size
from compress_cli.auto.formats import Format, Measured
from compress_cli.auto.promises import Budget
from compress_cli.auto.schedule import Rates, Schedule
from compress_cli.auto.students import Sized
from compress_cli.report import Report
from compress_cli.store.artifact import Artifact

UNKNOWN = 10**15  # a count that the graph does not tell: it bounds nothing


@dataclass(frozen=True)
class Given:
    """The model as it is: its artifact, its float file, and the figures of that on val."""

    stage: Mapping[str, Any]
    artifact: Artifact
    file: Path
    report: Report

    @property
    def bytes(self) -> int:
        return self.report.rows[0].size_bytes or 1

    @property
    def size(self) -> Size:
        row = self.report.rows[0]
        return Size(row.parameters or UNKNOWN, row.macs or UNKNOWN)


@dataclass
class Decision:
    """What the recipe will be, and the figures that it stands on."""

    given: Given
    budget: Budget
    tried: list[Measured] = field(default_factory=list)  # formats, then candidates after a short training, on val
    sizes: list[Sized] = field(default_factory=list)  # every size that was tried
    compared: dict[str, Measured] = field(default_factory=dict)  # after a short training
    brief: int = 0  # epochs of it
    skipped: list[str] = field(default_factory=list)  # candidates for which there was no time
    fmt: Format | None = None
    chosen: Sized | None = None  # what is trained; None where nothing is
    plan: Schedule | None = None
    rates: Rates | None = None
    alone: Measured | None = None  # int8 of the given model
    holds: bool = False  # on val, without training
    lesson: Mapping[str, Any] = field(default_factory=dict)  # settings of the winner's training, but its epochs
    scratch: Mapping[str, Any] = field(default_factory=dict)  # those of a training from scratch
    undecided: bool = False  # val has too few samples to be certain, and no goal is missed
    why_nothing: str = ""  # why no training could follow, where goals are missed

    @property
    def fastest_ms(self) -> float:
        """Of all files that were timed: what this runtime can do here."""
        times = [one.rehearsal.latency_ms for one in self.sizes if one.rehearsal.latency_ms]
        return min([*times, *(one.latency_ms for one in self.tried if one.latency_ms)], default=0.0)
