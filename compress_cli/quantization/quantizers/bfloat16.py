"""The upper half of float32."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from pydantic import Field, field_validator

from compress_cli.errors import StageError
from compress_cli.onnx_graph import files
from compress_cli.quantization import layers, opset, overrides, source
from compress_cli.quantization.layers import FEWEST
from compress_cli.quantization.overrides import Widths
from compress_cli.quantization.packing import Packer
from compress_cli.quantization.quantizers import Quantizer

OLDEST_OPSET = 13  # the first whose Cast takes bfloat16


class Bfloat16(Quantizer):
    """Weights as the upper 16 bits of float32: half the bytes, its whole range, 8 significant bits (Kalamkar et al. 2019,
    arXiv:1905.12322).

    They become float32 when a session starts, and the file runs at float speed. ONNX Runtime's CPU kernels do not compute in
    bfloat16.
    """

    weight_bits: ClassVar[tuple[int, int]] = (16, 16)

    computing: bool = Field(False, description="only false: ONNX Runtime loads no file that computes in bfloat16 on a CPU")

    @field_validator("computing")
    @classmethod
    def _loads(cls, computing: bool) -> bool:
        if computing:
            raise ValueError("ONNX Runtime's CPU kernels don't compute in bfloat16; leave it out (storage), or take float16")
        return computing

    def quantize_onnx(self, model: Path, name: str, batches: Iterable[dict[str, np.ndarray]], output: Path) -> dict[str, Any]:
        original = source.load(model)
        source.check(original, name, layers.WITH_WEIGHTS)
        facts: dict[str, Any] = {"stored_in": "bfloat16"}
        later, first = original, next(iter(batches), None)
        if opset.version(original) < OLDEST_OPSET:
            if first is None:
                raise StageError(f"{name}: there are no samples to prove its conversion to opset {OLDEST_OPSET} on")
            later, facts["converted"] = opset.converted(original, OLDEST_OPSET, first, name, "has no bfloat16")
        known = layers.aliases(later)
        simple = source.simplified(later, name)
        found = layers.layers(simple, known)
        overrides.check(self.overrides, (layer.name for layer in found))
        widths = {layer.weight: overrides.widths(self.overrides, layer.name, Widths(16, None)) for layer in found}
        stays = {weight for weight, width in widths.items() if width.weights is None}
        packer, rounded = Packer(simple), dict[str, np.ndarray]()
        for tensor in simple.graph.initializer:
            array = numpy_helper.to_array(tensor) if tensor.data_type == TensorProto.FLOAT else np.empty(0)
            if array.size >= FEWEST and tensor.name not in stays and np.isfinite(array).all():
                halves = _upper_halves(array)
                rounded[tensor.name] = (halves.astype(np.uint32) << 16).view(np.float32)
                raw = halves.astype("<u2").tobytes()
                packer.store_cast(tensor.name, helper.make_tensor("", TensorProto.BFLOAT16, array.shape, raw, raw=True))
        if not any(layer.weight in rounded for layer in found):
            raise StageError(f"{name}: nothing was quantised: no layer of it has {FEWEST} weights, or all are to stay float")
        facts["layers"] = [
            layers.stored_fact(layer, layers.array(simple, layer.weight), rounded[layer.weight], 16)
            for layer in found
            if layer.weight in rounded
        ]
        packer.finish()
        layers.write(simple, original, output, found)
        facts["left_float"] = [f"{layer.name}: {layer.operator}" for layer in found if layer.weight not in rounded]
        return facts | {"operators": files.operators(files.load(output))}


def _upper_halves(array: np.ndarray) -> np.ndarray:
    """Rounded to the nearest, ties to even."""
    whole = np.ascontiguousarray(array, np.float32).view(np.uint32).astype(np.uint64)
    return ((whole + 0x7FFF + ((whole >> 16) & 1)) >> 16).astype(np.uint16)
