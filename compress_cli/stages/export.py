"""The file that ships."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field
from torch import nn

from compress_cli.context import Context
from compress_cli.data import samples
from compress_cli.data.datasets import Split
from compress_cli.data.signature import Signature
from compress_cli.deployment.exporters import Exporter
from compress_cli.deployment.exporters.onnx import Onnx
from compress_cli.errors import StageError
from compress_cli.measurement import measure, sessions
from compress_cli.networks import proof, restore
from compress_cli.onnx_graph import files, packing, quantised, storage
from compress_cli.onnx_graph.card import Card
from compress_cli.progress import Progress
from compress_cli.stages import Role, Stage, _cards, _packed_weights
from compress_cli.statistics.agreement import Agreement, compare
from compress_cli.store.artifact import Artifact, Checkpoint, OnnxModel, Program

HeadArrays = dict[str, np.ndarray]  # head name -> (N, ...)
Model = Callable[[Split], HeadArrays]
TINY = float(np.finfo(np.float32).tiny)

FLOAT_LIMIT = 1e-4
"""Largest difference of a float file from PyTorch, as a share of the output's range: sums in another order give 1e-6."""

GROWTH_LIMIT = 1.5
"""How much further from the float model an int8 file may be than its simulation in PyTorch is.

Rounding of sums differs between the two, and a value that falls on the other side of a half moves by a whole step; over
many layers this makes the errors different, but not larger (growth 0.9 to 1.1 was seen). Overflowing sums give 4 to 20.
"""

SAME_DECISION = 0.995
"""The share of samples on which the file of a quantised model has to decide as its simulation does; below, a note says so."""


class Export(Stage):
    """Write the model as one ONNX file and check on real samples that its outputs equal PyTorch's.

    The facts hold the proof (`parity`, on val samples). A float file fails beyond 1e-4 of the outputs' range. A quantised
    one is rounded at other points, so it fails where it is 1.5 times further from the float model than its simulation in
    PyTorch. An ONNX file is checked, stripped of what no runtime reads, and gets its metadata.
    """

    consumes: ClassVar[dict[str, Role]] = {"start": Role((Checkpoint, Program, OnnxModel))}
    shared: ClassVar[dict[str, int]] = {"onnx_file": files.VERSION, "packing": packing.VERSION}
    version: ClassVar[int] = 7  # first convolutions of integers read filled channels; no attributes that are defaults

    start: str | None = Field(None, description="the stage whose model is written; default: the one before")
    exporter: Exporter = Field(Onnx(), description="how the file is written")
    metadata: Literal["card", "none"] = Field(
        "card", description="card: the file names its task, classes, data and step, so that `compress eval` needs no flags"
    )
    samples: int = Field(256, ge=1, description="val samples (train where there is no val) for the proof; all if fewer")
    batch: int = Field(32, ge=1, description="samples that are compared at once")

    def produces(self, kinds: dict[str, tuple[type[Artifact], ...]]) -> type[Artifact]:
        return OnnxModel

    def run(self, context: Context) -> dict[str, Any]:
        start, path = context.inputs["start"][0], context.output / "model.onnx"
        card = _card(context).to_metadata() if self.metadata == "card" else {}
        held_out = context.split("val", self.batch)
        check = held_out if len(held_out) else context.split("train", self.batch)
        real = samples.drawn(check, self.samples, context.seed)
        if isinstance(start, OnnxModel):
            parity = self._take(start, path, card, real, context)
        elif isinstance(start, Program):
            parity = self._quantised(start, path, card, real, context)
        else:
            parity = self._float(start, path, card, real, context)
        notes = [*_notes(path, parity, len(real))] if isinstance(start, Program) else []
        return {
            **({"notes": notes} if notes else {}),
            "parity": {"samples": len(real), "heads": parity},
            "size_bytes": storage.size_bytes(path),
            "operators": files.operators(files.load(path)),
            **_packed_weights.check(path, real, self.batch, is_timed=context.limit is None),
        }

    def _float(self, start: Artifact, path: Path, card: dict[str, str], real: Split, context: Context) -> dict[str, Any]:
        restored = restore.checkpoint(start)
        network, signature = restored.network, restored.signature
        _exporter(self.exporter, context).export(network, signature, proof.example(signature), path, card)
        models = (_in_torch(network, signature), _in_file(sessions.open_session(path)))
        exact: dict[str, Agreement] = {}
        for (expected, written), truth in _answers(models, real, self.batch, context):
            compare(exact, expected, written, signature.class_axes, truth)
        for head, agreement in exact.items():
            if not agreement.relative_error <= FLOAT_LIMIT:  # NaN fails too
                raise StageError(
                    f"the exported file does not give what PyTorch gives: head '{head}' differs by up to "
                    f"{agreement.max_abs_error:.3g}, {agreement.relative_error:.2g} of its range (allowed: {FLOAT_LIMIT:g}), "
                    f"on {agreement.samples} samples; try another `exporter: {{type: onnx, opset: ...}}`"
                )
        return {head: _figures(agreement) for head, agreement in exact.items()}

    def _quantised(self, start: Artifact, path: Path, card: dict[str, str], real: Split, context: Context) -> dict[str, Any]:
        restored, program = restore.checkpoint(start), restore.program(start)
        signature = restored.signature
        _exporter(self.exporter, context).export(program, signature, proof.example(signature), path, card)
        models = (_in_torch(restored.network, signature), _in_torch(program, signature), _in_file(sessions.open_session(path)))
        exact: dict[str, Agreement] = {}  # file against simulation
        promised: dict[str, Agreement] = {}  # simulation against float
        shipped: dict[str, Agreement] = {}  # file against float
        for (original, simulated, written), truth in _answers(models, real, self.batch, context):
            compare(exact, simulated, written, signature.class_axes, truth)
            compare(promised, original, simulated)
            compare(shipped, original, written)
        growth = {head: shipped[head].rms_error / max(promised[head].rms_error, TINY) for head in exact}
        for head, factor in growth.items():
            if not factor <= GROWTH_LIMIT:
                raise StageError(
                    f"the exported file strays from the quantised model: head '{head}' is {factor:.1f} times further from the "
                    f"float model in ONNX Runtime on this machine than in PyTorch (allowed: {GROWTH_LIMIT:g}), on {len(real)} "
                    f"samples; {_remedy(start)}"
                )
        return {head: {**_figures(exact[head]), "error_growth": growth[head]} for head in exact}

    def _take(self, start: Artifact, path: Path, card: dict[str, str], real: Split, context: Context) -> dict[str, Any]:
        model = files.load(start.file("model.onnx"))
        files.strip(model)
        _exporter(self.exporter, context).write(model, path, card)
        before, after = sessions.open_stored(start), sessions.open_session(path)
        exact: dict[str, Agreement] = {}
        axes, models = context.dataset.signature().class_axes, (_in_file(before), _in_file(after))
        for (expected, written), truth in _answers(models, real, before.batch or self.batch, context):
            compare(exact, expected, written, axes, truth)
        for head, agreement in exact.items():
            if not agreement.max_abs_error == 0:
                raise StageError(f"{before}: gives other outputs once it is cleared of metadata, or NaN (head '{head}')")
        return {head: _figures(agreement) for head, agreement in exact.items()}


def _notes(path: Path, parity: dict[str, Any], samples: int) -> Iterator[str]:
    """What a user should know of the file of a quantised program."""
    if (share := quantised.integer_share(files.load(path))) < 0.5:
        yield f"only {share:.0%} of the weights are integers"
    for head, figures in parity.items():
        same = figures["argmax_agreement"]
        if same is not None and same < SAME_DECISION:
            yield f"head '{head}': in ONNX Runtime it decides as in PyTorch on only {same:.1%} of {samples} samples"


def _exporter(exporter: Exporter, context: Context) -> Exporter:
    """In a smoke run one that packs what can be packed: two batches make no zeros that a form could be insisted on."""
    is_smoke = context.limit is not None and isinstance(exporter, Onnx)
    return exporter.model_copy(update={"storage": "auto"}) if is_smoke else exporter


def _in_torch(network: nn.Module, signature: Signature) -> Model:
    return lambda part: samples.answers(network, samples.tensors(part, signature))


def _in_file(session: sessions.Session) -> Model:
    return lambda part: session.run(measure.feeds(session, part))


def _answers(
    models: Sequence[Model], split: Split, batch: int, context: Context
) -> Iterator[tuple[list[HeadArrays], HeadArrays]]:
    """The outputs of each model for each batch, and the batch's targets."""
    for start in range(0, len(split), batch):
        part = split.take(np.s_[start : start + batch])
        yield [model(part) for model in models], part.truth()
        context.log(Progress("check the file", min(start + batch, len(split)), len(split)))


def _figures(agreement: Agreement) -> dict[str, float | None]:
    return {
        "max_abs_error": agreement.max_abs_error,
        "relative_error": agreement.relative_error,
        "argmax_agreement": agreement.argmax_agreement,
    }


def _remedy(start: Artifact) -> str:
    """The remedy where the runtime deviates from the simulation."""
    settings = json.loads(start.file(restore.QUANTIZER).read_text())
    if settings.get("reduce_range") is False:
        return (
            "8-bit weights overflow 16-bit sums on x86 processors without VNNI: set "
            "`quantizer: {type: static_int8, reduce_range: true}`, or export on a processor with VNNI"
        )
    return "write it with another opset, or ship the float file"


def _card(context: Context) -> Card:
    """What the file says of itself; a model may have heads of its own."""
    start = context.inputs["start"][0]
    own = isinstance(start, Checkpoint | Program)
    return _cards.card(context, restore.signature_of(start) if own else context.dataset.signature())
