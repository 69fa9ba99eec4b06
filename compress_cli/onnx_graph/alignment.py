"""First convolutions of integers whose channels are filled up to a multiple of four, which ONNX Runtime's fast kernels read.

Its integer convolutions read four channels at once. For pictures of one or three channels it falls back to a matrix product
over copies of each patch, which took a seventh of a MobileNetV2's time. A channel of zeros, whose weights are zeros too,
changes no sum: the outputs are the same bit for bit.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compress_cli.onnx_graph.graph import attribute, bodies, opset

TOGETHER = 4  # channels that the kernels read at once
FEWEST_OUTPUTS = 16  # of a layer with such a kernel; they are a multiple of four as well
MOST_FILLED = 64
"""Products with zeros for each output, at most: 5 x 5 weights of one channel (75) gain nothing, 80 of a waveform (240) are
2.6 times as slow."""
OLDEST_OPSET = 13  # that pads integers


def align(model: onnx.ModelProto) -> int:
    """Let each first convolution of uint8 with int8 weights read filled channels; returns how many do so now.

    The weights stay as they are in the file, and are filled once, when a runtime opens it. Only where integers begin: inside
    a network the copy of the values costs more than it brings."""
    if opset(model) < OLDEST_OPSET or any(True for node in model.graph.node for _ in bodies(node)):
        return 0
    return _Aligning(model.graph).run()


class _Aligning:
    """One graph on its way."""

    def __init__(self, graph: onnx.GraphProto):
        self.graph = graph
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.makers = {name: node for node in graph.node for name in node.output}
        self.names = {*self.constants, *self.makers, *(port.name for port in (*graph.input, *graph.output))}
        self.entering = _entering(graph)
        self.filled: dict[tuple[str, int], str] = {}  # (value, channels) -> the value with so many more
        self.margins: dict[tuple[int, int], str] = {}  # (axes, channels) -> the constant that says so

    def run(self) -> int:
        count, nodes = 0, list[onnx.NodeProto]()
        for node in self.graph.node:
            missing = self._missing(node)
            if missing:
                for position in (0, 1):
                    nodes += self._fill(node, position, missing)
                count += 1
            nodes.append(node)
        if count:
            read = {name for node in nodes for name in node.input} | {output.name for output in self.graph.output}
            kept = [node for node in nodes if node.op_type != "DequantizeLinear" or read.intersection(node.output)]
            copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
            self.graph.ClearField("node")
            self.graph.node.extend(copies)
        return count

    def _missing(self, node: onnx.NodeProto) -> int:
        """Channels that a convolution lacks; 0 where it is not to be filled."""
        if node.op_type != "Conv" or node.domain not in ("", "ai.onnx") or attribute(node, "group", 1) != 1:
            return 0
        values, weights = (self._dequantised(name) for name in node.input[:2])
        if values is None or weights is None or values.input[0] not in self.entering:
            return 0
        codes = self.constants.get(weights.input[0])
        if codes is None or codes.data_type != TensorProto.INT8 or not self._is_symmetric(weights):
            return 0
        outputs, channels, *kernel = codes.dims
        missing = -channels % TOGETHER
        fits = outputs >= FEWEST_OUTPUTS and outputs % TOGETHER == 0 and missing * math.prod(kernel) <= MOST_FILLED
        return missing if fits else 0

    def _dequantised(self, name: str) -> onnx.NodeProto | None:
        maker = self.makers.get(name)
        return maker if maker is not None and maker.op_type == "DequantizeLinear" else None

    def _is_symmetric(self, weights: onnx.NodeProto) -> bool:
        """Whether the integer 0 stands for 0."""
        if len(weights.input) < 3 or not weights.input[2]:
            return True
        point = self.constants.get(weights.input[2])
        return point is not None and not numpy_helper.to_array(point).any()

    def _fill(self, node: onnx.NodeProto, position: int, missing: int) -> list[onnx.NodeProto]:
        """Let the convolution read filled integers; the nodes that make them."""
        before, made = self.makers[node.input[position]], list[onnx.NodeProto]()
        integers = before.input[0]
        if (integers, missing) not in self.filled:
            rank = len(self.constants[self.makers[node.input[1]].input[0]].dims)  # the input has as many axes as the weights
            filled = self._new(f"{integers}_filled")
            made.append(helper.make_node("Pad", [integers, self._margins(rank, missing)], [filled], name=filled))
            self.filled[integers, missing] = filled
        copy = onnx.NodeProto.FromString(before.SerializeToString())
        copy.input[0] = self.filled[integers, missing]
        copy.output[0] = copy.name = node.input[position] = self._new(f"{copy.input[0]}_dequantised")
        self.makers[copy.output[0]] = copy
        return [*made, copy]

    def _margins(self, rank: int, missing: int) -> str:
        """The constant that says: so many channels behind the others."""
        if (rank, missing) not in self.margins:
            margins = np.zeros(2 * rank, np.int64)  # before each axis, then behind each
            margins[rank + 1] = missing
            name = self.margins[rank, missing] = self._new(f"channels_{missing}_of_{rank}")
            self.graph.initializer.append(numpy_helper.from_array(margins, name))
        return self.margins[rank, missing]

    def _new(self, name: str) -> str:
        while name in self.names:
            name += "_"
        self.names.add(name)
        return name


def _entering(graph: onnx.GraphProto) -> set[str]:
    """Values of uint8 that come of no other integers: those with which integers begin."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    fixed, later, entering = {*constants}, set[str](), set[str]()
    for node in graph.node:
        if fixed.issuperset(filter(None, node.input)):
            fixed.update(node.output)
        elif later.intersection(node.input) or node.op_type == "DequantizeLinear":
            later.update(node.output)
        elif node.op_type == "QuantizeLinear":
            point = constants.get(node.input[2]) if len(node.input) > 2 else None
            if point is not None and point.data_type == TensorProto.UINT8:
                entering.update(node.output)
    return entering
