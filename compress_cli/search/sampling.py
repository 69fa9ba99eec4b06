"""Which values a new trial gets: Optuna proposes, from what earlier trials showed."""

from __future__ import annotations

import itertools
import random
import statistics
import warnings
from typing import TYPE_CHECKING, Any

from compress_cli.search.objectives import Goal
from compress_cli.search.space import Dimension, Drawn, Space
from compress_cli.search.study import Study
from compress_cli.statistics.gate import Gate

if TYPE_CHECKING:
    import optuna

MINUTES_S = 60.0  # from this median time of a trial on, the Gaussian process is worth the seconds that it thinks
STARTUP = 8  # random trials before a sampler learns
DIGITS = 4
DRAWS = 200  # attempts at values that no trial has yet


def distribution(dimension: Dimension) -> Any:
    """The dimension as Optuna has it: numbers keep their order, everything else is a choice between texts."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    known = dimension.range
    if known is None:
        values = dimension.values
        return IntDistribution(0, len(values) - 1) if dimension.ordered else CategoricalDistribution(values)
    if known.whole:
        return IntDistribution(
            int(known.low), _last(known.low, known.high, known.step), log=known.log, step=int(known.step or 1)
        )
    return FloatDistribution(float(known.low), float(known.high), log=known.log, step=known.step)


def _last(low: float, high: float, step: float | None) -> int:
    """The largest whole value of the range that its steps reach."""
    return int(low + (high - low) // (step or 1) * (step or 1))


def proposed(study: Study, space: Space, goal: Goal, seed: int, sampler: str = "auto") -> tuple[dict[str, Drawn], str] | None:
    """Values that no trial of the study has, and the sampler that proposed them; None where every combination was tried.

    The sampler sees a copy of the study in which a paused trial counts with what it showed at its last rung, so that it learns
    from trials that were not worth an end. Its random numbers follow from the seed and the number of trials, so that no
    worker that starts anew repeats what another drew.
    """
    import optuna
    from optuna.trial import TrialState

    trials = study.frozen()
    taken = [trial.params for trial in trials]
    combinations = space.combinations
    if combinations is not None and len({tuple(sorted(params.items())) for params in taken}) >= combinations:
        return None
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    known = {dimension.name: distribution(dimension) for dimension in space.dimensions}
    draw = (seed * 1_000_003 + len(trials)) % 2**32
    which = sampler if sampler != "auto" else "gp" if _takes_minutes(trials) else "tpe"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental, says Optuna
        copy = optuna.create_study(directions=study.study.directions, sampler=_sampler(which, draw))
        copy.add_trials([_shown(trial, complete, goal) for trial in trials if trial.state != TrialState.FAIL])
        values = {dimension.name: _short(dimension, value) for dimension, value in _pairs(space, copy.ask(known).params)}
    numbers = random.Random(draw)
    for _ in range(DRAWS):
        if values not in taken:
            return values, which
        values = {dimension.name: _drawn(dimension, known[dimension.name], numbers) for dimension in space.dimensions}
    return _untried(space, known, taken) or values, which


def _untried(space: Space, known: dict[str, Any], taken: list[dict[str, Drawn]]) -> dict[str, Drawn] | None:
    """The first combination that no trial has, where few are left and luck does not find one; None where they are countless."""
    if space.combinations is None:
        return None
    names = [dimension.name for dimension in space.dimensions]
    tried = {tuple(params[name] for name in names) for params in taken}
    lists = [_all(dimension, known[dimension.name]) for dimension in space.dimensions]
    left = (values for values in itertools.product(*lists) if values not in tried)
    first = next(left, None)
    return None if first is None else dict(zip(names, first, strict=True))


def _all(dimension: Dimension, known: Any) -> list[Drawn]:
    """Every value of a dimension that has a number of them."""
    if dimension.range is None:
        return dimension.values
    return [known.low + known.step * position for position in range(round((known.high - known.low) / known.step) + 1)]


def _shown(trial: Any, complete: list[Any], goal: Goal) -> Any:
    """A trial as the sampler sees it: a waiting one with what it showed, or as still at work where that tells nothing."""
    from optuna.trial import TrialState, create_trial

    if trial.state != TrialState.WAITING:
        return trial
    notes = trial.user_attrs
    rungs = notes.get("rungs") or {}
    if notes.get("paused") and rungs and complete:
        metric = rungs[max(rungs, key=int)]
        values = [_value(aim, position, metric, notes.get("size"), complete) for position, aim in enumerate(goal.objectives)]
        constraints = {
            f"constraints:{gate.promise}": _constraint(gate, goal, metric, notes.get("size"), complete) for gate in goal.gates
        }
        return create_trial(
            state=TrialState.COMPLETE,
            values=values,
            params=trial.params,
            distributions=trial.distributions,
            system_attrs=constraints,
        )
    trial.state = TrialState.RUNNING
    return trial


def _value(aim: str, position: int, metric: float, size: float | None, complete: list[Any]) -> float:
    """An objective of a trial that paused; the middle of the complete ones where its rung tells nothing of it."""
    if aim == "accuracy":
        return metric
    if aim == "size" and size is not None:
        return size
    return float(statistics.median(trial.values[position] for trial in complete))


def _constraint(gate: Gate, goal: Goal, metric: float, size: float | None, complete: list[Any]) -> float:
    """How far a paused trial is from keeping a gate, at its rung; the middle of the complete ones where that is not known."""
    terms = gate.terms
    figure = metric if terms.quantity == goal.primary else size if terms.quantity == "size_bytes" else None
    if figure is None:
        return float(statistics.median(trial.constraints[gate.promise] for trial in complete))
    return (figure - terms.limit if terms.at_most else terms.limit - figure) / (abs(terms.limit) or 1.0)


def _takes_minutes(trials: list[Any]) -> bool:
    seconds = [
        trial.user_attrs["seconds"] for trial in trials if trial.state.name == "COMPLETE" and "seconds" in trial.user_attrs
    ]
    return bool(seconds) and statistics.median(seconds) >= MINUTES_S


def _sampler(which: str, seed: int) -> optuna.samplers.BaseSampler:
    import optuna

    if which == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=STARTUP)
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP)


def _drawn(dimension: Dimension, known: Any, numbers: random.Random) -> Drawn:
    """Any value of a dimension, each alike."""
    if dimension.range is None:
        return numbers.choice(dimension.values)
    if known.step is not None:
        return known.low + known.step * numbers.randint(0, round((known.high - known.low) / known.step))  # type: ignore[no-any-return]
    return _short(dimension, numbers.uniform(dimension.range.low, dimension.range.high))


def _short(dimension: Dimension, value: Drawn) -> Drawn:
    """A number of a range without steps with the digits that people write, within the range."""
    known = dimension.range
    if known is None or known.whole or known.step is not None:
        return value
    return min(max(float(f"{value:.{DIGITS}g}"), float(known.low)), float(known.high))


def _pairs(space: Space, values: dict[str, Drawn]) -> list[tuple[Dimension, Drawn]]:
    return [(dimension, values[dimension.name]) for dimension in space.dimensions]
