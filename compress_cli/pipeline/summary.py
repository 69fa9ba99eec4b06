"""What a finished run leaves for its report: rows, tables and gates, each with its keys in the store."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from compress_cli.pipeline.step import ModelSteps, Step
from compress_cli.store.artifact import Table
from compress_cli.store.record import ModelRecord, Record, TableRecord

if TYPE_CHECKING:
    from compress_cli.pipeline.run import Run


def record(run: Run, wall_time_s: float) -> Record:
    """The record of a run whose steps are done."""
    plan, recipe = run.plan, run.plan.recipe
    return Record(
        recipe=recipe.name,
        store=os.path.relpath(run.store.root.resolve(), run.directory.resolve()),
        seed=recipe.seed,
        baseline=plan.baseline,
        primary=recipe.task.primary,
        better=recipe.task.better,
        tasks=tuple(f"{name}_{task.primary}" for name, task in recipe.task.parts.items() if name),
        rows=[_model(run, row) for row in plan.rows],
        tables=[
            TableRecord(name=step.name, stage=step.stage.type, key=step.key)
            for step in plan.stages
            if issubclass(step.kind, Table)
        ],
        variants=[_model(run, row) for row in plan.variants],
        steps={step.name: step.key for step in (*plan.stages, *plan.steps) if step.key in run.artifacts},
        gates=plan.gates,
        wall_time_s=wall_time_s,
    )


def _model(run: Run, row: ModelSteps) -> ModelRecord:
    def key(step: Step | None) -> str | None:
        return step.key if step and step.key in run.artifacts else None

    step = row.step
    return ModelRecord(
        name=step.name,
        stage=step.stage.type,
        key=step.key,
        cached=step.key in run.cached,
        onnx=key(row.onnx),
        measurement=key(row.measurement),
        comparison=key(row.comparison),
        predictions=key(row.predictions),
        reason=run.problems.get(row.measurement.key, ""),
        seed=step.seed,
        variant_of=step.variant_of,
        variant=step.variant,
        teachers=tuple(teacher.name for teacher in step.inputs.get("teacher", ())),
    )
