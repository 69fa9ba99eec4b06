"""What a finished run leaves for its report: rows, tables and gates, each with its keys in the store."""

from __future__ import annotations

from dataclasses import dataclass

from compress_cli.pipeline.plan import Plan
from compress_cli.pipeline.step import ModelSteps, Step
from compress_cli.store.artifact import Artifact, Table
from compress_cli.store.record import ModelRecord, Record, TableRecord


@dataclass(frozen=True)
class Outcome:
    """What came of a plan's steps, by key."""

    artifacts: dict[str, Artifact]
    cached: set[str]  # steps that did not run
    problems: dict[str, str]  # measuring steps that could not run -> why


def record(plan: Plan, outcome: Outcome, store: str, wall_time_s: float, doubts: tuple[str, ...] = ()) -> Record:
    """The record of a plan whose steps are done; `store` is the store's folder, relative to the run's.

    doubts: what is wrong with the data, in sentences.
    """
    task = plan.recipe.task
    return Record(
        recipe=plan.recipe.name,
        store=store,
        seed=plan.recipe.seed,
        baseline=plan.baseline,
        primary=task.primary,
        better=task.better,
        tasks=tuple(f"{name}_{part.primary}" for name, part in task.parts.items() if name),
        rows=[_model(outcome, row) for row in plan.rows],
        tables=[
            TableRecord(name=step.name, stage=step.stage.type, key=step.key)
            for step in plan.stages
            if issubclass(step.kind, Table)
        ],
        variants=[_model(outcome, row) for row in plan.variants],
        steps={step.name: step.key for step in (*plan.stages, *plan.steps) if step.key in outcome.artifacts},
        gates=plan.gates,
        folds=len(plan.folds),
        fitted=plan.fitted,
        doubts=doubts,
        wall_time_s=wall_time_s,
    )


def _model(outcome: Outcome, row: ModelSteps) -> ModelRecord:
    def key(step: Step | None) -> str | None:
        return step.key if step and step.key in outcome.artifacts else None

    step = row.step
    return ModelRecord(
        name=step.name,
        stage=step.stage.type,
        key=step.key,
        cached=step.key in outcome.cached,
        onnx=key(row.onnx),
        measurement=key(row.measurement),
        comparison=key(row.comparison),
        predictions=key(row.predictions),
        reason=outcome.problems.get(row.measurement.key, ""),
        seed=step.seed,
        variant_of=step.variant_of,
        variant=step.variant,
        fold=step.fold,
        teachers=tuple(teacher.name for teacher in step.inputs.get("teacher", ())),
    )
