"""Weights and activations become small integers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import nn

from compress_cli import stopping
from compress_cli.context import Context
from compress_cli.data import samples
from compress_cli.data.datasets import Split
from compress_cli.data.signature import Signature
from compress_cli.deployment.exporters.onnx import Onnx
from compress_cli.errors import StageError
from compress_cli.measurement import latency, measure, sessions
from compress_cli.measurement.latency import TimingConditions
from compress_cli.networks import proof, restore
from compress_cli.onnx_graph import files, quantised, storage
from compress_cli.progress import Progress
from compress_cli.quantization import annotation, joins, observer, opset, placement, processor
from compress_cli.quantization.quantizers import Quantizer
from compress_cli.quantization.quantizers.static_int8 import StaticInt8
from compress_cli.settings import NotInKeyAtDefault
from compress_cli.stages import Role, Stage, _budget, _judge, _mixed_precision
from compress_cli.stages._budget import WIDTHS, Budget
from compress_cli.stages._judge import Judge
from compress_cli.stages._mixed_precision import Search
from compress_cli.stages._work import Work
from compress_cli.statistics.agreement import Agreement, compare
from compress_cli.store.artifact import Artifact, Checkpoint, OnnxModel, Program
from compress_cli.store.saves import Save
from compress_cli.store.scratch import scratch
from compress_cli.training import state

FILLED = 0.01  # share of a layer's weights: fewer zeros than that were not pruned


class Quantize(Stage):
    """Quantise a checkpoint, or an ONNX file, after calibrating on training images.

    Where the quantizer can, a checkpoint becomes a Program, which PyTorch runs and `export` writes; otherwise its ONNX file is
    quantised. The facts hold the signal-to-noise ratio of every head against the float model (`sqnr_db`, on val), each layer's
    bits, range and bytes, and what stays float. Calibration runs on the CPU, so that the same recipe gives the same bytes
    wherever training ran. An interrupted calibration resumes at its batch; that of an ONNX file starts anew.
    """

    consumes: ClassVar[dict[str, Role]] = {"start": Role((Checkpoint, OnnxModel))}
    version: ClassVar[int] = 5  # integers of weights are called as the weights
    shared: ClassVar[dict[str, int]] = {
        "placement": annotation.VERSION, "onnx_placement": placement.VERSION, "joins": joins.VERSION,
        "onnx_file": files.VERSION,
    }  # fmt: skip

    start: str | None = Field(None, description="the stage whose model is quantised; default: the one before")
    quantizer: Quantizer = Field(StaticInt8(), description="how numbers become integers")
    samples: int = Field(512, ge=1, description="training samples for calibration, drawn by seed and sample id; all if fewer")
    budget: Annotated[Budget | None, NotInKeyAtDefault()] = Field(
        None, description="choose each layer's bits on val, so that a promise holds; the result is a file"
    )
    batch: int = Field(32, ge=1, description="samples that are calibrated at once: more need more memory")
    timing: Annotated[TimingConditions, NotInKeyAtDefault()] = Field(
        TimingConditions(), description="how latency is measured where it is the budget"
    )

    def produces(self, kinds: dict[str, tuple[type[Artifact], ...]]) -> type[Artifact]:
        return Program if issubclass(kinds["start"][0], Checkpoint) and self._makes_program else OnnxModel

    @property
    def _makes_program(self) -> bool:
        return self.quantizer.makes_program and self.budget is None

    @model_validator(mode="after")
    def _has_choices(self) -> Quantize:
        if self.budget is None:
            return self
        (low, high), name = self.quantizer.weight_bits, self.quantizer.type
        widths = [width for width in WIDTHS if low <= width <= high]
        if self.budget.bits is not None and len(widths) < 2:
            raise ValueError(f"budget.bits: the quantizer '{name}' has no choice of bits; take linear or codebook")
        if self.budget.bits is not None and self.budget.bits < min(widths):
            raise ValueError(
                f"budget.bits: {self.budget.bits:g} is below the fewest bits of the quantizer '{name}', {min(widths)}"
            )
        if self.budget.is_timed and not self.quantizer.computes_in_integers:
            raise ValueError(
                f"budget.{self.budget.promise[0]}: the quantizer '{name}' makes files smaller, not faster: they compute in "
                "float; take static_int8 or dynamic_int8"
            )
        return self

    def depends(self) -> dict[str, Any]:
        resolved = self.quantizer.resolved()
        machine = {} if resolved == self.quantizer else {"quantizer": resolved.model_dump(mode="json")}
        chosen = {"budget": _budget.SEARCH} if self.budget else {}
        timed = dict(sessions.machine(), latency=latency.VERSION) if self.budget and self.budget.is_timed else {}
        return {**machine, **chosen, **timed}

    def run(self, context: Context) -> dict[str, Any]:
        start = context.inputs["start"][0]
        calibration = samples.drawn(context.split("train", self.batch), self.samples, context.seed)
        held_out = context.split("val", self.batch)
        check = samples.drawn(held_out, self.samples, context.seed) if len(held_out) else calibration
        quantizer = self.quantizer.resolved()
        if isinstance(start, OnnxModel):
            return self._onnx(quantizer, sessions.open_stored(start), calibration, check, context)
        if self._makes_program:
            return self._program(quantizer, start, calibration, check, context)
        with scratch("export") as folder:
            restored, path = restore.checkpoint(start), folder / "float.onnx"
            Onnx().export(restored.network, restored.signature, proof.example(restored.signature), path, {})
            return self._onnx(quantizer, sessions.open_session(path, origin="the checkpoint"), calibration, check, context)

    def _program(
        self, quantizer: Quantizer, start: Artifact, calibration: Split, check: Split, context: Context
    ) -> dict[str, Any]:
        restored = restore.checkpoint(start)
        prepared = quantizer.prepare(restored.network, proof.example(restored.signature))
        work = Work()
        with stopping.held(), work.over(len(calibration), min(self.samples, len(context.whole("train")))):
            _calibrate(prepared, restored.signature, calibration, self.batch, context)
        restore.save_program(restored, quantizer, prepared, context.output)
        layers = observer.observed(prepared)
        drawn = observer.shown(prepared, layers)
        starved = quantizer.settle(prepared)
        stays_float = annotation.left_float(prepared)
        converted = quantizer.convert(prepared)
        agreements: dict[str, Agreement] = {}
        with work.over(len(check), min(self.samples, len(context.whole("val")) or self.samples)):
            for part in samples.parts(check, self.batch):
                inputs = samples.tensors(part, restored.signature)
                heads = samples.answers(restored.network, inputs), samples.answers(converted, inputs)
                compare(agreements, *heads, restored.signature.class_axes, part.truth())
        shown = {"layers": layers, "distributions": drawn, "left_float": stays_float}
        if starved:
            shown |= {"float_joins": starved, "notes": [joins.note(starved)]}
            context.log(Progress("calibrate", len(calibration), len(calibration), note=joins.note(starved)))
        return {**_facts(calibration, agreements), **shown, **work.facts()}

    def _onnx(
        self, quantizer: Quantizer, float_session: sessions.Session, calibration: Split, check: Split, context: Context
    ) -> dict[str, Any]:
        path, output = float_session.path, context.output / "model.onnx"
        batch = float_session.batch or self.batch
        total, work = -(-len(calibration) // batch), Work()

        def batches() -> Iterator[dict[str, np.ndarray]]:
            for done, part in enumerate(samples.parts(calibration, batch)):
                context.log(Progress("calibrate", done + 1, total))
                yield measure.sample(float_session, part, batch)

        def quantize(chosen: Quantizer, target: Path) -> dict[str, Any]:
            return chosen.quantize_onnx(path, name, batches(), target)

        name = float_session.origin or f"the file of {self.start or 'the stage before'}"  # as the user knows it
        if self.budget is None or context.limit is not None:  # random weights of a smoke run keep no promise
            with work.over(len(calibration), min(self.samples, len(context.whole("train")))):
                facts = quantize(quantizer, output)
        else:
            held_out = context.split("val")
            judge = Judge(float_session, held_out if len(held_out) else check, self.timing, context)
            search = Search(quantize, judge.noise, judge.drop, judge.size, judge.float_size, judge.speedup, context.log)
            facts = _mixed_precision.keep(self.budget, quantizer, search, output)
        facts["notes"] = list(_notes(name, facts, path, output))
        for note in facts["notes"]:
            context.log(Progress("calibrate", total, total, note=note))
        session = sessions.open_session(output)
        agreements: dict[str, Agreement] = {}
        for part in samples.parts(check, batch):
            feeds, truth = measure.sample(float_session, part, batch), part.typical(batch).truth()
            heads = _judge.comparable(float_session.run(feeds), session.run(feeds))
            compare(agreements, *heads, context.dataset.signature().class_axes, truth)
        return {**_facts(calibration, agreements), **facts, "size_bytes": storage.size_bytes(output), **work.facts()}


def _calibrate(prepared: nn.Module, signature: Signature, calibration: Split, batch: int, context: Context) -> None:
    total, done, saved = -(-len(calibration) // batch), 0, context.saves.load()
    if saved:
        fresh = prepared.state_dict()
        restore.put(prepared, {name: state.tensor(array, fresh[name].dtype) for name, array in saved.arrays.items()})
        done = saved.document["done"]
        context.log(Progress("calibrate", done, total, note=f"resumed at {saved.progress}"))
    with torch.no_grad():
        for number, part in enumerate(samples.parts(calibration.take(np.s_[done * batch :]), batch), done + 1):
            prepared(*samples.tensors(part, signature))
            context.log(Progress("calibrate", number, total))
            context.saves.step(partial(_state, prepared, number))


def _state(prepared: nn.Module, done: int) -> Save:
    return Save(state.arrays(prepared.state_dict()), {"done": done}, f"calibration batch {done}")


def _notes(name: str, facts: dict[str, Any], start: Path, output: Path) -> Iterator[str]:
    """What a user should know of a quantised file."""
    if "converted" in facts:
        yield f"{name}: {opset.note(facts['converted'])}"
    before, after = storage.size_bytes(start), storage.size_bytes(output)
    if after >= before:
        yield f"the file is no smaller than the float one ({after} bytes instead of {before})"
    if facts.get("reduce_range") is False and not processor.sums_are_exact():
        yield "8-bit weights overflow 16-bit sums on this processor, so outputs differ here; set reduce_range: true"
    if "float_joins" in facts:
        yield joins.note(facts["float_joins"])
    filled = [entry["layer"] for entry in facts["layers"] if entry.get("zeros_filled", 0) >= FILLED * entry["weights"]]
    if filled:
        yield f"weights that were 0 are 0 no longer, since the format has no 0: {', '.join(filled[:5])}"
    if "budget" in facts:
        yield _chosen(facts["layers"])
    share = quantised.integer_share(files.load(output))
    facts["integer_share"] = share
    if share < 0.5 and "stored_in" not in facts:
        yield f"only {share:.0%} of the weights are integers; float: {', '.join(facts['left_float'][:5])}"


def _chosen(layers: list[dict[str, Any]]) -> str:
    """`bits chosen on val: 8 for conv1, fc; 4 for layer1.0, layer1.1`"""
    by_bits: dict[int, list[str]] = {}
    for entry in layers:
        by_bits.setdefault(entry["weight_bits"], []).append(entry["layer"])
    parts = [
        f"{'float' if bits == 32 else bits} for {', '.join(names)}" for bits, names in sorted(by_bits.items(), reverse=True)
    ]
    return f"bits chosen on val: {'; '.join(parts)}"


def _facts(calibration: Split, agreements: dict[str, Agreement]) -> dict[str, Any]:
    broken = [head for head, agreement in agreements.items() if not math.isfinite(agreement.rms_error)]
    if broken:
        raise StageError(f"head '{broken[0]}' gives NaN or infinity; check the training of the model that is quantised")
    return {
        "calibration_samples": len(calibration),
        "check_samples": max((agreement.samples for agreement in agreements.values()), default=0),
        "sqnr_db": {head: agreement.sqnr_db for head, agreement in agreements.items()},
        "argmax_agreement": {head: agreement.argmax_agreement for head, agreement in agreements.items()},
    }
