"""Outliers of activations, moved into weights."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx
from onnx import helper, numpy_helper
from pydantic import Field

from compress_cli.quantization import layers, ranges
from compress_cli.quantization.layers import Layer
from compress_cli.quantization.recoveries import Job, Recovery

SMALLEST = 1e-5
OUTLIER = 4.0  # times the median channel


class SmoothQuant(Recovery):
    """Divides each channel of what goes into linear layers by a factor, and multiplies the weights that read it with the same:
    a few channels with large values no longer make the steps of all others coarse (Xiao et al. 2023, arXiv:2211.10438).

    Factors are max |x|^strength / max |w|^(1 - strength) of each channel. They become part of a layer normalisation before,
    where nothing else reads it; elsewhere one multiplication is added, if the largest channel is 4 times the median one.
    """

    version: ClassVar[int] = 2  # leaves alone what branches read

    strength: float = Field(0.5, ge=0, le=1, description="how much moves into the weights: 0 nothing, 1 all")

    def rescale(self, job: Job) -> int:
        nodes = {node.name: node for node in job.model.graph.node}
        readers: dict[str, list[Layer]] = {}
        for name, layer in job.layers.items():
            if layer.operator in ("MatMul", "Gemm"):
                readers.setdefault(nodes[name].input[0], []).append(layer)
        largest = _largest(job, list(readers))
        return sum(self._smooth(job.model, nodes, value, readers[value], channels) for value, channels in largest.items())

    def _smooth(
        self, model: onnx.ModelProto, nodes: dict[str, onnx.NodeProto], value: str, reading: list[Layer], channels: np.ndarray
    ) -> bool:
        norm = _normalisation(model, value, {layer.node for layer in reading})
        if norm is None and channels.max() <= OUTLIER * np.median(channels):
            return False
        weights = {layer.weight: layers.array(model, layer.weight) for layer in reading}
        by_input = [np.moveaxis(weights[layer.weight], _input_axis(layer, weights), 0) for layer in reading]
        heights = np.max([np.abs(array.reshape(len(array), -1)).max(1) for array in by_input], 0)
        factors = np.maximum(channels, SMALLEST) ** self.strength / np.maximum(heights, SMALLEST) ** (1 - self.strength)
        factors = np.clip(factors, 1e-4, 1e4).astype(np.float32)
        changed = {}
        for layer in reading:
            array = weights[layer.weight]
            shape = [1] * array.ndim
            shape[_input_axis(layer, weights)] = -1
            changed[layer.weight] = array * factors.reshape(shape)
        if norm is not None:
            for name in norm.input[1:3]:
                changed[name] = layers.array(model, name) / factors
        else:
            _insert(model, nodes, value, factors, [layer.node for layer in reading])
        layers.replace(model, changed)
        return True


def _largest(job: Job, values: list[str]) -> dict[str, np.ndarray]:
    """Value -> the largest magnitude in each channel, the last axis."""
    largest: dict[str, np.ndarray] = {}
    for batch in ranges.values(job.model, values, job.samples):
        for name, array in batch.items():
            heights = np.abs(array.reshape(-1, array.shape[-1])).max(0)
            largest[name] = np.maximum(largest.get(name, heights), heights)
    return largest


def _normalisation(model: onnx.ModelProto, value: str, readers: set[str]) -> onnx.NodeProto | None:
    """The layer normalisation that gives a value, where only these nodes read it."""
    constants = {tensor.name for tensor in model.graph.initializer}
    maker = next((node for node in model.graph.node if value in node.output), None)
    others = [node for node in model.graph.node if value in layers.read(node) and node.name not in readers]
    is_output = value in {output.name for output in model.graph.output}
    if maker is None or maker.op_type != "LayerNormalization" or others or is_output or not {*maker.input[1:3]} <= constants:
        return None
    shared = [node for node in model.graph.node if node is not maker and {*maker.input[1:3]} & {*layers.read(node)}]
    return None if shared else maker


def _insert(
    model: onnx.ModelProto, nodes: dict[str, onnx.NodeProto], value: str, factors: np.ndarray, readers: list[str]
) -> None:
    name = f"{value}_smooth"
    model.graph.initializer.append(numpy_helper.from_array((1 / factors).astype(np.float32), f"{name}_factors"))
    product = helper.make_node("Mul", [value, f"{name}_factors"], [name], name=name)
    first = min(position for position, node in enumerate(model.graph.node) if node.name in readers)
    for reader in readers:
        nodes[reader].input[0] = name
    model.graph.node.insert(first, product)


def _input_axis(layer: Layer, weights: dict[str, np.ndarray]) -> int:
    rank = weights[layer.weight].ndim
    return rank - 2 if layer.axis == rank - 1 else rank - 1
