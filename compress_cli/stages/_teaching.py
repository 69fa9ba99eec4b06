"""The teachers of a stage: what its trainings learn from them, and the tables of their stored outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, Self

from pydantic import BeforeValidator

from compress_cli.context import Context
from compress_cli.distillation.combinations import Combination
from compress_cli.distillation.ensemble import Ensemble, assemble, layers_of, score, unweighable
from compress_cli.distillation.teachers import teacher_for
from compress_cli.errors import RecipeError
from compress_cli.losses import Loss
from compress_cli.losses.soft_targets import SoftTargets
from compress_cli.networks.models import Network
from compress_cli.plugin import find
from compress_cli.progress import Progress
from compress_cli.settings import Many, suggest
from compress_cli.stages import Stage
from compress_cli.store.artifact import Artifact, OnnxModel, Table
from compress_cli.training import loop
from compress_cli.training.attachment import Attach
from compress_cli.training.config import TrainingConfig
from compress_cli.training.objective import hard_losses
from compress_cli.training.sharding import divided


def _listed(names: object) -> object:
    return (names,) if isinstance(names, str) else () if names is None else names


Names = Annotated[Many[str], BeforeValidator(_listed, json_schema_input_type=str | list[str])]
"""Names of stages; one may stand without a list."""


class Taught(Protocol):
    """A stage whose trainings may have teachers."""

    @property
    def teacher(self) -> tuple[str, ...]: ...
    @property
    def losses(self) -> tuple[Loss, ...]: ...
    @property
    def combine(self) -> Combination: ...
    @property
    def teacher_cache(self) -> bool: ...


@dataclass(frozen=True)
class Teaching:
    """What the trainings of a stage learn, and from whom."""

    teachers: tuple[str, ...]  # names of stages; "" is the stage before
    losses: tuple[Loss, ...]  # empty for the default ones
    combine: Combination
    cached: bool  # whether the teachers' outputs are read from tables
    trainings: tuple[TrainingConfig, ...]

    @classmethod
    def of(cls, stage: Taught, *trainings: TrainingConfig | None) -> Self:
        """The teaching of a stage with these trainings."""
        present = tuple(training for training in trainings if training)
        return cls(stage.teacher, stage.losses, stage.combine, stage.teacher_cache, present)

    def check(self) -> None:
        """ValueError where teachers, losses and trainings do not go together."""
        check_weights(self.losses)
        self._check_teachers()
        if self.cached:
            self._check_views()

    def check_optional(self) -> None:
        """The same for a stage that may have no teacher, and no training."""
        settings = {"teacher": self.teachers, "losses": self.losses, "teacher_cache": self.cached}
        unused = next((name for name, value in settings.items() if value), "")
        if not self.trainings and unused:
            raise ValueError(f"'{unused}' does nothing without 'training': add a training block, or take '{unused}' out")
        if self.cached and not self.teachers:
            raise ValueError("teacher_cache: there is no teacher whose outputs could be stored; name one")
        self.check()
        taught = [loss.type for loss in self.losses if loss.reads_teacher()]
        if taught and not self.teachers:
            raise ValueError(f"losses: '{taught[0]}' learns from a teacher; name one in the field 'teacher'")
        if self.teachers and self.losses and not taught:
            raise ValueError(f"teacher: none of the losses learns from '{self.teachers[0]}'; add one, such as soft_targets")

    def check_layers(self, kinds: Sequence[type[Artifact]]) -> None:
        """RecipeError where a loss asks for a layer of a teacher that is an ONNX file; `kinds` are the teachers'."""
        for name, kind in zip(self.teachers, kinds, strict=True):
            layers = layers_of(name, self.losses)
            if layers and issubclass(kind, OnnxModel):
                raise RecipeError(
                    f"losses: one asks for the teacher's layer '{layers[0]}', but '{name or 'the stage before'}' makes an ONNX "
                    "file, which shows only its outputs; use a loss on outputs such as soft_targets, or a checkpoint as teacher"
                )

    def tables(self, **settings: Any) -> dict[str, Stage]:
        """The stages that store each teacher's outputs, by role; none where the teachers themselves are asked."""
        if not self.cached:
            return {}
        augment, views = self.trainings[0].augment, self.trainings[0].views
        settings |= {"augment": augment, "views": views if augment and views else 1}
        return {
            role: stage("teacher_table", teacher=name or None, layers=layers_of(name, self.losses), **settings)
            for name, role in self._roles().items()
        }

    def named(self) -> dict[str, Any]:
        """Which teachers the losses name, by position: other names of the same teachers give the same student."""
        positions = [loss.teacher and self.teachers.index(loss.teacher) for loss in self.losses]
        return {"named": positions} if any(loss.teacher for loss in self.losses) else {}

    def fit(
        self, network: Network, training: TrainingConfig, context: Context, attach: Sequence[Attach] = ()
    ) -> dict[str, Any]:
        """Train a network in place (see `loop.fit`); the facts, with warnings about teachers below chance on val.

        By default the losses are those on true labels, beside soft targets with nine times their weight where there is a
        teacher.
        """
        losses = self.losses
        if not losses:
            losses = hard_losses(context.task, network.signature.heads)
            if self.teachers:
                soft = (SoftTargets(head=getattr(loss, "head", ""), weight=0.9, temperature=4.0) for loss in losses)
                losses = (*soft, *(loss.model_copy(update={"weight": 0.1}) for loss in losses))
        teachers = self.opened(losses, context)
        notes = [] if context.limit else self._weak(teachers, context)
        facts = loop.fit(network, losses, training, context, teachers, attach)
        notes += facts.pop("notes", [])
        return {**facts, "notes": notes} if notes else facts

    def opened(self, losses: tuple[Loss, ...], context: Context) -> Ensemble:
        """The teachers, ready to answer what these losses ask; an empty ensemble where there are none."""
        models = dict(zip(self.teachers, context.inputs.get("teacher", ()), strict=True))
        if self.cached:
            models = {name: context.inputs[role][0] for name, role in self._roles().items()}
        class_axes, processes = context.dataset.signature().class_axes, context.processes
        shared = processes.several and any(training.shard for training in self.trainings)
        device = "cpu" if shared else context.device
        ensemble = assemble(models, losses, context.index(), device, self.combine, class_axes)
        for teacher in ensemble.teachers.values() if shared else ():
            if isinstance(network := getattr(teacher, "network", None), Network):
                divided(network.requires_grad_(False), processes, context.device)
        return ensemble

    def _check_teachers(self) -> None:
        names = [name for name in self.teachers if name]
        if len(set(names)) < len(names):
            raise ValueError("teacher: one is named twice; give it a larger weight with `combine: {type: weighted, ...}`")
        if len(names) > 1:
            self.combine.fits(len(names))
        unknown = [loss.teacher for loss in self.losses if loss.teacher and loss.teacher not in names]
        if unknown:
            remedy = f"; {suggest(unknown[0], names)}" if names else "; name the teacher of the stage too"
            raise ValueError(f"losses: a loss learns from '{unknown[0]}', which is no teacher of this stage{remedy}")
        combined = [loss for loss in self.losses if loss.weight and loss.reads_teacher() and not loss.teacher]
        relations = [loss for loss in combined if not loss.weighs_samples]
        if relations and len(names) > 1 and self.combine.weighs_losses:
            raise ValueError(unweighable(self.combine, relations[0]))

    def _check_views(self) -> None:
        """ValueError where one table of stored outputs could not serve all trainings."""
        if any(training.augment and training.views is None for training in self.trainings):
            raise ValueError(
                "teacher_cache: augment changes the samples anew every epoch, and no table could hold the teacher's outputs; "
                "set training.views, such as 8, or leave one of the two out"
            )
        if len({(training.augment, training.views) for training in self.trainings}) > 1:
            raise ValueError("teacher_cache: all trainings here read one table: give them the same augment and views")

    def _roles(self) -> dict[str, str]:
        """For each teacher the role of its table."""
        return {name: f"{name}_table".removeprefix("_") for name in self.teachers}

    def _weak(self, teachers: Ensemble, context: Context) -> list[str]:
        """Warnings about teachers below chance on val; a table has no outputs for val."""
        val, notes = context.split("val"), []
        for name, source in zip(self.teachers, context.inputs.get("teacher", ()), strict=True):
            if not len(val) or isinstance(source, Table):
                continue
            teacher = teacher_for(source).open(source, (), context.device) if self.cached else teachers.teachers[name]
            scored = score(teacher, val, context.task, context.device)
            if scored is None:
                continue
            task, value = scored
            chance = task.chance(context.dataset.signature())
            if chance is not None and (value < chance if task.better == "higher" else value > chance):
                who = f"the teacher '{name}'" if name else "the teacher"
                figure = f"{task.primary} {value:.3g} on val, where guessing has {chance:.3g}"
                notes.append(f"{who} has {figure}: the student learns from noise")
        for note in notes:
            context.log(Progress("train", 0, 1, note=note))
        return notes


def check_weights(losses: Sequence[Loss]) -> None:
    """ValueError where all weights are 0."""
    if losses and not sum(loss.weight for loss in losses):
        raise ValueError("the weights are all 0: nothing would be learnt")


def stage(name: str, **settings: Any) -> Stage:
    """A stage by its type."""
    made = find(Stage, name)(**settings)
    assert isinstance(made, Stage)
    return made
