"""Plan: the recipe resolved into steps, each with its inputs, its kind and its key.

Beside the stages of the recipe there are implied ones: what a stage says it needs, and for every model a float or int8
ONNX file, its measurement on the test split, and its comparison with the baseline.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from compress_cli.artifact import Artifact, Checkpoint, OnnxModel, Program, Table
from compress_cli.document import Key
from compress_cli.errors import ArtifactError, DataError, RecipeError
from compress_cli.fault import plugins_raise
from compress_cli.gate import Gate, impossible
from compress_cli.plugin import find
from compress_cli.recipe import Recipe
from compress_cli.settings import suggest
from compress_cli.stages import Role, Stage
from compress_cli.step import Inputs, Row, Step, key, ordered

MODELS = (Checkpoint, Program, OnnxModel)


@dataclass(frozen=True)
class Plan:
    """Steps in an order in which each comes after its inputs; equal keys stand once."""

    recipe: Recipe
    stages: tuple[Step, ...]  # as the recipe lists them
    rows: tuple[Row, ...]
    baseline: str
    repeated: tuple[Step, ...] = ()  # stages with their further seeds
    beside: tuple[Row, ...] = ()  # models of repeated stages and of controls
    gates: tuple[Gate, ...] = ()
    missing_data: str = ""  # why the dataset's fingerprint, and so every key, is not known yet

    @property
    def steps(self) -> tuple[Step, ...]:
        """With the implied ones, ready to run: stages as in the recipe, each followed by what measures it."""
        return ordered(self._in_turn())

    def _in_turn(self) -> Iterator[Step]:
        for stage in self.stages:
            yield stage
            yield from (each for row in self.rows if row.step is stage for each in (row.onnx, row.measurement))
        yield from self.repeated
        yield from (each for row in (*self.rows, *self.beside) for each in row.steps)

    def step(self, name: str) -> Step:
        """The recipe's stage of that name; RecipeError with the nearest names otherwise."""
        own = {step.name: step for step in self.stages}
        if name not in own:
            raise RecipeError(f"there is no stage '{name}' in {self.recipe.path}; {suggest(name, list(own))}")
        return own[name]

    def until(self, name: str) -> Plan:
        """The plan of the recipe's stages up to and with that one; the recipe's gates are about its end, and wait."""
        kept = self.stages[: self.stages.index(self.step(name)) + 1]
        names = {step.name for step in kept}
        return replace(
            self,
            stages=kept,
            rows=tuple(row for row in self.rows if row.step.name in names),
            repeated=tuple(step for step in self.repeated if step.of in names),
            beside=tuple(row for row in self.beside if row.step.of in names),
            gates=(),
        )

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
        self.seeds: dict[str, tuple[int, ...]] = {}  # of stages that are repeated, the reported one first
        self.again: dict[str, dict[int, Step]] = {}  # stage -> further seed -> the stage with it
        self.beside: list[Step] = []

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
        repeated = tuple(step for copies in self.again.values() for step in copies.values())
        beside = tuple(self._measured(step) for step in (*repeated, *self.beside) if issubclass(step.kind, MODELS))
        made = Plan(self.recipe, tuple(steps), rows, name, repeated, beside, gates, missing)
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
        inputs: Inputs = {}
        sound = True
        for role, needed in stage.consumes.items():
            found = self._inputs(name, stage, role, needed, loc, before)
            if found is None:
                sound = False
            else:
                inputs[role] = found
        seeds = self._seeds(name, stage, inputs, loc) if sound else None
        if seeds is None:
            return None
        step, *_ = (self._repeat(name, stage, inputs, loc, each, first=each == seeds[0]) for each in seeds)
        return step

    def _seeds(self, name: str, stage: Stage, inputs: Inputs, loc: tuple[Key, ...]) -> tuple[int, ...] | None:
        """The seeds of a stage, the reported one first: its own, those of what it follows, or the recipe's."""
        followed = {each.name: self.seeds[each.name] for steps in inputs.values() for each in steps if each.name in self.seeds}
        if stage.seeds and followed:
            self._complain(
                (*loc, "seeds"), f"'{name}' follows '{next(iter(followed))}', which has seeds already; keep one of them"
            )
            return None
        if len(set(followed.values())) > 1:
            self._complain(loc, f"'{name}' follows {' and '.join(followed)}, which have different seeds; give them the same")
            return None
        varied = stage.seeds or next(iter(followed.values()), ())
        if varied:
            self.seeds[name] = varied
        return varied or (self.recipe.seed,)

    def _repeat(self, name: str, stage: Stage, inputs: Inputs, loc: tuple[Key, ...], seed: int, first: bool) -> Step:
        """The stage with one of its seeds, made of what it follows with that seed, and what stands beside it."""
        if not first:
            inputs = {
                role: tuple(self.again.get(each.name, {}).get(seed, each) for each in steps) for role, steps in inputs.items()
            }
        step = self._step(name if first else f"{name}.seed{seed}", stage, inputs, loc, seed, of="" if first else name)
        if not first:
            self.again.setdefault(name, {})[seed] = step
        for role, other in stage.beside().items():
            own = {taken: inputs[taken] for taken in other.consumes if taken in inputs}
            self.beside.append(self._step(f"{step.name}.{role}", other, own, loc, seed, of=name, beside=role))
        return step

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

    def _step(self, name: str, stage: Stage, inputs: Inputs, loc: tuple[Key, ...], seed: int, **marks: Any) -> Step:
        """Add what the stage says it needs, then compute kind and key."""
        seed = seed if stage.seeded else 0
        for role, each in stage.needs().items():
            own = {taken: inputs[taken] for taken in each.consumes if taken in inputs}
            inputs = {**inputs, role: (self._step(f"{name}.{role}", each, own, loc, seed, implied=True),)}
        kind = stage.produces({role: tuple(step.kind for step in steps) for role, steps in inputs.items()})
        try:
            known = key(stage, inputs, seed, self.recipe, self.fingerprint)
        except ArtifactError as error:  # a file that the stage names is missing
            raise ArtifactError(self.recipe.complaint(loc, str(error))) from None
        return Step(name, stage, inputs, kind, known, loc, seed, **marks)

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
        measured = {step.name: self._measured(step) for step in models}
        for step in models:
            row = measured[step.name]
            if baseline and step is not baseline:
                roles: Inputs = {"baseline": (measured[baseline.name].onnx,), "start": (row.onnx,)}
                answers: Inputs = {"baseline": (measured[baseline.name].measurement,), "start": (row.measurement,)}
                row = replace(
                    row,
                    comparison=self._implied(step, "compare", "comparison", roles),
                    damage=self._implied(step, "damage", "damage", answers),
                )
            yield row

    def _measured(self, step: Step) -> Row:
        """A model, as the file it is or through a float or int8 export, on the test split."""
        file = step if issubclass(step.kind, OnnxModel) else self._implied(step, "export", "onnx", {"start": (step,)})
        return Row(step, file, self._implied(step, "measure", "measurement", {"start": (file,)}), None)

    def _implied(self, step: Step, stage: str, suffix: str, inputs: Inputs) -> Step:
        made = find(Stage, stage)()
        assert isinstance(made, Stage)
        return self._step(f"{step.name}.{suffix}", made, inputs, step.loc, step.seed, implied=True)


def _kinds(role: Role) -> str:
    return " or ".join(_article(kind) for kind in role.kinds)


def _article(kind: type[Artifact]) -> str:
    return f"{'an' if kind.__name__[0] in 'AEIOU' else 'a'} {kind.__name__}"
