"""Training a student on what its teacher says."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, field_validator, model_validator

from compress_cli import features, restore, training
from compress_cli.artifact import Artifact, Checkpoint, OnnxModel, Program
from compress_cli.context import Context
from compress_cli.losses import Loss
from compress_cli.losses.cross_entropy import CrossEntropy
from compress_cli.losses.soft_targets import SoftTargets
from compress_cli.models import Model
from compress_cli.plugin import find
from compress_cli.settings import Aside, Many
from compress_cli.stages import Role, Stage
from compress_cli.teachers import teacher_for
from compress_cli.training import Training


def _listed(given: object) -> object:
    return (given,) if isinstance(given, str) else given


Names = Annotated[Many[str], BeforeValidator(_listed, json_schema_input_type=str | list[str])]


class Distill(Stage):
    """Train a student to agree with its teacher, or with several (Hinton et al. 2015, arXiv:1503.02531).

    Teachers may be checkpoints, quantised programs or any ONNX file; of an ONNX file only the outputs can be learnt from.
    """

    consumes: ClassVar[dict[str, Role]] = {
        "teacher": Role((Checkpoint, Program, OnnxModel), many=True),
        "start": Role((Checkpoint,), previous=False, optional=True),
    }
    shared: ClassVar[dict[str, int]] = {"training": training.VERSION, "features": features.VERSION}
    long: ClassVar[bool] = True

    teacher: Names = Field((), description="the stage to learn from, or a list of several; default: the stage before")
    model: Model | None = Field(None, description="the student's architecture, with fresh weights")
    start: str | None = Field(None, description="instead of a model: the stage whose checkpoint becomes the student")
    losses: Many[Loss] = Field(
        (SoftTargets(weight=0.9, temperature=4.0), CrossEntropy(weight=0.1)),
        min_length=1,
        description="what is made small, each with its weight",
    )
    training: Training = Field(description="how to train")
    control: Annotated[bool, Aside()] = Field(
        False, description="also train the same student on the true labels alone; the report says what the teacher was worth"
    )

    @field_validator("losses")
    @classmethod
    def _something_weighs(cls, value: tuple[Loss, ...]) -> tuple[Loss, ...]:
        if not sum(each.weight for each in value):
            raise ValueError("the weights are all 0: nothing would be learnt")
        return value

    @model_validator(mode="after")
    def _one_student(self) -> Distill:
        if (self.model is None) == (self.start is None):
            given = "not both" if self.model else "none is given"
            raise ValueError(f"name a model as the student, or in start a stage whose checkpoint it is: {given}")
        return self

    def produces(self, kinds: dict[str, tuple[type[Artifact], ...]]) -> type[Artifact]:
        return Checkpoint

    def beside(self) -> dict[str, Stage]:
        """The undistilled control: same student, schedule and seeds, the task's loss on true labels."""
        if not self.control:
            return {}
        alone = find(Stage, "train").model_validate({"model": self.model, "start": self.start, "training": self.training})
        assert isinstance(alone, Stage)
        return {"control": alone}

    def run(self, context: Context) -> dict[str, Any]:
        layers = tuple(dict.fromkeys(layer for each in self.losses for layer in each.teacher_layers()))
        teachers = tuple(teacher_for(each).open(each, layers, context.device) for each in context.inputs["teacher"])
        restored = training.begin(self.model, context)
        facts = training.fit(restored.network, self.losses, self.training, context, teachers)
        restore.save(restored, context.output)
        return facts
