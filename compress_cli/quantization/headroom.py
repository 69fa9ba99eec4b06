"""Codes of few bits as larger integers with finer steps: the same weights, and biases that are rounded less.

ONNX Runtime rounds the bias of a layer to whole steps of its sums, which are those of its input times those of its weights.
Weights of few bits have coarse steps: biases that were rounded to them changed 1% of the answers of a 3-bit network. A code
times a power of two, with the step divided by it, stands for exactly the same weight.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Collection
from typing import Any

import torch
from torch.fx import GraphModule, Node

from compress_cli.quantization.pairs import LARGEST_BIAS

LARGEST, LARGEST_REDUCED = 127, 63  # one below a power of two: no more different codes than before


@torch.no_grad()
def use(converted: GraphModule, contractions: Collection[Any], is_reduced: bool) -> None:
    """Multiply the codes of each output channel by the largest power of two that keeps them within 8 bits (7 where
    `is_reduced`), and their bias within 32; `contractions` are operators of (input, weight, bias).

    Layers whose bias is rounded in the graph itself, to the steps that it has, stay as they are."""
    layers: dict[tuple[str, str], list[Any]] = defaultdict(list)  # (codes, steps) -> the layers that compute with them
    for node in converted.graph.nodes:
        weight: Any = node.args[1] if node.target in contractions and len(node.args) > 1 else None
        if _is_rounded(weight):
            codes, steps = weight.args[:2]
            layers[str(codes.target), str(steps.target)].append(node)
    limit = LARGEST_REDUCED if is_reduced else LARGEST
    for names, users in layers.items():
        codes, steps = (operator.attrgetter(name)(converted) for name in names)
        biases = [node.args[2] if len(node.args) > 2 else None for node in users]
        computed = any(isinstance(bias, Node) and bias.op != "get_attr" for bias in biases)
        if computed or codes.dtype != torch.int8 or any(node.args[1].args[3] != 0 for node in users):
            continue
        room = limit / codes.flatten(1).abs().amax(1).clamp(min=1).double()  # (channels,)
        for node, bias in zip(users, biases, strict=True):
            if isinstance(bias, Node):
                sums = _step(node.args[0]) * steps.double()
                array = operator.attrgetter(str(bias.target))(converted)
                room = torch.minimum(room, LARGEST_BIAS * sums / array.detach().abs().double().clamp(min=1e-30))
        factor = torch.exp2(torch.floor(torch.log2(room.clamp(min=1))))
        codes.copy_(codes * factor.reshape(-1, *(1 for _ in codes.shape[1:])))
        steps.copy_(steps / factor)
        for node in users:
            *before, _, most, kind = node.args[1].args
            node.args[1].args = (*before, -max(limit, most), max(limit, most), kind)
    converted.recompile()


def _is_rounded(value: Any) -> bool:
    """Whether it comes out of stored codes with a step for each channel."""
    is_step = isinstance(value, Node) and getattr(value.target, "_opname", "") == "dequantize_per_channel"
    return is_step and all(isinstance(source, Node) and source.op == "get_attr" for source in value.args[:2])


def _step(value: Any) -> float:
    """Of a layer's input; 0 where it is not rounded."""
    return float(value.args[1]) if getattr(value.target, "_opname", "") == "dequantize_per_tensor" else 0.0
