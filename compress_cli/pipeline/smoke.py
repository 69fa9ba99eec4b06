"""Two batches through every stage, before the first long one: what can't work comes out in seconds."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from compress_cli.errors import RecipeError, ResourceError, StageError
from compress_cli.pipeline import executor
from compress_cli.pipeline.executor import Listener
from compress_cli.pipeline.plan import Plan
from compress_cli.pipeline.step import Step
from compress_cli.progress import Progress
from compress_cli.store import artifact
from compress_cli.store.artifact import Artifact, Comparison, Measurement, Predictions
from compress_cli.store.scratch import scratch

BATCHES = 2


@dataclass(frozen=True)
class Trial:
    """What a smoke run learned of a step: seconds and bytes, projected to the whole stage where it says how."""

    step: Step
    seconds: float
    bytes: int
    memory: int  # the process's peak so far, in bytes


def smoke(plan: Plan, listener: Listener, there: dict[str, Artifact] | None = None) -> list[Trial]:
    """Take every stage through two batches on random weights, in a folder that is thrown away.

    Steps whose artifacts are `there` (by key) are spared and serve as inputs, and so are those that only measure: what
    can't be measured fails no run. RecipeError, with the stage's line, for what can't work. Returns what it cost, step
    by step.
    """
    needed: dict[str, Step] = {}
    for stage in plan.stages:
        _need(stage, needed)
    with scratch("smoke") as folder:
        made = dict(there or {})
        return [
            _try(plan, step, made, folder, listener)
            for step in needed.values()
            if step.key not in made and not issubclass(step.kind, Predictions | Measurement | Comparison)
        ]


def _need(step: Step, needed: dict[str, Step]) -> None:
    """Add a step after all that it takes."""
    for source in step.sources:
        _need(source, needed)
    needed.setdefault(step.key, step)


def _try(plan: Plan, step: Step, made: dict[str, Artifact], folder: Path, listener: Listener) -> Trial:
    """One step on two batches."""
    listener.begins(step, smoke=True)
    output = folder / step.key
    output.mkdir()
    inputs = {role: tuple(made[each.key] for each in steps) for role, steps in step.inputs.items()}
    begun = time.monotonic()
    try:
        executor.perform(plan, step, inputs, output, folder, _unheard, limit=BATCHES)
    except ResourceError as error:  # not the recipe's fault
        raise ResourceError(f"stage '{step.name}', tried on {BATCHES} batches: {error}") from error
    except StageError as error:
        reason = f"stage '{step.name}' can't work (tried on {BATCHES} batches): {error}"
        raise RecipeError(plan.recipe.complaint(step.loc, reason)) from error
    seconds = time.monotonic() - begun
    listener.ended(step, False, seconds, "")
    whole = artifact.read(output)
    assert whole is not None
    made[step.key] = whole
    facts = whole.manifest.facts
    projected = seconds + max(0, facts.get("planned_steps", 0) - BATCHES) * facts.get("seconds_per_step", 0.0)
    written = sum(each.bytes for each in whole.manifest.files.values())
    return Trial(step, projected, facts.get("planned_bytes", written), executor.peak_memory())


def _unheard(progress: Progress) -> None:
    """Nobody listens within a stage of a smoke run."""
