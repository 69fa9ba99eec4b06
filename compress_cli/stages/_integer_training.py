"""Training through the rounding to integers, from calibration to the proof that the integers decide as what was trained."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from compress_cli import stopping
from compress_cli.context import Context
from compress_cli.data import samples
from compress_cli.data.signature import Signature
from compress_cli.errors import StageError
from compress_cli.networks import proof, restore
from compress_cli.networks.models import Network
from compress_cli.networks.narrowing import Cut
from compress_cli.networks.restore import Restored
from compress_cli.progress import Progress
from compress_cli.quantization import annotation, observer, trainable
from compress_cli.quantization.calibrations.min_max import MinMax
from compress_cli.quantization.fake_quantization import Ranges
from compress_cli.quantization.quantizers import Quantizer
from compress_cli.quantization.quantizers.static_int8 import StaticInt8
from compress_cli.quantization.trainable import TrainableGraph
from compress_cli.settings import Settings
from compress_cli.stages._teaching import Taught, Teaching
from compress_cli.stages._work import Work
from compress_cli.statistics.agreement import Agreement, compare
from compress_cli.training.attachment import Attach, Attachment
from compress_cli.training.config import TrainingConfig

SAME = 0.995
"""The share of samples whose decision the integers must leave as the trained simulation has it; below, a note says so."""


class Freeze(Settings):
    """What training leaves as it is towards its end, when noise of batches harms more than they still learn."""

    after_epochs: float = Field(ge=0, allow_inf_nan=False, description="from so many epochs on; 0: from the first step")
    batch_norms: bool = Field(True, description="batch norms use their running statistics, as at inference, and keep them")
    ranges: bool = Field(False, description="ranges of activations stay, and learned scales")


class Rounded(Taught, Protocol):
    """A stage that trains through the rounding."""

    @property
    def quantizer(self) -> Quantizer: ...
    @property
    def ranges(self) -> Ranges: ...
    @property
    def freeze(self) -> Freeze | None: ...
    @property
    def samples(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def training(self) -> TrainingConfig: ...


def check(stage: Rounded) -> None:
    """ValueError where its settings do not go together, or can't be simulated."""
    Teaching.of(stage, stage.training).check_optional()
    _check_quantizer(stage.quantizer)
    _check_training(stage.training, stage.freeze)


def _check_quantizer(quantizer: Quantizer) -> None:
    if quantizer.makes_program:
        return
    if not isinstance(quantizer, StaticInt8):
        raise ValueError(
            f"quantizer: '{quantizer.type}' has no simulation that could be trained: its numbers exist in files alone; take "
            "static_int8, with overrides for fewer bits"
        )
    files_only = {
        "recover": bool(quantizer.recover),
        "per_channel: false": not quantizer.per_channel,
        "overrides with activations": any(
            each.activations is not None and each.weights != "float" for each in quantizer.overrides
        ),
    }
    named = " and ".join(field for field, is_set in files_only.items() if is_set)
    raise ValueError(
        f"quantizer: '{named}' has no simulation that could be trained: it acts on files alone; take it out, or use the stage "
        "'quantize'"
    )


def _check_training(training: TrainingConfig, freeze: Freeze | None) -> None:
    if training.precision.startswith("bfloat16"):
        raise ValueError("training.precision: rounding to integers is simulated in float32; leave precision out")
    if training.regularizers:
        raise ValueError("training.regularizers: a graph with fake quantisation has none; use them in an earlier stage")
    if training.keep_epochs:
        raise ValueError("training.keep_epochs: the result is a quantised program, to whose epochs no stage can rewind")
    if freeze and freeze.after_epochs >= training.epochs:
        raise ValueError(
            f"freeze.after_epochs: {freeze.after_epochs:g} is not before the end of training, after {training.epochs}"
        )


def tuned_here(quantizer: Quantizer) -> dict[str, Any]:
    """What this machine decides of a quantizer."""
    resolved = quantizer.resolved()
    return {} if resolved == quantizer else {"quantizer": resolved.model_dump(mode="json")}


class IntegerTraining:
    """A network whose simulation in integers is trained; it has the ranges that calibration found before."""

    def __init__(self, stage: Rounded, restored: Restored, context: Context):
        self._stage, self._context, self.restored = stage, context, restored
        self._quantizer = stage.quantizer.resolved()
        self._calibration = samples.drawn(context.split("train", stage.batch), stage.samples, context.seed)
        self.graph = self._graph_of(restored)
        self._work = Work()
        calibrated = self._quantizer.prepare(restored.network, proof.example(restored.signature))
        with self._timed():
            self._calibrate(calibrated)
        trainable.begin(self.graph, calibrated)
        self._simulation = self.graph

    def train(self, attach: Sequence[Attach] = ()) -> dict[str, Any]:
        """Train the graph, and give the network its weights and what training has added to its edits; facts of the training."""
        stage, context, training = self._stage, self._context, self._stage.training
        precision = "float32" if training.precision == "auto" else training.precision
        config = training.model_copy(update={"precision": precision})
        freezing = [self._freezing] if stage.freeze else []
        trained = cast(Network, self.graph)
        facts = self._trained = Teaching.of(stage, config).fit(trained, config, context, [*attach, *freezing])
        self.graph.give_weights(self.restored.network)
        self.restored.network.edits = trained.edits
        if training.precision == "auto":
            facts["precision"]["reason"] = "rounding is simulated in float32"
        return facts

    def narrow(self, restored: Restored, cut: Cut) -> None:
        """Go on with what a cut has left of the network, whose removed channels the trained simulation has masked."""
        self.restored = restored
        graph = self._graph_of(restored)
        trainable.narrow(self.graph, graph, cut)
        self.graph = graph

    def settle(self, notes: Sequence[str] = ()) -> dict[str, Any]:
        """Write the Program with the trained ranges; facts, with the proof that its integers decide as the simulation does."""
        restored, context, calibration = self.restored, self._context, self._calibration
        trained = {"calibration": MinMax(), "float_joins": False}  # extremes are the trained ranges, and joins were rounded
        stored = self._quantizer.model_copy(update=trained)
        prepared = stored.prepare(restored.network, proof.example(restored.signature))
        with self._timed():
            self._calibrate(prepared)
        clipped = trainable.settle(self.graph, prepared)
        restore.save_program(restored, stored, prepared, context.output)
        layers, left_float = observer.observed(prepared, clipped), annotation.left_float(prepared)
        drawn = observer.shown(prepared, layers)
        kept, lost, checked = self._compared(stored.convert(prepared))
        if context.limit is None:
            notes = [*notes, *_proven(kept, lost)]
        return {
            "calibration_samples": len(calibration),
            "check_samples": checked,
            "sqnr_db": {head: agreement.sqnr_db for head, agreement in lost.items()},
            "argmax_agreement": {head: agreement.argmax_agreement for head, agreement in lost.items()},
            "simulation": {
                head: {"max_abs_error": agreement.max_abs_error, "argmax_agreement": agreement.argmax_agreement}
                for head, agreement in kept.items()
            },
            "layers": layers,
            "distributions": drawn,
            "left_float": left_float,
            **self._work.facts(self._trained["pace"]),
            **({"notes": list(notes)} if notes else {}),
        }

    def _compared(self, converted: nn.Module) -> tuple[dict[str, Agreement], dict[str, Agreement], int]:
        """By head: the integers against the trained simulation, and against the same weights in float; and on how many
        samples."""
        signature, batch = self.restored.signature, self._stage.batch
        held_out = self._context.split("val", batch)
        check = samples.drawn(held_out, self._stage.samples, self._context.seed) if len(held_out) else self._calibration
        kept: dict[str, Agreement] = {}
        lost: dict[str, Agreement] = {}
        for part in samples.parts(check, batch):
            inputs, decided = samples.tensors(part, signature), (signature.class_axes, part.truth())
            integers = samples.answers(converted, inputs)
            compare(kept, samples.answers(self._simulation, inputs), integers, *decided)
            compare(lost, samples.answers(self.restored.network, inputs), integers, *decided)
        return kept, lost, len(check)

    def _timed(self) -> AbstractContextManager[None]:
        """Times work on the calibration samples."""
        return self._work.over(len(self._calibration), min(self._stage.samples, len(self._context.whole("train"))))

    def _graph_of(self, restored: Restored) -> TrainableGraph:
        """A graph to be trained, with all that training asks of a network."""
        network, example = restored.network, proof.example(restored.signature)
        graph = self._quantizer.prepare_qat(network, example, self._stage.ranges)
        trained = cast(Network, graph)
        trained.signature, trained.edits, trained.trained_on = network.signature, network.edits, network.trained_on
        return graph

    def _calibrate(self, prepared: nn.Module) -> None:
        signature: Signature = self.restored.signature
        total = -(-len(self._calibration) // self._stage.batch)
        with torch.no_grad(), stopping.held():
            for number, part in enumerate(samples.parts(self._calibration, self._stage.batch), 1):
                prepared(*samples.tensors(part, signature))
                self._context.log(Progress("calibrate", number, total))

    def _freezing(self, network: Network, steps: int) -> Attachment:
        freeze = self._stage.freeze
        assert freeze is not None
        return _Freezing(cast(TrainableGraph, network), freeze, round(freeze.after_epochs * steps))


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
