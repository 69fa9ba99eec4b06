"""Where, when and by how many processes steps are made: here, in turn, by this one, unless another kind says otherwise."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from compress_cli.pipeline.step import Step
from compress_cli.processes import ALONE, Processes

if TYPE_CHECKING:
    from compress_cli.pipeline.executor import Inputs
    from compress_cli.pipeline.plan import Plan
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

    def count(self, step: Step) -> int:
        """How many processes make a step together."""
        return 1

    def processes(self, planned: Plan, step: Step, inputs: Inputs, threads: int, say: Callable[[str], None]) -> Processes:
        """Those processes, ready to begin on a step of a plan; an error where one of them is not.

        say: hears what is waited for.
        """
        return ALONE

    def pauses(self, step: Step, epoch_ended: bool) -> bool:
        """Whether a step at work is saved and left here; asked after every batch, and after every epoch."""
        return False
