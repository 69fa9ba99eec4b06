"""The histogram as an observer in a PyTorch graph."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from compress_cli.errors import StageError
from compress_cli.quantization import annotation, distributions, grids, layers
from compress_cli.quantization.calibrations import Calibration
from compress_cli.quantization.fake_quantization import SMALLEST_SCALE
from compress_cli.quantization.histogram import BINS, Histogram


def observing(calibration: Calibration) -> Any:
    """What makes an observer for torchao's QuantizationSpec: it counts, and asks `calibration` for the range at the end."""
    return _observer_class().with_args(calibration=calibration, eps=SMALLEST_SCALE)


def observed(prepared: nn.Module, clipped: Mapping[str, float] | None = None) -> list[dict[str, Any]]:
    """Of each layer in integers: bits, ranges, share cut off, signal over noise of its weights, bytes.

    clipped: shares cut off by observer, where ranges were not calibrated. StageError where a value that calibration saw is
    NaN or infinite.
    """
    assert isinstance(prepared, GraphModule)
    return [
        _facts(prepared, node, clipped or {})
        for node in prepared.graph.nodes
        if node.target in annotation.CONTRACTIONS and all(argument.op == "call_module" for argument in node.args[:2])
    ]


def shown(prepared: nn.Module, facts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """How the worst of these layers lie on their grids: weights, and what goes into them."""
    assert isinstance(prepared, GraphModule)
    nodes = {annotation.layer_of(node): node for node in prepared.graph.nodes if node.target in annotation.CONTRACTIONS}
    drawn = []
    for layer in distributions.worst(facts):
        weight, coded = _coded(prepared, nodes[layer])
        drawn.append(distributions.of_weights(layer, weight, coded))
        activations = _module(prepared, nodes[layer].args[0])
        if activations.histogram.limit:
            drawn.append(distributions.of_activations(layer, activations.histogram, activations.range, 8))
    return drawn


def _facts(prepared: GraphModule, node: Node, clipped: Mapping[str, float]) -> dict[str, Any]:
    name, activations = annotation.layer_of(node), _module(prepared, node.args[0])
    histogram: Histogram = activations.histogram
    if histogram.high != -math.inf and not histogram.is_finite:
        raise StageError(
            f"what goes into '{name}' is NaN or infinite on calibration samples; check these samples and the model's training"
        )
    weight, coded = _coded(prepared, node)
    low, high = activations.range
    return {
        **layers.fact(name, str(node.target).split(".")[1], coded, weight),
        "activation_bits": 8,
        "activation_range": [low, high],
        "activation_clipped": clipped.get(str(node.all_input_nodes[0].target), histogram.share_outside(low, high)),
    }


def _coded(prepared: GraphModule, node: Node) -> tuple[np.ndarray, grids.Coded]:
    """The weights of a layer, and their codes."""
    observer = _module(prepared, node.args[1])
    (source,) = node.all_input_nodes[1].all_input_nodes
    weight = operator.attrgetter(str(source.target))(prepared).detach().numpy()
    scale = observer.calculate_qparams()[0].numpy().reshape(-1, *[1] * (weight.ndim - 1))
    largest = int(observer.quant_max)
    bits = 8 if largest == 64 else int(largest).bit_length() + 1
    codes = np.clip(np.round(weight / scale), -largest, largest).astype(np.int8)
    return weight, grids.Coded(codes, bits, scale)


def _module(prepared: GraphModule, node: Any) -> Any:
    return prepared.get_submodule(str(node.target))


@cache
def _observer_class() -> Any:
    from torchao.quantization.pt2e.observer import UniformQuantizationObserverBase

    class HistogramObserver(UniformQuantizationObserverBase):
        """Counts values; its buffers are all that it knows, so a saved state goes on where it stopped."""

        counts: Tensor  # (BINS,)
        extremes: Tensor  # limit of the bins, smallest, largest value

        def __init__(self, calibration: Calibration, ch_axis: int | None = None, **settings: Any):
            super().__init__(**settings)
            self.calibration = calibration
            self.register_buffer("counts", torch.zeros(BINS, dtype=torch.int64))
            self.register_buffer("extremes", torch.tensor([0.0, math.inf, -math.inf], dtype=torch.float64))

        @property
        def histogram(self) -> Histogram:
            return Histogram(self.counts, *self.extremes.tolist())

        @property
        def range(self) -> tuple[float, float]:
            """Lowest and highest number that the integers stand for."""
            histogram = self.histogram
            if not histogram.limit or not histogram.is_finite:
                return 0.0, 0.0
            return self.calibration.range(histogram, self.quant_max - self.quant_min)

        def forward(self, x: Tensor) -> Tensor:
            histogram = self.histogram
            histogram.add(x)
            self.counts.copy_(histogram.counts)
            self.extremes.copy_(torch.tensor([histogram.limit, histogram.low, histogram.high], dtype=torch.float64))
            return x

        def calculate_qparams(self) -> tuple[Tensor, Tensor]:
            low, high = self.range
            scale, zero_point = self._calculate_qparams(torch.tensor(low), torch.tensor(high))
            return scale, zero_point

    return HistogramObserver
