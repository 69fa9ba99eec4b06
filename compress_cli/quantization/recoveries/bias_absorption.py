"""High biases, moved into the layer after."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx

from compress_cli.quantization import biases, layers, ranges, successive
from compress_cli.quantization.recoveries import Job, Recovery


class BiasAbsorption(Recovery):
    """Takes off a channel what all of its values exceed, and adds what that gave to the biases of the next layer: the channel
    no longer makes the steps of all others coarse (Nagel et al. 2019, arXiv:1906.04721, section 4.1.3).

    For layers that follow each other directly or with a ReLU between them, after an equalisation, which makes some biases
    high. What all values exceed is the smallest of the calibration samples, where the paper takes three deviations below the
    mean. A convolution that pads with zeros is left out: they would stand for other values.
    """

    version: ClassVar[int] = 2  # leaves alone what branches read

    def rescale(self, job: Job) -> int:
        nodes = {node.name: node for node in job.model.graph.node}
        pairs = [
            pair for pair in successive.pairs(job.model, job.layers)
            if pair.first.operator in ("Conv", "Gemm") and pair.second.operator in ("Conv", "Gemm")
            and not _pads(nodes[pair.second.node])
        ]  # fmt: skip
        lowest = _lowest(job, {nodes[pair.first.node].output[0] for pair in pairs})
        changed = 0
        for pair in pairs:
            first, second = nodes[pair.first.node], nodes[pair.second.node]
            surplus = np.maximum(lowest[first.output[0]], 0.0)
            if surplus.any():
                weights = layers.array(job.model, pair.second.weight).astype(np.float64)
                biases.subtract(job.model, first, surplus)
                biases.subtract(job.model, second, -biases.of_constant(weights, pair.second, second, surplus))
                changed += 1
        return changed


def _pads(node: onnx.NodeProto) -> bool:
    pads = next((entry.ints for entry in node.attribute if entry.name == "pads"), ())
    automatic = next((entry.s for entry in node.attribute if entry.name == "auto_pad"), b"NOTSET")
    return any(pads) or automatic not in (b"NOTSET", b"VALID")


def _lowest(job: Job, values: set[str]) -> dict[str, np.ndarray]:
    """Value -> the smallest number of each of its channels, axis 1."""
    lowest: dict[str, np.ndarray] = {}
    for batch in ranges.values(job.model, sorted(values), ranges.pieces(job.model, job.samples)):
        for name, array in batch.items():
            channels = array.reshape(*array.shape[:2], -1).astype(np.float64).min((0, 2))
            lowest[name] = np.minimum(lowest.get(name, channels), channels)
    return lowest
