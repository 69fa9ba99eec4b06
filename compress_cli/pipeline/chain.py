"""Chain: which results each stage takes, and the steps that come of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from compress_cli.document import Key
from compress_cli.errors import ArtifactError, RecipeError
from compress_cli.pipeline.recipe import Recipe
from compress_cli.pipeline.step import Inputs, RepeatableStage, Step
from compress_cli.plugin import find
from compress_cli.settings import Settings, suggest
from compress_cli.stages import Role, Stage
from compress_cli.store.artifact import Artifact, Checkpoint, OnnxModel, Program

MODELS = (Checkpoint, Program, OnnxModel)


@dataclass
class Chain:
    """Stages joined in the recipe's order; what does not fit is complained of, all at once in the end."""

    recipe: Recipe
    fingerprint: str  # of the dataset
    complaints: list[str] = field(default_factory=list)
    failed: set[str] = field(default_factory=set)  # stages already complained of: what takes their result is not blamed too
    implied_stages: dict[tuple[Any, ...], Stage] = field(default_factory=dict)  # by type and settings
    repeatable: dict[int, RepeatableStage] = field(default_factory=dict)  # by the stage's id
    left_out: dict[str, str] = field(default_factory=dict)  # a stage that is switched off -> what its result stands for

    def complain(self, loc: Sequence[Key], reason: str) -> None:
        self.complaints.append(self.recipe.complaint(loc, reason))

    def inputs(self, name: str, stage: Stage, role: str, loc: tuple[Key, ...], before: list[Step]) -> tuple[Step, ...] | None:
        """The steps whose results a stage takes in a role, of those before it; None after a complaint."""
        needed = stage.consumes[role]
        setting = getattr(stage, role)
        names = (setting,) if isinstance(setting, str) else tuple(setting or ())
        if lost := [source for source in names if self.left_out.get(source) == ""]:
            self.complain((*loc, role), f"{role} '{lost[0]}' is switched off (when: false), and starts from no other stage")
            return None
        names = tuple(dict.fromkeys(self.left_out.get(source, source) for source in names))
        if not names and not needed.previous:
            if needed.optional:
                return ()
            self.complain(loc, f"stage '{name}' needs a {role}: name an earlier stage in its field '{role}'")
            return None
        if names:
            return self._named(name, names, role, needed, loc, before)
        earlier = [other for other in self.recipe.stages[: int(loc[-1])] if other.when]
        if not earlier:
            makers = "train or load" if Checkpoint in needed.kinds else "load"
            self.complain(loc, f"stage '{name}' comes first, but needs {_kinds(needed)} to work on; put {makers} before it")
            return None
        previous = earlier[-1]
        if (previous.name or previous.type) in self.failed:
            return None  # its own complaint is enough
        models = [step for step in before if issubclass(step.kind, MODELS) or issubclass(step.kind, needed.kinds)]
        return self._fitting(name, models[-1:] or before[-1:], needed, loc)

    def leave_out(self, name: str, stage: Stage, before: list[Step]) -> None:
        """A stage that is switched off: what names it means the model that it starts from, or the one before it."""
        start = getattr(stage, "start", None)
        models = [step.name for step in before if issubclass(step.kind, MODELS)]
        follows = any(role.previous for role in stage.consumes.values()) and models
        self.left_out[name] = self.left_out.get(start, start) if isinstance(start, str) else models[-1] if follows else ""

    def _named(
        self, name: str, names: tuple[str, ...], role: str, needed: Role, loc: tuple[Key, ...], before: list[Step]
    ) -> tuple[Step, ...] | None:
        known = {step.name: step for step in before}
        if len(names) > 1 and not needed.many:
            self.complain((*loc, role), f"stage '{name}' takes one {role}, not {len(names)}")
            return None
        sound = True
        for source in names:
            if source in known or source in self.failed:
                sound = sound and source in known
                continue
            sound = False
            later = [other.name or other.type for other in self.recipe.stages]
            if source in later:
                self.complain((*loc, role), f"{role} '{source}' is not before stage '{name}'; move it up")
            elif known:
                self.complain((*loc, role), f"{role} '{source}' is no stage of this recipe; {suggest(source, list(known))}")
            else:
                self.complain((*loc, role), f"{role} '{source}' is no stage of this recipe, and none comes before '{name}'")
        return self._fitting(name, [known[source] for source in names], needed, (*loc, role)) if sound else None

    def _fitting(self, name: str, steps: list[Step], needed: Role, loc: tuple[Key, ...]) -> tuple[Step, ...] | None:
        if needed.kinds == (OnnxModel,):  # a checkpoint is taken through the file that it is measured through
            steps = [self.file(step) for step in steps]
        unfit = [step for step in steps if not issubclass(step.kind, needed.kinds)]
        for step in unfit:
            self.complain(loc, f"stage '{name}' needs {_kinds(needed)}, but '{step.name}' makes {_article(step.kind)}")
        return None if unfit else tuple(steps)

    def step(self, name: str, stage: Stage, inputs: Inputs, loc: tuple[Key, ...], seed: int, **marks: Any) -> Step:
        """Add what the stage says it needs, then compute kind and key."""
        repeatable = self.repeatable.setdefault(id(stage), RepeatableStage(stage))
        seed = seed if stage.seed_dependent else 0
        for role, needed in repeatable.needs.items():
            taken = {name: _meant(needed, name, inputs[name]) for name in needed.consumes if name in inputs}
            inputs = {**inputs, role: (self.step(f"{name}.{role}", needed, taken, loc, seed, implied=True),)}
        try:
            stage.check_sources({role: tuple(step.stage for step in steps) for role, steps in inputs.items()})
            stage.check_history(_history(inputs))
            kind = stage.produces({role: tuple(step.kind for step in steps) for role, steps in inputs.items()})
        except RecipeError as error:
            raise RecipeError(self.recipe.complaint(loc, str(error))) from None
        try:
            known = repeatable.key(inputs, seed, self.recipe, self.fingerprint)
        except ArtifactError as error:  # a file that the stage names is missing
            raise ArtifactError(self.recipe.complaint(loc, str(error))) from None
        return Step(name, stage, inputs, kind, known, loc, seed, **marks)

    def file(self, step: Step) -> Step:
        """A checkpoint's export; any other artifact itself."""
        if not issubclass(step.kind, Checkpoint | Program):
            return step
        return self.implied(step, "export", "onnx", {"start": (step,)})

    def implied(self, step: Step, stage: str, suffix: str, inputs: Inputs, **settings: Settings | str) -> Step:
        """A step that the plan adds to a model of the recipe. Stages are made once: thousands of seeds share them."""
        known = (stage, *settings.values())
        if known not in self.implied_stages:
            self.implied_stages[known] = _stage(stage, settings)
        return self.step(f"{step.name}.{suffix}", self.implied_stages[known], inputs, step.loc, step.seed, implied=True)


def _stage(name: str, settings: dict[str, Any]) -> Stage:
    stage = find(Stage, name).model_validate(settings)
    assert isinstance(stage, Stage)
    return stage


def _meant(stage: Stage, role: str, steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """Of the steps in a role of the stage that implies this one, those it names; all where it names none."""
    setting = getattr(stage, role)
    names = (setting,) if isinstance(setting, str) else tuple(setting or ())
    return tuple(step for step in steps if not names or (step.variant_of or step.name) in names)


def _history(inputs: Inputs) -> list[Stage]:
    """The stages that made the model which a stage goes on with, the latest first."""
    stages: list[Stage] = []
    while starts := inputs.get("start"):
        stages.append(starts[0].stage)
        inputs = starts[0].inputs
    return stages


def _kinds(role: Role) -> str:
    return " or ".join(_article(kind) for kind in role.kinds)


def _article(kind: type[Artifact]) -> str:
    return f"{'an' if kind.__name__[0] in 'AEIOU' else 'a'} {kind.__name__}"
