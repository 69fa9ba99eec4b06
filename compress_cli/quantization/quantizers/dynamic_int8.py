"""Dynamic int8: ranges of activations are found while running."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
from pydantic import Field

from compress_cli.errors import StageError
from compress_cli.onnx_graph import files
from compress_cli.quantization import grids, layers, opset, overrides, processor, source
from compress_cli.quantization.layers import FEWEST, Layer
from compress_cli.quantization.overrides import Widths
from compress_cli.quantization.packing import Packer
from compress_cli.quantization.quantizers import Quantizer
from compress_cli.quantization.tracing import without_warnings

OLDEST_OPSET = 11  # the first with DynamicQuantizeLinear
KERNELS = ("MatMul", "Gemm", "Gather", "LSTM")
STORED = ("GRU", "RNN")  # no integer kernel: their weights are stored as integers and computed with in float
INTEGER = {"MatMulInteger", "DynamicQuantizeLSTM", "DequantizeLinear"}


class DynamicInt8(Quantizer):
    """int8 weights, and uint8 activations whose range is found anew for each input: no calibration (Zafrir et al. 2019,
    arXiv:1910.06188).

    For matrix products, embeddings and LSTMs: transformers become 1.9 to 2.7 times faster at a signal over noise of 30 to
    40 dB. Weights of GRUs and plain recurrent layers are stored in 8 bits and computed with in float. Convolutions stay float,
    and are named: in this form they would be 6 times slower.
    """

    weight_bits: ClassVar[tuple[int, int]] = (8, 8)
    computes_in_integers: ClassVar[bool] = True

    reduce_range: bool | None = Field(
        None,
        description="weights of 7 bits: x86 processors without VNNI add two products in 16 bits, which 8-bit weights overflow; "
        "default: where this machine is one of them. Set it where the file runs elsewhere",
    )
    per_channel: bool = Field(True, description="a scale for each output channel; without, one for all of a layer's weights")

    def resolved(self) -> DynamicInt8:
        if self.reduce_range is not None:
            return self
        return self.model_copy(update={"reduce_range": not processor.sums_are_exact()})

    def quantize_onnx(self, model: Path, name: str, batches: Iterable[dict[str, np.ndarray]], output: Path) -> dict[str, Any]:
        original = source.load(model)
        source.check(original, name, layers.WITH_WEIGHTS)
        facts: dict[str, Any] = {}
        later = original
        if opset.version(original) < OLDEST_OPSET:
            first = next(iter(batches), None)
            if first is None:
                raise StageError(f"{name}: there are no samples to prove its conversion to opset {OLDEST_OPSET} on")
            later, facts["converted"] = opset.converted(original, OLDEST_OPSET, first, name, "has no dynamic ranges")
        known = layers.aliases(later)
        simple = source.simplified(later, name)
        found = layers.layers(simple, known)
        overrides.check(self.overrides, (layer.name for layer in found))
        chosen = [layer for layer in found if self._fits(layer)]
        arrays = {layer.weight: layers.array(simple, layer.weight) for layer in found}
        as_products(simple, {layer.node for layer in chosen if layer.operator == "Gemm"})
        with source.failures_of_onnxruntime(name):
            result = self._quantized(simple, [layer for layer in chosen if layer.operator in KERNELS])
        if not INTEGER & files.operators(result).keys() and not any(layer.operator in STORED for layer in chosen):
            raise StageError(
                f"{name}: nothing was quantised: it has no matrix product, embedding or recurrent layer that is not to stay "
                "float; static_int8 is for convolutions"
            )
        floats = {tensor.name for tensor in result.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
        chosen = [layer for layer in chosen if layer.weight not in floats or layer.operator in STORED]
        packer = Packer(result)
        for layer in chosen:
            if layer.operator in STORED and layer.weight not in packer.replaced and arrays[layer.weight].size >= FEWEST:
                packer.store(layer.weight, grids.linear(arrays[layer.weight], 8, layer.axis))
        packer.finish()
        layers.write(result, original, output, found)
        names = {layer.name for layer in chosen}
        facts["layers"] = [
            layers.fact(layer.name, layer.operator, self._coded(layer, weights) if layer.name in names else None, weights)
            for layer, weights in ((layer, arrays[layer.weight]) for layer in found)
        ]
        floating = [layer for layer in found if layer.name not in names or layer.operator in STORED]
        facts["left_float"] = list(dict.fromkeys(f"{layer.name}: {layer.operator}" for layer in floating))
        return facts | {"operators": files.operators(files.load(output))}

    def _fits(self, layer: Layer) -> bool:
        stays_float = overrides.widths(self.overrides, layer.name, Widths(8, None)).weights is None
        return not stays_float and layer.operator in (*KERNELS, *STORED) and (layer.operator != "MatMul" or layer.position == 1)

    def _coded(self, layer: Layer, weights: np.ndarray) -> grids.Coded:
        axis = {"Gather": None, "LSTM": 0}.get(layer.operator, layer.axis) if self.per_channel else None
        return grids.linear(weights, 8, axis, largest=64 if self.reduce_range and layer.operator != "Gather" else None)

    def _quantized(self, simple: onnx.ModelProto, chosen: list[Layer]) -> onnx.ModelProto:
        """By ONNX Runtime's own tool; the model is used up."""
        from onnxruntime.quantization import QuantType, quantize_dynamic

        if not chosen:
            return simple
        with tempfile.TemporaryDirectory(prefix="compress-dynamic-") as folder, without_warnings("root"):
            before, after = Path(folder, "simple.onnx"), Path(folder, "dynamic.onnx")
            onnx.save(simple, before)
            quantize_dynamic(
                before, after, op_types_to_quantize=list(KERNELS), per_channel=self.per_channel,
                reduce_range=bool(self.reduce_range), weight_type=QuantType.QInt8,
                nodes_to_quantize=list(dict.fromkeys(layer.node for layer in chosen)),
                extra_options={"MatMulConstBOnly": True, "DefaultTensorType": onnx.TensorProto.FLOAT},
            )  # fmt: skip
            return files.load(after)


def as_products(model: onnx.ModelProto, gemms: set[str]) -> None:
    """Write linear layers of two axes as a matrix product and a sum, where they are no more than that: the dynamic kernel takes
    products alone. A weight that is stored by output is turned."""
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        settings = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
        plain = settings.get("alpha", 1) == 1 and settings.get("beta", 1) == 1 and not settings.get("transA", 0)
        if node.name not in gemms or not plain:
            nodes.append(node)
            continue
        weight, output = node.input[1], node.output[0]
        if settings.get("transB", 0):
            turned = f"{weight}_turned"
            if not any(tensor.name == turned for tensor in model.graph.initializer):
                array = np.ascontiguousarray(layers.array(model, weight).T)
                model.graph.initializer.append(onnx.numpy_helper.from_array(array, turned))
            weight = turned
        has_bias = len(node.input) > 2 and bool(node.input[2])
        product = f"{output}_product" if has_bias else output
        nodes.append(onnx.helper.make_node("MatMul", [node.input[0], weight], [product], name=node.name))
        if has_bias:
            nodes.append(onnx.helper.make_node("Add", [product, node.input[2]], [output], name=f"{node.name}_bias"))
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)
    layers.drop_unused(model.graph)
