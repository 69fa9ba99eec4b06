"""Which values of an ONNX graph become integers, so that ONNX Runtime runs whole stretches of it in integer kernels.

ONNX Runtime replaces an operator by its integer kernel when all that goes in comes out of a DequantizeLinear, and what
comes out goes into a QuantizeLinear. (`annotation` decides the same for graphs of PyTorch.)
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from compress_cli.onnx_graph import graph as reading
from compress_cli.onnx_graph import quantised
from compress_cli.onnx_graph.quantised import LOGITS
from compress_cli.quantization.layers import Layer
from compress_cli.quantization.overrides import Widths

VERSION = 5  # first convolutions read filled channels
KERNELS = {"AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid", "Softmax"}  # one input, a range of its own
PAIRS = {"Add", "Mul"}
MOVES = {"DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Pad", "Reshape", "Resize", "Slice",
         "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"}  # fmt: skip
"""Operators whose results are among the values that go in: they keep their range."""
RECTIFIERS = {"Clip", "Relu"}
CONTRACTIONS = {"Conv", "Gemm", "MatMul"}


@dataclass
class Placement:
    """What computes in integers, and which values lie between."""

    nodes: dict[str, onnx.NodeProto] = field(default_factory=dict)  # by name
    weighted: dict[str, Layer] = field(default_factory=dict)  # node name -> its layer, of contractions in integers
    inputs: dict[str, str] = field(default_factory=dict)  # node name -> the value that goes into it, of those
    range_of: dict[str, str] = field(default_factory=dict)  # quantised value -> the value whose range it has
    results: set[str] = field(default_factory=set)  # quantised values that an integer kernel gives: all read them rounded
    opened: set[str] = field(default_factory=set)  # results that stay float: logits must not tie
    bits: dict[str, int] = field(default_factory=dict)  # quantised value -> bits, where not 8

    scaled: dict[str, tuple[str, float]] = field(default_factory=dict)
    """Quantised value -> the value that it is a multiple of, and by how much: its integers are the same, with other steps."""

    @property
    def measured(self) -> list[str]:
        """Values whose ranges are needed."""
        return [value for value in dict.fromkeys(self.range_of.values()) if value not in self.scaled]

    def root(self, value: str) -> tuple[str, float]:
        """The measured value that a quantised one is a multiple of, and by how much."""
        source, factor = self.range_of.get(value, value), 1.0
        while source in self.scaled:
            before, times = self.scaled[source]
            source, factor = self.range_of.get(before, before), factor * times
        return source, factor


def place(
    model: onnx.ModelProto,
    layers: list[Layer],
    widths: Callable[[Layer], Widths],
    floating: Collection[str] = (),
    joins: Collection[str] = (),
) -> Placement:
    """The placement in a graph of opset 13 or later; `widths` gives each layer's bits. Values in `floating` stay float.
    `joins`: results that are computed in float, and that contractions alone may round."""
    return _Placing(model, layers, widths, floating, joins).placement


class _Placing:
    def __init__(
        self,
        model: onnx.ModelProto,
        layers: list[Layer],
        widths: Callable[[Layer], Widths],
        floating: Collection[str],
        joins: Collection[str],
    ):
        graph = model.graph
        self.placement = Placement()
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.outputs = {output.name for output in graph.output}
        self.users: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self.users[name].append(node)
        self.reads = Counter(name for node in graph.node for name in node.input)
        self.layers = {layer.node: layer for layer in layers if layer.operator in CONTRACTIONS}
        self.widths = widths
        self.floating = floating
        self.joins = {*joins}  # and parts of them
        self.sums: set[str] = set()  # matrix products with their biases, in float: products of them are integers again
        kinds = quantised.kinds(model)
        self.others = {name for name, kind in kinds.items() if kind not in (TensorProto.FLOAT, TensorProto.UNDEFINED)}
        self.makers = {output: node for node in graph.node for output in node.output}
        self.inner = {name for node in graph.node for body in reading.bodies(node) for part in body.node for name in part.input}
        for node in graph.node:
            self._take(node)

    def _take(self, node: onnx.NodeProto) -> None:
        if self.floating and {*node.input, *node.output, *self._rectified(node)} & {*self.floating}:
            return
        if (
            node.output[0] in self.joins
            or node.name in self.placement.nodes
            or node.domain not in ("", "ai.onnx")
            or not self._are_float(node)
        ):
            return
        quantised = self.placement.range_of
        moving = [name for name in node.input if name and name not in self.constants]
        match node.op_type:
            case "Conv" | "Gemm" | "MatMul" if node.name in self.layers:
                self._contract(node)
            case "MatMul" if len(moving) == 2 and (quantised.keys() | self.sums) & set(moving):
                self._compute(node, moving)
            case "Add" if self._is_bias(node):
                self.sums.update(node.output)
            case "Mul" if quantised.keys() & set(moving) and (factor := self._factor(node)):
                self.placement.nodes[node.name] = node
                self.placement.scaled[node.output[0]] = (moving[0], factor)
                self._result(node.output[0], node.output[0])
            case "Add" | "Mul" if quantised.keys() & set(moving):
                self._compute(node, [*node.input])
            case "Concat" if quantised.keys() & set(moving):
                self._compute(node, [*node.input])
            case "Softmax" if self._is_shown(node.output[0]):
                return  # of a thousand classes most have less than one of 255 steps
            case operator if operator in KERNELS and node.input[0] in quantised:
                self._compute(node, [node.input[0]])
            case operator if operator in RECTIFIERS and node.input[0] in quantised:
                self._compute(node, [node.input[0]])
            case operator if operator in MOVES and node.input[0] in self.sums and self._keeps_range(node):
                self.sums.update(node.output)
            case operator if operator in MOVES and node.input[0] in quantised and self._keeps_range(node):
                self.placement.nodes[node.name] = node
                for output in node.output:
                    self._result(output, quantised[node.input[0]])

    def _contract(self, node: onnx.NodeProto) -> None:
        layer = self.layers[node.name]
        bits = self.widths(layer)
        if layer.position != 1 or bits.weights is None or bits.activations is None or not 2 <= bits.weights <= 8:
            return
        settings = {entry.name: entry.f for entry in node.attribute}
        if node.op_type == "Gemm" and (reading.attribute(node, "transA", 0) or settings.get("beta", 1.0) != 1):
            return
        if node.op_type == "Conv" and len(node.input) > 2 and node.input[2] and node.input[2] not in self.constants:
            return
        if bits.activations != 8:
            source, _ = self.placement.root(node.input[0])
            self.placement.bits[source] = min(bits.activations, self.placement.bits.get(source, 8))
        self.placement.weighted[node.name] = layer
        self.placement.inputs[node.name] = node.input[0]
        self._compute(node, [node.input[0]])

    def _compute(self, node: onnx.NodeProto, inputs: list[str]) -> None:
        """A kernel with these operands and a range of its own, that of the rectifier behind it where there is one."""
        placement = self.placement
        placement.nodes[node.name] = node
        for name in inputs:
            placement.range_of.setdefault(name, name)
        output = node.output[0]
        rectifier = self._rectifier(output) if node.op_type not in RECTIFIERS else None
        if rectifier is not None:
            placement.nodes[rectifier.name] = rectifier
            output = rectifier.output[0]
        is_open = self._leads_out(output) or all(self._is_bias(user) for user in self.users[output])
        if node.op_type in LOGITS and is_open:
            placement.opened.add(output)
        else:
            self._result(output, output)

    def _leads_out(self, name: str) -> bool:
        """Whether a value is a head, as it is, times and plus constants, or in a softmax: 8 bits would make it coarse in the
        target's unit."""
        users = self.users[name]
        fixed = (
            (user.op_type == "Softmax" or (user.op_type in ("Mul", "Add") and self._is_fixed(user)))
            and self._leads_out(user.output[0])
            for user in users
        )
        return name in self.outputs or (bool(users) and name not in self.inner and all(fixed))

    def _is_shown(self, name: str) -> bool:
        """Whether a value leaves the graph, at most in another shape."""
        moved = [user.output[0] for user in self.users[name] if user.op_type in MOVES and user.input[0] == name]
        return self._leads_out(name) or any(map(self._is_shown, moved))

    def _is_fixed(self, node: onnx.NodeProto) -> bool:
        return any(name in self.constants for name in node.input)

    def _result(self, name: str, range_of: str) -> None:
        self.placement.range_of[name] = range_of
        self.placement.results.add(name)

    def _rectified(self, node: onnx.NodeProto) -> list[str]:
        rectifier = self._rectifier(node.output[0]) if node.op_type not in RECTIFIERS else None
        return [*rectifier.output] if rectifier is not None else []

    def _rectifier(self, name: str) -> onnx.NodeProto | None:
        """The only reader of a value, where it cuts it off at 0 as the first of 256 integers does."""
        users = self.users[name]
        if len(users) != 1 or self.reads[name] != 1 or name in self.outputs or name in self.inner:
            return None
        user = users[0]
        from_zero = user.op_type == "Clip" and reading.number(user, 1, self.constants) == 0
        return user if user.op_type == "Relu" or from_zero else None

    def _factor(self, node: onnx.NodeProto) -> float:
        """The positive number that it multiplies with; 0 where it is none, or not one."""
        tensor = next((self.constants[name] for name in node.input if name in self.constants), None)
        if tensor is None or np.prod(tensor.dims) != 1 or len(tensor.dims) > 1:
            return 0.0
        factor = float(numpy_helper.to_array(tensor).reshape(-1)[0])
        return factor if 0 < factor < np.inf else 0.0

    def _is_bias(self, node: onnx.NodeProto) -> bool:
        """Whether it adds constants to a matrix product: 8 bits of its own would make them coarser than the sums."""
        sources = [name for name in node.input if name not in self.constants]
        constant = next((self.constants[name] for name in node.input if name in self.constants), None)
        is_sum = node.op_type == "Add" and len(sources) == 1 and constant is not None and np.prod(constant.dims) > 1
        maker = self.makers.get(sources[0]) if is_sum else None
        return maker is not None and maker.op_type == "MatMul"

    def _keeps_range(self, node: onnx.NodeProto) -> bool:
        """Whether no value is new: no fill but 0, no overshooting curve."""
        modes = {entry.name: entry.s.decode() for entry in node.attribute if entry.s}
        if node.op_type == "Resize":
            return modes.get("mode", "nearest") in ("nearest", "linear")
        if node.op_type == "Pad":
            has_fill = len(node.input) > 2 and node.input[2]
            return modes.get("mode", "constant") != "constant" or not has_fill or reading.number(node, 2, self.constants) == 0
        return node.op_type != "MaxPool" or len(node.output) == 1

    def _are_float(self, node: onnx.NodeProto) -> bool:
        return not self.others & {node.output[0], *node.input[:1]}
