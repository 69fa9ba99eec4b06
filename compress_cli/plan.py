"""Plan: the recipe resolved into steps, each with its inputs, its kind and its key.

Beside the stages of the recipe there are implied ones: what a stage says it needs, and for every model a float or int8
ONNX file, its measurement on the test split, and its comparison with the baseline.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from compress_cli.artifact import Artifact, Checkpoint, OnnxModel, Program, Table
from compress_cli.document import Key
from compress_cli.errors import ArtifactError, DataError, RecipeError
from compress_cli.fault import plugins_raise
from compress_cli.gate import Gate, impossible
from compress_cli.identity import identity
from compress_cli.plugin import find
from compress_cli.recipe import Recipe
from compress_cli.settings import suggest
from compress_cli.stages import Role, Stage

MODELS = (Checkpoint, Program, OnnxModel)


@dataclass(frozen=True)
class Step:
    """One stage with everything that decides its result."""

    name: str
    stage: Stage
    inputs: dict[str, tuple[Step, ...]]  # by role
    kind: type[Artifact]
    key: str
    loc: tuple[Key, ...]  # its place in the recipe
    implied: bool = False


@dataclass(frozen=True)
class Row:
    """A model of the recipe and the implied steps that measure it."""

    step: Step
    onnx: Step
    measurement: Step
    comparison: Step | None  # None for the baseline itself
    damage: Step | None


@dataclass(frozen=True)
class Plan:
    """Steps in an order in which each comes after its inputs; equal keys stand once."""

    recipe: Recipe
    stages: tuple[Step, ...]  # as the recipe lists them
    steps: tuple[Step, ...]  # with the implied ones, ready to run
    rows: tuple[Row, ...]
    baseline: str
    gates: tuple[Gate, ...] = ()
    missing_data: str = ""  # why the dataset's fingerprint, and so every key, is not known yet

    def step(self, name: str) -> Step:
        """The recipe's stage of that name; RecipeError with the nearest names otherwise."""
        own = {step.name: step for step in self.stages}
        if name not in own:
            raise RecipeError(f"there is no stage '{name}' in {self.recipe.path}; {suggest(name, list(own))}")
        return own[name]

    def until(self, name: str) -> Plan:
        """The plan of the recipe's stages up to and with that one; the recipe's gates are about its end, and wait."""
        kept = self.stages[: self.stages.index(self.step(name)) + 1]
        rows = tuple(row for row in self.rows if row.step in kept)
        return Plan(self.recipe, kept, _ordered(kept, rows), rows, self.baseline, missing_data=self.missing_data)

    def promising(self, gates: tuple[Gate, ...]) -> Plan:
        """The plan with gates of the command line too; RecipeError for one that could never be judged."""
        lines = [f"--gate '{each.promise}': {reason}" for each in gates if (reason := self.impossible(each))]
        if lines:
            raise RecipeError("\n".join(lines))
        return replace(self, gates=(*self.gates, *gates))

    def impossible(self, gate: Gate) -> str:
        """Why a gate could never be judged on this plan; empty where it can."""
        task = self.recipe.task
        metrics = list(dict.fromkeys((task.primary, *task.metrics)))
        tables = [step.name for step in self.stages if issubclass(step.kind, Table)]
        return impossible(gate, [row.step.name for row in self.rows], self.baseline, task.primary, metrics, tables)


@plugins_raise(RecipeError)
def plan(recipe: Recipe) -> Plan:
    """Resolve a recipe; RecipeError, with all complaints at once, for a chain that does not fit."""
    try:
        fingerprint, missing = recipe.dataset.fingerprint(), ""
    except DataError as error:
        fingerprint, missing = "unknown", str(error)
    return _Planner(recipe, fingerprint).plan(missing)


class _Planner:
    def __init__(self, recipe: Recipe, fingerprint: str):
        self.recipe = recipe
        self.fingerprint = fingerprint
        self.complaints: list[str] = []
        self.failed: set[str] = set()  # stages already complained of: what takes their result is not blamed too

    def plan(self, missing: str) -> Plan:
        steps: list[Step] = []
        taken: dict[str, int] = {}
        for position, stage in enumerate(self.recipe.stages):
            loc: tuple[Key, ...] = ("stages", position)
            name = stage.name or stage.type
            if name in taken:
                named = (*loc, "name") if stage.name else loc
                self._complain(named, f"two stages are called '{name}' (see stages[{taken[name]}]); rename one")
            taken.setdefault(name, position)
            step = self._resolve(name, stage, loc, steps)
            if step:
                steps.append(step)
            else:
                self.failed.add(name)
        models = [step for step in steps if issubclass(step.kind, MODELS)]
        baseline = self._baseline(models)
        if self.complaints:
            raise RecipeError("\n".join(self.complaints))
        rows = tuple(self._rows(models, baseline))
        name, gates = baseline.name if baseline else "", self.recipe.gates
        made = Plan(self.recipe, tuple(steps), _ordered(steps, rows), rows, name, gates, missing)
        for position, gate in enumerate(gates):
            if reason := made.impossible(gate):
                self._complain(("gates", position), reason)
        if self.complaints:
            raise RecipeError("\n".join(self.complaints))
        return made

    def _complain(self, loc: Sequence[Key], reason: str) -> None:
        self.complaints.append(self.recipe.complaint(loc, reason))

    def _resolve(self, name: str, stage: Stage, loc: tuple[Key, ...], before: list[Step]) -> Step | None:
        """The step of a stage, or None after a complaint."""
        inputs: dict[str, tuple[Step, ...]] = {}
        sound = True
        for role, needed in stage.consumes.items():
            found = self._inputs(name, stage, role, needed, loc, before)
            if found is None:
                sound = False
            else:
                inputs[role] = found
        if not sound:
            return None
        return self._step(name, stage, inputs, loc)

    def _inputs(
        self, name: str, stage: Stage, role: str, needed: Role, loc: tuple[Key, ...], before: list[Step]
    ) -> tuple[Step, ...] | None:
        given = getattr(stage, role)
        wanted = (given,) if isinstance(given, str) else tuple(given or ())
        if not wanted and not needed.previous:
            if needed.optional:
                return ()
            self._complain(loc, f"stage '{name}' needs a {role}: name an earlier stage in its field '{role}'")
            return None
        if wanted:
            return self._named(name, wanted, role, needed, loc, before)
        position = int(loc[-1])
        if position == 0:
            makers = "train or load" if Checkpoint in needed.kinds else "load"
            self._complain(loc, f"stage '{name}' comes first, but needs {_kinds(needed)} to work on; put {makers} before it")
            return None
        previous = self.recipe.stages[position - 1]
        if (previous.name or previous.type) in self.failed:
            return None  # its own complaint is enough
        made = [step for step in before if issubclass(step.kind, MODELS) or issubclass(step.kind, needed.kinds)]
        return self._fitting(name, made[-1:] or before[-1:], needed, loc)

    def _named(
        self, name: str, wanted: tuple[str, ...], role: str, needed: Role, loc: tuple[Key, ...], before: list[Step]
    ) -> tuple[Step, ...] | None:
        known = {step.name: step for step in before}
        if len(wanted) > 1 and not needed.many:
            self._complain((*loc, role), f"stage '{name}' takes one {role}, not {len(wanted)}")
            return None
        sound = True
        for each in wanted:
            if each in known or each in self.failed:
                sound = sound and each in known
                continue
            sound = False
            later = [other.name or other.type for other in self.recipe.stages]
            if each in later:
                self._complain((*loc, role), f"{role} '{each}' is not before stage '{name}'; move it up")
            elif known:
                self._complain((*loc, role), f"{role} '{each}' is no stage of this recipe; {suggest(each, list(known))}")
            else:
                self._complain((*loc, role), f"{role} '{each}' is no stage of this recipe, and none comes before '{name}'")
        return self._fitting(name, [known[each] for each in wanted], needed, (*loc, role)) if sound else None

    def _fitting(self, name: str, found: list[Step], needed: Role, loc: tuple[Key, ...]) -> tuple[Step, ...] | None:
        unfit = [step for step in found if not issubclass(step.kind, needed.kinds)]
        for step in unfit:
            self._complain(loc, f"stage '{name}' needs {_kinds(needed)}, but '{step.name}' makes {_article(step.kind)}")
        return None if unfit else tuple(found)

    def _step(
        self, name: str, stage: Stage, inputs: dict[str, tuple[Step, ...]], loc: tuple[Key, ...], implied: bool = False
    ) -> Step:
        """Add what the stage says it needs, then compute kind and key."""
        for role, each in stage.needs().items():
            own = {taken: inputs[taken] for taken in each.consumes if taken in inputs}
            inputs = {**inputs, role: (self._step(f"{name}.{role}", each, own, loc, implied=True),)}
        kind = stage.produces({role: tuple(step.kind for step in steps) for role, steps in inputs.items()})
        try:
            key = self._key(stage, inputs)
        except ArtifactError as error:  # a file that the stage names is missing
            raise ArtifactError(self.recipe.complaint(loc, str(error))) from None
        return Step(name, stage, inputs, kind, key, loc, implied)

    def _key(self, stage: Stage, inputs: dict[str, tuple[Step, ...]]) -> str:
        """Same key, same artifact: settings, versions, seed, task, data, and the keys of the inputs."""
        settings = {field: each for field, each in identity(stage).items() if field != "name" and field not in stage.consumes}
        known: dict[str, Any] = {
            "stage": settings,
            "shared": stage.shared,
            "depends": stage.depends(),
            "seed": self.recipe.seed,
            "task": identity(self.recipe.task),
            "dataset": self.fingerprint,
            "inputs": {role: [step.key for step in steps] for role, steps in inputs.items()},
        }
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()

    def _baseline(self, models: list[Step]) -> Step | None:
        wanted = self.recipe.baseline
        if wanted is None or wanted in self.failed:
            return models[0] if models else None
        for step in models:
            if step.name == wanted:
                return step
        self._complain(("baseline",), f"'{wanted}' is no stage that makes a model; {suggest(wanted, [s.name for s in models])}")
        return None

    def _rows(self, models: list[Step], baseline: Step | None) -> Iterable[Row]:
        export, measure, compare, damage = (find(Stage, each)() for each in ("export", "measure", "compare", "damage"))
        files = {
            step.name: step
            if issubclass(step.kind, OnnxModel)
            else self._step(f"{step.name}.onnx", _stage(export), {"start": (step,)}, step.loc, implied=True)
            for step in models
        }
        measured = {
            step.name: self._step(
                f"{step.name}.measurement", _stage(measure), {"start": (files[step.name],)}, step.loc, implied=True
            )
            for step in models
        }
        for step in models:
            name, paired = step.name, {}
            if baseline and step is not baseline:
                for noun, stage, of in (("comparison", compare, files), ("damage", damage, measured)):
                    roles: dict[str, tuple[Step, ...]] = {"baseline": (of[baseline.name],), "start": (of[name],)}
                    paired[noun] = self._step(f"{name}.{noun}", _stage(stage), roles, step.loc, implied=True)
            yield Row(step, files[name], measured[name], paired.get("comparison"), paired.get("damage"))


def _stage(plugin: Any) -> Stage:
    assert isinstance(plugin, Stage)
    return plugin


def _ordered(steps: Sequence[Step], rows: Sequence[Row]) -> tuple[Step, ...]:
    """Every step after its inputs, each key once: stages as in the recipe, each followed by what measures it."""
    placed: dict[str, Step] = {}

    def place(step: Step) -> None:
        for each in (source for sources in step.inputs.values() for source in sources):
            place(each)
        if step.key not in placed or (placed[step.key].implied and not step.implied):
            placed[step.key] = step

    for step in steps:
        place(step)
        for row in rows:
            if row.step is step:
                place(row.onnx)
                place(row.measurement)
    for row in rows:
        for paired in (row.damage, row.comparison):
            if paired:
                place(paired)
    return tuple(placed.values())


def _kinds(role: Role) -> str:
    return " or ".join(_article(kind) for kind in role.kinds)


def _article(kind: type[Artifact]) -> str:
    return f"{'an' if kind.__name__[0] in 'AEIOU' else 'a'} {kind.__name__}"
