"""Biases of convolutions and linear layers, and what moves into them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from compress_cli.onnx_graph import graph as reading
from compress_cli.quantization import layers
from compress_cli.quantization.layers import Layer


def of_constant(weights: np.ndarray, layer: Layer, node: onnx.NodeProto, inputs: np.ndarray) -> np.ndarray:
    """(outputs,) that weights in a layer's node give for inputs (channels,) which are the same everywhere."""
    if layer.operator == "Gemm":
        factor = next((entry.f for entry in node.attribute if entry.name == "alpha"), 1.0)
        return np.asarray(weights @ inputs if layer.axis == 0 else inputs @ weights) * factor
    groups = reading.attribute(node, "group", 1)
    summed = weights.reshape(*weights.shape[:2], -1).sum(2)  # (outputs, inputs / groups)
    by_group = np.repeat(inputs.reshape(groups, -1), len(summed) // groups, 0)
    return np.asarray((summed * by_group).sum(1))


def subtract(model: onnx.ModelProto, node: onnx.NodeProto, amounts: np.ndarray) -> None:
    """Take (outputs,) off a node's bias, which is its own from then on."""
    if len(node.input) > 2 and node.input[2]:
        bias = layers.array(model, node.input[2])
        corrected = np.broadcast_to(bias.reshape(-1), amounts.shape) - amounts
        users = sum(name == node.input[2] for other in model.graph.node for name in layers.read(other))
        if users == 1:
            layers.replace(model, {node.input[2]: corrected.astype(np.float32)})
            return
    else:
        corrected = -amounts
    name = f"{node.name}_corrected_bias"
    model.graph.initializer.append(numpy_helper.from_array(corrected.astype(np.float32), name))
    if len(node.input) > 2:
        node.input[2] = name
    else:
        node.input.append(name)
