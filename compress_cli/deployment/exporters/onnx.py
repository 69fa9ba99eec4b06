"""ONNX through PyTorch's exporter."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from compress_cli.data.signature import Signature
from compress_cli.deployment.exporters import Exporter, _translations
from compress_cli.errors import StageError
from compress_cli.onnx_graph import alignment, files, packing
from compress_cli.onnx_graph.card import STORAGE
from compress_cli.onnx_graph.packing import Storage
from compress_cli.quantization.tracing import BATCH, quiet, trace

CHATTER = ("torch.onnx._internal.exporter._registration", "torch.onnx._internal.exporter._core", "onnxscript", "onnx_ir")


class Onnx(Exporter):
    """One self-contained ONNX file: batch norms folded, open batch axis, nothing in it but what a runtime reads.

    The same network gives the same bytes. Intermediate values get short names; weights keep those they have in PyTorch.

    Weights with many zeros, or few different values, take less space: `storage` packs them without loss, and standard
    operators (Gather, CumSum, BitShift, ScatterElements, ...) rebuild them once, when a runtime opens the file. Outputs and
    speed are those of a dense file; opening it takes longer. Forms: `bitmask`, for each weight a bit that says whether it
    is other than 0, and the values that are; `index_delta`, these values and the distances between them in 1 to 8 bits
    (Han et al. 2016, arXiv:1510.00149); `codebook`, for each weight the number of its value, in 1 to 8 bits; or one of the
    first two with the values as numbers in a codebook.

        exporter: {type: onnx, storage: index_delta+codebook}
    """

    opset: int = Field(20, ge=18, le=25, description="version of ONNX's operators; older runtimes need an older one")
    ir: int = Field(10, ge=8, le=13, description="version of the file format itself; must be one that knows the opset")

    storage: Storage = Field(
        "auto",
        description="how weights are stored; auto: each tensor in the form that takes the fewest bytes, and dense where none "
        "saves a fifth; another form: wherever it takes fewer bytes than dense",
    )

    @model_validator(mode="after")
    def _fits(self) -> Onnx:
        needed = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", self.opset)])
        if self.ir < needed:
            raise ValueError(f"opset {self.opset} needs ir {needed} or later (got {self.ir})")
        return self

    def export(
        self, network: nn.Module, signature: Signature, example: tuple[Tensor, ...], path: Path, metadata: dict[str, str]
    ) -> None:
        """Write `network` (evaluation mode) to `path`; `example` holds two samples or more.

        StageError where the graph can't be recorded, or ONNX has no counterpart of an operator."""
        with torch.no_grad():
            heads = list(network(*example))  # in the order in which the model gives them
        model = self._convert(network, example, signature, heads)
        _name_open_axes(model)
        files.strip(model)
        files.drop_defaults(model)
        alignment.align(model)
        weights = network.state_dict()
        files.shorten_names(model, keep=set(weights))
        model.ir_version = self.ir
        unfolded = {name: weight.numpy() for name, weight in weights.items() if weight.dtype == torch.float32}
        self._write(model, path, metadata, unfolded)

    def write(self, model: onnx.ModelProto, path: Path, metadata: dict[str, str]) -> None:
        """Write a graph with its weights packed as `storage` says; the card says what the bytes hold.

        StageError where that makes no weight smaller, or the graph is not valid."""
        self._write(model, path, metadata, {})

    def _write(self, model: onnx.ModelProto, path: Path, metadata: dict[str, str], unfolded: dict[str, np.ndarray]) -> None:
        present = {entry.key: entry.value for entry in model.metadata_props if entry.key != STORAGE}
        onnx.helper.set_model_props(model, present)
        forms = packing.pack(model, self.storage, unfolded)
        if not forms and self.storage not in ("auto", "dense"):
            raise StageError(
                f"storage: {self.storage} makes no weight tensor smaller: they hold too few zeros, or too many different "
                "values, or the file is of an opset before 18; prune or share weights before, or leave 'storage' out"
            )
        try:
            files.write(model, path, metadata)
            account = ""
            while forms and metadata and account != (account := json.dumps(packing.account(model), sort_keys=True)):
                files.write(model, path, {**metadata, STORAGE: account})  # the card is a part of what it counts
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise StageError(f"the exported graph is not valid ONNX: {_first_line(error)}") from None

    def _convert(
        self, network: nn.Module, example: tuple[Tensor, ...], signature: Signature, heads: list[str]
    ) -> onnx.ModelProto:
        import torch.onnx
        from torch.onnx.errors import OnnxExporterError

        try:
            with (
                torch.no_grad()
            ):  # with gradients attention may take another kernel in one pass over the graph than in the next
                graph = trace(network, example, signature.open_axes)
                with quiet(*CHATTER), _translations.kept():
                    program = torch.onnx.export(
                        graph, dynamo=True, external_data=False, verbose=False,
                        input_names=list(signature.inputs), output_names=heads, opset_version=self.opset,
                    )  # fmt: skip
        except OnnxExporterError as error:
            raise StageError(f"ONNX (opset {self.opset}) has no counterpart of {_operator(error)}") from None
        assert program is not None
        model: onnx.ModelProto = program.model_proto
        written = next(opset.version for opset in model.opset_import if opset.domain == "")
        if written != self.opset:
            raise StageError(f"the model can't be written in opset {self.opset}, only in {written}: set `opset: {written}`")
        return model


def _name_open_axes(model: onnx.ModelProto) -> None:
    """Call the first axis of inputs and outputs `batch` and further open ones `length`, whatever symbols the tracer drew."""
    symbols: dict[str, str] = {}
    for port in model.graph.input:
        first, *others = port.type.tensor_type.shape.dim
        symbols.setdefault(first.dim_param, BATCH)
        for axis in others:
            if axis.dim_param and axis.dim_param not in symbols:
                further = len(symbols) - 1
                symbols[axis.dim_param] = f"length_{further + 1}" if further else "length"
    for port in (*model.graph.input, *model.graph.output):
        for axis in (axis for axis in port.type.tensor_type.shape.dim if axis.dim_param):
            for symbol, name in symbols.items():
                axis.dim_param = re.sub(rf"\b{re.escape(symbol)}\b", name, axis.dim_param)


def _operator(error: BaseException) -> str:
    """The operator that the exporter stumbled over, out of its report."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    for cause in reversed(causes):
        match = re.search(r"\b((?:aten|torchvision|quantized_decomposed|prims|[a-z_]+)[.:]+[a-z]\w+(?:\.\w+)?)", str(cause))
        if match and type(cause).__name__ == "DispatchError":
            return f"the operator {match[1]}"
    return f"an operator of this model ({_first_line(causes[-1])})"


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
