"""What a run shows while it works: bars on a terminal, a line an epoch elsewhere, nothing when quiet. On standard error."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from compress_cli.progress import Progress as Report

if TYPE_CHECKING:
    from compress_cli.pipeline.step import Step


class Live:
    """Listens to a run."""

    def __init__(self, quiet: bool = False):
        self.quiet = quiet
        self.console = Console(stderr=True, highlight=False)
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self.console,
            transient=True,
            disable=quiet or not sys.stderr.isatty(),
        )
        self.bar: TaskID | None = None
        self.smoking = False

    def __enter__(self) -> Live:
        self.bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bars.stop()

    def begins(self, step: Step, smoke: bool) -> None:
        """Announce a step. A smoke run is announced once."""
        if smoke and not self.smoking:
            self._say("two batches through every stage first")
        if not smoke and not step.implied:
            self._say(f"{step.name}: {step.stage.type}")
        self.smoking = smoke
        if self.bar is not None:
            self.bars.remove_task(self.bar)
        self.bar = self.bars.add_task(f"{'trying ' if smoke else ''}{step.name}", total=None, figures="")

    def progress(self, step: Step, progress: Report) -> None:
        figures = "  ".join(f"{name} {value:.4g}" for name, value in progress.figures.items())
        if self.bar is not None:
            epochs = progress.epochs or 1
            total = progress.total * epochs
            done = progress.done + progress.total * max(0, progress.epoch - 1)
            self.bars.update(self.bar, total=total, completed=done, figures=figures)
        if progress.note:
            self._say(f"{step.name}: {progress.note}")
        if progress.epoch_ended and not self.bars.live.is_started:
            self._say(f"{step.name}: epoch {progress.epoch}/{progress.epochs}  {figures}")

    def ended(self, step: Step, cached: bool, seconds: float, problem: str) -> None:
        if self.bar is not None:
            self.bars.remove_task(self.bar)
            self.bar = None
        if problem:
            self._say(f"{step.name}: not possible: {problem}")
        elif cached and not step.implied:
            self._say(f"{step.name}: up to date")
        elif not step.implied and not self.smoking:
            self._say(f"{step.name}: done in {seconds:.1f} s")

    def _say(self, line: str) -> None:
        if not self.quiet:
            self.console.print(line, markup=False, soft_wrap=True)
