"""How a network is trained: the settings of a recipe's `training:`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from compress_cli.settings import Many, NotInKey, NotInKeyAtDefault, Settings
from compress_cli.training.augmentations import Augmentation
from compress_cli.training.optimizers import Optimizer
from compress_cli.training.optimizers.sgd import Sgd
from compress_cli.training.regularizers import Regularizer
from compress_cli.training.schedules import Schedule
from compress_cli.training.schedules.cosine import Cosine


class TrainingConfig(Settings):
    """How to train. `{epochs: 30}` is enough for small images."""

    epochs: int = Field(ge=1, le=1_000_000, description="passes over the train split")
    batch: int = Field(128, ge=1, description="samples of one step")
    optimizer: Optimizer = Field(Sgd(), description="how gradients move weights")
    schedule: Schedule = Field(Cosine(warmup_epochs=1.0), description="learning rate over the epochs")
    augment: Many[Augmentation] = Field((), description="random changes of images, in this order")
    views: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="fixed augmented views of a sample, used in turn; default: a new one every epoch",
    )
    clip_norm: float | None = Field(None, gt=0, description="longest gradient (L2 norm over all weights)")
    ema: Annotated[float, Field(gt=0, lt=1)] | Literal["auto"] | None = Field(
        None,
        description="keep a moving average of the weights with this decay, such as 0.999, and use it; auto: a decay that looks "
        "back over a twentieth of the training. It helps where the learning rate stays high; after a cosine it changes little",
    )
    accumulate: int = Field(
        1,
        ge=1,
        description="microbatches that a batch is split into, to save memory; each takes its own mean over unmasked positions",
    )
    keep: Literal["best", "last"] = Field("best", description="the epoch that counts: best on val, or the last one")
    precision: Literal["auto", "float32", "float32_channels_last", "bfloat16", "bfloat16_channels_last"] = Field(
        "auto", description="number format of the computation; auto times them once per model and machine"
    )
    deterministic: bool = Field(False, description="same bytes on CUDA too, at some cost in speed; on a CPU this always holds")

    sampler: Annotated[Literal["shuffled", "balanced"], NotInKeyAtDefault()] = Field(
        "shuffled",
        description="the samples of an epoch: each once, or balanced: each class equally often, samples of small classes again "
        "and again and those of large ones in turn",
    )
    shard: Annotated[Literal["teachers", "all"] | None, NotInKey()] = Field(
        None,
        description="where several processes train together, divide weights among them, for what does not fit into the memory "
        "of one: those of the teachers, or of all networks; default: each has them whole",
    )
    regularizers: Annotated[Many[Regularizer], NotInKeyAtDefault()] = Field(
        (), description="penalties that are minimised with the losses, such as [{type: l1, weight: 0.0001}]"
    )
    keep_epochs: Annotated[Many[Annotated[int, Field(ge=0)]], NotInKeyAtDefault()] = Field(
        (),
        description="epochs whose weights are kept beside the result, for a stage that rewinds to them; 0: before training",
    )

    @field_validator("ema", mode="before")
    @classmethod
    def _decay_or_auto(cls, value: Any) -> Any:
        if value not in (None, "auto") and (type(value) not in (int, float) or not 0 < value < 1):
            raise ValueError("must be a number above 0 and below 1, or 'auto'")  # one complaint, not one for each choice
        return value

    def rate(self, epochs: float) -> float:
        """The learning rate after so many epochs, fractions included."""
        return self.optimizer.learning_rate * self.schedule.share(epochs, self.epochs)

    @model_validator(mode="after")
    def _epochs_that_come(self) -> TrainingConfig:
        late = [epoch for epoch in self.keep_epochs if epoch > self.epochs]
        if late:
            raise ValueError(f"keep_epochs: there is no epoch {late[0]}; the last one is {self.epochs}")
        if len(set(self.keep_epochs)) < len(self.keep_epochs):
            raise ValueError("keep_epochs: an epoch is named twice")
        return self

    @model_validator(mode="after")
    def _microbatches_hold_samples(self) -> TrainingConfig:
        if self.accumulate > self.batch:
            raise ValueError(f"accumulate: a batch of {self.batch} can't be split into {self.accumulate} microbatches")
        return self
