"""Training through the rounding to integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from compress_cli import stopping
from compress_cli.context import Context
from compress_cli.data import samples
from compress_cli.data.datasets import Split
from compress_cli.data.signature import Signature
from compress_cli.distillation.combinations import Combination
from compress_cli.distillation.combinations.mean import Mean
from compress_cli.errors import StageError
from compress_cli.losses import Loss
from compress_cli.networks import features, proof, restore
from compress_cli.networks.models import Network
from compress_cli.networks.restore import Restored
from compress_cli.progress import Progress
from compress_cli.quantization import annotation, observer, trainable
from compress_cli.quantization.calibrations.min_max import MinMax
from compress_cli.quantization.fake_quantization import Ranges
from compress_cli.quantization.quantizers import Quantizer
from compress_cli.quantization.quantizers.static_int8 import StaticInt8
from compress_cli.quantization.trainable import TrainableGraph
from compress_cli.settings import Many, Settings
from compress_cli.stages import Role, Stage, _teaching
from compress_cli.stages._teaching import Names
from compress_cli.stages._work import Work
from compress_cli.statistics.agreement import Agreement, compare
from compress_cli.store.artifact import Artifact, Checkpoint, OnnxModel, Program, Table
from compress_cli.training import loader, loop
from compress_cli.training.attachment import Attachment
from compress_cli.training.config import TrainingConfig

SAME = 0.995
"""The share of samples whose decision the integers must leave as the trained simulation has it; below, a note says so."""


class Freeze(Settings):
    """What training leaves as it is towards its end, when noise of batches harms more than they still learn."""

    after_epochs: float = Field(ge=0, allow_inf_nan=False, description="from so many epochs on; 0: from the first step")
    batch_norms: bool = Field(True, description="batch norms use their running statistics, as at inference, and keep them")
    ranges: bool = Field(False, description="ranges of activations stay, and learned scales")


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
    def _teachers(self) -> Self:
        _teaching.check(self, [self.training])
        taught = [loss.type for loss in self.losses if loss.reads_teacher()]
        if taught and not self.teacher:
            raise ValueError(f"losses: '{taught[0]}' learns from a teacher; name one in the field 'teacher'")
        if self.teacher and self.losses and not taught:
            raise ValueError(f"teacher: none of the losses learns from '{self.teacher[0]}'; add one, such as soft_targets")
        return self

    @model_validator(mode="after")
    def _can_be_simulated(self) -> Self:
        if not self.quantizer.makes_program:
            reason = "with recover, per_channel: false or activations: float it makes a file"
            what = reason if isinstance(self.quantizer, StaticInt8) else "it makes a file; take static_int8"
            raise ValueError(f"quantizer: '{self.quantizer.type}' has no simulation that could be trained: {what}")
        return self

    @model_validator(mode="after")
    def _fits_a_graph(self) -> Self:
        training = self.training
        if training.precision.startswith("bfloat16"):
            raise ValueError("training.precision: rounding to integers is simulated in float32; leave precision out")
        if training.regularizers:
            raise ValueError("training.regularizers: a graph with fake quantisation has none; use them in an earlier stage")
        if training.keep_epochs:
            raise ValueError("training.keep_epochs: the result is a quantised program, to whose epochs no stage can rewind")
        if self.freeze and self.freeze.after_epochs >= training.epochs:
            raise ValueError(
                f"freeze.after_epochs: {self.freeze.after_epochs:g} is not before the end of training, after {training.epochs}"
            )
        return self

    def produces(self, kinds: dict[str, tuple[type[Artifact], ...]]) -> type[Artifact]:
        _teaching.check_layers(self.teacher, kinds.get("teacher", ()), self.losses)
        return Program

    def needs(self) -> dict[str, Stage]:
        """A table of each teacher's outputs, where they are stored."""
        return _teaching.tables(self.teacher, self.losses, self.training) if self.teacher_cache else {}

    def depends(self) -> dict[str, Any]:
        resolved = self.quantizer.resolved()
        machine = {} if resolved == self.quantizer else {"quantizer": resolved.model_dump(mode="json")}
        return {**_teaching.named(self.teacher, self.losses), **machine}

    def run(self, context: Context) -> dict[str, Any]:
        restored = restore.checkpoint(context.inputs["start"][0])
        quantizer, example = self.quantizer.resolved(), proof.example(restored.signature)
        calibration = samples.drawn(context.split("train", self.batch), self.samples, context.seed)
        graph = quantizer.prepare_qat(restored.network, example, self.ranges)
        calibrated = quantizer.prepare(restored.network, example)
        work = Work()
        with work.over(len(calibration), min(self.samples, len(context.whole("train")))):
            self._calibrate(calibrated, restored.signature, calibration, context)
        trainable.begin(graph, calibrated)
        facts = self._train(graph, restored, context)
        settled = self._settle(graph, restored, quantizer, calibration, context, facts.get("notes", []))
        work.more_s *= 2  # settling calibrates once more
        return {**facts, **settled, **work.facts(facts["pace"])}

    def _train(self, graph: TrainableGraph, restored: Restored, context: Context) -> dict[str, Any]:
        """Train the graph, and give its weights to the network."""
        network, original = cast(Network, graph), restored.network  # all that training asks of a network
        network.signature, network.edits, network.trained_on = original.signature, original.edits, original.trained_on
        precision = "float32" if self.training.precision == "auto" else self.training.precision
        config = self.training.model_copy(update={"precision": precision})
        losses, teachers = _teaching.opened(self, context, restored.signature.heads, config.batch)
        facts = loop.fit(network, losses, config, context, teachers, [self._freezing] if self.freeze else [])
        graph.give_weights(original)
        if self.training.precision == "auto":
            facts["precision"]["reason"] = "rounding is simulated in float32"
        return facts

    def _freezing(self, network: Network, steps: int) -> Attachment:
        assert self.freeze is not None
        return _Freezing(cast(TrainableGraph, network), self.freeze, round(self.freeze.after_epochs * steps))

    def _settle(
        self,
        graph: TrainableGraph,
        restored: Restored,
        quantizer: Quantizer,
        calibration: Split,
        context: Context,
        notes: Sequence[str],
    ) -> dict[str, Any]:
        """Write the Program with the trained ranges; facts, with the proof that its integers decide as the simulation does."""
        stored = quantizer.model_copy(update={"calibration": MinMax()})  # its extremes are the trained ranges
        prepared = stored.prepare(restored.network, proof.example(restored.signature))
        self._calibrate(prepared, restored.signature, calibration, context)
        clipped = trainable.settle(graph, prepared)
        restore.save_program(restored, stored, prepared, context.output)
        layers, left_float = observer.observed(prepared, clipped), annotation.left_float(prepared)
        converted = stored.convert(prepared)
        held_out = context.split("val", self.batch)
        check = samples.drawn(held_out, self.samples, context.seed) if len(held_out) else calibration
        kept: dict[str, Agreement] = {}  # integers against the simulation
        lost: dict[str, Agreement] = {}  # integers against the same weights in float
        for part in samples.parts(check, self.batch):
            inputs, decided = samples.tensors(part, restored.signature), (restored.signature.class_axes, part.truth())
            integers = samples.answers(converted, inputs)
            compare(kept, samples.answers(graph, inputs), integers, *decided)
            compare(lost, samples.answers(restored.network, inputs), integers, *decided)
        if context.limit is None:
            notes = [*notes, *_proven(kept, lost)]
        return {
            "calibration_samples": len(calibration),
            "check_samples": len(check),
            "sqnr_db": {head: agreement.sqnr_db for head, agreement in lost.items()},
            "argmax_agreement": {head: agreement.argmax_agreement for head, agreement in lost.items()},
            "simulation": {
                head: {"max_abs_error": agreement.max_abs_error, "argmax_agreement": agreement.argmax_agreement}
                for head, agreement in kept.items()
            },
            "layers": layers,
            "left_float": left_float,
            **({"notes": list(notes)} if notes else {}),
        }

    def _calibrate(self, prepared: nn.Module, signature: Signature, calibration: Split, context: Context) -> None:
        total = -(-len(calibration) // self.batch)
        with torch.no_grad(), stopping.held():
            for number, part in enumerate(samples.parts(calibration, self.batch), 1):
                prepared(*samples.tensors(part, signature))
                context.log(Progress("calibrate", number, total))


class _Freezing(Attachment):
    """Freezes batch norms and ranges after some steps, and in a training that is resumed after them."""

    done: Tensor  # () steps of the optimiser

    def __init__(self, graph: TrainableGraph, freeze: Freeze, steps: int):
        super().__init__()
        self.targets, self.freeze, self.steps = [graph], freeze, steps
        self.register_buffer("done", torch.zeros((), dtype=torch.int64))

    def substitutes(self, weights: Any) -> dict[str, Tensor]:
        if self.training and int(self.done) >= self.steps:
            self.targets[0].freeze(self.freeze.batch_norms, self.freeze.ranges)
        return {}

    def after_step(self, step: int) -> None:
        self.done.fill_(step)


def _proven(kept: dict[str, Agreement], lost: dict[str, Agreement]) -> list[str]:
    """Notes where the integers decide otherwise than the trained simulation; StageError where they are something else."""
    notes = []
    for head, agreement in kept.items():
        if not agreement.rms_error <= max(lost[head].rms_error, 1e-6):  # NaN fails too
            raise StageError(
                f"head '{head}' of the quantised model is further from what was trained ({agreement.rms_error:.3g}) than from "
                f"the same weights in float ({lost[head].rms_error:.3g}), on {agreement.samples} samples: this model can't be "
                "trained in integers; quantise it after training"
            )
        share = agreement.argmax_agreement
        if share is not None and share < SAME:
            notes.append(f"head '{head}': the integers decide as the trained simulation on only {share:.1%} of the samples")
    return notes
