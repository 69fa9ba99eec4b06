"""Layers of an ONNX graph: operators with learned weights, by names that overrides and reports use."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from compress_cli.onnx_graph import files
from compress_cli.onnx_graph import graph as reading
from compress_cli.onnx_graph.layers import plain_name
from compress_cli.quantization import grids
from compress_cli.quantization.grids import Coded

PASSING = ("Transpose", "Identity", "Cast", "Reshape")
RECURRENT = ("LSTM", "GRU", "RNN")
CONTRACTIONS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
FEWEST = 64  # numbers of a constant that is worth a table and a scale
WITH_WEIGHTS = (*CONTRACTIONS, "Gather", *RECURRENT)
POSITIONS = {**dict.fromkeys(("Conv", "ConvTranspose"), (1,)), "Gemm": (0, 1), "MatMul": (0, 1), "Gather": (0,),
             **dict.fromkeys(RECURRENT, (1, 2))}  # fmt: skip
"""Operator -> where its weights may stand among its inputs."""


@dataclass(frozen=True)
class Layer:
    """An operator and one of its weight tensors."""

    name: str
    node: str
    operator: str
    weight: str  # the initialiser
    position: int  # of the weight among the inputs
    axis: int  # of the output channels, in the weight


def aliases(model: onnx.ModelProto) -> dict[str, str]:
    """Value that is a constant turned or cast -> that constant, whose name says what it is."""
    names = {tensor.name: tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in PASSING and node.input and node.input[0] in names:
            names[node.output[0]] = names[node.input[0]]
    return {value: name for value, name in names.items() if value != name}


def layers(model: onnx.ModelProto, known: dict[str, str] | None = None) -> list[Layer]:
    """Layers whose weights are constants of real numbers, in the order of execution; `known`: aliases of constants."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    fixed, biases, names, listed = preparation(model), _biases(model), set[str](), []
    for node in model.graph.node:
        if node.name in fixed or node.op_type not in WITH_WEIGHTS or node.domain not in ("", "ai.onnx"):
            continue
        for position in POSITIONS[node.op_type]:
            tensor = weights.get(node.input[position]) if position < len(node.input) else None
            if tensor is None or len(tensor.dims) < 2 or all(name in weights for name in node.input[:2]):
                continue
            full = (known or {}).get(tensor.name, tensor.name)
            name = _unused(plain_name(full) if plain_name(full) != full else plain_name(biases.get(node.name, full)), names)
            names.add(name)
            listed.append(Layer(name, node.name, node.op_type, tensor.name, position, _axis(node, position, len(tensor.dims))))
    return listed


def preparation(model: onnx.ModelProto) -> set[str]:
    """Nodes that prepare the input by fixed products: those that a logarithm comes after, as in a log-mel front end. The
    logarithm of a softplus, which has an exponential before it, is none."""
    makers = {name: node for node in model.graph.node for name in node.output}
    fixed: set[str] = set()
    for node in model.graph.node:
        if node.op_type != "Log":
            continue
        before = _ancestors(node, makers)
        operators = {part.op_type for part in before}
        learned = operators & {"Relu", "Sigmoid", "Tanh", "Softmax", "Exp", "BatchNormalization", "Gather", "Erf", *RECURRENT}
        if not learned:
            fixed.update(part.name for part in before)
    return fixed


def _biases(model: onnx.ModelProto) -> dict[str, str]:
    """Name of a matrix product -> name of the constant that is added to it: exporters that turn weights lose their names."""
    constants = {tensor.name for tensor in model.graph.initializer}
    makers = {node.output[0]: node.name for node in model.graph.node if node.op_type == "MatMul"}
    return {
        makers[value]: constant
        for node in model.graph.node
        if node.op_type == "Add"
        for value, constant in (node.input, reversed(node.input))
        if value in makers and constant in constants and plain_name(constant) != constant
    }


def array(model: onnx.ModelProto, name: str) -> np.ndarray:
    """The values of an initialiser."""
    return numpy_helper.to_array(next(tensor for tensor in model.graph.initializer if tensor.name == name))


def replace(model: onnx.ModelProto, arrays: dict[str, np.ndarray]) -> None:
    """Give initialisers other values."""
    for tensor in model.graph.initializer:
        if tensor.name in arrays:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(arrays[tensor.name]), tensor.name))


def drop_unused(graph: onnx.GraphProto) -> None:
    """Remove initialisers that nothing reads, and dequantisations, which some runtimes would compute all the same."""
    outputs = {output.name for output in graph.output}
    used = {name for node in graph.node for name in read(node)} | outputs
    nodes = [node for node in graph.node if node.op_type != "DequantizeLinear" or node.output[0] in used]
    graph.ClearField("node")
    graph.node.extend(nodes)
    used = {name for node in graph.node for name in read(node)} | outputs
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    graph.ClearField("initializer")
    graph.initializer.extend(kept)


def write(
    model: onnx.ModelProto, original: onnx.ModelProto, output: Path, found: Iterable[Layer] = (), oldest_ir: int = 0
) -> int:
    """Write a file with the metadata of the one that it came from, in which weights are called as their layers; its size in
    bytes."""
    drop_unused(model.graph)
    files.strip(model)
    named = _weight_names(model.graph, found)
    files.rename(model, named)
    ports = {port.name for port in (*model.graph.input, *model.graph.output)}
    files.shorten_names(model, keep=ports | {*named.values()})
    needed = onnx.helper.find_min_ir_version_for([each for each in model.opset_import if each.domain in ("", "ai.onnx")])
    model.ir_version = max(model.ir_version, needed, oldest_ir)
    files.write(model, output, {entry.key: entry.value for entry in original.metadata_props})
    return output.stat().st_size


def _weight_names(graph: onnx.GraphProto, found: Iterable[Layer]) -> dict[str, str]:
    """Weights of layers, and the codes that they are rebuilt from -> names by which the layers are found again."""
    values = {tensor.name for tensor in graph.initializer} | {name for node in graph.node for name in node.output}
    ports = {port.name for port in (*graph.input, *graph.output)}
    names: dict[str, str] = {}
    for layer in found:
        name = layer.name if layer.name == layer.weight else f"{layer.name}.weight"
        for suffix, kept in (
            ("", ""),
            ("_quantized", ""),
            ("_turned_quantized", ""),
            ("_codes", "_codes"),
            ("_stored", "_codes"),
        ):
            stored, wanted = f"{layer.weight}{suffix}", f"{name}{kept}"
            if stored in values and wanted not in {*ports, *names.values()}:  # float weights may stay beside their codes
                names.setdefault(stored, wanted)
    return names


def fact(name: str, operator: str, coded: Coded | None, weights: np.ndarray) -> dict[str, Any]:
    """What a report says of a layer's weights; without codes they are float."""
    described = {
        "layer": name,
        "operator": operator,
        "weights": int(weights.size),
        "weight_bits": coded.bits if coded else 32,
        "weight_range": [float(weights.min()), float(weights.max())],
        "bytes": stored_bytes(coded) if coded else weights.nbytes,
    }
    if coded is not None:
        rounded = coded.values()
        described["weight_clipped"] = float((np.abs(weights) > np.abs(rounded).max() * (1 + 1e-6)).mean())
        described["weight_sqnr_db"] = grids.sqnr_db(weights, rounded)
        if filled := int(np.count_nonzero((weights == 0) & (rounded != 0))):
            described["zeros_filled"] = filled
    return described


def stored_fact(layer: Layer, weights: np.ndarray, rounded: np.ndarray, bits: int) -> dict[str, Any]:
    """What a report says of weights in another floating format."""
    return {
        **fact(layer.name, layer.operator, None, weights),
        "weight_bits": bits,
        "weight_sqnr_db": grids.sqnr_db(weights, rounded.astype(np.float32)),
        "bytes": weights.size * bits // 8,
    }


def stored_bytes(coded: Coded) -> int:
    """Of codes, table and scales."""
    width = coded.bits if coded.bits in (1, 2, 4) else 4 if coded.bits == 3 else 8 if coded.bits <= 8 else 16
    table = 0 if coded.table is None else coded.table.nbytes
    return -(-coded.codes.size * width // 8) + table + (2 if coded.blocked else 4) * coded.scale.size


def read(node: onnx.NodeProto) -> Iterable[str]:
    """Values that a node reads, its branches too."""
    yield from node.input
    for body in reading.bodies(node):
        yield from (output.name for output in body.output)
        for part in body.node:
            yield from read(part)


def _axis(node: onnx.NodeProto, position: int, rank: int) -> int:
    match node.op_type:
        case "Gemm":
            turned = reading.attribute(node, "transB" if position else "transA", 0)
            return 1 - turned if position else turned
        case "MatMul":
            return rank - 1 if position else rank - 2
        case "ConvTranspose":
            return 0  # (inputs, outputs / groups, ...): with groups the outputs have no axis of their own
        case "LSTM" | "GRU" | "RNN":
            return 1
    return 0


def _ancestors(node: onnx.NodeProto, makers: dict[str, onnx.NodeProto]) -> list[onnx.NodeProto]:
    seen: dict[str, onnx.NodeProto] = {}
    waiting = [makers[name] for name in node.input if name in makers]
    while waiting:
        part = waiting.pop()
        if part.name not in seen:
            seen[part.name] = part
            waiting += [makers[name] for name in part.input if name in makers]
    return list(seen.values())


def _unused(name: str, taken: set[str]) -> str:
    number, unique = 2, name
    while unique in taken:
        unique, number = f"{name}#{number}", number + 1
    return unique
