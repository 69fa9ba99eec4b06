"""What came of a search: the best trial, those that no other one beats, what each field was worth, what was saved."""

from __future__ import annotations

import math
import warnings
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from compress_cli.errors import RecipeError
from compress_cli.pipeline.searched import Aim
from compress_cli.search import promotion
from compress_cli.search.objectives import Figures, Goal
from compress_cli.search.space import Space
from compress_cli.search.study import Study, Trial, shown

STATES = {"complete": "complete", "running": "at work", "fail": "failed"}


class TrialOutcome(BaseModel):
    """One trial."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: int
    state: str
    """complete, paused (at a rung), queued, at work or failed."""
    values: dict[str, str]
    """Searched field -> its value."""
    figures: Figures | None = None
    """Of the last model on val, where the trial is complete."""
    feasible: bool = False
    rungs: dict[int, float] = {}
    """Rung, from 0 -> the task's metric on val there."""
    epochs: int = 0
    """Trained by this trial, in all stages."""
    not_repeated: int = 0
    """Epochs that it did not train again when it went on from its save."""
    untrained: int = 0
    """Epochs of the longest training that it paused before."""
    seconds: float = 0.0
    sampler: str = ""
    deaths: int = 0
    """Of workers at it."""
    problem: str = ""
    keys: dict[str, str] = {}
    """Step -> key in the store."""


class Outcome(BaseModel):
    """The document of a search, `tune.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: str
    study: str
    storage: str
    split: str = "val"
    goal: Goal
    fields: dict[str, str]
    """Searched field -> the values that it may have."""
    trials: list[TrialOutcome]
    best: int | None = None
    """The trial that was written out; None where none is feasible."""
    named: bool = False
    """Whether that is the one that --trial names, and not the best."""
    front: list[int] = []
    """Feasible trials that no other feasible one beats in every objective."""
    nearest: int | None = None
    """Where none is feasible: the complete one that breaks its gates least."""
    importances: dict[Aim, dict[str, float]] = {}
    """Objective -> searched field -> share of the variance that it explains (Hutter et al. 2014: functional ANOVA)."""
    written: str = ""
    """The recipe with the best trial's values."""
    seconds: float = 0.0
    """All workers' time at trials."""

    def trial(self, number: int) -> TrialOutcome:
        return next(each for each in self.trials if each.number == number)

    def count(self, state: str) -> int:
        return sum(each.state == state for each in self.trials)

    @property
    def epochs(self) -> int:
        return sum(each.epochs for each in self.trials)

    @property
    def not_repeated(self) -> int:
        return sum(each.not_repeated for each in self.trials)

    @property
    def untrained(self) -> int:
        return sum(each.untrained for each in self.trials)

    @property
    def continued(self) -> int:
        """Trials that went on from a save."""
        return sum(each.not_repeated > 0 for each in self.trials)


def collect(study: Study, space: Space, goal: Goal, recipe: Path, number: int | None = None) -> Outcome:
    """The outcome of a study; RecipeError where the trial that is to be written is not complete.

    number: the trial to be written out instead of the best one.
    """
    stored = study.trials()
    trials = [_trial(each, space) for each in stored]
    feasible = sorted((each for each in trials if each.feasible), key=lambda each: preference(each, goal))
    front = pareto({each.number: _losses(each, goal) for each in feasible})
    complete = [each for each in trials if each.figures]
    best = knee({each.number: _losses(each, goal) for each in feasible if each.number in front})
    if number is not None:
        if number not in [each.number for each in complete]:
            raise RecipeError(f"--trial {number}: is no complete trial of this study")
        best = number
    return Outcome(
        recipe=str(recipe),
        study=study.study.study_name,
        storage=shown(study.url),
        goal=goal,
        fields={dimension.name: _values(dimension) for dimension in space.dimensions},
        trials=trials,
        best=best,
        named=number is not None,
        front=front,
        nearest=min(complete, key=_shortfall).number if complete and not feasible else None,
        importances=_importances(study, goal),
        seconds=sum(each.seconds for each in trials),
    )


def pareto(losses: dict[int, tuple[float, ...]]) -> list[int]:
    """Those that no other one beats: at least as good in all and better in one; of equals the first in the dictionary. In
    order of the first objective."""
    rank = {number: position for position, number in enumerate(losses)}

    def beaten(number: int) -> bool:
        mine = losses[number]
        return any(
            all(a <= b for a, b in zip(other, mine, strict=True)) and (other != mine or rank[rival] < rank[number])
            for rival, other in losses.items()
            if rival != number
        )

    return sorted((number for number in losses if not beaten(number)), key=lambda number: losses[number])


def knee(losses: dict[int, tuple[float, ...]]) -> int | None:
    """The one nearest to the best of every objective at once, each scaled to the front's range; of equals the first in the
    dictionary, None where there is none."""
    if not losses:
        return None
    lows = [min(column) for column in zip(*losses.values(), strict=True)]
    spans = [max(column) - min(column) or 1.0 for column in zip(*losses.values(), strict=True)]

    def distance(number: int) -> float:
        return math.hypot(*((value - low) / span for value, low, span in zip(losses[number], lows, spans, strict=True)))

    return min(losses, key=distance)


def preference(trial: TrialOutcome, goal: Goal) -> tuple[float, float, int]:
    """The order of trials that are equal in the objectives: sizes often are, and then the better metric on val counts."""
    assert trial.figures is not None
    loss = -trial.figures.metric if goal.better == "higher" else trial.figures.metric
    return loss, trial.figures.size_bytes, trial.number


def _losses(trial: TrialOutcome, goal: Goal) -> tuple[float, ...]:
    """Its objectives, each with the sign that makes less better."""
    assert trial.figures is not None
    signs = [-1 if direction == "maximize" else 1 for direction in goal.directions]
    return tuple(sign * trial.figures.value(aim) for sign, aim in zip(signs, goal.objectives, strict=True))


def _shortfall(trial: TrialOutcome) -> float:
    return trial.figures.shortfall if trial.figures else math.inf


def _trial(trial: Trial, space: Space) -> TrialOutcome:
    notes = trial.notes
    figures = Figures.model_validate(notes["figures"]) if trial.state == "complete" and "figures" in notes else None
    waiting = "paused" if trial.paused else "queued"
    return TrialOutcome(
        number=trial.number,
        state=STATES.get(trial.state, waiting),
        values=space.words(trial.drawn),
        figures=figures,
        feasible=figures is not None and figures.feasible,
        rungs=trial.rungs,
        epochs=notes.get("trained", 0),
        untrained=_untrained(trial, space) if trial.paused else 0,
        not_repeated=notes.get("not_repeated", 0),
        seconds=notes.get("seconds", 0.0),
        sampler=notes.get("sampler", ""),
        deaths=notes.get("deaths", 0),
        problem=notes.get("problem", ""),
        keys=notes.get("keys", {}),
    )


def _untrained(trial: Trial, space: Space) -> int:
    epochs = trial.notes.get("epochs", 0)
    rungs = promotion.rung_epochs(space.recipe(trial.drawn).search.rungs, epochs)
    return epochs - rungs[max(trial.rungs)] if trial.rungs else 0


def _values(dimension: Any) -> str:
    """`0.3 .. 0.8` or the list of choices."""
    known = dimension.range
    if known is None:
        return ", ".join(dimension.text(value) for value in dimension.values)
    step = f" by {known.step:g}" if known.step else ""
    return f"{known.low:g} .. {known.high:g}{step}{', logarithmic' if known.log else ''}"


def _importances(study: Study, goal: Goal) -> dict[Aim, dict[str, float]]:
    """Of each field for each objective; nothing where too few trials are complete, or all have one value."""
    import optuna
    from optuna.trial import TrialState

    complete = [trial for trial in study.frozen() if trial.state == TrialState.COMPLETE]
    shares: dict[Aim, dict[str, float]] = {}
    for position, aim in enumerate(goal.objectives):
        values = [trial.values[position] for trial in complete]
        if len(complete) < 4 or len(set(values)) < 2:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            copy = optuna.create_study(directions=study.study.directions)
            copy.add_trials(complete)
            evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
            shares[aim] = dict(
                optuna.importance.get_param_importances(copy, evaluator=evaluator, target=partial(_at, position))
            )
    return shares


def _at(position: int, trial: Any) -> float:
    return float(trial.values[position])
