"""Plan: the recipe resolved into steps, each with its inputs, its kind and its key.

The stages of the recipe imply further steps: what a stage says it needs, and for every model a float or int8
ONNX file, its measurement on the test split, and its comparison with the baseline.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from compress_cli.data.datasets import Dataset
from compress_cli.document import Key
from compress_cli.errors import DataError, RecipeError
from compress_cli.fault import plugins_raise
from compress_cli.pipeline import folds
from compress_cli.pipeline.chain import MODELS, Chain
from compress_cli.pipeline.recipe import Recipe
from compress_cli.pipeline.step import Inputs, ModelSteps, Step, ordered
from compress_cli.settings import suggest
from compress_cli.stages import Stage
from compress_cli.statistics.gate import Gate, impossible
from compress_cli.store.artifact import Table

Judging = Literal["test", "val"]


@dataclass(frozen=True)
class Plan:
    """Steps in an order in which each comes after its inputs; equal keys stand once."""

    recipe: Recipe
    stages: tuple[Step, ...]  # as the recipe lists them
    rows: tuple[ModelSteps, ...]
    baseline: str
    repeated: tuple[Step, ...] = ()  # stages with their further seeds
    variants: tuple[ModelSteps, ...] = ()  # models of repeated stages and of controls
    gates: tuple[Gate, ...] = ()
    folds: tuple[Dataset, ...] = ()  # the recipe's dataset as each fold of a cross-validation divides it
    fitted: str = ""  # what was fitted to a time, for the report
    missing_data: str = ""  # why the dataset's fingerprint, and so every key, is not known yet

    @property
    def datasets(self) -> tuple[Dataset, ...]:
        """Whose samples its steps see."""
        return self.folds or (self.recipe.dataset,)

    @property
    def steps(self) -> tuple[Step, ...]:
        """With the implied ones, ready to run: stages as in the recipe, each followed by what measures it."""
        return ordered(self._in_turn())

    def _in_turn(self) -> Iterator[Step]:
        for stage in self.stages:
            yield stage
            yield from (step for row in self.rows if row.step is stage for step in (row.onnx, row.measurement))
        yield from self.repeated
        yield from (step for row in (*self.rows, *self.variants) for step in row.steps)

    @property
    def needed(self) -> frozenset[str]:
        """Keys of the steps that no stage of the recipe can do without; the others measure."""
        return frozenset(step.key for step in ordered((*self.stages, *self.repeated, *(row.step for row in self.variants))))

    def step(self, name: str) -> Step:
        """The recipe's stage of that name; RecipeError with the nearest names otherwise."""
        stages = {step.name: step for step in self.stages}
        if name not in stages:
            raise RecipeError(f"there is no stage '{name}' in {self.recipe.path}; {suggest(name, list(stages))}")
        return stages[name]

    def until(self, name: str) -> Plan:
        """The plan of the recipe's stages up to and with that one; the recipe's gates are about its end, and wait."""
        stages = self.stages[: self.stages.index(self.step(name)) + 1]
        names = {step.name for step in stages}
        return replace(
            self,
            stages=stages,
            rows=tuple(row for row in self.rows if row.step.name in names),
            repeated=tuple(step for step in self.repeated if step.variant_of in names),
            variants=tuple(row for row in self.variants if row.step.variant_of in names),
            gates=(),
        )

    def promising(self, gates: tuple[Gate, ...]) -> Plan:
        """The plan with gates of the command line too; RecipeError for one that could never be decided."""
        lines = [f"--gate '{gate.promise}': {reason}" for gate in gates if (reason := self.impossible(gate))]
        if lines:
            raise RecipeError("\n".join(lines))
        return replace(self, gates=(*self.gates, *gates))

    def impossible(self, gate: Gate) -> str:
        """Why a gate could never be decided on this plan; empty where it can."""
        task = self.recipe.task
        metrics = list(dict.fromkeys((task.primary, *task.metrics)))
        tables = [step.name for step in self.stages if issubclass(step.kind, Table)]
        if self.folds and (reason := folds.undecided(gate, tables)):
            return reason
        return impossible(gate, [row.step.name for row in self.rows], self.baseline, task.primary, metrics, tables)


@plugins_raise(RecipeError)
def plan(recipe: Recipe, split: Judging = "test") -> Plan:
    """Resolve a recipe; RecipeError, with all complaints at once, for a chain that does not fit.

    split: what models are measured on: `val` for a choice between recipes, which may not see test.
    """
    if recipe.folds is None:
        return _plan(recipe, split)
    joined = folds.joined(recipe, [_plan(of_fold) for of_fold in folds.recipes(recipe)])
    lines = [recipe.complaint(("gates", at), why) for at, gate in enumerate(recipe.gates) if (why := joined.impossible(gate))]
    if lines:
        raise RecipeError("\n".join(lines))
    return joined


def _plan(recipe: Recipe, split: Judging = "test") -> Plan:
    try:
        fingerprint, missing = recipe.dataset.fingerprint(), ""
    except DataError as error:
        fingerprint, missing = "unknown", recipe.complaint(("dataset",), str(error).removeprefix("dataset "))
    return _Planner(recipe, fingerprint, split).plan(missing)


class _Planner:
    def __init__(self, recipe: Recipe, fingerprint: str, split: Judging):
        self.recipe, self.split = recipe, split
        self.chain = Chain(recipe, fingerprint)
        self.seeds: dict[str, tuple[int, ...]] = {}  # of stages that are repeated, the reported one first
        self.again: dict[str, dict[int, Step]] = {}  # stage -> further seed -> the stage with it
        self.controls: list[Step] = []

    def plan(self, missing: str) -> Plan:
        steps: list[Step] = []
        taken: dict[str, int] = {}
        for position, stage in enumerate(self.recipe.stages):
            loc: tuple[Key, ...] = ("stages", position)
            name = stage.name or stage.type
            if name in taken:
                named = (*loc, "name") if stage.name else loc
                self.chain.complain(named, f"two stages are called '{name}' (see stages[{taken[name]}]); rename one")
            taken.setdefault(name, position)
            if not stage.when:
                self.chain.leave_out(name, stage, steps)
                continue
            step = self._resolve(name, stage, loc, steps)
            if step:
                steps.append(step)
            else:
                self.chain.failed.add(name)
        models = [step for step in steps if issubclass(step.kind, MODELS)]
        baseline = self._baseline(models)
        if self.chain.complaints:
            raise RecipeError("\n".join(self.chain.complaints))
        rows = tuple(self._rows(models, baseline))
        name, gates = baseline.name if baseline else "", self.recipe.gates
        repeated = tuple(step for copies in self.again.values() for step in copies.values())
        variants = tuple(self._measured(step) for step in (*repeated, *self.controls) if issubclass(step.kind, MODELS))
        resolved = Plan(self.recipe, tuple(steps), rows, name, repeated, variants, gates, missing_data=missing)
        for position, gate in enumerate(gates):
            if reason := resolved.impossible(gate):
                self.chain.complain(("gates", position), reason)
        if self.chain.complaints:
            raise RecipeError("\n".join(self.chain.complaints))
        return resolved

    def _resolve(self, name: str, stage: Stage, loc: tuple[Key, ...], before: list[Step]) -> Step | None:
        """The step of a stage, or None after a complaint."""
        inputs: Inputs = {}
        sound = True
        for role in stage.consumes:
            sources = self.chain.inputs(name, stage, role, loc, before)
            if sources is None:
                sound = False
            else:
                inputs[role] = sources
        seeds = self._seeds(name, stage, inputs, loc) if sound else None
        if seeds is None:
            return None
        step, *_ = (self._repeat(name, stage, inputs, loc, seed, first=seed == seeds[0]) for seed in seeds)
        return step

    def _seeds(self, name: str, stage: Stage, inputs: Inputs, loc: tuple[Key, ...]) -> tuple[int, ...] | None:
        """The seeds of a stage, the reported one first: its own, those of what it follows, or the recipe's."""
        followed = {
            source.name: self.seeds[source.name] for steps in inputs.values() for source in steps if source.name in self.seeds
        }
        if stage.seeds and (several := [source for source, seeds in followed.items() if len(seeds) > 1]):
            self.chain.complain((*loc, "seeds"), f"'{name}' follows '{several[0]}', which has several seeds; keep one of them")
            return None
        if not stage.seeds and len(set(followed.values())) > 1:
            self.chain.complain(
                loc, f"'{name}' follows {' and '.join(followed)}, which have different seeds; give them the same, or it its own"
            )
            return None
        varied = stage.seeds or next(iter(followed.values()), ())
        if varied:
            self.seeds[name] = varied
        return varied or (self.recipe.seed,)

    def _repeat(self, name: str, stage: Stage, inputs: Inputs, loc: tuple[Key, ...], seed: int, first: bool) -> Step:
        """The stage with one of its seeds, made of what it follows with that seed, and its controls."""
        if not first:
            inputs = {
                role: tuple(self.again.get(source.name, {}).get(seed, source) for source in steps)
                for role, steps in inputs.items()
            }
        step = self.chain.step(
            name if first else f"{name}.seed{seed}", stage, inputs, loc, seed, variant_of="" if first else name
        )
        if not first:
            self.again.setdefault(name, {})[seed] = step
        for role, other in stage.controls().items():
            sources = {taken: inputs[taken] for taken in other.consumes if taken in inputs}
            self.controls.append(
                self.chain.step(f"{step.name}.{role}", other, sources, loc, seed, variant_of=name, variant=role)
            )
        return step

    def _baseline(self, models: list[Step]) -> Step | None:
        name = self.chain.left_out.get(self.recipe.baseline or "") or self.recipe.baseline
        if name is None or name in self.chain.failed:
            return models[0] if models else None
        for step in models:
            if step.name == name:
                return step
        self.chain.complain(
            ("baseline",), f"'{name}' is no stage that makes a model; {suggest(name, [s.name for s in models])}"
        )
        return None

    def _rows(self, models: list[Step], baseline: Step | None) -> Iterable[ModelSteps]:
        """A baseline is timed with each of the others; where there is none, it is timed alone."""
        measured = {step.name: self._measured(step) for step in models}
        for step in models:
            row = measured[step.name]
            if baseline and step is not baseline:
                roles: Inputs = {"baseline": (measured[baseline.name].onnx,), "start": (row.onnx,)}
                answers: Inputs = {"baseline": (measured[baseline.name].measurement,), "start": (row.measurement,)}
                row = replace(
                    row,
                    comparison=self.chain.implied(step, "compare", "comparison", roles, conditions=self.recipe.compare),
                    predictions=self.chain.implied(step, "compare_predictions", "predictions", answers),
                )
            elif len(models) == 1:
                alone: Inputs = {"baseline": (), "start": (row.onnx,)}
                timed = self.chain.implied(step, "compare", "comparison", alone, conditions=self.recipe.compare)
                row = replace(row, comparison=timed)
            yield row

    def _measured(self, step: Step) -> ModelSteps:
        """A model, as the file it is or through a float or int8 export, on the split that models are judged on."""
        file = self.chain.file(step)
        settings: dict[str, Any] = {"conditions": self.recipe.measure}
        if self.split != "test":
            settings["split"] = self.split
        return ModelSteps(step, file, self.chain.implied(step, "measure", "measurement", {"start": (file,)}, **settings), None)
