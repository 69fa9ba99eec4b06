"""A recipe with a share of its epochs and views, and with all that counts in epochs shrunk alike."""

from __future__ import annotations

import math
from typing import Any

from compress_cli.pipeline.recipe import Recipe
from compress_cli.settings import Settings
from compress_cli.stages import Stage
from compress_cli.training.config import TrainingConfig

STRETCHED = ("warmup_epochs", "milestones", "until_epoch", "decay_epochs", "after_epochs", "begin", "end")
"""Settings that count epochs of a training: they shrink with it."""


def scaled(recipe: Recipe, share: float, frozen: frozenset[int]) -> Recipe:
    """The recipe with that share of the epochs and views of each stage, but for those at `frozen` positions."""
    stages = [
        stage if position in frozen else _scaled_stage(stage, share) for position, stage in enumerate(recipe.stages)
    ]  # fmt: skip
    return recipe.model_copy(update={"stages": tuple(stages)})


def _scaled_stage(stage: Stage, share: float) -> Stage:
    values = [getattr(stage, name) for name in type(stage).model_fields]
    trainings = [value for value in values if isinstance(value, TrainingConfig)]
    if any(training.keep_epochs for training in trainings):
        return stage
    ratio = min((_epochs(training.epochs, share) / training.epochs for training in trainings), default=1.0)
    changed: dict[str, Any] = {}
    for name in type(stage).model_fields:
        value = getattr(stage, name)
        if isinstance(value, TrainingConfig):
            changed[name] = _scaled_training(value, share)
        elif isinstance(value, Settings) and isinstance(getattr(value, "training", None), TrainingConfig):
            changed[name] = _rebuilt(value, training=_scaled_training(value.training, share))  # type: ignore[attr-defined]
        elif name == "losses":
            changed[name] = tuple(_stretched(loss, ratio) for loss in value)
        elif name in ("gradual", "freeze") and value is not None:
            changed[name] = _stretched(value, ratio)
        elif name == "views" and isinstance(value, int):
            changed[name] = max(1, math.ceil(value * share))
    changed = {name: value for name, value in changed.items() if value != getattr(stage, name)}
    return _rebuilt(stage, **changed) if changed else stage


def _scaled_training(training: TrainingConfig, share: float) -> TrainingConfig:
    epochs = _epochs(training.epochs, share)
    if epochs == training.epochs:
        return training
    views = training.views and max(1, min(epochs, math.ceil(training.views * share)))
    schedule = _stretched(training.schedule, epochs / training.epochs)
    shorter: TrainingConfig = _rebuilt(training, epochs=epochs, views=views, schedule=schedule)
    return shorter


def _epochs(asked: int, share: float) -> int:
    return max(1, math.floor(asked * share + 1e-9))


def _stretched(value: Any, ratio: float) -> Any:
    """Settings whose counts of epochs are that much smaller."""
    changed: dict[str, Any] = {}
    for name in STRETCHED:
        count = getattr(value, name, None)
        if isinstance(count, tuple):
            changed[name] = tuple(part * ratio for part in count)
        elif isinstance(count, float):
            changed[name] = count * ratio
    return _rebuilt(value, **changed) if changed and ratio != 1 else value


def _rebuilt(value: Any, **changed: Any) -> Any:
    """The same settings with some changed, checked anew."""
    return type(value)(**{**{name: getattr(value, name) for name in type(value).model_fields}, **changed})
