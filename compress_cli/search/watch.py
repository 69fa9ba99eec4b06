"""What a search sees of a trial at work: its epochs, its metric at each rung, and where it pauses."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compress_cli.errors import ArtifactError
from compress_cli.pipeline.schedule import Schedule
from compress_cli.pipeline.step import Step
from compress_cli.progress import Progress
from compress_cli.search import objectives, promotion
from compress_cli.search.objectives import Goal
from compress_cli.search.promotion import Standing
from compress_cli.search.quiet import Quiet
from compress_cli.search.space import Space
from compress_cli.search.study import Study, Trial
from compress_cli.store.store import Store

Say = Callable[[str], None]


class OutOfTime(Exception):
    """The time that the search was given is over; the trial is queued."""


@dataclass(frozen=True)
class Workshop:
    """What all trials of one search have in common on this machine."""

    space: Space
    study: Study
    goal: Goal
    store: Store
    folder: Path  # of the trials
    say: Say = print
    deadline: float = float("inf")  # by time.monotonic()
    quiet: Quiet | None = None  # where models are timed

    def computing(self) -> AbstractContextManager[None]:
        """Within, a worker computes; waits while another one times a model."""
        return self.quiet.computing() if self.quiet else nullcontext()

    @property
    def settings(self) -> Any:
        return self.space.recipe(self.space.first).search


@dataclass
class Watch(Schedule):
    """Listens to a trial's run: counts epochs, notes the metric at rungs, and says where the run pauses."""

    shop: Workshop
    trial: Trial
    long: Step | None  # the longest training that the search changes
    rungs: tuple[int, ...]  # epochs of it
    goal_row: str
    size: float | None = None
    trained: int = 0  # epochs of any stage, in this attempt
    went_on_from: int = 0  # the epoch that a save of an earlier attempt had reached
    made: int = 0  # steps
    shared: int = 0  # steps that were up to date
    epoch: int = 0  # of the long training
    begun: set[str] = field(default_factory=set)
    time_is_over: bool = False
    gone: ArtifactError | None = None  # what was wrong with the study's database, when the step at work asked it

    def begins(self, step: Step, smoke: bool) -> None:
        if time.monotonic() > self.shop.deadline:
            raise OutOfTime

    def progress(self, step: Step, progress: Progress) -> None:
        if not progress.epoch_ended:
            return
        if step.key not in self.begun and progress.epoch > 1:
            self.went_on_from += progress.epoch - 1
        self.begun.add(step.key)
        self.trained += 1
        if self.long and step.key == self.long.key:
            self.epoch = progress.epoch
            metric = progress.figures.get(self.shop.goal.primary)
            if metric is not None and progress.epoch in self.rungs:
                self._reach(self.rungs.index(progress.epoch), metric)

    def ended(self, step: Step, cached: bool, seconds: float, problem: str) -> None:
        self.shared += cached
        self.made += not cached

    def _reach(self, rung: int, metric: float) -> None:
        notes = {**self.trial.notes.get("rungs", {}), str(rung): metric}
        try:
            self.shop.study.note(self.trial, rungs=notes, size=self.size)
        except ArtifactError as error:
            self.gone = error

    def making(self, step: Step) -> AbstractContextManager[None]:
        """A model is timed while the other workers of this machine wait."""
        return self.shop.quiet.alone() if self.shop.quiet and step.stage.timed else nullcontext()

    def pauses(self, step: Step, epoch_ended: bool) -> bool:
        """Whether the step at work pauses here: the time is over, the trial is not among the better ones of its rung, or
        nobody can say since the database is gone."""
        if self.shop.quiet:
            self.shop.quiet.make_way()
        if time.monotonic() > self.shop.deadline:
            self.time_is_over = True
        if self.time_is_over or self.gone:
            return True
        if not epoch_ended or self.long is None or step.key != self.long.key or self.epoch not in self.rungs:
            return False
        try:
            return not goes_on(self.shop, self.trial, self.rungs.index(self.epoch), self.goal_row)
        except ArtifactError as error:
            self.gone = error
            return True


def goes_on(shop: Workshop, trial: Trial, rung: int, row: str) -> bool:
    """Whether a trial that reached a rung trains on at once."""
    trials = shop.study.trials()
    settings = shop.settings
    early = [each.number for each in trials if each.state != "fail"][: settings.complete]
    if trial.number in early:
        return True
    standings = {each.number: mine for each in trials if (mine := standing(shop, each, rung, row))}
    return trial.number in promotion.promoted(standings, settings.promote)


def standing(shop: Workshop, trial: Trial, rung: int, row: str) -> Standing | None:
    """A trial at a rung; None where it never reached it."""
    metric = trial.rungs.get(rung)
    if metric is None or trial.state == "fail":
        return None
    size = trial.notes.get("size") if shop.goal.sized else None
    loss = -metric if shop.goal.better == "higher" else metric
    return Standing(loss, size, objectives.size_excess(size, shop.goal, row))
