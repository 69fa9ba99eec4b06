"""Training on true labels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field, model_validator

from compress_cli import features, restore, training
from compress_cli.artifact import Artifact, Checkpoint
from compress_cli.context import Context
from compress_cli.losses import Loss
from compress_cli.models import Model
from compress_cli.regimen import Training
from compress_cli.settings import Many
from compress_cli.stages import Role, Stage
from compress_cli.tasks import Task


class Train(Stage):
    """Train a fresh model, or train an earlier stage's checkpoint further, on the true labels."""

    consumes: ClassVar[dict[str, Role]] = {"start": Role((Checkpoint,), previous=False, optional=True)}
    shared: ClassVar[dict[str, int]] = {"training": training.VERSION, "features": features.VERSION}
    long: ClassVar[bool] = True

    model: Model | None = Field(None, description="the architecture, with fresh weights")
    inputs: Many[str] = Field((), description="of the dataset's inputs, those that the model takes; default: all")
    heads: Many[str] = Field((), description="of the heads that the dataset asks for, those that the model has; default: all")
    start: str | None = Field(None, description="instead of a model: the stage whose checkpoint is trained further")
    loss: Loss | None = Field(None, description="what is made small; default: the task's loss on true labels")
    task: Task | None = Field(None, description="what this model is trained and judged for; default: the recipe's task")
    training: Training = Field(description="how to train")

    @model_validator(mode="after")
    def _one_beginning(self) -> Train:
        if (self.model is None) == (self.start is None):
            given = "not both" if self.model else "none is given"
            raise ValueError(f"name a model for fresh weights, or in start a stage to go on from: {given}")
        if self.start and (self.inputs or self.heads):
            raise ValueError("inputs and heads are those of a fresh model; what 'start' names has its own")
        return self

    def produces(self, kinds: dict[str, tuple[type[Artifact], ...]]) -> type[Artifact]:
        return Checkpoint

    def run(self, context: Context) -> dict[str, Any]:
        context = replace(context, task=self.task or context.task)
        restored = training.begin(self.model, context, self.inputs, self.heads)
        losses = (self.loss,) if self.loss else training.hard_losses(context.task, restored.signature.heads)
        facts = training.fit(restored.network, losses, self.training, context)
        restore.save(restored, context.output)
        return facts
