"""The ways in which a teacher computes its table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

from compress_cli.data.batch import Batch, Outputs
from compress_cli.deployment.exporters.onnx import Onnx
from compress_cli.distillation.teachers import Opened
from compress_cli.measurement import sessions
from compress_cli.networks import features, folding, proof, restore
from compress_cli.quantization.quantizers.static_int8 import StaticInt8
from compress_cli.store.artifact import Artifact, Checkpoint
from compress_cli.store.scratch import scratch
from compress_cli.training import precision

Name = Literal["float32", "float32_channels_last", "bfloat16", "bfloat16_channels_last", "onnx_runtime", "onnx_runtime_int8"]
NAMES: tuple[Name, ...] = get_args(Name)
INTEGERS: tuple[Name, ...] = ("onnx_runtime_int8",)
FILES: tuple[Name, ...] = ("onnx_runtime", *INTEGERS)  # on the CPU; they show no layers

CALIBRATED = 64  # samples, spread over the table: for a ResNet-56, 256 of them gave no better integers
CALIBRATED_AT_ONCE = 32
ROWS_EACH = 100  # of a table, for each sample of the calibration, which takes about ten times a float answer's time
LARGEST_MB = 512  # of a teacher: making its integers takes several times its memory


@dataclass(frozen=True)
class Request:
    """A teacher, and how much of it a table holds."""

    source: Artifact
    layers: tuple[str, ...]
    rows: int  # of all views
    device: str
    largest: int  # batch
    memory: Path  # a folder that remembers choices made once per machine
    trial: bool = False  # a smoke run: random weights need not agree, and nothing is remembered


class Ways:
    """A teacher in every way it can compute: each is opened where it is asked for, and stays open until `stack` ends.

    `plain` is the teacher in float32; `sample(n)` gives n samples spread over the table.
    """

    def __init__(self, request: Request, plain: Opened, sample: Callable[[int], Batch], stack: ExitStack):
        self.request, self.sample, self.stack = request, sample, stack
        self._opened: dict[Name, Opened] = {"float32": plain}

    @property
    def names(self) -> list[Name]:
        """Those that this teacher may have, and that pay for such a table."""
        request, excluded = self.request, set[Name]()
        if request.layers or request.device != "cpu":
            excluded |= {*FILES}
        size = sum(file.bytes for file in request.source.manifest.files.values())
        if request.rows < ROWS_EACH * CALIBRATED or size > LARGEST_MB * 1_000_000:
            excluded |= {*INTEGERS}
        if not any(tensor.ndim == 4 for tensor in self.sample(1).inputs.values()):
            excluded |= {name for name in NAMES if name.endswith("channels_last")}
        return [name for name in NAMES if name not in excluded]

    def opened(self, name: Name) -> Opened:
        """The teacher, computing in that way; its outputs are float32. RuntimeError or CompressError where it can't."""
        if name not in self._opened:
            self._opened[name] = self._by_file(name) if name in FILES else self._by_torch(name)  # type: ignore[arg-type]
        return self._opened[name]

    def keep(self, name: Name) -> None:
        """Only this one stays in memory."""
        self._opened = {name: self._opened[name]} if name in self._opened else {}

    @cached_property
    def _file(self) -> Path:
        """The teacher as an ONNX file."""
        path, restored = self.stack.enter_context(scratch("teacher")) / "teacher.onnx", self._restored()
        Onnx().export(restored.network.eval(), restored.signature, proof.example(restored.signature), path, {})
        return path

    def _by_file(self, name: Name) -> Opened:
        path, threads = self._file, torch.get_num_threads()
        if name == "onnx_runtime_int8":
            path = path.with_name("int8.onnx")
            StaticInt8().resolved().quantize_onnx(self._file, "the teacher", self._calibration(), path)
        session, signature = sessions.open_session(path, threads), restore.signature_of(self.request.source)

        def computed(batch: Batch) -> Outputs:
            feeds = {key: batch.inputs[key].numpy() for key in session.inputs}
            heads = {key: torch.from_numpy(array).float() for key, array in session.run(feeds).items()}
            return Outputs(heads, class_axes=signature.class_axes, deviations=signature.deviations)

        return computed

    def _calibration(self) -> Iterator[dict[str, np.ndarray]]:
        for part in parts(self.sample(CALIBRATED), CALIBRATED_AT_ONCE):
            yield {name: values.numpy() for name, values in part.inputs.items()}

    def _by_torch(self, name: precision.Name) -> Opened:
        restored, layers, device = self._restored(), self.request.layers, self.request.device
        network, signature = restored.network.eval(), restored.signature
        if not layers:  # folded batch norms show no layers of their own
            network.body = folding.folded(network.body)
        network.to(device)
        precision.reorder_weights(network, name)
        if name.startswith("bfloat16"):
            _round_weights(network)
        seen, _ = features.attach(network, layers)

        def computed(batch: Batch) -> Outputs:
            batch = replace(batch, inputs=precision.reordered(batch.inputs, name))
            with torch.inference_mode(), precision.computing(name, device):
                outputs = features.outputs(network, signature, batch, layers, seen)
            heads, shown = (_as_float32(kind) for kind in (outputs.heads, outputs.features))
            return replace(outputs, heads=heads, features=shown)

        return computed

    def _restored(self) -> restore.Restored:
        assert isinstance(self.request.source, Checkpoint)  # another kind has one way, which was given
        return restore.checkpoint(self.request.source)


def in_batches(teacher: Opened, size: int) -> Opened:
    """The teacher, which sees so many samples at once."""

    def asked(batch: Batch) -> Outputs:
        answers = [teacher(part) for part in parts(batch, size)]
        if len(answers) == 1:
            return answers[0]
        heads, shown = (_joined([getattr(answer, kind) for answer in answers]) for kind in ("heads", "features"))
        return replace(answers[0], heads=heads, features=shown)

    return asked


def parts(batch: Batch, size: int) -> Iterator[Batch]:
    """Its inputs, so many samples at a time."""
    for start in range(0, len(batch.index), size):
        rows = slice(start, start + size)
        inputs = {name: values[rows] for name, values in batch.inputs.items()}
        yield Batch(inputs, {}, batch.index[rows], batch.view)


def _round_weights(network: torch.nn.Module) -> None:
    """What autocast would round anew at every call."""
    for module in network.modules():
        if type(module) in (torch.nn.Conv2d, torch.nn.Linear):  # no subclass, which may look at its weight
            module.to(torch.bfloat16)


def _as_float32(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: values.float() if values.is_floating_point() else values for name, values in tensors.items()}


def _joined(answers: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.cat([answer[name] for answer in answers]) for name in answers[0]}
