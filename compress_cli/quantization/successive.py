"""Layers that follow each other: what one gives, the next alone reads, directly or through a rectifier."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from compress_cli.onnx_graph import graph as reading
from compress_cli.quantization.layers import Layer, read


@dataclass(frozen=True)
class Pair:
    """Two layers, and the limit above which what lies between them is cut off; infinite where nothing is."""

    first: Layer
    second: Layer
    limit: float = math.inf


def pairs(model: onnx.ModelProto, layers: Mapping[str, Layer], limits: Mapping[str, float] | None = None) -> list[Pair]:
    """Layers (node name -> layer) between which there is nothing, ReLUs, or these limits (node name -> number).

    Their weights and biases are read by nothing else.
    """
    graph, passed = model.graph, limits or {}
    users: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in {*read(node)}:
            users[name].append(node)
    outputs = {output.name for output in graph.output}
    reads = Counter(name for node in graph.node for name in read(node))
    shapes = {tensor.name: tensor for tensor in graph.initializer}
    found = []
    for node in graph.node:
        layer = layers.get(node.name)
        name, limit = node.output[0], math.inf
        while layer and name not in outputs and len(users[name]) == 1:
            rectifier = users[name][0]
            if rectifier.op_type != "Relu" and rectifier.name not in passed:
                break
            name, limit = rectifier.output[0], min(limit, passed.get(rectifier.name, math.inf))
        after = users[name]
        second = layers.get(after[0].name) if len(after) == 1 and after[0].input[0] == name else None
        if layer is None or second is None or name in outputs:
            continue
        sizes = [*shapes[layer.weight].dims], [*shapes[second.weight].dims]
        grouped = reading.attribute(after[0], "group", 1)
        fits = grouped == 1 or is_depthwise(after[0], sizes[1])
        width = sizes[1][0 if grouped > 1 else input_axis(second)]
        bias = node.input[2] if len(node.input) > 2 else ""
        is_alone = all(reads[constant] == 1 for constant in (layer.weight, second.weight, bias) if constant)
        has_bias = not bias or (bias in shapes and np.prod(shapes[bias].dims) == width)
        if fits and is_alone and has_bias and sizes[0][layer.axis] == width:
            found.append(Pair(layer, second, limit))
    return found


def limits(model: onnx.ModelProto) -> dict[str, float]:
    """Name of a node that cuts values off at 0 and at a number above, as ReLU6 does -> that number."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    clips = [node for node in model.graph.node if node.op_type == "Clip"]
    bounds = {node.name: (reading.number(node, 1, constants), reading.number(node, 2, constants)) for node in clips}
    return {name: high for name, (low, high) in bounds.items() if low == 0 and high is not None and high > 0}


def input_axis(layer: Layer) -> int:
    """Of the input channels, in the weight."""
    return 1 if layer.operator == "Conv" else 1 - layer.axis


def is_depthwise(node: onnx.NodeProto, shape: Sequence[int]) -> bool:
    """Whether each channel is convolved on its own, with weights of this shape."""
    return node.op_type == "Conv" and reading.attribute(node, "group", 1) == shape[0] and shape[1] == 1
