"""An ONNX graph read without running it: its constants, which of them are parameters, shapes, multiply-accumulates."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import onnx
from onnx import TensorProto, shape_inference

Shape = tuple[int | None, ...]

# Operator -> positions of the inputs that are scales and zero points: they say how to read weights, and are none.
LEGENDS: dict[str, tuple[int, ...]] = {
    "QuantizeLinear": (1, 2),
    "DequantizeLinear": (1, 2),
    "QLinearConv": (1, 2, 4, 5, 6, 7),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "QLinearAdd": (1, 2, 4, 5, 6, 7),
    "QLinearMul": (1, 2, 4, 5, 6, 7),
    "QGemm": (1, 2, 4, 5, 7, 8),
    "QLinearGlobalAveragePool": (1, 2, 3, 4),
    "QLinearConcat": (0, 1),
    "ConvInteger": (2, 3),
    "MatMulInteger": (2, 3),
    "MatMulIntegerToFloat": (2, 3, 4, 5),
    "DynamicQuantizeMatMul": (2, 3),
    "MatMulNBits": (2, 3),
}
# Operator -> positions where 32-bit integers are a quantised bias.
INTEGER_BIASES = {"DequantizeLinear": (0,), "QLinearConv": (8,), "QGemm": (6,)}
NEVER_WEIGHTS = ("int64", "bool", "string", "uint64", "uint32", "int16", "uint16")  # shapes, indices, masks
UNCOUNTED = {"Attention", "MultiHeadAttention", "GroupQueryAttention", "LSTM", "GRU", "RNN", "Einsum", "DeformConv"}
BRANCHING = {"If", "Loop", "Scan"}
LARGE = 4096  # values; shape inference reads shapes from smaller tensors than this


# --- parameters


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and those of its branches and loops."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for each in [attribute.g] * attribute.HasField("g") + list(attribute.graphs):
                yield from _graphs(each)


def tensors(graph: onnx.GraphProto) -> Iterator[tuple[TensorProto, str]]:
    """Every constant tensor and the name under which nodes take it."""
    for each in _graphs(graph):
        for tensor in each.initializer:
            yield tensor, tensor.name
        for sparse in each.sparse_initializer:
            yield sparse.values, sparse.values.name
        for node in each.node:
            for attribute in node.attribute:
                if node.op_type == "Constant" and attribute.name == "value":
                    yield attribute.t, node.output[0]


def kind(tensor: TensorProto) -> str:
    """The number type's name: `float32`, `int8`, `uint4`."""
    name = TensorProto.DataType.Name(tensor.data_type).lower()
    return str({"float": "float32", "double": "float64"}.get(name, name))


def bits(kind: str) -> int:
    """Of one number of a type; 0 for text and what has no size."""
    if kind in ("bool", "string", "undefined"):
        return 8 * (kind == "bool")
    (first, *_) = re.findall(r"\d+", kind)  # float8e4m3fn has 8
    return int(first)


def sparse(graph: onnx.GraphProto) -> dict[str, onnx.SparseTensorProto]:
    """Constants that are stored as the values that are not 0 and their places."""
    return {each.values.name: each for held in _graphs(graph) for each in held.sparse_initializer}


def codebooks(graph: onnx.GraphProto) -> dict[str, str]:
    """Name of constant indices -> name of the constant whose entries they choose: what `Gather` gives is the weights."""
    constants = {name for _, name in tensors(graph)}
    source = {name: name for name in constants}
    found = {}
    for node in (node for each in _graphs(graph) for node in each.node):
        if node.op_type in ("Cast", "Reshape", "Identity", "Transpose") and node.input and node.input[0] in source:
            source[node.output[0]] = source[node.input[0]]
        elif node.op_type == "Gather" and node.input[0] in constants and node.input[1] in source:
            found[source[node.input[1]]] = node.input[0]
    return found


def weights(graph: onnx.GraphProto) -> dict[str, tuple[str, int]]:
    """Name of every constant that holds parameters -> number type, and how many they are."""
    nodes = [node for each in _graphs(graph) for node in each.node]
    legends = {
        node.input[place] for node in nodes for place in LEGENDS.get(node.op_type, ()) if place < len(node.input)
    } | _dynamic_scales(nodes)
    biases = {node.input[place] for node in nodes for place in INTEGER_BIASES.get(node.op_type, ()) if place < len(node.input)}
    packed = {
        node.input[1]: attribute(node, "K", 0) * attribute(node, "N", 0)
        for node in nodes
        if node.op_type == "MatMulNBits" and len(node.input) > 1
    }
    width = {
        node.input[1]: attribute(node, "bits", 4) for node in nodes if node.op_type == "MatMulNBits" and len(node.input) > 1
    }
    scattered, books = sparse(graph), codebooks(graph)
    skipped = legends | _normalisation(graph) | {*books.values()}
    elsewhere = {each for node in nodes if node.op_type not in ("Mul", "Div") for each in node.input}
    found: dict[str, tuple[str, int]] = {}
    for tensor, name in tensors(graph):
        stored, one = kind(tensor), math.prod(tensor.dims) == 1
        # a limit, an epsilon; a factor of attention, which some exporters write as an array of one
        if name not in scattered and (not tensor.dims or (one and name not in elsewhere)):
            continue
        if name in skipped or (stored in NEVER_WEIGHTS and name not in books) or (stored == "int32" and name not in biases):
            continue
        if name in packed:
            found[name] = (f"uint{width[name]}", packed[name])
        else:
            found[name] = (stored, math.prod(scattered[name].dims if name in scattered else tensor.dims))
    return found


def _dynamic_scales(nodes: list[onnx.NodeProto]) -> set[str]:
    """Weight scales that are multiplied with the scale found while running."""
    dynamic = {node.output[1] for node in nodes if node.op_type == "DynamicQuantizeLinear"}
    return {name for node in nodes if node.op_type == "Mul" and dynamic & {*node.input} for name in node.input} - dynamic


def _normalisation(graph: onnx.GraphProto) -> set[str]:
    """Constants, one value a channel, that shift and scale an input before anything else happens to it."""
    constants = {name: tensor for tensor, name in tensors(graph)}
    raw = {each.name for each in graph.input} - constants.keys()
    found = set()
    for node in graph.node:
        moving = [name for name in node.input if name not in constants]
        if not moving or not {*moving} <= raw:
            continue
        if node.op_type in ("Cast", "Identity", "QuantizeLinear", "DequantizeLinear"):
            raw.add(node.output[0])
        elif node.op_type in ("Add", "Sub", "Mul", "Div") and len(moving) == 1:
            still = [name for name in node.input if name in constants]
            if all(sum(axis > 1 for axis in constants[name].dims) <= 1 for name in still):
                found.update(still)
                raw.add(node.output[0])
    return found


# --- multiply-accumulates


class Unknown(Exception):
    """Why they can't be counted."""


@dataclass(frozen=True)
class Shapes:
    """What inference tells of a graph's values."""

    batch: int  # that they are for
    shapes: dict[str, Shape]
    kinds: dict[str, int]  # number types as ONNX counts them


def macs(model: onnx.ModelProto) -> int:
    """Multiply-accumulates for one sample; Unknown says why they can't be counted."""
    found = shapes(model)
    total = sum(node_macs(node, found.shapes) for node in model.graph.node)
    if total % found.batch:
        raise Unknown(f"{total} for the file's batch of {found.batch} is no whole number for a sample")
    return total // found.batch


def shapes(model: onnx.ModelProto) -> Shapes:
    """Shape and number type of every value, a sample at a time where the file leaves the batch open."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]  # may be left from before the graph was changed
    initial = {each.name for each in bare.graph.initializer}
    batches: set[int] = set()
    for port in (each for each in bare.graph.input if each.name not in initial):
        axes = port.type.tensor_type.shape.dim
        if axes and not axes[0].dim_value:
            axes[0].dim_value = 1  # clears the name of the open axis
        batches.update(axis.dim_value for axis in axes[:1])
        if any(not axis.dim_value for axis in axes):
            raise Unknown(f"input '{port.name}' has an open axis besides the batch")
    for port in bare.graph.output:
        port.type.tensor_type.ClearField("shape")
    for tensor in bare.graph.initializer:
        if math.prod(tensor.dims) > LARGE:
            tensor.ClearField("raw_data")
    _densify(bare.graph)
    try:
        inferred = shape_inference.infer_shapes(bare, data_prop=True).graph
    except (shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        raise Unknown(f"its shapes can't be inferred ({str(error).partition(chr(10))[0][:200]})") from None
    found: dict[str, Shape] = {each.name: tuple(each.dims) for each in inferred.initializer}
    kinds = {each.name: each.data_type for each in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        kinds[value.name] = value.type.tensor_type.elem_type
        if value.type.tensor_type.HasField("shape"):
            axes = value.type.tensor_type.shape.dim
            found[value.name] = tuple(axis.dim_value if axis.HasField("dim_value") else None for axis in axes)
    return Shapes(batches.pop() if len(batches) == 1 else 1, found, kinds)


def _densify(graph: onnx.GraphProto) -> None:
    """Put an empty dense constant of the same shape in the place of each sparse one, which inference does not follow."""
    for each in graph.sparse_initializer:
        graph.initializer.add(name=each.values.name, data_type=each.values.data_type, dims=each.dims)
    graph.ClearField("sparse_initializer")


def node_macs(node: onnx.NodeProto, shapes: dict[str, Shape]) -> int:
    """For the batch that the shapes are for; Unknown says why they can't be counted."""
    try:
        return _node_macs(node, shapes)
    except (IndexError, ValueError):
        raise Unknown(f"the shapes at {node.op_type} '{node.name}' do not fit it") from None


def _node_macs(node: onnx.NodeProto, shapes: dict[str, Shape]) -> int:
    def shape(name: str) -> tuple[int, ...]:
        found = shapes.get(name, (None,))
        if None in found:
            raise Unknown(f"the shape of '{name}' at {node.op_type} '{node.name}' can't be inferred")
        return tuple(axis for axis in found if axis is not None)

    match node.op_type:
        case "Conv" | "ConvInteger":
            return math.prod(shape(node.output[0])) * math.prod(shape(node.input[1])[1:])
        case "QLinearConv":
            return math.prod(shape(node.output[0])) * math.prod(shape(node.input[3])[1:])
        case "ConvTranspose":
            return math.prod(shape(node.input[0])) * math.prod(shape(node.input[1])[1:])
        case "Gemm":
            rows, inner = shape(node.input[0])[:: -1 if attribute(node, "transA", 0) else 1]
            return rows * inner * shape(node.input[1])[0 if attribute(node, "transB", 0) else 1]
        case "MatMul" | "MatMulInteger" | "QLinearMatMul":
            return math.prod(shape(node.output[0])) * shape(node.input[0])[-1]
        case "MatMulNBits":
            return math.prod(shape(node.input[0])) * attribute(node, "N", 0)
        case kind if kind in UNCOUNTED:
            raise Unknown(f"multiplications in {kind} '{node.name}' are not counted")
        case kind if kind in BRANCHING:
            raise Unknown(f"what {kind} '{node.name}' does depends on the data")
    return 0


def attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(each.i) for each in node.attribute if each.name == name), default)
