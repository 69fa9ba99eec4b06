"""Epochs and views fitted to a time, by what steps take on this machine: decided once, and written into the run's folder.

Every training gets the same share of the epochs that the recipe asks for, at least one, and never more than those; a table
gets that share of its views. Stages named in `within.fixed`, trainings that keep epochs for others to rewind to, and stages
whose result lies in the store already stay as they are, unless they are made anew all the same (`--force`).
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from compress_cli.errors import RecipeError
from compress_cli.pipeline import plan as plans
from compress_cli.pipeline import smoke
from compress_cli.pipeline.estimate import MEMORY, Estimates
from compress_cli.pipeline.executor import Listener
from compress_cli.pipeline.plan import Plan
from compress_cli.pipeline.recipe import Recipe
from compress_cli.pipeline.shortening import scaled
from compress_cli.pipeline.step import Step
from compress_cli.pipeline.time_limit import amount
from compress_cli.settings import suggest
from compress_cli.store import durable
from compress_cli.store.store import Store

FITTED = "fitted.json"
MARGIN = 0.9  # of the time is planned for: estimates may be that far off
TRIES = 24


class FittedValue(BaseModel):
    """One number of the recipe, as it was asked for and as it is run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: int  # position in the recipe
    name: str
    field: str  # `training.epochs`
    asked: int
    fitted: int


class Decision(BaseModel):
    """What a recipe was fitted to, decided once; the same recipe in the same folder takes it again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: str  # hash of all that it was decided for
    within: str
    share: float  # of the epochs asked for
    values: tuple[FittedValue, ...]
    estimated_s: float  # of what was to run then
    asked_s: float  # the same with the epochs asked for

    @property
    def sentence(self) -> str:
        """`fitted to 60m: teacher 12 of 30 epochs, student 40 of 100 epochs and 3 of 8 views (...)`"""
        estimates = f"estimated: {amount(self.estimated_s)}"
        if not self.values:
            return f"within {self.within}: all epochs that the recipe asks for ({estimates})"
        parts: dict[str, list[str]] = {}
        for value in self.values:
            what = value.field.removeprefix("training.").replace(".training.", " ").replace(".", " ")
            parts.setdefault(value.name, []).append(f"{value.fitted} of {value.asked} {what}")
        changes = "; ".join(f"{name}: {', '.join(values)}" for name, values in parts.items())
        return f"fitted to {self.within}: {changes} ({estimates}; as asked: {amount(self.asked_s)})"


@dataclass(frozen=True)
class Fitted:
    """A plan that ends in time, and the decision behind it."""

    plan: Plan
    decision: Decision


def fitted(
    planned: Plan, store: Store, directory: Path, listener: Listener, begun: float, forced: frozenset[str] = frozenset()
) -> Fitted:
    """The plan of the recipe fitted to its time, counted from `begun` (time.monotonic).

    A decision that lies in the run's folder is taken again, unless stages that are `forced` make it take too long: it may have
    been decided when their results lay there. RecipeError where one epoch of each training takes too long.
    """
    known, limit = recorded(planned, directory), _limit(planned.recipe)
    if known and (not forced or _seconds(known.plan, Estimates(planned.recipe, store), store, forced)[0] <= limit):
        return known
    trials = smoke.rehearse(planned, listener, _present(planned, store, forced), store.root / MEMORY)
    estimates = Estimates(planned.recipe, store, trials)
    result = decide(planned, estimates, store, MARGIN * limit, time.monotonic() - begun, forced)
    _carry_over(trials, planned, result.plan, store)
    directory.mkdir(parents=True, exist_ok=True)
    durable.write(directory / FITTED, (result.decision.model_dump_json(indent=1) + "\n").encode())
    return result


def foreseen(planned: Plan, store: Store, directory: Path, trials: list[smoke.Trial]) -> Fitted | None:
    """The decision that a run would take, or has taken; nothing is written. None where too little is known to decide."""
    known = recorded(planned, directory)
    estimates = Estimates(planned.recipe, store, trials)
    if known or _seconds(planned, estimates, store, frozenset())[1]:
        return known
    return decide(planned, estimates, store, MARGIN * _limit(planned.recipe))


def recorded(planned: Plan, directory: Path) -> Fitted | None:
    """The plan by the decision in a run's folder; None where there is none for this recipe."""
    path = directory / FITTED
    durable.require_file(path)
    try:
        decision = Decision.model_validate_json(path.read_bytes()) if path.is_file() else None
    except ValidationError:
        return None
    if decision is None or decision.recipe != _identity(planned.recipe):
        return None
    return Fitted(_again(planned, scaled(planned.recipe, decision.share, _frozen_by(decision, planned.recipe))), decision)


def decide(
    planned: Plan,
    estimates: Estimates,
    store: Store,
    seconds: float,
    spent_s: float = 0.0,
    forced: frozenset[str] = frozenset(),
) -> Fitted:
    """The largest share of the epochs with which what is to run takes so many seconds, those spent already included.

    forced: names of stages that are made although their results lie in the store.
    """
    recipe, seconds = planned.recipe, seconds - spent_s
    frozen = _frozen(planned, store, forced)
    asked_s, unknown = _seconds(planned, estimates, store, forced)
    if unknown:
        raise RecipeError(f"{_where(recipe)}: it is not known how long {', '.join(unknown[:5])} takes: nothing can be fitted")

    def at(share: float) -> tuple[Plan, float]:
        shorter = _again(planned, scaled(recipe, share, frozen))
        return shorter, _seconds(shorter, estimates, store, forced)[0]

    low, high = 0.0, 1.0
    best = (planned, asked_s) if asked_s <= seconds else at(low)
    if best[1] > seconds:
        raise RecipeError(
            f"{_where(recipe)}: is too short: one epoch of each training, and all that is not training, takes about "
            f"{amount(best[1] / MARGIN)} here ({_longest(best[0], estimates, store, forced)}); as the recipe is written about "
            f"{amount(asked_s / MARGIN)}{_spent(spent_s)}. Give it more, or take stages, seeds or views out"
        )
    share = 1.0 if asked_s <= seconds else 0.0
    for _ in range(0 if share else TRIES):
        middle = (low + high) / 2
        shorter = at(middle)
        if shorter[1] <= seconds:
            low, share, best = middle, middle, shorter
        else:
            high = middle
        if high - low < 1 / (2 * _most_epochs(recipe)):
            break
    decision = Decision(
        recipe=_identity(recipe),
        within=recipe.within.time if recipe.within else "",
        share=share,
        values=tuple(_values(recipe, best[0].recipe)),
        estimated_s=best[1],
        asked_s=asked_s,
    )
    return Fitted(best[0], decision)


def _spent(seconds: float) -> str:
    """What trying out has taken of the time already, which it need not take again."""
    return f"; trying that out took {amount(seconds)} of it, which the same command again does not take" if seconds >= 1 else ""


def _again(planned: Plan, recipe: Recipe) -> Plan:
    """The plan of a changed recipe, up to the stage that the first one ends with."""
    whole = plans.plan(recipe)
    return whole if len(whole.stages) == len(planned.stages) else whole.until(planned.stages[-1].name)


def _seconds(planned: Plan, estimates: Estimates, store: Store, forced: frozenset[str]) -> tuple[float, list[str]]:
    """Of what is to run, and the long steps of which nothing is known."""
    costs = [(step, estimates.of(step)) for step in _to_run(planned, store, forced)]
    unknown = [step.name for step, cost in costs if cost is None and step.stage.long]
    return sum(cost.seconds for _, cost in costs if cost), unknown


def _longest(planned: Plan, estimates: Estimates, store: Store, forced: frozenset[str]) -> str:
    """`teacher 12 min, student 5 min, ...`"""
    costs = [(cost.seconds, step.name) for step in _to_run(planned, store, forced) if (cost := estimates.of(step))]
    return ", ".join(f"{name} {amount(seconds)}" for seconds, name in sorted(costs, reverse=True)[:4])


def _to_run(planned: Plan, store: Store, forced: frozenset[str]) -> Iterable[Step]:
    return (step for step in planned.steps if _is_forced(step, forced) or store.get(step.key) is None)


def _present(planned: Plan, store: Store, forced: frozenset[str]) -> dict[str, Any]:
    steps = (step for step in planned.steps if not _is_forced(step, forced))
    return {step.key: artifact for step in steps if (artifact := store.get(step.key))}


def _is_forced(step: Step, forced: frozenset[str]) -> bool:
    return not step.implied and (step.variant_of or step.name) in forced


def _frozen(planned: Plan, store: Store, forced: frozenset[str]) -> frozenset[int]:
    """Positions of stages that stay as they are written."""
    recipe = planned.recipe
    names = [stage.name or stage.type for stage in recipe.stages]
    fixed = recipe.within.fixed if recipe.within else ()
    for name in fixed:
        if name not in names:
            raise RecipeError(recipe.complaint(("within", "fixed"), f"there is no stage '{name}'; {suggest(name, names)}"))
    steps = {name: _of(planned, name) for name in names}
    made = {
        name
        for name, of_stage in steps.items()
        if of_stage and all(store.get(step.key) and not _follows(step, forced) for step in of_stage)
    }
    return frozenset(position for position, name in enumerate(names) if name in fixed or name in made)


def _follows(step: Step, forced: frozenset[str]) -> bool:
    """Whether a step is forced, or is made from one that is: should that one be shortened, it would be made anew too."""
    return _is_forced(step, forced) or any(_follows(source, forced) for source in step.sources)


def _of(planned: Plan, name: str) -> list[Step]:
    steps = [step for step in (*planned.stages, *planned.repeated) if (step.variant_of or step.name) == name]
    return [*steps, *(row.step for row in planned.variants if row.step.variant_of == name)]


def _frozen_by(decision: Decision, recipe: Recipe) -> frozenset[int]:
    """Positions of the stages that a decision changes nothing of."""
    changed = {value.stage for value in decision.values}
    return frozenset(position for position in range(len(recipe.stages)) if position not in changed)


def _values(asked: Recipe, made: Recipe) -> Iterable[FittedValue]:
    for position, (before, after) in enumerate(zip(asked.stages, made.stages, strict=True)):
        for field, read in _FIELDS.items():
            old, new = read(before), read(after)
            if old and new and old != new:
                yield FittedValue(stage=position, name=before.name or before.type, field=field, asked=old, fitted=new)


def _read(*path: str) -> Callable[[Any], int | None]:
    def read(value: Any) -> int | None:
        for name in path:
            value = getattr(value, name, None)
        return value if isinstance(value, int) else None

    return read


_FIELDS = {
    "training.epochs": _read("training", "epochs"),
    "training.views": _read("training", "views"),
    "steps.training.epochs": _read("steps", "training", "epochs"),
    "steps.training.views": _read("steps", "training", "views"),
    "views": _read("views"),
}


def _most_epochs(recipe: Recipe) -> int:
    return max((count for stage in recipe.stages for read in _FIELDS.values() if (count := read(stage))), default=1)


def _carry_over(trials: list[smoke.Trial], asked: Plan, made: Plan, store: Store) -> None:
    """What passed a smoke run passes it with fewer epochs too: the fitted steps are not tried again."""
    keys = {step.name: step.key for step in made.steps}
    names = {step.key: step.name for step in asked.steps}
    same = [trial.model_copy(update={"key": keys[names[trial.key]]}) for trial in trials if names.get(trial.key) in keys]
    if same:
        smoke.note(made, same, store.root / MEMORY)


def _limit(recipe: Recipe) -> float:
    return recipe.within.seconds if recipe.within else math.inf


def _where(recipe: Recipe) -> str:
    return recipe.complaint(("within",), recipe.within.time if recipe.within else "")


def _identity(recipe: Recipe) -> str:
    """All that a decision depends on: not the gates, nor names or places of folders."""
    fields = {"seed", "device", "threads", "dataset", "task", "folds", "within", "stages"}
    parts = recipe.model_dump(mode="json", serialize_as_any=True, include=fields)
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def applied(planned: Plan, result: Fitted) -> Plan:
    """The fitted plan with the gates of the one asked for. Its recipe asks for no time: the lock file makes the same again."""
    recipe = planned.recipe.model_copy(update={"stages": result.plan.recipe.stages, "within": None})
    return replace(result.plan, recipe=recipe, gates=planned.gates, fitted=result.decision.sentence)
