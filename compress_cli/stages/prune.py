"""Whole channels are removed, and the narrower model is trained further."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from compress_cli.context import Context
from compress_cli.deployment.exporters import Exporter
from compress_cli.deployment.exporters.onnx import Onnx
from compress_cli.distillation.combinations import Combination
from compress_cli.distillation.combinations.mean import Mean
from compress_cli.losses import Loss
from compress_cli.measurement import latency, measure, sessions
from compress_cli.measurement.latency import TimingConditions
from compress_cli.networks import features, narrowing, restore
from compress_cli.pruning import channels
from compress_cli.pruning.criteria import Criterion
from compress_cli.pruning.criteria.l2 import L2
from compress_cli.pruning.distributions import Distribution
from compress_cli.pruning.distributions.uniform import Uniform
from compress_cli.settings import Many, NotInKeyAtDefault
from compress_cli.stages import Role, Stage, _cut, _cuts, _depth
from compress_cli.stages._cuts import Keep, Share, Steps
from compress_cli.stages._depth import Depth
from compress_cli.stages._pruning import Pruning, with_edits
from compress_cli.stages._rounds import Rounds
from compress_cli.stages._teaching import Names, Teaching
from compress_cli.store.artifact import Artifact, Checkpoint, OnnxModel, Program, Table
from compress_cli.training import loader, loop
from compress_cli.training.config import TrainingConfig

OF_CHANNELS = ("ratio", "keep", "ratios", "distribution", "sensitivity", "criterion", "round_to", "ignore", "steps")
"""Fields that say which channels go."""


class Prune(Stage):
    """Remove whole channels and attention heads from every layer that they reach, and train the narrower model.

    Layers whose channels depend on each other (through additions, concatenations, shuffles, depthwise convolutions) are cut
    together (groups as in Fang et al. 2023, arXiv:2301.12900), found by following channels through one run of the model. The
    least important channels of a group go first; layers that make the model's outputs are never cut. Every cut is proved: the
    narrower model computes what the model computes with the removed channels masked.
    """

    version: ClassVar[int] = 5

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
    depth: Annotated[Depth | None, NotInKeyAtDefault()] = Field(
        None,
        description="instead of channels: whole residual blocks or transformer layers are removed, those first whose absence "
        "costs least on val, as the stage drop_layers does; {remove: 3}, {ratio: 0.5} or {keep: {macs: 0.6}}",
    )
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
        if not self.depth:
            _cuts.check(self, ", or 'depth'")
        elif cut := [name for name in OF_CHANNELS if getattr(self, name) != type(self).model_fields[name].default]:
            raise ValueError(
                f"depth: whole blocks are removed here, and '{cut[0]}' is about channels; cut these in another stage prune, "
                "before or after"
            )
        if self.distribution.curves != (self.sensitivity is not None):
            problem = "needs the curves of a stage pruning_sensitivity" if self.distribution.curves else "reads no curves"
            raise ValueError(f"sensitivity: the distribution '{self.distribution.type}' {problem}: name one, or take it out")
        if self.keep and self.keep.target[0] == "latency" and self.steps:
            raise ValueError("steps: a latency is reached in one cut; give macs, and measure, or take 'steps' out")
        return self

    @model_validator(mode="after")
    def _taught(self) -> Self:
        self.teaching.check_optional()
        return self

    @property
    def teaching(self) -> Teaching:
        """What its trainings learn."""
        return Teaching.of(self, self.training, self.steps.training if self.steps else None)

    def produces(self, kinds: dict[str, tuple[type[Artifact], ...]]) -> type[Artifact]:
        self.teaching.check_layers(kinds.get("teacher", ()))
        return Checkpoint

    def needs(self) -> dict[str, Stage]:
        """A table of each teacher's outputs, where they are stored."""
        return self.teaching.tables()

    @property
    def timed(self) -> bool:
        return bool(self.keep and self.keep.latency)

    @property
    def distributed(self) -> bool:
        return self.teaching.trainings != () and not self.timed

    def depends(self) -> dict[str, Any]:
        """The machine where a latency decides."""
        if self.depth:
            dropping = self._drop_layers()
            return {"depth": dropping.version, "measure": measure.VERSION, **dropping.depends()}
        timed = dict(sessions.machine(), latency=latency.VERSION) if self.keep and self.keep.latency else {}
        return {**timed, **self.teaching.named()}

    def _drop_layers(self) -> Stage:
        """The stage that removes whole blocks."""
        assert self.depth is not None
        shared = ("exporter", "timing", "training", "teacher", "losses", "combine", "teacher_cache")
        return _depth.stage(self.depth, **{name: getattr(self, name) for name in shared})

    def run(self, context: Context) -> dict[str, Any]:
        if self.depth:
            return self._drop_layers().run(context)
        restored = restore.checkpoint(context.inputs["start"][0])
        _cut.check_finite(restored)
        opened = narrowing.open_attention(restored.network.body)
        pruning, rounds = Pruning(self, with_edits(restored, opened), context), Rounds(context)
        count, trained, planned = self.steps.count if self.steps else 1, dict[str, Any](), 0
        for step in range(rounds.first, count + 1):
            if rounds.interrupted(step):
                pruning.repeat(rounds.noted)
            else:
                pruning.cut(self.steps.done(step) if self.steps else 1.0)
            training = self.training if step == count else self.steps.training if self.steps else None
            trained = pruning.train(training, rounds.context_of(step, noted=pruning.noted())) if training else {}
            planned += trained.get("planned_steps", 0)
        facts = pruning.facts()
        notes = dict.fromkeys([*facts.get("notes", []), *trained.get("notes", [])])
        restore.save(pruning.restored, context.output)
        if findings := pruning.findings():
            findings.write(context.output)
        if planned and context.limit:  # for the estimate
            trained |= {"planned_steps": planned}
        return {**facts, **trained, **({"notes": list(notes)} if notes else {})}
