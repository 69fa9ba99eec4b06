"""Whole channels are removed, and the narrower model is trained further."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from compress_cli.context import Context
from compress_cli.deployment.exporters import Exporter
from compress_cli.deployment.exporters.onnx import Onnx
from compress_cli.distillation.combinations import Combination
from compress_cli.distillation.combinations.mean import Mean
from compress_cli.losses import Loss
from compress_cli.measurement import latency, sessions
from compress_cli.measurement.latency import TimingConditions
from compress_cli.networks import features, narrowing, restore
from compress_cli.pruning import channels
from compress_cli.pruning.criteria import Criterion
from compress_cli.pruning.criteria.l2 import L2
from compress_cli.pruning.distributions import Distribution
from compress_cli.pruning.distributions.uniform import Uniform
from compress_cli.settings import Many
from compress_cli.stages import Role, Stage, _cut, _pruning, _teaching
from compress_cli.stages._pruning import Keep, Pruning, Share, Steps, with_edits
from compress_cli.stages._teaching import Names
from compress_cli.store.artifact import Artifact, Checkpoint, OnnxModel, Program, Table
from compress_cli.store.saves import Saves
from compress_cli.training import loader, loop
from compress_cli.training.config import TrainingConfig


class Prune(Stage):
    """Remove whole channels and attention heads from every layer that they reach, and train the narrower model.

    Layers whose channels depend on each other (through additions, concatenations, shuffles, depthwise convolutions) are cut
    together (groups as in Fang et al. 2023, arXiv:2301.12900), found by following channels through one run of the model. The
    least important channels of a group go first; layers that make the model's outputs are never cut. Every cut is proved: the
    narrower model computes what the model computes with the removed channels masked.
    """

    version: ClassVar[int] = 3

    consumes: ClassVar[dict[str, Role]] = {
        "start": Role((Checkpoint,)),
        "teacher": Role((Checkpoint, Program, OnnxModel, Table), previous=False, optional=True, many=True),
        "sensitivity": Role((Table,), previous=False, optional=True),
    }
    shared: ClassVar[dict[str, int]] = {
        "channels": channels.VERSION,
        "training": loop.VERSION,
        "loader": loader.VERSION,
        "features": features.VERSION,
    }
    long: ClassVar[bool] = True

    start: str | None = Field(None, description="stage whose result is pruned; default: the one before")
    ratio: Share | None = Field(None, description="share of channels removed; or give 'keep'")
    keep: Keep | None = Field(None, description="share of a cost that remains; or give 'ratio'")
    ratios: dict[str, Annotated[float, Field(ge=0, lt=1)]] = Field(
        {},
        description="pattern of layer names, such as `layer3.*` -> share of channels removed from them; the others follow "
        "'ratio' or 'keep', or stay whole without either",
    )
    distribution: Distribution = Field(Uniform(), description="how the cut is spread over the layers")
    sensitivity: str | None = Field(None, description="stage `pruning_sensitivity` whose curves the distribution reads")
    criterion: Criterion = Field(L2(), description="which channels are removed first: those that score lowest")
    round_to: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto",
        description="round widths to multiples of this; auto: to 16 or 8 by the layer's width, to less below a width of 16; "
        "where latency is the target, to what is measured to be faster",
    )
    ignore: Many[str] = Field((), description="layers that are not cut; a name covers the layers inside it")
    steps: Steps | None = Field(None, description="cut in several steps; default: at once")
    exporter: Exporter = Field(Onnx(), description="writes the files whose bytes or latency are the target")
    timing: TimingConditions = Field(TimingConditions(), description="how latency is measured where it is the target")
    training: TrainingConfig | None = Field(None, description="training after the cut; default: none")
    teacher: Names = Field((), description="the stage to learn from in every training here, or a list of several")
    losses: Many[Loss] = Field((), description="for every training; default: hard labels, with a teacher its soft targets too")
    combine: Combination = Field(Mean(), description="how losses that name no teacher learn from several")
    teacher_cache: bool = Field(False, description="run the teacher once over the data and read its stored outputs")

    @field_validator("round_to", mode="before")
    @classmethod
    def _whole_or_auto(cls, value: Any) -> Any:
        if value != "auto" and (type(value) is not int or value < 1):
            raise ValueError("must be a whole number from 1 on, or 'auto'")  # one complaint, not one for each choice
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _pruning.check(self)
        if self.distribution.curves != (self.sensitivity is not None):
            problem = "needs the curves of a stage pruning_sensitivity" if self.distribution.curves else "reads no curves"
            raise ValueError(f"sensitivity: the distribution '{self.distribution.type}' {problem}: name one, or take it out")
        if self.keep and self.keep.target[0] == "latency" and self.steps:
            raise ValueError("steps: a latency is reached in one cut; give macs, and measure, or take 'steps' out")
        return self

    @model_validator(mode="after")
    def _taught(self) -> Self:
        _teaching.check(self, self._trainings())
        return self

    def _trainings(self) -> list[TrainingConfig]:
        return [training for training in (self.training, self.steps and self.steps.training) if training]

    def produces(self, kinds: dict[str, tuple[type[Artifact], ...]]) -> type[Artifact]:
        _teaching.check_layers(self.teacher, kinds.get("teacher", ()), self.losses)
        return Checkpoint

    def needs(self) -> dict[str, Stage]:
        """A table of each teacher's outputs, where they are stored."""
        return _teaching.tables(self.teacher, self.losses, self._trainings()[0]) if self.teacher_cache else {}

    def depends(self) -> dict[str, Any]:
        """The machine where a latency decides."""
        timed = dict(sessions.machine(), latency=latency.VERSION) if self.keep and self.keep.latency else {}
        return {**timed, **_teaching.named(self.teacher, self.losses)}

    def run(self, context: Context) -> dict[str, Any]:
        restored = restore.checkpoint(context.inputs["start"][0])
        _cut.check_finite(restored)
        opened = narrowing.open_attention(restored.network.body)
        pruning = Pruning(self, with_edits(restored, opened), context)
        count = self.steps.count if self.steps else 1
        for step in range(1, count + 1):
            pruning.cut(self.steps.done(step) if self.steps else 1.0)
            if self.steps and self.steps.training and step < count:
                pruning.train(self.steps.training, replace(context, saves=Saves()))
        facts = pruning.facts()
        if self.training is not None:
            timed = bool(self.keep and self.keep.latency)  # another measurement may cut otherwise, and fit no saved state
            trained = pruning.train(self.training, replace(context, saves=Saves()) if timed else context)
            facts |= trained | {"notes": [*facts.get("notes", []), *trained.get("notes", [])]}
        restore.save(pruning.restored, context.output)
        return facts
