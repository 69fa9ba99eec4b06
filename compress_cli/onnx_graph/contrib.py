"""Operators of ONNX Runtime's own domain, whose results ONNX's shape inference does not know."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper

MICROSOFT = "com.microsoft"

LIKE_FIRST_INPUT = (
    "BiasAdd", "BiasDropout", "BiasGelu", "BiasSoftmax", "FastGelu", "Gelu", "GroupNorm", "QLinearLeakyRelu", "QLinearSigmoid",
    "QLinearSoftmax", "QuickGelu", "RotaryEmbedding", "SkipGroupNorm", "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
)  # fmt: skip
STANDARD: dict[str, tuple[str, tuple[int, ...], tuple[str, ...]]] = {
    **dict.fromkeys(LIKE_FIRST_INPUT, ("Identity", (0,), ())),
    "DequantizeLinear": ("DequantizeLinear", (0, 1, 2), ("axis",)),
    "DynamicQuantizeMatMul": ("MatMul", (0, 1), ()),
    "FusedConv": ("Conv", (0, 1, 2), ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")),
    "FusedGemm": ("Gemm", (0, 1, 2), ("transA", "transB")),
    "QLinearAdd": ("Add", (0, 3), ()),
    "QLinearMul": ("Mul", (0, 3), ()),
    "QuantizeLinear": ("QuantizeLinear", (0, 1, 2), ("axis",)),
}
"""Operator -> the standard one whose result has the same shape, the positions of the inputs it takes, its attributes."""

Axes = tuple[int, ...]
ShapeOf = Callable[[int], Axes]
"""Position of an input -> its shape; raises LookupError where that is not known."""
KindOf = Callable[[int], int]
"""Position of an input -> its number type; raises LookupError where that is not known."""


def standardised(node: onnx.NodeProto) -> onnx.NodeProto:
    """The standard operator that gives values of the same shape; the node itself where there is none."""
    if node.domain != MICROSOFT or node.op_type not in STANDARD:
        return node
    operator, positions, attributes = STANDARD[node.op_type]
    inputs = [node.input[position] if position < len(node.input) else "" for position in positions]
    while inputs and not inputs[-1]:
        inputs.pop()
    other = helper.make_node(operator, inputs, node.output[:1], name=node.name)
    other.attribute.extend(attribute for attribute in node.attribute if attribute.name in attributes)
    return other


def result(node: onnx.NodeProto, shape: ShapeOf, kind: KindOf) -> tuple[Axes, int] | None:
    """Shape and number type of the first result of an operator that no standard one is like; None for others.

    LookupError or ValueError where the shapes of its inputs are not known, or do not fit it.
    """
    if node.domain != MICROSOFT:
        return None
    number = {attribute.name: attribute.i for attribute in node.attribute}
    match node.op_type:
        case "MatMulNBits" | "MatMulBnb4":
            return (*shape(0)[:-1], number["N"]), kind(0)
        case "FusedMatMul" | "MatMulIntegerToFloat" if not number.get("transBatchA") and not number.get("transBatchB"):
            left, right = _transposed(shape(0), number.get("transA", 0)), _transposed(shape(1), number.get("transB", 0))
            return (*np.broadcast_shapes(left[:-2], right[:-2]), left[-2], right[-1]), kind(
                2 if node.op_type == "MatMulIntegerToFloat" else 0
            )
        case "QGemm":
            left, right = _transposed(shape(0), number.get("transA", 0)), _transposed(shape(3), number.get("transB", 0))
            is_integer = len(node.input) > 8 and node.input[8]
            return (left[0], right[1]), kind(8) if is_integer else TensorProto.FLOAT
        case "Attention" | "QAttention":
            return (*shape(0)[:2], value_width(node, shape(1)[1])), kind(0 if node.op_type == "Attention" else 2)
        case "MultiHeadAttention":
            width = shape(2)[-1] if len(shape(2)) == 3 else shape(2)[1] * shape(2)[3]
            return (*shape(0)[:2], width), kind(0)
        case "EmbedLayerNormalization":
            return (*shape(0), shape(2)[1]), kind(2)
        case "QLinearGlobalAveragePool":
            channels_last = bool(number.get("channels_last", 0))
            samples, *axes = shape(0)
            pooled = [1] * (len(axes) - 1)
            return (samples, *pooled, axes[-1]) if channels_last else (samples, axes[0], *pooled), kind(0)
        case "QLinearConcat":
            parts = [shape(position) for position in range(2, len(node.input), 3)]
            axis = number["axis"] % len(parts[0])
            return (*parts[0][:axis], sum(part[axis] for part in parts), *parts[0][axis + 1 :]), kind(2)
    return None


def value_width(node: onnx.NodeProto, width: int) -> int:
    """How many of the columns that a projection to query, key and value has (`width`) are for the values."""
    sizes = next((list(attribute.ints) for attribute in node.attribute if attribute.name == "qkv_hidden_sizes"), [])
    if len(sizes) == 3:
        return int(sizes[2])
    if width % 3:
        raise ValueError("the projection has not as many columns for queries as for keys and values")
    return width // 3


def _transposed(shape: Axes, swap: int) -> Axes:
    return (*shape[:-2], shape[-1], shape[-2]) if swap else shape
