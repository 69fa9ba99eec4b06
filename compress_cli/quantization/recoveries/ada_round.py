"""Rounding up or down, learned."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import onnx
import torch
from onnx import helper
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from compress_cli.quantization import layers, ranges
from compress_cli.quantization.grids import Coded
from compress_cli.quantization.layers import Layer
from compress_cli.quantization.recoveries import Job, Recovery

STRETCH_LOW, STRETCH_HIGH = -0.1, 1.1  # zeta and gamma of the paper: so that 0 and 1 are reached
WARM_UP, FIRST_BETA, LAST_BETA = 0.2, 20.0, 2.0
HELD_OUT = 4  # every so-manieth sample decides whether the learned rounding is better than the nearest
MOST_BYTES = 1 << 28  # of a layer's inputs that are in memory; of larger ones fewer samples are used

Outputs = Callable[[Tensor, Tensor], Tensor]
"""(inputs, weights) -> what a layer gives, (N, outputs, ...), bias and ReLU included."""


class AdaRound(Recovery):
    """Rounds each weight up or down so that the layer's outputs on calibration samples stay, not the weights (Nagel et al.
    2020, arXiv:2004.10568): the errors of weights that act together cancel.

    Layer by layer, with the inputs that the layers rounded before give, behind its ReLU where there is one (sections 3.3 and
    3.4 of the paper). A layer keeps the nearest rounding where that is better on the quarter of the samples that is held out.
    It takes `steps` gradient steps for each layer, and pays at 4 bits and fewer.
    """

    version: ClassVar[int] = 2  # inputs of rounded layers, ReLU, more samples, of which a quarter decides
    samples: ClassVar[int] = 512

    steps: int = Field(300, ge=1, le=20_000, description="gradient steps for each layer")
    learning_rate: float = Field(0.1, gt=0, le=1, description="of Adam")
    regularization: float = Field(
        5.0, ge=0, le=100, description="weight of the term that makes every choice up or down, beside the error of the nearest "
        "rounding as 1",
    )  # fmt: skip
    batch: int = Field(32, ge=1, le=4096, description="samples in one step")

    def round(self, job: Job, coded: dict[str, Coded]) -> int:
        rounded = onnx.ModelProto()
        rounded.CopyFrom(job.model)
        changed = 0
        for node in [node for node in job.model.graph.node if node.name in coded]:
            layer = job.layers[node.name]
            if _is_supported(node):
                outputs = _outputs(job.model, node, layer)
                exact, given = (_inputs(model, node.input[0], job) for model in (job.model, rounded))
                weights = layers.array(job.model, layer.weight)
                coded[node.name] = self._rounded(outputs, exact, given, weights, coded[node.name])
                changed += 1
            layers.replace(rounded, {layer.weight: coded[node.name].values()})
        return changed

    def _rounded(self, outputs: Outputs, exact: Tensor, given: Tensor, weights: np.ndarray, nearest: Coded) -> Coded:
        """exact: what goes into the layer in the float network; given: in the one that is rounded up to here; (N, ...)."""
        scale, true = torch.from_numpy(nearest.scale), torch.from_numpy(weights.copy())
        largest = float(np.abs(nearest.codes).max())
        held_out = torch.arange(len(exact)) % HELD_OUT == HELD_OUT - 1
        if not held_out.any():
            held_out = torch.ones(len(exact), dtype=torch.bool)
        training = ~held_out if (~held_out).any() else held_out
        with torch.no_grad():
            expected = torch.cat([outputs(part, true) for part in exact.split(self.batch)])

        def error(weight: Tensor, rows: Tensor) -> Tensor:
            return (outputs(given[rows], weight) - expected[rows]).square().mean()

        with torch.no_grad():
            unit = float(error(torch.from_numpy(nearest.values()), training)) or 1.0
        floor = torch.floor(true / scale)
        start = ((true / scale - floor - STRETCH_LOW) / (STRETCH_HIGH - STRETCH_LOW)).clamp(1e-4, 1 - 1e-4)
        choice = torch.logit(start).requires_grad_()
        optimizer = torch.optim.Adam([choice], lr=self.learning_rate)
        generator = torch.Generator().manual_seed(0)
        rows = torch.nonzero(training).reshape(-1)
        for step in range(self.steps):
            part = rows[torch.randperm(len(rows), generator=generator)[: self.batch]]
            up = _stretched(choice)
            soft = (floor + up).clamp(-largest, largest) * scale
            loss = error(soft, part) / unit
            if step >= WARM_UP * self.steps:
                beta = _beta(step / self.steps)
                loss = loss + self.regularization * (1 - (2 * up - 1).abs().pow(beta)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        up = _stretched(choice.detach()).round()
        learned = Coded((floor + up).clamp(-largest, largest).numpy().astype(np.int8), nearest.bits, nearest.scale)
        with torch.no_grad():
            errors = [error(torch.from_numpy(codes.values()), held_out) for codes in (nearest, learned)]
        return learned if errors[1] < errors[0] else nearest


def _stretched(choice: Tensor) -> Tensor:
    """The share of the way up, from 0 to 1; both are reached (equation 23 of the paper)."""
    return (torch.sigmoid(choice) * (STRETCH_HIGH - STRETCH_LOW) + STRETCH_LOW).clamp(0, 1)


def _beta(progress: float) -> float:
    """From 20 to 2 over the steps after the first fifth: at first only what is near up or down is drawn there."""
    share = max(0.0, (progress - WARM_UP) / (1 - WARM_UP))
    return LAST_BETA + 0.5 * (FIRST_BETA - LAST_BETA) * (1 + math.cos(math.pi * share))


def _inputs(model: onnx.ModelProto, value: str, job: Job) -> Tensor:
    """(N, ...) of as many samples as may be in memory."""
    parts: list[np.ndarray] = []
    for batch in ranges.values(model, [value], job.samples):
        parts.append(batch[value])
        if sum(part.nbytes for part in parts) >= MOST_BYTES:
            break
    return torch.from_numpy(np.concatenate(parts))


def _is_supported(node: onnx.NodeProto) -> bool:
    settings = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    pads, kernel = settings.get("pads", []), settings.get("kernel_shape", [0, 0])
    half = len(pads) // 2
    symmetric = list(pads[:half]) == list(pads[half:])
    return node.op_type in ("Gemm", "MatMul") or (
        node.op_type == "Conv" and len(kernel) in (1, 2) and symmetric and settings.get("auto_pad", b"NOTSET") == b"NOTSET"
    )


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
