"""Small constants that a graph computes for itself, such as the shapes that it reshapes to, computed ahead."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

LARGE = 4096
"""Values that a shape is never made of: larger constants are not looked at."""
SHAPE_ARITHMETIC = {
    "Add", "And", "Cast", "Ceil", "Concat", "Constant", "ConstantOfShape", "Div", "Equal", "Expand", "Floor", "Gather",
    "Greater", "Identity", "Less", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Range", "ReduceMax", "ReduceMin",
    "ReduceProd", "ReduceSum", "Reshape", "Round", "Shape", "Size", "Slice", "Sqrt", "Squeeze", "Sub", "Unsqueeze", "Where",
}  # fmt: skip
"""Operators that exporters compute shapes with."""

Constants = dict[str, np.ndarray]


def fold(model: onnx.ModelProto, shapes: dict[str, tuple[int | None, ...]]) -> bool:
    """Replace operators whose inputs are small constants, or the shapes of values where these are known, by what they
    give; whether there was one."""
    graph = model.graph
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    constants = {tensor.name: array for tensor in graph.initializer if (array := _small(tensor)) is not None}
    outputs = {output.name for output in graph.output}
    left, folded = [], False
    for node in graph.node:
        result = None if outputs.intersection(node.output) else _value(node, constants, shapes, opsets)
        if result is None:
            left.append(node)
            continue
        constants[node.output[0]] = result
        if node.op_type != "Constant":
            graph.initializer.append(numpy_helper.from_array(result, node.output[0]))
            folded = True
        else:
            left.append(node)
    if folded:
        kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in left]
        del graph.node[:]
        graph.node.extend(kept)
    return folded


def ranges(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, int]]:
    """Operators that count from one constant to another, and how many numbers they give."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Range" and constants.keys() >= {*node.input}:
            limits = [_small(constants[name]) for name in node.input]
            length = _range_length([array for array in limits if array is not None and array.size == 1])
            if length is not None:
                yield node, length


def _range_length(limits: list[np.ndarray]) -> int | None:
    if len(limits) != 3:
        return None
    start, limit, step = (array.item() for array in limits)
    return max(0, math.ceil((limit - start) / step)) if step and math.isfinite(limit - start) else None


def _small(tensor: onnx.TensorProto) -> np.ndarray | None:
    if tensor.data_location == onnx.TensorProto.EXTERNAL or math.prod(tensor.dims) > LARGE:
        return None
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError):
        return None  # it holds fewer values than it says


def _value(
    node: onnx.NodeProto, constants: Constants, shapes: dict[str, tuple[int | None, ...]], opsets: dict[str, int]
) -> np.ndarray | None:
    """The operator's constant result; None where it depends on the model's inputs, or is not small."""
    if node.domain not in ("", "ai.onnx") or node.op_type not in SHAPE_ARITHMETIC or len(node.output) != 1:
        return None
    inputs = {name: constants.get(name) for name in node.input if name}
    if node.op_type in ("Shape", "Size"):
        shape = shapes.get(node.input[0], (None,))
        if None in shape or any(axis is not None and axis > 2**40 for axis in shape) or len(shape) > 32:
            return None
        # a view without memory of its own: only its shape is read
        inputs[node.input[0]] = np.broadcast_to(np.zeros((), np.bool_), [axis or 0 for axis in shape])
    known = {name: array for name, array in inputs.items() if array is not None}
    if len(known) < len(inputs) or not _gives_little(node, [known[name] for name in node.input if name]):
        return None
    return _evaluated(node, known, opsets)


def _gives_little(node: onnx.NodeProto, inputs: list[np.ndarray]) -> bool:
    """Whether the result is small, as far as the inputs tell before it is computed."""
    match node.op_type:
        case "Shape" | "Size":
            return True
        case "Expand":
            return len(inputs) == 2 and inputs[0].size * _product(inputs[1]) <= LARGE
        case "ConstantOfShape":
            return len(inputs) == 1 and _product(inputs[0]) <= LARGE
        case "Range":
            length = _range_length([array for array in inputs if array.size == 1])
            return length is not None and length <= LARGE
        case "Concat":
            return sum(array.size for array in inputs) <= LARGE
    return math.prod(max(array.size, 1) for array in inputs) <= LARGE**2


def _product(axes: np.ndarray) -> int:
    return math.prod(max(int(axis), 1) for axis in axes.reshape(-1))


def _evaluated(node: onnx.NodeProto, inputs: Constants, opsets: dict[str, int]) -> np.ndarray | None:
    ports = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), None)
        for name, array in inputs.items()
    ]
    output = helper.make_tensor_value_info(node.output[0], onnx.TensorProto.UNDEFINED, None)
    graph = helper.make_graph([node], "constant", ports, [output])
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            (result,) = ReferenceEvaluator(graph, opsets=opsets).run(None, inputs)
    except Exception:  # a damaged operator can make the evaluator raise anything: the result is unknown then
        return None
    return np.asarray(result) if isinstance(result, np.ndarray | np.generic) and np.size(result) <= LARGE else None
