"""Training through the rounding to integers."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from compress_cli.context import Context
from compress_cli.distillation.combinations import Combination
from compress_cli.distillation.combinations.mean import Mean
from compress_cli.losses import Loss
from compress_cli.networks import features, restore
from compress_cli.quantization import annotation
from compress_cli.quantization.fake_quantization import Ranges
from compress_cli.quantization.quantizers import Quantizer
from compress_cli.quantization.quantizers.static_int8 import StaticInt8
from compress_cli.settings import Many
from compress_cli.stages import Role, Stage, _integer_training
from compress_cli.stages._integer_training import Freeze, IntegerTraining
from compress_cli.stages._teaching import Names, Teaching
from compress_cli.store.artifact import Artifact, Checkpoint, OnnxModel, Program, Table
from compress_cli.training import loader, loop
from compress_cli.training.config import TrainingConfig


class QuantizeAware(Stage):
    """Train a checkpoint further while its weights and activations are rounded as they will be in integers, so that it
    learns to be right all the same (Jacob et al. 2018, arXiv:1712.05877; LSQ: Esser et al. 2020, arXiv:1902.08153).

        - type: quantize_aware
          start: prune
          teacher: train
          freeze: {after_epochs: 3}
          training: {epochs: 5, optimizer: {type: sgd, learning_rate: 0.005}}

    Starts from the ranges that calibration finds. The result is a Program, as `quantize` makes it: `export` writes it. The best
    epoch is that of the rounded network on val. Masks, zeros and shared weights of the checkpoint hold. Computes in float32.
    Dropout is as in training, but for that inside attention and of whole layers, which is left out.
    """

    consumes: ClassVar[dict[str, Role]] = {
        "start": Role((Checkpoint,)),
        "teacher": Role((Checkpoint, Program, OnnxModel, Table), previous=False, optional=True, many=True),
    }
    shared: ClassVar[dict[str, int]] = {
        "training": loop.VERSION, "loader": loader.VERSION, "features": features.VERSION, "placement": annotation.VERSION,
    }  # fmt: skip
    long: ClassVar[bool] = True

    start: str | None = Field(None, description="the stage whose checkpoint is trained; default: the one before")
    quantizer: Quantizer = Field(StaticInt8(), description="how numbers become integers; first ranges are as it calibrates")
    ranges: Ranges = Field(
        "moving",
        description="moving: a moving average of the batches' extremes, and of weights their largest; learned: scales are "
        "trained with the weights, which serves fewer than 8 bits",
    )
    freeze: Freeze | None = Field(None, description="what stays as it is from some epoch on; default: nothing")
    samples: int = Field(512, ge=1, description="training samples for calibration, drawn by seed and sample id; all if fewer")
    batch: int = Field(32, ge=1, description="samples that are calibrated at once")
    training: TrainingConfig = Field(description="how to train; about a tenth of the first learning rate serves")
    teacher: Names = Field((), description="the stage to learn from, or a list of several; default: none")
    losses: Many[Loss] = Field((), description="default: hard labels, with a teacher its soft targets too")
    combine: Combination = Field(Mean(), description="how losses that name no teacher learn from several, as in distill")
    teacher_cache: bool = Field(False, description="read the teacher's outputs from a table that is made once, as in distill")

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        _integer_training.check(self)
        return self

    @property
    def _teaching(self) -> Teaching:
        return Teaching.of(self, self.training)

    def produces(self, kinds: dict[str, tuple[type[Artifact], ...]]) -> type[Artifact]:
        self._teaching.check_layers(kinds.get("teacher", ()))
        return Program

    def needs(self) -> dict[str, Stage]:
        """A table of each teacher's outputs, where they are stored."""
        return self._teaching.tables()

    def depends(self) -> dict[str, Any]:
        return {**self._teaching.named(), **_integer_training.tuned_here(self.quantizer)}

    def run(self, context: Context) -> dict[str, Any]:
        integers = IntegerTraining(self, restore.checkpoint(context.inputs["start"][0]), context)
        facts = integers.train()
        return {**facts, **integers.settle(facts.get("notes", []))}
