"""Where and when a run's steps are made: here and one after the other, unless a schedule of another kind says otherwise."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from compress_cli.pipeline.step import Step

if TYPE_CHECKING:
    from compress_cli.pipeline.run import Run


class Schedule:
    """Every step in this process, after those that it needs, and each to its end."""

    def advance(self, run: Run) -> None:
        """Take up or make every step of the run's plan, or note why a measuring one can't be made."""
        for step in run.plan.steps:
            run.advance(step)

    def making(self, step: Step) -> AbstractContextManager[None]:
        """Entered while a step is made here."""
        return nullcontext()

    def pauses(self, step: Step, epoch_ended: bool) -> bool:
        """Whether a step at work is saved and left here; asked after every batch, and after every epoch."""
        return False
