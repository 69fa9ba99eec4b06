"""Two batches through every stage, before the first long one: what can't work comes out in seconds."""

from __future__ import annotations

import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from compress_cli.errors import RecipeError, ResourceError, StageError
from compress_cli.pipeline import executor
from compress_cli.pipeline.executor import Listener, Workspace
from compress_cli.pipeline.plan import Plan
from compress_cli.pipeline.step import Step
from compress_cli.store import durable
from compress_cli.store.artifact import Artifact, Comparison, Measurement, Predictions
from compress_cli.store.scratch import scratch

BATCHES = 2
PASSED = "smoke.json"  # in the run's folder until the run is done: what passed, so that a resume goes on at once


class Trial(BaseModel):
    """A smoke run's estimate for a step: seconds and bytes, projected to the whole stage where the stage says how."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str  # of the step
    key: str
    seconds: float
    bytes: int
    memory: int  # the process's peak so far, in bytes


class Passed(BaseModel):
    """The trials that passed, and what else they depended on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: str
    libraries: dict[str, str]
    trials: list[Trial]


def rehearse(plan: Plan, listener: Listener, present: dict[str, Artifact], directory: Path) -> list[Trial]:
    """The smoke run of a run in `directory`, or its stored result where the same steps passed before an interrupt."""
    device, libraries = executor.named(executor.device(plan.recipe.device)), executor.libraries()
    earlier = _read(directory / PASSED)
    if earlier and (earlier.device, earlier.libraries) == (device, libraries):
        known = {trial.key: trial for trial in earlier.trials}
        steps = _tried(plan, present)
        if all(step.key in known for step in steps):
            return [known[step.key] for step in steps]
    trials = smoke(plan, listener, present)
    passed = Passed(device=device, libraries=libraries, trials=trials)
    durable.write(directory / PASSED, passed.model_dump_json(indent=1).encode())
    return trials


def forget(directory: Path) -> None:
    """Remove what `rehearse` remembers: the run is done."""
    (directory / PASSED).unlink(missing_ok=True)


def smoke(plan: Plan, listener: Listener, present: dict[str, Artifact] | None = None) -> list[Trial]:
    """Take every stage through two batches on random weights, in a folder that is thrown away.

    Steps whose artifacts are `present` (by key) serve as inputs and are not tried. Nor are those that only measure: a
    model that can't be measured fails no run. RecipeError, with the stage's line, for a stage that can't work. Returns
    what each step cost.
    """
    artifacts = dict(present or {})
    with scratch("smoke") as folder:
        return [_try(plan, step, artifacts, folder, listener) for step in _tried(plan, artifacts)]


def _tried(plan: Plan, present: dict[str, Artifact]) -> list[Step]:
    """The steps that a smoke run takes, each after its inputs."""
    needed: dict[str, Step] = {}
    for stage in plan.stages:
        _need(stage, needed)
    return [
        step
        for step in needed.values()
        if step.key not in present and not issubclass(step.kind, Predictions | Measurement | Comparison)
    ]


def _need(step: Step, needed: dict[str, Step]) -> None:
    """Add a step after all its inputs."""
    for source in step.sources:
        _need(source, needed)
    needed.setdefault(step.key, step)


def _try(plan: Plan, step: Step, artifacts: dict[str, Artifact], folder: Path, listener: Listener) -> Trial:
    """One step on two batches."""
    listener.begins(step, smoke=True)
    output = folder / step.key
    output.mkdir()
    inputs = {role: tuple(artifacts[source.key] for source in steps) for role, steps in step.inputs.items()}
    begun = time.monotonic()
    try:
        artifact = executor.perform(plan.recipe, step, inputs, Workspace(output, folder, limit=BATCHES))
    except ResourceError as error:  # not the recipe's fault
        raise ResourceError(f"stage '{step.name}', tried on {BATCHES} batches: {error}") from error
    except StageError as error:
        reason = f"stage '{step.name}' can't work (tried on {BATCHES} batches): {error}"
        raise RecipeError(plan.recipe.complaint(step.loc, reason)) from error
    seconds = time.monotonic() - begun
    listener.ended(step, False, seconds, "")
    artifacts[step.key] = artifact
    facts = artifact.manifest.facts
    written = sum(file.bytes for file in artifact.manifest.files.values())
    return Trial(
        name=step.name,
        key=step.key,
        seconds=seconds + max(0, facts.get("planned_steps", 0) - BATCHES) * facts.get("seconds_per_step", 0.0),
        bytes=facts.get("planned_bytes", written),
        memory=executor.peak_memory(),
    )


def _read(path: Path) -> Passed | None:
    """The result of an earlier smoke run; None where there is none, or it can't be read."""
    try:
        return Passed.model_validate_json(path.read_bytes()) if path.is_file() else None
    except ValidationError:
        return None
