"""The same range for all channels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import onnx
from onnx import numpy_helper
from pydantic import Field

from compress_cli.quantization import layers, ranges, successive
from compress_cli.quantization.recoveries import Job, Recovery
from compress_cli.quantization.successive import Pair
from compress_cli.settings import NotInKeyAtDefault

SMALLEST = 1e-8
MARGIN = 2.0  # other samples exceed those of the calibration


class Equalization(Recovery):
    """Cross-layer equalisation: what a channel's weights are divided by, the next layer's are multiplied with, until both have
    the same range in every channel (Nagel et al. 2019, arXiv:1906.04721, section 4.1).

    For layers that follow each other directly or with a ReLU between them: scaling passes through it. A limit above 0, as of
    ReLU6, does not let it through; such pairs stay as they are. `{type: equalization, relu6: scale}` is for networks full of
    them, as MobileNetV2: the limit stays, and channels that calibration samples never bring to it are scaled, up to half of it
    at most; those that reach it are not. So the network gives the same on these samples, and its integers have no further
    operator. (The paper makes every ReLU6 a ReLU, which changes what a network computes where values above 6 are rare, but
    large: behind channels that hardly ever fire.)
    """

    version: ClassVar[int] = 2  # leaves alone what branches read
    remedy: ClassVar[str] = "leave it out, or set relu6: scale where a ReLU6 lies between layers"

    rounds: int = Field(20, ge=1, le=200, description="passes over all pairs: a layer in the middle is in two of them")
    relu6: Annotated[Literal["keep", "scale"], NotInKeyAtDefault()] = Field(
        "keep",
        description="layers with a ReLU6 between: keep them as they are, or scale the channels that never reach its limit",
    )

    def rescale(self, job: Job) -> int:
        limits = successive.limits(job.model) if self.relu6 == "scale" else {}
        pairs = successive.pairs(job.model, job.layers, limits)
        arrays = {tensor.name: numpy_helper.to_array(tensor).astype(np.float64) for tensor in job.model.graph.initializer}
        nodes = {node.name: node for node in job.model.graph.node}
        bounds = _bounds(job, nodes, pairs)
        for _ in range(self.rounds):
            for pair in pairs:
                _equalise(arrays, nodes, pair, bounds.get(pair.first.node))
        changed = {layer.weight for pair in pairs for layer in (pair.first, pair.second)}
        changed |= {nodes[pair.first.node].input[2] for pair in pairs if len(nodes[pair.first.node].input) > 2}
        layers.replace(job.model, {name: arrays[name].astype(np.float32) for name in changed if name})
        return len(pairs)


@dataclass
class _Bounds:
    """How far the channels before a limit may be scaled, in all rounds together: (channels,) each."""

    least: np.ndarray
    most: np.ndarray
    so_far: np.ndarray

    @classmethod
    def of(cls, highest: np.ndarray, limit: float) -> _Bounds:
        """For channels whose values were at most `highest`."""
        room = np.maximum(limit / (MARGIN * np.maximum(highest, SMALLEST)), 1.0)
        is_cut = highest >= limit
        return cls(np.where(is_cut, 1.0, 0.0), np.where(is_cut, 1.0, room), np.ones(len(highest)))

    def allowed(self, factors: np.ndarray) -> np.ndarray:
        """The factors, as far as these bounds allow; they are applied by then."""
        before = self.so_far
        self.so_far = np.clip(before * factors, self.least, self.most)
        return np.asarray(self.so_far / before)


def _bounds(job: Job, nodes: dict[str, onnx.NodeProto], pairs: list[Pair]) -> dict[str, _Bounds]:
    """Name of the first layer's node -> its bounds, of pairs with a limit between."""
    values = {nodes[pair.first.node].output[0]: pair for pair in pairs if pair.limit < math.inf}
    highest: dict[str, np.ndarray] = {}
    for batch in ranges.values(job.model, list(values), ranges.pieces(job.model, job.samples)):
        for name, array in batch.items():
            channels = np.moveaxis(array, 1 if values[name].first.operator == "Conv" else -1, 0)
            largest = channels.reshape(len(channels), -1).max(1).astype(np.float64)
            highest[name] = np.maximum(highest.get(name, largest), largest)
    return {values[name].first.node: _Bounds.of(largest, values[name].limit) for name, largest in highest.items()}


def _equalise(arrays: dict[str, np.ndarray], nodes: dict[str, onnx.NodeProto], pair: Pair, bounds: _Bounds | None) -> None:
    first, second = pair.first, pair.second
    outputs = np.moveaxis(arrays[first.weight], first.axis, 0)
    is_depthwise = successive.is_depthwise(nodes[second.node], arrays[second.weight].shape)
    inputs = np.moveaxis(arrays[second.weight], 0 if is_depthwise else successive.input_axis(second), 0)
    before, after = (np.abs(part.reshape(len(part), -1)).max(1) for part in (outputs, inputs))
    wanted = np.sqrt(np.maximum(before, SMALLEST) * after) / np.maximum(before, SMALLEST)
    if bounds is not None:  # channels that stay set the layers' ranges, which the others then share
        wanted = wanted * np.sqrt(max(before.max(), SMALLEST) / max(after.max(), SMALLEST))
    factors = np.where((before > SMALLEST) & (after > SMALLEST), wanted, 1.0)
    factors = np.where(np.isfinite(factors), factors, 1.0)
    if bounds is not None:
        factors = bounds.allowed(factors)
    shape = (-1, *[1] * (outputs.ndim - 1))
    outputs *= factors.reshape(shape)  # a view: the weights themselves
    inputs /= factors.reshape(-1, *[1] * (inputs.ndim - 1))
    node = nodes[first.node]
    if len(node.input) > 2 and node.input[2]:
        bias = arrays[node.input[2]]
        arrays[node.input[2]] = (bias.reshape(-1) * factors).reshape(bias.shape)
