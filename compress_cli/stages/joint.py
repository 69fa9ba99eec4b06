"""Pruning, training through the rounding to integers and teachers in one training."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from compress_cli.context import Context
from compress_cli.distillation.combinations import Combination
from compress_cli.distillation.combinations.mean import Mean
from compress_cli.losses import Loss
from compress_cli.networks import features, restore
from compress_cli.networks.edits.mask import masks_of
from compress_cli.networks.restore import Restored
from compress_cli.pruning import channels as channel_cuts
from compress_cli.pruning import weights as selection
from compress_cli.pruning.saliencies import Saliency
from compress_cli.pruning.saliencies.magnitude import Magnitude
from compress_cli.quantization import annotation
from compress_cli.quantization.fake_quantization import Ranges
from compress_cli.quantization.quantizers import Quantizer
from compress_cli.quantization.quantizers.static_int8 import StaticInt8
from compress_cli.settings import Many, Settings
from compress_cli.stages import Role, Stage, _cut, _integer_training, _sparsity
from compress_cli.stages._channel_masks import ChannelMasks, Channels
from compress_cli.stages._integer_training import Freeze, IntegerTraining
from compress_cli.stages._sparsity import Gradual, NofM, Ratio, Targets
from compress_cli.stages._teaching import Names, Teaching
from compress_cli.stages._weight_masks import WeightMasks
from compress_cli.store.artifact import Artifact, Checkpoint, OnnxModel, Program, Table
from compress_cli.training import loader, loop
from compress_cli.training.config import TrainingConfig


class Weights(Settings):
    """Single weights that go, as in `sparsify`."""

    ratio: float | None = Field(None, gt=0, lt=1, description="share of weights that are masked")
    scope: Literal["layer", "global"] = Field("layer", description="whether each layer loses that share, or all together")
    layers: dict[str, Ratio] = Field({}, description="ratios of layers by name, with * for any part of a name")
    n_of_m: NofM | None = Field(
        None, description="instead: {n: 2, m: 4} keeps 2 of every 4 weights in the end; at first 3, as the schedule says"
    )
    criterion: Saliency = Field(Magnitude(), description="which weights are masked first: those that score lowest")
    ignore: Many[str] = Field((), description="layers that stay dense; a name covers the layers inside it")

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if (self.ratio is not None or bool(self.layers)) == (self.n_of_m is not None):
            raise ValueError("give one target: 'ratio' (and 'layers' for ratios by layer), or 'n_of_m' such as {n: 2, m: 4}")
        _sparsity.check(self)
        return self


class Joint(Stage):
    """Prune while training through the rounding to integers, with a teacher: all in one training, instead of a stage for each.

        - type: joint
          start: train
          teacher: train
          channels: {keep: {macs: 0.5}}
          gradual: {end: 4}
          ranges: learned
          training: {epochs: 8, optimizer: {type: sgd, learning_rate: 0.01}}

    Weights, or whole channels, are masked along the cubic ramp of Zhu & Gupta (2017, arXiv:1710.01878), scored by the weights
    that the rounded network has by then; what is masked stays zero. Masked channels are cut after the training: the integers
    are proved to decide as the simulation that had them masked. The best epoch is one at the final sparsity. The rest is as
    in `quantize_aware`, `sparsify` and `prune`.
    """

    consumes: ClassVar[dict[str, Role]] = {
        "start": Role((Checkpoint,)),
        "teacher": Role((Checkpoint, Program, OnnxModel, Table), previous=False, optional=True, many=True),
    }
    shared: ClassVar[dict[str, int]] = {
        "training": loop.VERSION, "loader": loader.VERSION, "features": features.VERSION, "placement": annotation.VERSION,
        "weights": selection.VERSION, "channels": channel_cuts.VERSION,
    }  # fmt: skip
    long: ClassVar[bool] = True

    start: str | None = Field(None, description="the stage whose checkpoint is pruned and trained; default: the one before")
    channels: Channels | None = Field(None, description="whole channels that go; or give 'weights'")
    weights: Weights | None = Field(None, description="single weights that go; or give 'channels'")
    gradual: Gradual = Field(description="when they go: {end: 4} from the first step until the fourth epoch has ended")
    quantizer: Quantizer = Field(StaticInt8(), description="how numbers become integers; first ranges are as it calibrates")
    ranges: Ranges = Field("moving", description="moving: follow the batches; learned: scales are trained with the weights")
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
        if (self.channels is None) == (self.weights is None):
            reason = "not both: mask weights in a stage 'sparsify' before" if self.channels else "neither is there"
            raise ValueError(f"give 'channels', or 'weights', for what goes: {reason}")
        _sparsity.check_end(self.gradual, self.training.epochs)
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
        restored = restore.checkpoint(context.inputs["start"][0])
        _cut.check_finite(restored)
        if self.weights:
            return self._without_weights(self.weights, restored, context)
        assert self.channels is not None
        return self._without_channels(self.channels, restored, context)

    def _without_weights(self, weights: Weights, restored: Restored, context: Context) -> dict[str, Any]:
        body, chosen = restored.network.body, (weights.ratio, weights.scope, weights.layers)
        targets = Targets.of(body, *chosen, None, weights.n_of_m, weights.ignore)
        targets.check(masks_of(restored.network.edits))
        masking = WeightMasks(targets, weights.criterion, self.gradual, restored.network, context)
        integers = IntegerTraining(self, restored, context)
        facts = integers.train([masking.attach])
        masks = masks_of(restored.network.edits)
        sparse = targets.facts(masks)
        sparse["sparse_layers"] = sparse.pop("layers")
        return {**facts, **sparse, **integers.settle([*facts.get("notes", []), *targets.notes(masks)])}

    def _without_channels(self, channels: Channels, restored: Restored, context: Context) -> dict[str, Any]:
        masking = ChannelMasks(channels, self.gradual, restored, context)
        integers = IntegerTraining(self, masking.restored, context)
        facts = integers.train([masking.attach])
        cut = masking.cut()
        integers.narrow(masking.restored, cut)
        facts |= masking.facts()
        return {**facts, **integers.settle(facts.get("notes", []))}
