"""Training a student on its teacher's outputs."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from compress_cli.context import Context
from compress_cli.data.datasets import Dataset
from compress_cli.distillation.combinations import Combination
from compress_cli.distillation.combinations.mean import Mean
from compress_cli.errors import RecipeError
from compress_cli.losses import Layers, Loss
from compress_cli.losses.cross_entropy import CrossEntropy
from compress_cli.losses.soft_targets import SoftTargets
from compress_cli.networks import features, restore
from compress_cli.networks.models import Model
from compress_cli.settings import Many, NotInKey, NotInKeyAtDefault
from compress_cli.stages import Role, Stage, _initialise, _width_budget
from compress_cli.stages._teaching import Names, Teaching, check_weights, stage
from compress_cli.stages._width_budget import WidthBudget
from compress_cli.store.artifact import Artifact, Checkpoint, OnnxModel, Program, Table
from compress_cli.training import loader, loop
from compress_cli.training.config import TrainingConfig


class Distill(Stage):
    """Train a student to agree with its teacher, or with several (Hinton et al. 2015, arXiv:1503.02531).

    Teachers may be checkpoints, quantised programs, any ONNX file or a table of stored outputs; an ONNX file has outputs
    only, and so has a table of another program. Their heads are taken to have the class axis of the dataset's.
    """

    consumes: ClassVar[dict[str, Role]] = {
        "teacher": Role((Checkpoint, Program, OnnxModel, Table), many=True),
        "start": Role((Checkpoint,), previous=False, optional=True),
    }
    shared: ClassVar[dict[str, int]] = {
        "training": loop.VERSION, "loader": loader.VERSION, "features": features.VERSION
    }  # fmt: skip
    long: ClassVar[bool] = True

    teacher: Names = Field((), description="the stage to learn from, or a list of several; default: the stage before")
    model: Model | None = Field(None, description="the student's architecture, with fresh weights")
    budget: Annotated[WidthBudget | None, NotInKeyAtDefault()] = Field(
        None,
        description="choose the model's widths: all times one factor, the largest whose exported file is within {bytes: 40 kB} "
        "or {latency: 0.2 ms}; what was chosen stands in the facts",
    )
    inputs: Many[str] = Field((), description="of the dataset's inputs, those that the model takes; default: all")
    heads: Many[str] = Field((), description="of the heads that the dataset asks for, those that the model has; default: all")
    initialise: Literal["auto"] | Layers = Field(
        (),
        description="layers that start with the weights of the first teacher's: names, or {student: ..., teacher: ...}; auto: "
        "the blocks and channels that matter most, of the first teacher or of the checkpoint in `start`, as far as they and "
        "the student are of one family; what came from where stands in the facts",
    )
    start: str | None = Field(
        None,
        description="instead of a model: the stage whose checkpoint becomes the student; with a model and `initialise: auto`: "
        "the one whose weights it starts with",
    )
    losses: Many[Loss] = Field(
        (SoftTargets(weight=0.9, temperature=4.0), CrossEntropy(weight=0.1)),
        min_length=1,
        description="the losses that are minimised, each with its weight",
    )
    combine: Combination = Field(
        Mean(),
        description="how losses that name no teacher learn from several: mean, weighted, learned and confidence_mixture mix "
        "outputs into one teacher; confidence weighs each teacher's losses",
    )
    training: TrainingConfig = Field(description="how to train")
    transfer: Dataset | None = Field(
        None,
        description="learn from the teacher's outputs for the training samples of this dataset, without labels, instead of the "
        "recipe's; val stays the recipe's",
    )
    join: Annotated[bool, NotInKeyAtDefault()] = Field(
        False,
        description="learn from the recipe's labelled training samples too, shuffled among those of transfer, so that batches "
        "hold both in proportion. Losses that read labels are averaged over a batch's labelled samples, and left out where "
        "it has none; the others are averaged over all. In a table of stored outputs sample n of transfer has the id -1 - n",
    )
    teacher_cache: bool = Field(
        False,
        description="run the teacher once over the data (in each of training.views) and read its stored outputs: the same "
        "numbers, sooner, at the price of disk space",
    )
    control: Annotated[bool, NotInKey()] = Field(
        False,
        description="also train the same student on the recipe's true labels alone, for as many steps: with transfer data its "
        "samples come more often or less; the report says what the teacher, and these data, gained",
    )

    @field_validator("losses")
    @classmethod
    def _something_weighs(cls, value: tuple[Loss, ...]) -> tuple[Loss, ...]:
        check_weights(value)
        return value

    @field_validator("initialise", mode="before")
    @classmethod
    def _auto_or_layers(cls, value: Any) -> Any:
        if isinstance(value, str) and value != "auto":
            raise ValueError("must be 'auto' or a list of layers")  # one complaint, not one for each choice
        return value

    @model_validator(mode="after")
    def _known_teachers(self) -> Distill:
        self._teaching.check()
        return self

    @property
    def _teaching(self) -> Teaching:
        return replace(Teaching.of(self, self.training), teachers=self.teacher or ("",))

    @model_validator(mode="after")
    def _labels_from_the_teacher(self) -> Distill:
        by_label = [loss.type for loss in self.losses if loss.reads_labels() and loss.weight]
        if self.join and not self.transfer:
            raise ValueError("join: there is nothing to join; name data without labels in transfer")
        if self.join and len(by_label) == sum(loss.weight > 0 for loss in self.losses):
            raise ValueError(
                f"join: '{by_label[0]}' reads labels, and nothing would be learnt from samples without; add a loss on the "
                "teacher's outputs, such as soft_targets"
            )
        if self.transfer and by_label and not self.join:
            raise ValueError(
                f"transfer: its samples have no labels, and '{by_label[0]}' needs them; set join: true to learn from the "
                "recipe's training samples too, or set losses to those on the teacher's outputs alone, such as "
                "[soft_targets], or [hard_labels] for its decisions"
            )
        return self

    @model_validator(mode="after")
    def _one_student(self) -> Distill:
        if self.initialise == "auto" and self.model is None:
            raise ValueError("initialise: auto brings weights into the student's architecture; name it in 'model'")
        if self.initialise != "auto" and (self.model is None) == (self.start is None):
            problem = "not both" if self.model else "neither is named"
            raise ValueError(f"name a model as the student, or in start a stage whose checkpoint it is: {problem}")
        if self.budget and not self.model:
            raise ValueError("budget: chooses the widths of a 'model', and there is none")
        if not self.model and (self.inputs or self.heads):
            raise ValueError("inputs and heads are those of a fresh model; what 'start' names has its own")
        return self

    @property
    def distributed(self) -> bool:
        return True

    def produces(self, kinds: dict[str, tuple[type[Artifact], ...]]) -> type[Artifact]:
        self._teaching.check_layers(kinds["teacher"])
        if self.initialise and not (self.model and self.start) and not issubclass(kinds["teacher"][0], Checkpoint | Program):
            instead = "; or name in 'start' a stage whose weights it starts with" if self.initialise == "auto" else ""
            raise RecipeError(
                "initialise: copies layers of the first teacher, which has none to copy; name a checkpoint first" + instead
            )
        return Checkpoint

    def needs(self) -> dict[str, Stage]:
        """A table of each teacher's outputs, where they are stored."""
        return self._teaching.tables(transfer=self.transfer, join=self.join)

    def depends(self) -> dict[str, Any]:
        """Which of its teachers a loss names, by position: other names of the same teachers give the same student."""
        begun = _initialise.depends() if self.initialise == "auto" else {}
        begun |= _width_budget.depends(self.budget) if self.budget else {}
        return {**begun, **self._teaching.named()}

    def controls(self) -> dict[str, Stage]:
        """The undistilled control: same student, schedule, steps and seeds, the task's loss on true labels."""
        if not self.control:
            return {}
        settings = {name: getattr(self, name) for name in ("model", "budget", "inputs", "heads", "start", "training")}
        settings |= {"start": None} if self.model else {}
        length = {"transfer": self.transfer, "join": self.join} if self.transfer else None
        return {"control": stage("train", **settings, as_long_as=length)}

    def run(self, context: Context) -> dict[str, Any]:
        context = replace(context, transfer=self.transfer, join=self.join)
        model, begun = self.model, dict[str, Any]()
        if self.budget and model:
            model, begun = _width_budget.fitted(model, self.budget, context, self.inputs, self.heads)
        if self.initialise == "auto" and model:
            (source, *_) = context.inputs["start" if self.start else "teacher"]
            restored, copied = _initialise.student(model, source, context, self.inputs, self.heads, bool(self.budget))
            begun = _initialise.joined(begun, copied)
        else:
            restored = loop.begin(model, context, self.inputs, self.heads)
        if self.initialise and not isinstance(self.initialise, str):
            pairs = ((pair.teacher, pair.student) for pair in self.initialise)
            restore.copy_layers(restore.checkpoint(context.inputs["teacher"][0]).network, restored.network, pairs)
        facts = self._teaching.fit(restored.network, self.training, context)
        restore.save(restored, context.output)
        return _initialise.joined(begun, facts)
