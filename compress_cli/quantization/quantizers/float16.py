"""Half precision."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from pydantic import Field

from compress_cli.errors import StageError
from compress_cli.onnx_graph import files
from compress_cli.quantization import layers, overrides, source
from compress_cli.quantization.layers import FEWEST
from compress_cli.quantization.overrides import Widths
from compress_cli.quantization.packing import Packer
from compress_cli.quantization.quantizers import Quantizer

LARGEST = float(np.finfo(np.float16).max)


class Float16(Quantizer):
    """Weights as IEEE half-precision numbers: half the bytes, 11 significant bits, magnitudes up to 65504.

    By default only storage changes: constants become float32 when a session starts, and the file runs at float speed. With
    `computing` all operators compute in half precision, which pays on GPUs; on a CPU it is no faster, often slower.
    """

    weight_bits: ClassVar[tuple[int, int]] = (16, 16)

    computing: bool = Field(False, description="compute in half precision too; inputs and outputs stay float32")

    def quantize_onnx(self, model: Path, name: str, batches: Iterable[dict[str, np.ndarray]], output: Path) -> dict[str, Any]:
        original = source.load(model)
        source.check(original, name, layers.WITH_WEIGHTS)
        known = layers.aliases(original)
        simple = source.simplified(original, name)
        found = layers.layers(simple, known)
        overrides.check(self.overrides, (layer.name for layer in found))
        widths = {layer.weight: overrides.widths(self.overrides, layer.name, Widths(16, None)) for layer in found}
        stays = {weight for weight, width in widths.items() if width.weights is None}
        arrays = {layer.weight: layers.array(simple, layer.weight) for layer in found}
        for layer in found:
            if layer.weight not in stays and not np.abs(arrays[layer.weight]).max() <= LARGEST:
                raise StageError(f"{name}: weights of '{layer.name}' are above 65504 or NaN: half precision can't hold them")
        if self.computing:
            nodes = [layer.node for layer in found if layer.weight in stays]
            simple = _computing(simple, nodes, name)
        else:
            _store(simple, {*arrays}, stays, name)
        layers.write(simple, original, output, found)
        facts = [layers.stored_fact(layer, arrays[layer.weight], arrays[layer.weight].astype(np.float16), 16)
                 for layer in found if layer.weight not in stays]  # fmt: skip
        left = [f"{layer.name}: {layer.operator}" for layer in found if layer.weight in stays]
        return {"layers": facts, "left_float": left, "stored_in": "float16", "operators": files.operators(files.load(output))}


def _store(model: onnx.ModelProto, weights: set[str], stays: set[str], name: str) -> None:
    """`weights`: constants of layers; those of them in `stays` stay float."""
    packer = Packer(model)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor) if tensor.data_type == TensorProto.FLOAT else np.empty(0)
        if array.size >= FEWEST and tensor.name not in stays and np.abs(array).max() <= LARGEST:
            packer.store_cast(tensor.name, numpy_helper.from_array(array.astype(np.float16)))
    if not packer.replaced & weights:
        raise StageError(f"{name}: nothing was quantised: no layer of it has {FEWEST} weights, or all are to stay float")
    packer.finish()


def _computing(model: onnx.ModelProto, floating: list[str], name: str) -> onnx.ModelProto:
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    converted: onnx.ModelProto = convert_float_to_float16(model, keep_io_types=True, node_block_list=floating)
    if not any(tensor.data_type == TensorProto.FLOAT16 for tensor in converted.graph.initializer):
        raise StageError(f"{name}: nothing was quantised: no operator of it has weights in half precision")
    OnnxModel(converted).topological_sort()
    return converted
