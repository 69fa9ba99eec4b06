"""What a run shows while it works, on standard error: bars on a terminal, lines elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from compress_cli.progress import TRAINING_FIGURES
from compress_cli.progress import Progress as Report

if TYPE_CHECKING:
    from compress_cli.pipeline.step import Step

SILENCE_S = 30.0  # without a terminal a step that takes longer says how far it is: a CI job without output looks dead


class Live:
    """Listens to a run."""

    def __init__(self, quiet: bool = False, silence_s: float = SILENCE_S):
        self.quiet, self.silence_s = quiet, silence_s
        self.console = Console(stderr=True, highlight=False)
        terminal = sys.stderr.isatty()
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self.console,
            transient=True,
            disable=quiet or not terminal,
        )
        self.bar_of: dict[str, TaskID] = {}  # by the key of a step at work
        self.smoking = False
        self._status: dict[str, str] = {}  # how far each step at work is, by its key
        self._last_line_s = time.monotonic()
        self._ended = threading.Event()
        self._heartbeat = None if quiet or terminal else threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Live:
        self.bars.start()
        if self._heartbeat:
            self._heartbeat.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        if self._heartbeat:
            self._heartbeat.join()
        self.bars.stop()

    def begins(self, step: Step, smoke: bool) -> None:
        """Announce a step. A smoke run is announced once."""
        if smoke and not self.smoking:
            self._print("two batches through every stage first")
        if not smoke and not step.implied:
            self._print(f"{step.name}: {step.stage.type}")
        self.smoking = smoke
        name = f"{'trying ' if smoke else ''}{step.name}"
        self._status[step.key] = f"{name}: {step.stage.type}"
        self._remove_bar(step)
        self.bar_of[step.key] = self.bars.add_task(name, total=None, figures="")

    def progress(self, step: Step, progress: Report) -> None:
        """Show how far a step is, its notes, and the figures of an epoch that ended."""
        figures = _figures(progress)
        if (bar := self.bar_of.get(step.key)) is not None:
            epochs = progress.epochs or 1
            total = progress.total * epochs
            done = progress.done + progress.total * max(0, progress.epoch - 1)
            self.bars.update(bar, total=total, completed=done, figures=figures)
        if step.key in self._status:
            self._status[step.key] = "  ".join(filter(None, (f"{step.name}: {_position(progress)}", figures)))
        if progress.note:
            self._print(f"{step.name}: {progress.note}")
        if progress.epoch_ended and not self.bars.live.is_started:
            self._print(f"{step.name}: epoch {progress.epoch}/{progress.epochs}  {figures}")

    def ended(self, step: Step, cached: bool, seconds: float, problem: str) -> None:
        """Say what came of a step."""
        self._status.pop(step.key, None)
        self._remove_bar(step)
        if problem:
            self._print(f"{step.name}: not possible: {problem}")
        elif cached and not step.implied:
            self._print(f"{step.name}: up to date")
        elif not step.implied and not self.smoking:
            self._print(f"{step.name}: done in {seconds:.1f} s")

    def _remove_bar(self, step: Step) -> None:
        bar = self.bar_of.pop(step.key, None)
        if bar is not None:
            self.bars.remove_task(bar)

    def _print(self, line: str) -> None:
        self._last_line_s = time.monotonic()
        if not self.quiet:
            self.console.print(line, markup=False, soft_wrap=True)

    def _beat(self) -> None:
        """Print the status whenever nothing else was printed for so long; in a thread, since a step may not report."""
        while not self._ended.wait(max(0.01, self._last_line_s + self.silence_s - time.monotonic())):
            if time.monotonic() - self._last_line_s >= self.silence_s:
                for line in list(self._status.values()) or ["at work"]:
                    self._print(line)


def _position(progress: Report) -> str:
    """`train, epoch 3/20, 120 of 400`"""
    epoch = f"epoch {progress.epoch}/{progress.epochs}" if progress.epochs else ""
    count = f"{progress.done} of {progress.total}" if progress.total else ""
    return ", ".join(filter(None, (progress.what, epoch, count)))


def _figures(progress: Report) -> str:
    """`loss 0.2814  val accuracy 0.9301`: a metric names its split."""
    named = ((name if name in TRAINING_FIGURES else f"val {name}", value) for name, value in progress.figures.items())
    return "  ".join(f"{name} {value:.4g}" for name, value in named)
