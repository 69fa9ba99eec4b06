"""Layers of an ONNX graph in PyTorch, so that their rounded weights can be learned from what the float layers give."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from onnx import helper
from torch import Tensor
from torch.nn import functional

from compress_cli.quantization import layers, ranges
from compress_cli.quantization.grids import Coded
from compress_cli.quantization.layers import Layer
from compress_cli.quantization.ranges import Batch

SAMPLES = 512
HELD_OUT = 4  # every fourth sample decides whether what was learned is better
MOST_BYTES = 1 << 28  # of a layer's inputs that are in memory; of larger ones fewer samples are used
PIECE = 32  # samples that run at once

STRETCH_LOW, STRETCH_HIGH = -0.1, 1.1  # zeta and gamma of the paper: so that 0 and 1 are reached
WARM_UP, FIRST_BETA, LAST_BETA = 0.2, 20.0, 2.0

Outputs = Callable[[Tensor, Tensor], Tensor]
"""(inputs, weights) -> what a layer gives, (N, outputs, ...), bias and ReLU included."""


@dataclass(frozen=True)
class Target:
    """What a layer gives in the float network, to be met with the inputs that rounded layers before it give (Nagel et al. 2020,
    arXiv:2004.10568, section 3.4)."""

    outputs: Outputs
    given: Tensor  # (N, ...) inputs in the rounded network
    expected: Tensor  # (N, outputs, ...)
    training: Tensor  # (n,) rows to learn from
    held_out: Tensor  # (m,) rows to judge by

    @classmethod
    def of(
        cls, exact: onnx.ModelProto, rounded: onnx.ModelProto, node: onnx.NodeProto, layer: Layer, samples: Sequence[Batch]
    ) -> Target:
        """`exact`: the float network; `rounded`: the one whose layers before this one are rounded."""
        outputs = _outputs(exact, node, layer)
        true = torch.from_numpy(layers.array(exact, layer.weight).copy())
        before, given = (_inputs(model, node.input[0], samples) for model in (exact, rounded))
        with torch.no_grad():
            expected = torch.cat([outputs(part, true) for part in before.split(PIECE)])
        rows = torch.arange(len(given))
        judges = rows % HELD_OUT == HELD_OUT - 1
        return cls(outputs, given, expected, rows[~judges], rows[judges] if judges.any() else rows)

    def error(self, weights: Tensor, rows: Tensor) -> Tensor:
        """Mean squared error of the outputs, shape ()."""
        return (self.outputs(self.given[rows], weights) - self.expected[rows]).square().mean()

    @torch.no_grad()
    def squared_error(self, coded: Coded, rows: Tensor) -> float:
        """Likewise of codes, in pieces."""
        weights = torch.from_numpy(coded.values())
        errors = [float(self.error(weights, part)) * len(part) for part in rows.split(PIECE)]
        return sum(errors) / len(rows)

    def batches(self, steps: int, size: int) -> Iterator[Tensor]:
        """Rows of each step, drawn by a fixed seed."""
        generator = torch.Generator().manual_seed(0)
        for _ in range(steps):
            yield self.training[torch.randperm(len(self.training), generator=generator)[:size]]

    def better(self, learned: Coded, start: Coded) -> Coded:
        """The learned codes, where their error on the held-out samples is smaller."""
        errors = [self.squared_error(coded, self.held_out) for coded in (start, learned)]
        return learned if errors[1] < errors[0] else start


def choice_of(fraction: Tensor) -> Tensor:
    """What is learned for each weight, beginning at its share of the way between the two values that it may take."""
    start = ((fraction - STRETCH_LOW) / (STRETCH_HIGH - STRETCH_LOW)).clamp(1e-4, 1 - 1e-4)
    return torch.logit(start).requires_grad_()


def share_up(choice: Tensor) -> Tensor:
    """The share of the way from the lower to the upper value, from 0 to 1; both are reached (equation 23 of the paper)."""
    return (torch.sigmoid(choice) * (STRETCH_HIGH - STRETCH_LOW) + STRETCH_LOW).clamp(0, 1)


def undecided(up: Tensor, progress: float) -> Tensor:
    """Mean of how far choices are from both values, shape (); 0 in the first fifth (equation 24 of the paper).

    The exponent falls from 20 to 2 over the rest: at first only what is near a value is drawn there.
    """
    if progress < WARM_UP:
        return torch.zeros(())
    share = (progress - WARM_UP) / (1 - WARM_UP)
    beta = LAST_BETA + 0.5 * (FIRST_BETA - LAST_BETA) * (1 + math.cos(math.pi * share))
    return (1 - (2 * up - 1).abs().pow(beta)).mean()


def is_supported(node: onnx.NodeProto) -> bool:
    """Whether it is a layer that PyTorch computes alike: a matrix product or a convolution with even padding."""
    settings = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    pads, kernel = settings.get("pads", []), settings.get("kernel_shape", [0, 0])
    half = len(pads) // 2
    symmetric = list(pads[:half]) == list(pads[half:])
    if node.op_type == "Gemm":
        return all(settings.get(name, default) == default for name, default in (("alpha", 1.0), ("beta", 1.0), ("transA", 0)))
    return node.op_type == "MatMul" or (
        node.op_type == "Conv" and len(kernel) in (1, 2) and symmetric and settings.get("auto_pad", b"NOTSET") == b"NOTSET"
    )


def _inputs(model: onnx.ModelProto, value: str, samples: Sequence[Batch]) -> Tensor:
    """(N, ...) of as many samples as may be in memory."""
    parts: list[np.ndarray] = []
    for batch in ranges.values(model, [value], samples):
        if parts and batch[value].shape[1:] != parts[0].shape[1:]:
            continue  # sequences of another length
        parts.append(batch[value])
        if sum(part.nbytes for part in parts) >= MOST_BYTES:
            break
    return torch.from_numpy(np.concatenate(parts))


def _outputs(model: onnx.ModelProto, node: onnx.NodeProto, layer: Layer) -> Outputs:
    settings = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    constants = {tensor.name for tensor in model.graph.initializer}
    bias = node.input[2] if len(node.input) > 2 and node.input[2] in constants else ""
    offset = torch.from_numpy(layers.array(model, bias).reshape(-1).copy()) if bias else torch.zeros(())
    users = [user for user in model.graph.node if node.output[0] in user.input]
    rectifies = len(users) == 1 and users[0].op_type == "Relu"

    def products(inputs: Tensor, weights: Tensor) -> Tensor:
        if node.op_type != "Conv":
            return inputs @ (weights if layer.axis == weights.ndim - 1 else weights.T) + offset
        axes = weights.ndim - 2
        convolve = functional.conv1d if axes == 1 else functional.conv2d
        return convolve(
            inputs, weights, offset if bias else None, settings.get("strides", [1] * axes),
            list(settings.get("pads", [0] * 2 * axes))[:axes], settings.get("dilations", [1] * axes), settings.get("group", 1),
        )  # fmt: skip

    return lambda inputs, weights: functional.relu(products(inputs, weights)) if rectifies else products(inputs, weights)
