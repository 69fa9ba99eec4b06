"""An ONNX graph read without running it: its constants, and which of them are parameters."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

import onnx
from onnx import TensorProto, numpy_helper

from compress_cli.onnx_graph import rebuilding

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
CODES = ("int4", "uint4", "int8", "uint8", "int16", "uint16")
NEVER_WEIGHTS = ("int64", "bool", "string", "uint64", "uint32", "int16", "uint16")  # shapes, indices, masks
BRANCHING = {"If", "Loop", "Scan"}


class Unknown(Exception):
    """Why something about a graph can't be counted or inferred."""


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs that a branch or a loop runs."""
    for entry in node.attribute:
        yield from [entry.g] * entry.HasField("g") + list(entry.graphs)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and those of its branches and loops."""
    yield graph
    for node in graph.node:
        for body in bodies(node):
            yield from _graphs(body)


def tensors(graph: onnx.GraphProto) -> Iterator[tuple[TensorProto, str]]:
    """Every constant tensor and the name under which nodes take it."""
    for part in _graphs(graph):
        for tensor in part.initializer:
            yield tensor, tensor.name
        for sparse in part.sparse_initializer:
            yield sparse.values, sparse.values.name
        for node in part.node:
            for attribute in node.attribute:
                if node.op_type == "Constant" and attribute.name == "value":
                    yield attribute.t, node.output[0]


def kind(tensor: TensorProto) -> str:
    """The number type's name: `float32`, `int8`, `uint4`."""
    return kind_name(tensor.data_type)


def kind_name(data_type: int) -> str:
    """The name of a number type that ONNX counts."""
    name = TensorProto.DataType.Name(data_type).lower()
    return str({"float": "float32", "double": "float64"}.get(name, name))


def bits(kind: str) -> int:
    """Of one number of a type; 0 for text and what has no size."""
    if kind in ("bool", "string", "undefined"):
        return 8 * (kind == "bool")
    (first, *_) = re.findall(r"\d+", kind)  # float8e4m3fn has 8
    return int(first)


def sparse(graph: onnx.GraphProto) -> dict[str, onnx.SparseTensorProto]:
    """Constants that are stored as the values that are not 0 and their positions."""
    return {tensor.values.name: tensor for part in _graphs(graph) for tensor in part.sparse_initializer}


def codebooks(graph: onnx.GraphProto) -> dict[str, str]:
    """Name of constant indices -> name of the constant whose entries they choose: what `Gather` gives is the weights."""
    constants = {name for _, name in tensors(graph)}
    source = {name: name for name in constants}
    books: dict[str, str] = {}
    unpacking = _unpacking(graph)
    for node in (node for part in _graphs(graph) for node in part.node):
        if node.op_type in ("Cast", "Reshape", "Identity", "Transpose") and node.input and node.input[0] in source:
            source[node.output[0]] = source[node.input[0]]
        elif node.op_type == "Gather" and node.input[0] in constants and node.input[1] in source:
            books[source[node.input[1]]] = node.input[0]
            if node.input[0] in unpacking:
                source[node.output[0]] = source[node.input[1]]
        elif node.op_type == "Slice" and node.input[0] in source and source[node.input[0]] in books:
            source[node.output[0]] = source[node.input[0]]
    return books


def _unpacking(graph: onnx.GraphProto) -> dict[str, int]:
    """Name of a constant that says which codes each byte holds, (256, codes in a byte) -> codes in a byte."""
    return {
        name: tensor.dims[1]
        for tensor, name in tensors(graph)
        if tensor.data_type == TensorProto.UINT8 and [*tensor.dims] in ([256, 2], [256, 4], [256, 8])
    }


def _in_bytes(graph: onnx.GraphProto) -> dict[str, tuple[int, int]]:
    """Name of a constant that holds several codes in each byte -> how many, and how many weights they are in all."""
    constants, unpacking = {name: tensor for tensor, name in tensors(graph)}, _unpacking(graph)
    cast = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Cast" and node.input[0] in constants}
    found, source = dict[str, tuple[int, int]](), dict[str, str]()
    for node in graph.node:
        if node.op_type == "Gather" and node.input[0] in unpacking and node.input[1] in cast:
            packed = cast[node.input[1]]
            source[node.output[0]] = packed
            found[packed] = (unpacking[node.input[0]], math.prod(constants[packed].dims) * unpacking[node.input[0]])
        elif node.op_type in ("Cast", "Reshape", "Slice") and node.input[0] in source:
            packed = source[node.output[0]] = source[node.input[0]]
            if node.op_type == "Slice":
                ends = constants.get(node.input[2]) if len(node.input) > 2 else None
                attributes = [entry.ints for entry in node.attribute if entry.name == "ends"]
                end = numpy_helper.to_array(ends) if ends is not None else attributes[0] if attributes else [found[packed][1]]
                found[packed] = (found[packed][0], int(end[0]))
    return found


def _scaled(graph: onnx.GraphProto) -> tuple[set[str], set[str]]:
    """Weights that are stored as integers, and the scales by which they become real numbers when a session starts."""
    constants = {name: kind(tensor) for tensor, name in tensors(graph)}
    codes, scales = set[str](), set[str]()
    halves = [node for node in graph.node if node.op_type == "Cast" and constants.get(node.input[0]) == "float16"]
    cast = {node.output[0]: node.input[0] for node in halves}
    source = {name: name for name, stored in constants.items() if stored in CODES}
    for node in (node for part in _graphs(graph) for node in part.node):
        origin = next((source[name] for name in node.input[:2] if name in source), None)
        if origin is None:
            continue
        is_constant = all(name in source or name in constants for name in node.input[:2])
        if node.op_type in ("Cast", "Reshape", "Slice", "Gather") and is_constant:
            source[node.output[0]] = origin
        elif node.op_type == "Mul" and not constants.keys() >= {*node.input}:
            codes.add(origin)
            scales |= constants.keys() & {cast.get(name, name) for name in node.input}
    return codes, scales


def weights(graph: onnx.GraphProto) -> dict[str, tuple[str, int]]:
    """Name of every constant that holds parameters -> number type, and how many they are; also of values that are rebuilt
    from packed constants, with the number type of what is stored for each (`uint4`: its number in a codebook)."""
    nodes = [node for part in _graphs(graph) for node in part.node]
    legends = {
        node.input[at] for node in nodes for at in LEGENDS.get(node.op_type, ()) if at < len(node.input)
    } | _dynamic_scales(nodes)
    biases = {node.input[at] for node in nodes for at in INTEGER_BIASES.get(node.op_type, ()) if at < len(node.input)}
    packed = {
        node.input[1]: attribute(node, "K", 0) * attribute(node, "N", 0)
        for node in nodes
        if node.op_type == "MatMulNBits" and len(node.input) > 1
    }
    width = {
        node.input[1]: attribute(node, "bits", 4) for node in nodes if node.op_type == "MatMulNBits" and len(node.input) > 1
    }
    scattered, books = sparse(graph), codebooks(graph)
    packs, inside = rebuilding.rebuilt(graph), rebuilding.operators(graph)
    unpacked = {name for node in graph.node if node.output[0] in inside for name in node.input}
    several, (codes, scales) = _in_bytes(graph), _scaled(graph)
    skipped = legends | _normalisation(graph) | {*books.values(), *_unpacking(graph)} | scales | unpacked
    elsewhere = {name for node in nodes if node.op_type not in ("Mul", "Div") for name in node.input}
    parameters: dict[str, tuple[str, int]] = {}
    for tensor, name in tensors(graph):
        stored, one = kind(tensor), math.prod(tensor.dims) == 1
        # a limit, an epsilon; a factor of attention, which some exporters write as an array of one
        if name not in scattered and (not tensor.dims or (one and name not in elsewhere)):
            continue
        is_index = stored in NEVER_WEIGHTS and name not in books and name not in codes
        if name in skipped or is_index or (stored == "int32" and name not in biases):
            continue
        if name in several:
            parameters[name] = (f"uint{8 // several[name][0]}", several[name][1])
        elif name in packed:
            parameters[name] = (f"uint{width[name]}", packed[name])
        else:
            parameters[name] = (stored, math.prod(scattered[name].dims if name in scattered else tensor.dims))
    for name, pack in packs.items():
        parameters[name] = (f"uint{pack.bits}" if pack.bits else kind_name(pack.kind), math.prod(pack.shape))
    return parameters


def _dynamic_scales(nodes: list[onnx.NodeProto]) -> set[str]:
    """Weight scales that are multiplied with the scale found while running."""
    dynamic = {node.output[1] for node in nodes if node.op_type == "DynamicQuantizeLinear"}
    return {name for node in nodes if node.op_type == "Mul" and dynamic & {*node.input} for name in node.input} - dynamic


def _normalisation(graph: onnx.GraphProto) -> set[str]:
    """Constants, one value a channel, that shift and scale an input before anything else happens to it."""
    constants = {name: tensor for tensor, name in tensors(graph)}
    raw = {port.name for port in graph.input} - constants.keys()
    normalising = set()
    for node in graph.node:
        moving = [name for name in node.input if name not in constants]
        if not moving or not {*moving} <= raw:
            continue
        if node.op_type in ("Cast", "Identity", "QuantizeLinear", "DequantizeLinear"):
            raw.add(node.output[0])
        elif node.op_type in ("Add", "Sub", "Mul", "Div") and len(moving) == 1:
            still = [name for name in node.input if name in constants]
            if all(sum(axis > 1 for axis in constants[name].dims) <= 1 for name in still):
                normalising.update(still)
                raw.add(node.output[0])
    return normalising


def opset(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def number(node: onnx.NodeProto, position: int, constants: Mapping[str, TensorProto]) -> float | None:
    """The constant that a node reads at a position, of several values the first; None where it reads none there."""
    tensor = constants.get(node.input[position]) if position < len(node.input) else None
    return float(numpy_helper.to_array(tensor).reshape(-1)[0]) if tensor is not None else None


def attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    """A whole number that a node holds under a name."""
    return next((int(entry.i) for entry in node.attribute if entry.name == name), default)
