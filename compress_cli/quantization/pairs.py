"""Writes a placement into an ONNX graph: quantise/dequantise pairs, integer weights, biases in the scale of the sums."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compress_cli.quantization import grids, layers
from compress_cli.quantization.grids import Coded
from compress_cli.quantization.packing import Packer
from compress_cli.quantization.placement import Placement

LARGEST_BIAS = 2.0**30


@dataclass(frozen=True)
class Parameters:
    """Scale and zero point of a value in uint8."""

    scale: float
    zero_point: int
    bits: int = 8

    @classmethod
    def of(cls, low: float, high: float, bits: int = 8) -> Parameters:
        """For a range; where it starts at 0, its last step does not exceed `high`, so that a limit there is left out."""
        scale, zero_point = grids.affine_parameters(low, high, 0, 2**bits - 1)
        single = np.float32(scale)
        steps = np.float32(2**bits - 1)
        while low >= 0 and single * steps > np.float32(high) > 0:
            single = np.nextafter(single, np.float32(0))
        return cls(float(single), zero_point, bits)

    def times(self, factor: float) -> Parameters:
        """For the same integers, of a multiple of the value."""
        return Parameters(float(np.float32(self.scale * factor)), self.zero_point, self.bits) if factor != 1 else self

    @property
    def limits(self) -> tuple[float, float]:
        """The smallest and the largest number that it stands for."""
        return -self.zero_point * self.scale, (2**self.bits - 1 - self.zero_point) * self.scale


def safe(coded: Coded, weights: np.ndarray, bias: np.ndarray | None, input_scale: float, axis: int, largest: int) -> Coded:
    """The codes of weights; where a channel's steps are so small that its bias would not fit 32 bits, in larger ones."""
    if bias is None:
        return coded
    shape = [1] * weights.ndim
    shape[axis] = -1
    needed = (np.abs(bias).reshape(shape) / (input_scale * LARGEST_BIAS)).astype(np.float32)
    if (needed <= coded.scale).all():
        return coded
    scale = np.maximum(coded.scale, needed)
    kept = np.broadcast_to(scale == coded.scale, weights.shape)
    codes = np.where(kept, coded.codes, np.clip(np.round(weights / scale), -largest, largest)).astype(np.int8)
    return Coded(codes, coded.bits, scale)


class Writer:
    """Rewrites one graph."""

    def __init__(
        self, model: onnx.ModelProto, placement: Placement, parameters: dict[str, Parameters], arrays: dict[str, TensorProto]
    ):
        """`arrays`: the constants by name, those too that the model need not hold any more."""
        self.model = model
        self.placement = placement
        roots = {value: placement.root(value) for value in placement.range_of}
        self.parameters = {
            value: parameters[source].times(factor) for value, (source, factor) in roots.items() if source in parameters
        }
        self.arrays = arrays
        self.packer = Packer(model)
        self.added: dict[str, TensorProto] = {}
        self.reads: Counter[str] = Counter()  # value -> kernels that read it
        self.coded: dict[str, Coded] = {}  # weight -> its codes as written

    def write(self, weights: dict[str, Coded], stored: dict[str, Coded]) -> None:
        """`weights`: node name -> codes of its weights, a scale for each channel or one for all. `stored`: weight -> codes that
        become float when a session starts."""
        graph, placement = self.model.graph, self.placement
        nodes: list[onnx.NodeProto] = []
        for port in graph.input:
            if port.name in self.parameters and port.name not in placement.results:
                nodes += self._pair(port.name, port.name, f"{port.name}_rounded")
        for node in graph.node:
            if node.output[0] in placement.scaled:
                nodes.append(self._rescaled(node.output[0], node.output[0]))
                continue
            if node.name in placement.nodes:
                nodes += self._operands(node, weights.get(node.name))
            nodes.append(node)
            for position, name in enumerate(node.output):
                if name in placement.results:
                    node.output[position] = f"{name}_exact"
                    nodes += self._pair(f"{name}_exact", name, name)
                elif name in self.parameters:
                    nodes += self._pair(name, name, f"{name}_rounded")
        graph.ClearField("node")
        graph.node.extend(nodes)
        graph.initializer.extend(self.added.values())
        for name, coded in stored.items():
            self.packer.store(name, coded)
            self.coded[name] = coded
        self.packer.finish()
        layers.drop_unused(graph)

    def _rescaled(self, name: str, result: str) -> onnx.NodeProto:
        """A value out of its integers. Those of a product with a number are those of the other factor, with other steps."""
        source = name
        while source in self.placement.scaled:
            source, _ = self.placement.scaled[source]
        scale, zero = self._parameters(name, self.parameters[name])
        return helper.make_node("DequantizeLinear", [f"{source}_integers", scale, zero], [result], name=f"{result}_dequantize")

    def _operands(self, node: onnx.NodeProto, coded: Coded | None) -> list[onnx.NodeProto]:
        """Let a node read rounded values, and constants out of integers; the nodes that make these."""
        made: list[onnx.NodeProto] = []
        source = node.input[0]
        for position, name in enumerate(node.input):
            if node.name in self.placement.weighted and position:
                continue
            if name in self.arrays and name in self.parameters:
                made += self._constant(name)
                node.input[position] = f"{name}_rounded"
            elif name in self.parameters:
                self.reads[name] += 1
                if self.reads[name] > 1:  # each kernel takes in a DequantizeLinear of its own
                    node.input[position] = f"{name}_rounded{self.reads[name]}"
                    made.append(self._rescaled(name, node.input[position]))
                elif name not in self.placement.results:
                    node.input[position] = f"{name}_rounded"
        if coded is not None:
            made += self._weights(node, coded, self.parameters[source].scale)
        return made

    def _weights(self, node: onnx.NodeProto, coded: Coded, input_scale: float) -> list[onnx.NodeProto]:
        layer = self.placement.weighted[node.name]
        name, made = layer.weight, list[onnx.NodeProto]()
        bias = node.input[2] if len(node.input) > 2 and node.input[2] else ""
        values = numpy_helper.to_array(self.arrays[bias]).reshape(-1) if bias else None
        largest = 2 ** (coded.bits - 1) - 1
        safely = safe(coded, numpy_helper.to_array(self.arrays[name]), values, input_scale, layer.axis, largest)
        coded = self.coded.get(name, safely)
        scales = np.broadcast_to(coded.scale.reshape(-1), self.arrays[name].dims[layer.axis])
        per_channel = coded.scale.size > 1
        if name not in self.coded:
            self.coded[name] = coded
            self.packer.store_integers(f"{name}_quantized", coded.codes, coded.bits)
            self._add(f"{name}_scale", scales if per_channel else coded.scale.reshape(()))
            self._add(f"{name}_zero", np.zeros(len(scales) if per_channel else (), np.int8))
        made.append(self._dequantize(f"{name}_quantized", f"{name}_scale", f"{name}_zero", node, 1, layer.axis, per_channel))
        if bias and values is not None:
            rounded = f"{bias}_of_{node.name}"
            scale = (np.float32(input_scale) * scales.astype(np.float32)).astype(np.float32)
            sums = np.broadcast_to(values, scale.shape)
            limit = 2**31 - 1
            codes = np.clip(np.round(sums / scale.astype(np.float64)), -limit, limit).astype(np.int32)
            self._add(f"{rounded}_quantized", codes)
            self._add(f"{rounded}_scale", scale if per_channel else scale[:1].reshape(()))
            self._add(f"{rounded}_zero", np.zeros(len(scale) if per_channel else (), np.int32))
            made.append(
                self._dequantize(f"{rounded}_quantized", f"{rounded}_scale", f"{rounded}_zero", node, 2, 0, per_channel)
            )
        return made

    def _dequantize(
        self, codes: str, scale: str, zero: str, node: onnx.NodeProto, position: int, axis: int, per_channel: bool
    ) -> onnx.NodeProto:
        result = f"{node.name}_operand{position}"
        node.input[position] = result
        axes: dict[str, Any] = {"axis": axis} if per_channel else {}
        return helper.make_node("DequantizeLinear", [codes, scale, zero], [result], name=f"{result}_dequantize", **axes)

    def _constant(self, name: str) -> list[onnx.NodeProto]:
        if f"{name}_integers" in self.added:
            return []
        parameters = self.parameters[name]
        values = numpy_helper.to_array(self.arrays[name])
        codes = grids.affine(values, parameters.scale, parameters.zero_point, 0, 2**parameters.bits - 1).astype(np.uint8)
        self._add(f"{name}_integers", codes)
        scale, zero = self._parameters(name, parameters)
        return [
            helper.make_node(
                "DequantizeLinear", [f"{name}_integers", scale, zero], [f"{name}_rounded"], name=f"{name}_dequantize"
            )
        ]

    def _pair(self, source: str, name: str, result: str) -> list[onnx.NodeProto]:
        """Round `source` with the parameters of `name`, and call the number that comes out `result`."""
        parameters = self.parameters[name]
        scale, zero = self._parameters(name, parameters)
        made = []
        if parameters.bits < 8:  # 255 is the last of uint8: fewer steps are cut off before
            low, high = (self._shared(f"limit_{limit!r}", np.float32(limit)) for limit in parameters.limits)
            made.append(helper.make_node("Clip", [source, low, high], [f"{source}_cut"], name=f"{source}_cut"))
            source = f"{source}_cut"
        integers = f"{name}_integers"
        made.append(helper.make_node("QuantizeLinear", [source, scale, zero], [integers], name=f"{name}_quantize"))
        made.append(helper.make_node("DequantizeLinear", [integers, scale, zero], [result], name=f"{name}_dequantize"))
        return made

    def _parameters(self, name: str, parameters: Parameters) -> tuple[str, str]:
        return (
            self._shared(f"scale_{parameters.scale!r}", np.float32(parameters.scale)),
            self._shared(f"zero_{parameters.zero_point}", np.uint8(parameters.zero_point)),
        )

    def _shared(self, name: str, value: np.ndarray | np.generic) -> str:
        return self._add(name, value)

    def _add(self, name: str, array: np.ndarray | np.generic) -> str:
        self.added[name] = numpy_helper.from_array(np.ascontiguousarray(array).reshape(np.shape(array)), name)
        return name
