"""Two batches through every stage, before the first long one: what can't work comes out in seconds."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from compress_cli.errors import RecipeError, ResourceError, StageError
from compress_cli.pipeline import executor, paces
from compress_cli.pipeline.executor import Listener, Workspace
from compress_cli.pipeline.paces import Pace, Paces
from compress_cli.pipeline.plan import Plan
from compress_cli.pipeline.step import Step
from compress_cli.store import disk, durable
from compress_cli.store.artifact import Artifact, Comparison, Measurement, Predictions
from compress_cli.store.scratch import scratch

BATCHES = 2
PASSED = "smoke.json"  # in the store's memory: what passed, so that no step is tried again before it runs
MOST = 4000  # trials; the oldest go first
IMPORTS = 50  # modules: a trial that imported more was slowed by them


class Trial(BaseModel):
    """A smoke run's estimate for a step: seconds and bytes, projected to the whole stage where the stage says how."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str  # of the step
    key: str
    seconds: float
    bytes: int
    memory: int  # the process's peak so far, in bytes
    pace: Pace


def rehearse(plan: Plan, listener: Listener, present: dict[str, Artifact], memory: Path) -> list[Trial]:
    """The smoke run of a run. Steps that passed one on this device, with these libraries, are not tried again.

    `memory`: the folder that remembers what passed, and what it took. A changed stage is tried with what it needs alone.
    What only measures is tried where the run has a time to keep.
    """
    machine = _machine(plan)
    known = _read(memory / PASSED, machine)
    steps = {step.key: step for step in _tried(plan, present, measuring=plan.recipe.within is not None)}
    untried: dict[str, Step] = {}
    for step in steps.values():
        if step.key not in known:
            _need(step, untried)
    trials: list[Trial] = []
    try:
        wanted = [step for step in untried.values() if step.key in steps]
        trials.extend(_trials(wanted, plan, listener, present, memory, timed=plan.recipe.within is not None))
    finally:  # what passed before a step that can't work need not be tried again either
        if trials:
            note(plan, trials, memory)
    passed = {**known, **{trial.key: trial for trial in trials}}
    return [passed[key] for key in steps if key in passed]


def smoke(
    plan: Plan, listener: Listener, present: dict[str, Artifact] | None = None, memory: Path | None = None
) -> list[Trial]:
    """Take every stage through two batches on random weights, in a folder that is thrown away.

    Steps whose artifacts are `present` (by key) serve as inputs and are not tried. A step that only measures may fail: a
    model that can't be measured fails no run. Nor are models compared. RecipeError, with the stage's line, for a stage
    that can't work. Returns what each step cost. `memory`: a folder that remembers choices made once per machine.
    """
    present = present or {}
    return list(_trials(_tried(plan, present, measuring=True), plan, listener, present, memory, timed=True))


def note(plan: Plan, trials: list[Trial], memory: Path) -> None:
    """Remember what passed, and what it took."""
    machine, path, steps = _machine(plan), memory / PASSED, {step.key: step for step in plan.steps}
    known = _read(path, machine)
    for trial in trials:
        known.pop(trial.key, None)  # so that the newest stand last
        known[trial.key] = trial
    document = {"machine": machine, "trials": [trial.model_dump() for trial in [*known.values()][-MOST:]]}
    try:
        memory.mkdir(parents=True, exist_ok=True)
        durable.write(path, json.dumps(document).encode())
        Paces(memory, plan.recipe).note([(steps[trial.key], trial.pace) for trial in trials if trial.key in steps])
    except OSError as error:
        raise disk.unwritable(error, memory.parent, "; name another with --store") from None


def _trials(
    steps: Iterable[Step], plan: Plan, listener: Listener, present: dict[str, Artifact], memory: Path | None, *, timed: bool
) -> Iterator[Trial]:
    """Try these steps. `timed`: somebody reads the seconds; a trial in which modules were imported is repeated then."""
    artifacts = dict(present)
    with scratch("smoke") as folder:
        for step in steps:
            if any(source.key not in artifacts for source in step.sources):
                continue  # it measures what can't be measured
            before = len(sys.modules)
            trial = _try(plan, step, artifacts, folder / step.key, memory or folder, listener)
            if trial and timed and len(sys.modules) - before > IMPORTS:
                trial = _try(plan, step, artifacts, folder / f"{step.key}-again", memory or folder, listener)
            if trial:
                yield trial


def _machine(plan: Plan) -> str:
    """What a passed trial holds for: another device or other libraries may fail."""
    described = [executor.named(executor.device(plan.recipe.device)), executor.libraries()]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _measures(step: Step) -> bool:
    return issubclass(step.kind, Predictions | Measurement | Comparison)


def _tried(plan: Plan, present: dict[str, Artifact], measuring: bool) -> list[Step]:
    """The steps that a smoke run takes, each after its inputs."""
    needed: dict[str, Step] = {}
    measured = (step for row in plan.rows for step in row.steps) if measuring else ()
    for step in (*plan.stages, *measured):
        _need(step, needed)
    return [step for step in needed.values() if step.key not in present and not issubclass(step.kind, Comparison)]


def _need(step: Step, needed: dict[str, Step]) -> None:
    """Add a step after all its inputs."""
    for source in step.sources:
        _need(source, needed)
    needed.setdefault(step.key, step)


def _try(
    plan: Plan, step: Step, artifacts: dict[str, Artifact], output: Path, memory: Path, listener: Listener
) -> Trial | None:
    """One step on two batches; None for a measurement that is not possible."""
    listener.begins(step, smoke=True)
    output.mkdir()
    inputs = {role: tuple(artifacts[source.key] for source in steps) for role, steps in step.inputs.items()}
    begun = time.monotonic()
    try:
        artifact = executor.perform(plan.recipe, step, inputs, Workspace(output, memory, limit=BATCHES))
    except ResourceError as error:  # not the recipe's fault
        raise ResourceError(f"stage '{step.name}', tried on {BATCHES} batches: {error}") from error
    except StageError as error:
        if _measures(step):
            listener.ended(step, False, time.monotonic() - begun, "")
            return None
        reason = f"stage '{step.name}' can't work (tried on {BATCHES} batches): {error}"
        raise RecipeError(plan.recipe.complaint(step.loc, reason)) from error
    wall_s = time.monotonic() - begun
    listener.ended(step, False, wall_s, "")
    artifacts[step.key] = artifact
    pace = paces.of_trial(artifact.manifest, wall_s)
    return Trial(
        name=step.name,
        key=step.key,
        seconds=pace.seconds(step.stage),
        bytes=pace.disk_bytes,
        memory=executor.peak_memory(),
        pace=pace,
    )


def _read(path: Path, machine: str) -> dict[str, Trial]:
    """Earlier trials by key; none where there are none, they can't be read, or were made elsewhere."""
    try:
        document = json.loads(path.read_text()) if path.is_file() else {}
        if document.get("machine") != machine:
            return {}
        trials = [Trial.model_validate(trial) for trial in document["trials"]]
    except (ValueError, ValidationError, AttributeError, KeyError, TypeError):
        return {}
    return {trial.key: trial for trial in trials}
