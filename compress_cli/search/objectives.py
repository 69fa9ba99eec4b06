"""What a search is after: one or two figures of the last model, and the recipe's gates as its constraints, judged on val."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from compress_cli.errors import RecipeError, StageError
from compress_cli.pipeline.plan import Plan
from compress_cli.pipeline.searched import Aim
from compress_cli.report import Report
from compress_cli.report import gates as promises
from compress_cli.report.gates import PREDICTION_QUANTITIES
from compress_cli.settings import suggest
from compress_cli.statistics import gate
from compress_cli.statistics.gate import Gate, GateResult
from compress_cli.store.artifact import Table

AIMS: tuple[Aim, ...] = ("size", "latency", "accuracy")
TIMED = ("latency", "speedup", "throughput")
SIZED = ("size_bytes", "compression_ratio", "size_ratio", "parameters", "macs")


Direction = Literal["minimize", "maximize"]


class Goal(BaseModel):
    """Objectives and constraints of a search."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    objectives: tuple[Aim, ...]
    gates: tuple[Gate, ...]
    primary: str  # the task's metric: what `accuracy` means
    better: str

    @property
    def directions(self) -> list[Direction]:
        """For each objective `minimize` or `maximize`."""
        return ["maximize" if aim == "accuracy" and self.better == "higher" else "minimize" for aim in self.objectives]

    @property
    def timed(self) -> bool:
        """Whether models have to be timed."""
        return "latency" in self.objectives or any(each.terms.quantity.startswith(TIMED) for each in self.gates)

    @property
    def sized(self) -> bool:
        """Whether a small file is worth anything."""
        return bool({"size", "latency"} & set(self.objectives)) or any(
            each.terms.quantity.startswith((*SIZED, *TIMED)) for each in self.gates
        )

    def title(self, aim: Aim) -> str:
        return self.primary if aim == "accuracy" else aim


class Figures(BaseModel):
    """The last model of a trial, measured on val."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    row: str
    metric: float
    low: float
    high: float
    samples: int
    size_bytes: int
    latency_ms: float | None = None
    speedup: float | None = None
    """Against the recipe's baseline, timed in turn with it."""
    gates: tuple[GateResult, ...] = ()

    def value(self, aim: Aim) -> float:
        """An objective. Latency is a share of the baseline's where there is one: other processes slow both."""
        if aim == "accuracy":
            return self.metric
        if aim == "size":
            return float(self.size_bytes)
        if self.speedup is not None:
            return 1 / self.speedup
        assert self.latency_ms is not None
        return self.latency_ms

    @property
    def violations(self) -> list[float]:
        """Of each gate how far it is from passing, relative to its limit; at most 0 where it passes."""
        return [violation(result) for result in self.gates]

    @property
    def feasible(self) -> bool:
        return all(result.passes for result in self.gates)

    @property
    def shortfall(self) -> float:
        """How far the gates are from passing, together."""
        return sum(max(0.0, amount) for amount in self.violations)


def violation(result: GateResult) -> float:
    """Counted from the end of the interval at which the gate would pass: the unfavourable one, unless undecided may pass."""
    assert result.low is not None
    assert result.high is not None
    terms = Gate(promise=result.promise).terms
    worst, best = (result.high, result.low) if terms.at_most else (result.low, result.high)
    end = best if result.outcome == "undecided" and result.passes else worst
    amount = (end - terms.limit if terms.at_most else terms.limit - end) / (abs(terms.limit) or 1.0)
    return min(amount, 0.0) if result.passes else max(amount, 1e-9)


def goal(plan: Plan, named: Sequence[str]) -> Goal:
    """The goal of a recipe; RecipeError for an objective that there is not, or a gate that would need the test split.

    Without objectives in the command or the recipe: small where a gate bounds the task's metric, accurate where gates are about
    other figures, both where there are none.
    """
    for name in named:
        if name not in AIMS:
            raise RecipeError(f"--objective {name}: there is no such objective; {suggest(name, list(AIMS))}")
    if len(named) > 2 or len(set(named)) < len(named):
        raise RecipeError("--objective: name one or two different ones of size, latency and accuracy")
    task = plan.recipe.task
    _check(plan)
    chosen: tuple[Aim, ...] = tuple(aim for aim in AIMS if aim in named) if named else plan.recipe.search.objectives
    if not chosen:
        about = [gate.changed(each.terms.quantity)[0] for each in plan.gates]
        bounded = any(quantity == task.primary or quantity in PREDICTION_QUANTITIES for quantity in about)
        chosen = ("size",) if bounded else ("accuracy",) if plan.gates else ("size", "accuracy")
    return Goal(objectives=chosen, gates=plan.gates, primary=task.primary, better=task.better)


def _check(plan: Plan) -> None:
    """RecipeError where a recipe's models can't be judged on val."""
    recipe = plan.recipe
    if not plan.rows:
        raise RecipeError(f"{recipe.path}: makes no model that a search could judge")
    if not plan.missing_data and not len(recipe.dataset.split("val")):
        raise RecipeError(
            recipe.complaint(("dataset",), "has no val split, and a search chooses on val, never on test; give it one")
        )
    tables = {step.name: step for step in plan.stages if issubclass(step.kind, Table)}
    for position, each in enumerate(recipe.gates):
        table = tables.get(each.terms.row)
        if table and "test" in table.stage.splits:
            reason = f"'{table.name}' is measured on test, which a search may not see; check it after the search with --gate"
            raise RecipeError(recipe.complaint(("gates", position), reason))


def judged(planned: Plan, goal: Goal) -> Plan:
    """The plan without measurements that the goal does not ask for."""
    asked = {each.terms.row for each in goal.gates}
    rows = [row for row in planned.rows if row.step.name in (*asked, planned.baseline, planned.rows[-1].step.name)]
    answers = any(each.terms.quantity in PREDICTION_QUANTITIES for each in goal.gates)
    trimmed = [
        replace(row, comparison=row.comparison if goal.timed else None, predictions=row.predictions if answers else None)
        for row in rows
    ]
    return replace(planned, rows=tuple(trimmed))


def figures(report: Report, wanted: Goal) -> Figures:
    """The figures of a trial's report; StageError where one is missing that the goal is about."""
    row = report.rows[-1]
    metric, results = row.metrics.get(report.primary), promises.judge(report, wanted.gates)
    if metric is None or row.size_bytes is None or row.reason:
        raise StageError(f"'{row.name}' was not measured: {row.reason or 'its file is not known'}")
    for result in results:
        if result.outcome == "not measured":
            raise StageError(f"gate {result.promise} ({result.row}): not measured: {result.reason}")
    latency = row.latency.p50_ms.value if row.latency else None
    if "latency" in wanted.objectives and latency is None:
        raise StageError(f"'{row.name}' was not timed")
    return Figures(
        row=row.name,
        metric=metric.value,
        low=metric.low,
        high=metric.high,
        samples=metric.samples,
        size_bytes=row.size_bytes,
        latency_ms=latency,
        speedup=row.speedup.value if row.speedup else None,
        gates=tuple(results),
    )


def size_excess(size: float | None, wanted: Goal, row: str) -> float:
    """By what share a file of that size breaks the gates on the last model's bytes; 0 where it breaks none."""
    limits = [
        each.terms.limit
        for each in wanted.gates
        if each.terms.quantity == "size_bytes" and each.terms.at_most and each.terms.row in ("", row)
    ]
    if size is None or not limits:
        return 0.0
    return max(0.0, size / max(1.0, min(limits)) - 1.02)  # random weights may pack a little worse


def identity(wanted: Goal) -> dict[str, Any]:
    """What has to agree between those who share a study."""
    return {"objectives": list(wanted.objectives), "gates": [each.model_dump() for each in wanted.gates]}
