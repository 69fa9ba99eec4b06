"""Training on true labels."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from compress_cli.context import Context
from compress_cli.data.datasets import Dataset
from compress_cli.data.tasks import Task
from compress_cli.losses import Loss
from compress_cli.networks import features, restore
from compress_cli.networks.models import Model
from compress_cli.settings import Many, NotInKeyAtDefault, Settings
from compress_cli.stages import Role, Stage, _initialise, _width_budget
from compress_cli.stages._width_budget import WidthBudget
from compress_cli.store.artifact import Artifact, Checkpoint
from compress_cli.training import loader, loop
from compress_cli.training.config import TrainingConfig
from compress_cli.training.objective import hard_losses


class Length(Settings):
    """The number of samples in an epoch: as many as a distill stage has; the recipe's samples are repeated as needed."""

    transfer: Dataset = Field(description="its transfer data")
    join: bool = Field(False, description="whether it joins the recipe's training samples with them")


class Train(Stage):
    """Train a fresh model, or train an earlier stage's checkpoint further, on the true labels."""

    consumes: ClassVar[dict[str, Role]] = {"start": Role((Checkpoint,), previous=False, optional=True)}
    shared: ClassVar[dict[str, int]] = {
        "training": loop.VERSION, "loader": loader.VERSION, "features": features.VERSION
    }  # fmt: skip
    long: ClassVar[bool] = True

    model: Model | None = Field(None, description="the architecture, with fresh weights")
    budget: Annotated[WidthBudget | None, NotInKeyAtDefault()] = Field(
        None,
        description="choose the model's widths: all times one factor, the largest whose exported file is within {bytes: 40 kB} "
        "or {latency: 0.2 ms}; what was chosen stands in the facts",
    )
    inputs: Many[str] = Field((), description="of the dataset's inputs, those that the model takes; default: all")
    heads: Many[str] = Field((), description="of the heads that the dataset asks for, those that the model has; default: all")
    start: str | None = Field(
        None, description="instead of a model: the stage whose checkpoint is trained further; with initialise, the larger model"
    )
    initialise: Annotated[Literal["auto"] | None, NotInKeyAtDefault()] = Field(
        None,
        description="auto: the model starts with the blocks and channels of the checkpoint in `start` that matter most, as "
        "far as the two are of one family; what came from where stands in the facts",
    )
    loss: Loss | None = Field(None, description="the loss that is minimised; default: the task's loss on true labels")
    task: Task | None = Field(None, description="what this model is trained and measured for; default: the recipe's task")
    training: TrainingConfig = Field(description="how to train")
    as_long_as: Annotated[Length | None, NotInKeyAtDefault()] = Field(
        None, description="take as many steps as a distill stage with this transfer data; so does its control"
    )

    @model_validator(mode="after")
    def _one_beginning(self) -> Train:
        if self.initialise and not (self.model and self.start):
            raise ValueError("initialise: auto brings the weights of the stage in 'start' into a smaller 'model'; name both")
        if not self.initialise and (self.model is None) == (self.start is None):
            problem = "not both" if self.model else "neither is named"
            raise ValueError(f"name a model for fresh weights, or in start a stage whose checkpoint is trained on: {problem}")
        if self.budget and not self.model:
            raise ValueError("budget: chooses the widths of a 'model', and there is none")
        if not self.model and (self.inputs or self.heads):
            raise ValueError("inputs and heads are those of a fresh model; what 'start' names has its own")
        return self

    @property
    def distributed(self) -> bool:
        return True

    def produces(self, kinds: dict[str, tuple[type[Artifact], ...]]) -> type[Artifact]:
        return Checkpoint

    def depends(self) -> dict[str, Any]:
        """How its widths are chosen, and how it starts with the weights of another model."""
        begun = _initialise.depends() if self.initialise else {}
        return {**begun, **(_width_budget.depends(self.budget) if self.budget else {})}

    def run(self, context: Context) -> dict[str, Any]:
        context = replace(context, task=self.task or context.task)
        if self.as_long_as:
            other = replace(context, transfer=self.as_long_as.transfer, join=self.as_long_as.join)
            context = replace(context, samples=len(other.index()))
        model, begun = self.model, dict[str, Any]()
        if self.budget and model:
            model, begun = _width_budget.fitted(model, self.budget, context, self.inputs, self.heads)
        if self.initialise and model:
            source = context.inputs["start"][0]
            restored, copied = _initialise.student(model, source, context, self.inputs, self.heads, bool(self.budget))
            begun = _initialise.joined(begun, copied)
        else:
            restored = loop.begin(model, context, self.inputs, self.heads)
        losses = (self.loss,) if self.loss else hard_losses(context.task, restored.signature.heads)
        facts = loop.fit(restored.network, losses, self.training, context)
        restore.save(restored, context.output)
        return _initialise.joined(begun, facts)
