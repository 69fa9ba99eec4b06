"""Biases that make up for what rounding adds on average."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from compress_cli.quantization import biases, layers, ranges
from compress_cli.quantization.grids import Coded
from compress_cli.quantization.recoveries import Job, Recovery


class BiasCorrection(Recovery):
    """Rounded weights shift the mean of every output channel by their error times the mean input; the bias takes it back
    (Nagel et al. 2019, arXiv:1906.04721, section 4.2).

    Mean inputs are those of calibration samples in the float model.
    """

    def correct(self, job: Job, coded: Mapping[str, Coded]) -> int:
        nodes = {node.name: node for node in job.model.graph.node if node.name in coded and node.op_type in ("Conv", "Gemm")}
        means = _means(job, {name: node.input[0] for name, node in nodes.items()})
        for name, node in nodes.items():
            layer = job.layers[name]
            weights = layers.array(job.model, layer.weight)
            error = coded[name].values() - weights
            biases.subtract(job.model, node, biases.of_constant(error, layer, node, means[node.input[0]]))
        return len(nodes)


def _means(job: Job, inputs: dict[str, str]) -> dict[str, np.ndarray]:
    """Value -> the mean of each of its channels, axis 1."""
    sums: dict[str, np.ndarray] = {}
    total = 0
    for batch in ranges.values(job.model, list(dict.fromkeys(inputs.values())), job.samples):
        sizes = {len(array) for array in batch.values()}
        for name, array in batch.items():
            channels = array.reshape(*array.shape[:2], -1).astype(np.float64).mean(2).sum(0)
            sums[name] = sums.get(name, 0) + channels
        total += max(sizes, default=0)
    return {name: value / total for name, value in sums.items()}
