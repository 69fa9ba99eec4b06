"""How much memory the values between operators take."""

from __future__ import annotations

import math
from collections import Counter

import onnx
from onnx import TensorProto, helper

from compress_cli.onnx_graph.graph import BRANCHING, Unknown
from compress_cli.onnx_graph.shapes import Shapes

VIEWS = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "DequantizeLinear"}
"""Operators whose result takes no memory of its own. DequantizeLinear is one since runtimes fuse it: the operator after it
reads the integers."""
BITS: dict[int, int] = {TensorProto.INT4: 4, TensorProto.UINT4: 4, TensorProto.INT2: 2, TensorProto.UINT2: 2}


def peak_bytes(model: onnx.ModelProto, known: Shapes) -> int:
    """The most that lives at once for one sample, by the file's order of nodes; Unknown says why it can't be told.

    A value lives from the node that makes it until the last that takes it; inputs and outputs as long as the run. Weights,
    and what comes of weights alone, are not counted; nor is what kernels need for themselves. A value that is only rounded
    to integers is counted as these. Real runtimes also write results over their inputs where they can.
    """
    if any(node.op_type in BRANCHING for node in model.graph.node):
        raise Unknown("what a branch or a loop keeps depends on the data")
    sizes, aliases = _sizes(model, known), _aliases(model)
    ends: dict[str, int] = {}  # value -> position of the last node that takes it
    for position, node in enumerate(model.graph.node):
        ends.update({aliases.get(name, name): position for name in node.input if aliases.get(name, name) in sizes})
    last = len(model.graph.node)
    ends.update({aliases.get(port.name, port.name): last for port in (*model.graph.input, *model.graph.output)})
    live = sum(sizes.get(port.name, 0) for port in model.graph.input)
    dying = Counter(dict.fromkeys(range(last + 1), 0))
    most = live
    for position, node in enumerate(model.graph.node):
        for name in node.output:
            if name in sizes and aliases.get(name, name) == name:
                live += sizes[name]
                dying[ends.get(name, position)] += sizes[name]
        most = max(most, live)
        live -= dying[position]
    return math.ceil(most / known.batch)


def _sizes(model: onnx.ModelProto, known: Shapes) -> dict[str, int]:
    """Bytes of every value that depends on the inputs."""
    moving = {port.name for port in model.graph.input} - {tensor.name for tensor in model.graph.initializer}
    users = Counter(name for node in model.graph.node for name in node.input)
    sizes, results = {name: _bytes(name, known) for name in moving}, set[str]()
    for node in model.graph.node:
        if moving.intersection(node.input):
            results.update(name for name in node.output if name)
            moving |= results
            sizes.update({name: _bytes(name, known) for name in node.output if name})
    for node in model.graph.node:
        is_float_result = node.op_type == "QuantizeLinear" and node.output[0] in sizes and node.input[0] in results
        if is_float_result and users[node.input[0]] == 1:
            sizes[node.input[0]] = 0  # of the two only the integers are kept
    return sizes


def _aliases(model: onnx.ModelProto) -> dict[str, str]:
    """View -> the value whose memory it shows."""
    aliases: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type in VIEWS and node.input:
            aliases[node.output[0]] = aliases.get(node.input[0], node.input[0])
    return aliases


def _bytes(name: str, known: Shapes) -> int:
    shape, kind = known.shapes.get(name, (None,)), known.kinds.get(name, TensorProto.UNDEFINED)
    axes = [axis for axis in shape if axis is not None]
    if len(axes) < len(shape) or kind in (TensorProto.UNDEFINED, TensorProto.STRING):
        raise Unknown(f"the shape of '{name}' can't be inferred")
    bits = BITS.get(kind) or 8 * helper.tensor_dtype_to_np_dtype(kind).itemsize
    return math.ceil(math.prod(axes) * bits / 8)
