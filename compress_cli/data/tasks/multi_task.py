"""Several tasks of one model."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, PrivateAttr, model_validator

from compress_cli.data.signature import Signature
from compress_cli.data.tasks import Task
from compress_cli.statistics.intervals import Estimate

PartName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class MultiTask(Task):
    """Several tasks of one model, each on a head of its own (Caruana 1997, Machine Learning 28:41).

    What counts is the mean of their primary metrics; each task's own metrics stand beside it as `<name>_<metric>`. A model
    that has the heads of some tasks only, such as the teacher of one, is trained and judged on these.
    """

    tasks: dict[PartName, Task] = Field(
        min_length=2, description="name -> task, such as {shape: {type: classification, head: shape_logits, target: shape}}"
    )

    _whole: bool = PrivateAttr(True)

    @model_validator(mode="after")
    def _alike(self) -> MultiTask:
        if "mean" in self.tasks:
            raise ValueError("tasks: 'mean' is what their average is called; name the task otherwise")
        if nested := [name for name, each in self.tasks.items() if isinstance(each, MultiTask)]:
            raise ValueError(f"tasks: '{nested[0]}' has several tasks itself; list them all here")
        kinds = {each.primary: name for name, each in self.tasks.items()}
        if len(kinds) > 1:
            listed = ", ".join(f"{metric} of '{name}'" for metric, name in kinds.items())
            raise ValueError(f"tasks: their primary metrics can't be averaged: {listed}")
        return self

    @property
    def better(self) -> Literal["higher", "lower"]:
        return self._first.better

    @property
    def primary(self) -> str:
        name = "mean" if self._whole else "_".join(self.tasks)
        return f"{name}_{self._first.primary}"

    @property
    def metrics(self) -> tuple[str, ...]:
        return (self.primary, *(f"{name}_{metric}" for name, each in self.tasks.items() for metric in each.metrics))

    @property
    def parts(self) -> dict[str, Task]:
        return dict(self.tasks)

    def within(self, heads: Collection[str]) -> Task | None:
        able = {name: each for name, each in self.tasks.items() if each.within(heads)}
        if len(able) in (0, len(self.tasks)):
            return self if able else None
        some = self.model_copy(update={"tasks": able})
        some._whole = False
        return some

    def chance(self, signature: Signature) -> float | None:
        known = [each.chance(signature) for each in self.tasks.values()]
        found = [each for each in known if each is not None]
        return sum(found) / len(found) if len(found) == len(known) else None

    def check(self, signature: Signature, targets: dict[str, np.ndarray]) -> None:
        for each in self.tasks.values():
            each.check(signature, targets)

    def evaluate(self, heads: dict[str, np.ndarray], targets: dict[str, np.ndarray]) -> dict[str, Estimate]:
        each = {name: each.evaluate(heads, targets) for name, each in self.tasks.items()}
        mean = {self.primary: _mean([each[name][task.primary] for name, task in self.tasks.items()])}
        return mean | {f"{name}_{metric}": found for name, own in each.items() for metric, found in own.items()}

    def correct(self, heads: dict[str, np.ndarray], targets: dict[str, np.ndarray]) -> np.ndarray:
        return np.asarray(np.mean([each.correct(heads, targets) for each in self.tasks.values()], axis=0))

    @property
    def _first(self) -> Task:
        return next(iter(self.tasks.values()))


def _mean(found: list[Estimate]) -> Estimate:
    """With the mean of the intervals' ends: right where the tasks fail on the same samples, wider than need be otherwise."""
    value, low, high = (float(np.mean([getattr(each, end) for each in found])) for end in ("value", "low", "high"))
    return Estimate(value=value, low=low, high=high, samples=found[0].samples)
